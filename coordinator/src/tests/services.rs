//! The services beside the chat: the model, health, reflection; and what they say while the cluster is starting.

use inkstone_proto::v1::model_service_client::ModelServiceClient;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::*;
use crate::worker_client::fake;

/// Those whose health follows the cluster's.
const SERVICES: [&str; 4] = [
    "",
    "inkstone.v1.ChatService",
    "inkstone.v1.CompositionService",
    "inkstone.v1.ModelService",
];

async fn health(coordinator: &Coordinator, service: &str) -> Result<ServingStatus, Status> {
    let mut client = HealthClient::new(coordinator.channel().await);
    let service = service.to_owned();
    let answer = client.check(HealthCheckRequest { service }).await?;
    Ok(answer.into_inner().status())
}

#[tokio::test]
async fn the_model_tells_its_limits() {
    let coordinator = Coordinator::over(&FakeCluster::new(1, 1)).await;
    let mut client = ModelServiceClient::new(coordinator.channel().await);
    let model = client.get_model(wire::GetModelRequest {}).await.unwrap();
    let wanted = wire::GetModelResponse {
        name: "fake-vl".into(),
        variant: wire::Variant::Xcomposer2.into(),
        max_prompt_tokens: fake::MAX_PROMPT_TOKENS as u32,
        max_sequence_tokens: fake::MAX_SEQUENCE_TOKENS as u32,
        vocab_size: 1024,
        stop_token_ids: fake::tokenizer().stop_token_ids(),
        picture_side: 28,
        picture_tokens: fake::PICTURE_TOKENS,
    };
    assert_eq!(model.into_inner(), wanted);
}

#[tokio::test]
async fn markers_are_their_own_ids_only_when_allowed() {
    let coordinator = Coordinator::over(&FakeCluster::new(1, 1)).await;
    let mut client = ModelServiceClient::new(coordinator.channel().await);
    let tokenizer = fake::tokenizer();
    let mut tokenize = async |add_bos, allow_markers| {
        let call = wire::TokenizeRequest {
            text: "[UNUSED_TOKEN_146]hello".into(),
            add_bos,
            allow_markers,
        };
        let answer = client.tokenize(call).await.unwrap();
        answer.into_inner().token_ids
    };
    let hello = tokenizer.piece_id("hello").unwrap();
    let allowed = tokenize(true, true).await;
    assert_eq!(
        allowed,
        [tokenizer.bos_id(), tokenizer.start_of_turn_id(), hello]
    );
    let ordinary = tokenize(false, false).await;
    assert!(!ordinary.contains(&tokenizer.start_of_turn_id()));
    assert_eq!(tokenizer.decode(&ordinary), "[UNUSED_TOKEN_146]hello");
}

#[tokio::test]
async fn while_the_members_are_away_the_server_answers_and_says_that_it_starts() {
    let cluster = FakeCluster::new(1, 1);
    cluster.group().set_away(true);
    let config = config(&cluster);
    let mut coordinator = Coordinator::starting(config, Arc::new(cluster.clone())).await;
    for service in SERVICES {
        assert_eq!(
            health(&coordinator, service).await.unwrap(),
            ServingStatus::NotServing
        );
    }
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::Unavailable, "STARTING");

    cluster.group().set_away(false);
    let ready = coordinator.ready().await;
    assert_eq!(ready.model, "fake-vl");
    assert_eq!(ready.address, coordinator.address);
    for service in SERVICES {
        assert_eq!(
            health(&coordinator, service).await.unwrap(),
            ServingStatus::Serving
        );
    }
    let status = health(&coordinator, "other").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn a_watch_on_health_sees_the_shutdown_and_does_not_hold_it_up() {
    let coordinator = Coordinator::over(&FakeCluster::new(1, 1)).await;
    let mut client = HealthClient::new(coordinator.channel().await);
    let service = String::new();
    let watch = client.watch(HealthCheckRequest { service }).await.unwrap();
    let mut watch = watch.into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let begin = std::time::Instant::now();
    coordinator.stop().await.unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    let second = watch.message().await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn members_that_never_answer_end_the_start_with_the_reason() {
    let cluster = FakeCluster::new(1, 1);
    cluster.group().set_away(true);
    let mut config = config(&cluster);
    config.timeouts.start = Duration::from_millis(100);
    let coordinator = Coordinator::starting(config, Arc::new(cluster)).await;
    let error = format!("{:#}", coordinator.stopped().await.unwrap_err());
    assert!(
        error.contains("no language group answered within 0.1 s"),
        "{error}"
    );
    assert!(error.contains("connection refused"), "{error}");
}

#[tokio::test]
async fn vision_workers_of_another_model_end_the_start() {
    let cluster = FakeCluster::new(1, 1);
    let mut other = fake::model_description();
    other.name = "other".into();
    cluster.vision_workers[0].set_model(other);
    let config = config(&cluster);
    let coordinator = Coordinator::starting(config, Arc::new(cluster)).await;
    let error = format!("{:#}", coordinator.stopped().await.unwrap_err());
    assert!(error.contains("wanted model `fake-vl`"), "{error}");
    assert!(error.contains("`other`"), "{error}");
}

#[tokio::test]
async fn shutdown_during_the_start_is_not_an_error() {
    let cluster = FakeCluster::new(1, 1);
    cluster.group().set_away(true);
    let config = config(&cluster);
    let coordinator = Coordinator::starting(config, Arc::new(cluster)).await;
    coordinator.stop().await.unwrap();
}

/// Reflection in both versions, which are alike but of different types.
macro_rules! check_reflection {
    ($coordinator:expr, $version:ident) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let mut client = ServerReflectionClient::new($coordinator.channel().await);
        let ask = |question| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(question),
        };
        let questions = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol(
                "inkstone.v1.ChatRequest".into(),
            )),
            ask(MessageRequest::FileContainingSymbol(
                "inkstone.worker.v1.StepPlan".into(),
            )),
        ];
        let call = client
            .server_reflection_info(futures::stream::iter(questions))
            .await;
        let mut answers = call.unwrap().into_inner();
        let list = answers.message().await.unwrap().unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(list)) = list else {
            panic!("{list:?}");
        };
        let mut names: Vec<_> = list
            .service
            .into_iter()
            .map(|service| service.name)
            .collect();
        names.sort();
        let known = answers.message().await.unwrap().unwrap().message_response;
        let found = matches!(known, Some(MessageResponse::FileDescriptorResponse(_)));
        assert!(found, "{known:?}");
        let internal = answers.message().await;
        let hidden = match &internal {
            Err(status) => status.code() == Code::NotFound,
            Ok(Some(answer)) => {
                matches!(
                    answer.message_response,
                    Some(MessageResponse::ErrorResponse(_))
                )
            }
            Ok(None) => false,
        };
        assert!(hidden, "{internal:?}");
        names
    }};
}

#[tokio::test]
async fn reflection_tells_of_the_public_package_only() {
    let coordinator = Coordinator::over(&FakeCluster::new(1, 1)).await;
    let public = [
        "grpc.health.v1.Health",
        "inkstone.v1.ChatService",
        "inkstone.v1.ClusterService",
        "inkstone.v1.CompositionService",
        "inkstone.v1.ModelService",
    ];
    for names in [
        check_reflection!(coordinator, v1),
        check_reflection!(coordinator, v1alpha),
    ] {
        for name in public {
            assert!(names.iter().any(|found| found == name), "{names:?}");
        }
        assert!(
            !names.iter().any(|name| name.contains("worker")),
            "{names:?}"
        );
    }
}
