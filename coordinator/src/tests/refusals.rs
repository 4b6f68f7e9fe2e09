//! Requests that are refused, and what the error tells.

use super::*;
use crate::worker_client::fake::{self, Step};

async fn coordinator() -> Coordinator {
    Coordinator::over(&FakeCluster::new(1, 1)).await
}

#[tokio::test]
async fn a_wrong_role_order_names_the_message() {
    let coordinator = coordinator().await;
    let user = || message(wire::Role::User, vec![text_part("hi")]);
    let status = coordinator
        .refusal(conversation(vec![user(), user()]))
        .await;
    check_fields(&status, &["messages[1].role"]);
    assert!(status.message().contains("wanted assistant"), "{status:?}");
}

#[tokio::test]
async fn an_empty_conversation_is_refused() {
    let coordinator = coordinator().await;
    let status = coordinator.refusal(conversation(vec![])).await;
    check_fields(&status, &["messages"]);
}

#[tokio::test]
async fn all_faults_are_reported_together() {
    let coordinator = coordinator().await;
    let request = wire::ChatRequest {
        messages: vec![wire::Message {
            role: 9,
            parts: vec![wire::ContentPart { content: None }],
        }],
        sampling: Some(wire::SamplingParams {
            temperature: Some(f32::NAN),
            top_p: Some(0.0),
            repetition_penalty: Some(-1.0),
            ..Default::default()
        }),
        stop: Some(wire::StopParams {
            max_tokens: Some(0),
            stop_strings: vec!["ok".into(), String::new(), "x".repeat(257)],
            ..Default::default()
        }),
        prompt: Some(wire::PromptParams {
            bos_rule: 7,
            hd_num: Some(129),
            answer_prefix: "x".repeat(4097),
            ..Default::default()
        }),
        ..Default::default()
    };
    let status = coordinator.refusal(request).await;
    check_fields(
        &status,
        &[
            "sampling.temperature",
            "sampling.top_p",
            "sampling.repetition_penalty",
            "stop.max_tokens",
            "stop.stop_strings[1]",
            "stop.stop_strings[2]",
            "prompt.bos_rule",
            "prompt.hd_num",
            "prompt.answer_prefix",
            "messages[0].role",
            "messages[0].parts[0]",
        ],
    );
}

/// The fields that are named when these parts of a request are wrong.
async fn check_faults(change: impl FnOnce(&mut wire::ChatRequest), paths: &[&str]) {
    let mut request = wire::ChatRequest {
        sampling: Some(wire::SamplingParams::default()),
        ..question("hi")
    };
    change(&mut request);
    let status = coordinator().await.refusal(request).await;
    check_fields(&status, paths);
}

fn sampling(request: &mut wire::ChatRequest) -> &mut wire::SamplingParams {
    request.sampling.as_mut().unwrap()
}

#[tokio::test]
async fn numbers_of_the_draw_out_of_range_are_named() {
    let change = |request: &mut wire::ChatRequest| {
        *sampling(request) = wire::SamplingParams {
            min_p: Some(1.5),
            presence_penalty: Some(-2.5),
            frequency_penalty: Some(f32::INFINITY),
            logit_bias: [(3, 101.0), (4, 100.0), (5, f32::NAN)].into(),
            n: Some(17),
            best_of: Some(16),
            top_logprobs: 21,
            ..Default::default()
        };
    };
    let paths = [
        "sampling.n",
        "sampling.best_of",
        "sampling.min_p",
        "sampling.presence_penalty",
        "sampling.frequency_penalty",
        "sampling.top_logprobs",
        "sampling.logit_bias[3]",
        "sampling.logit_bias[5]",
    ];
    check_faults(change, &paths).await;
    check_faults(|request| sampling(request).n = Some(0), &["sampling.n"]).await;
    let change = |request: &mut wire::ChatRequest| sampling(request).best_of = Some(17);
    check_faults(change, &["sampling.best_of"]).await;
    let change = |request: &mut wire::ChatRequest| sampling(request).top_logprobs = 1;
    check_faults(change, &["sampling.top_logprobs"]).await;
}

#[tokio::test]
async fn a_bias_is_for_tokens_of_the_model_and_not_for_too_many() {
    let change = |request: &mut wire::ChatRequest| {
        sampling(request).logit_bias = [(1023, 1.0), (1024, 1.0)].into();
    };
    check_faults(change, &["sampling.logit_bias[1024]"]).await;
    let change = |request: &mut wire::ChatRequest| {
        sampling(request).logit_bias = (0..1025).map(|id| (id, 1.0)).collect();
    };
    check_faults(change, &["sampling.logit_bias"]).await;
}

#[tokio::test]
async fn more_tokens_at_least_than_at_most_are_refused() {
    let change = |request: &mut wire::ChatRequest| {
        request.stop = Some(wire::StopParams {
            max_tokens: Some(5),
            min_tokens: 6,
            ..Default::default()
        });
    };
    check_faults(change, &["stop.min_tokens"]).await;
}

#[tokio::test]
async fn beams_out_of_range_and_together_with_draws_are_refused() {
    let change = |request: &mut wire::ChatRequest| {
        request.beam = Some(wire::BeamParams {
            width: 17,
            num_answers: Some(18),
            length_penalty: Some(10.5),
            early_stopping: false,
        });
        *sampling(request) = wire::SamplingParams {
            n: Some(2),
            best_of: Some(3),
            logprobs: true,
            temperature: Some(0.5),
            ..Default::default()
        };
    };
    let paths = [
        "sampling.n",
        "sampling.best_of",
        "sampling.logprobs",
        "sampling.temperature",
        "beam.width",
        "beam.num_answers",
        "beam.length_penalty",
    ];
    check_faults(change, &paths).await;
    let change = |request: &mut wire::ChatRequest| request.beam = Some(wire::BeamParams::default());
    check_faults(change, &["beam.width"]).await;
}

#[tokio::test]
async fn constraints_that_cannot_be_are_refused() {
    use wire::constraint::Form;
    let choices = |choices: Vec<String>| Form::Choices(wire::ChoiceList { choices });
    for (form, path) in [
        (None, "constraint"),
        (Some(choices(vec![])), "constraint.choices"),
        (Some(choices(vec!["x".into(); 1025])), "constraint.choices"),
        (
            Some(choices(vec!["x".repeat(65_537)])),
            "constraint.choices",
        ),
        (
            Some(choices(vec!["x".into(), String::new()])),
            "constraint.choices[1]",
        ),
        (
            Some(Form::JsonSchema("x".repeat(65_537))),
            "constraint.json_schema",
        ),
        (
            Some(Form::JsonSchema(String::new())),
            "constraint.json_schema",
        ),
        (Some(Form::Regex("x".repeat(8193))), "constraint.regex"),
    ] {
        let change =
            |request: &mut wire::ChatRequest| request.constraint = Some(wire::Constraint { form });
        check_faults(change, &[path]).await;
    }
}

#[tokio::test]
async fn an_unknown_priority_is_refused() {
    check_faults(|request| request.priority = 3, &["priority"]).await;
}

#[tokio::test]
async fn a_tenant_that_cannot_be_is_refused() {
    let coordinator = coordinator().await;
    for tenant in ["x".repeat(129).into_bytes(), "é".into()] {
        let mut call = Request::new(question("hi"));
        let tenant = tonic::metadata::MetadataValue::try_from(tenant).unwrap();
        call.metadata_mut().insert("inkstone-tenant", tenant);
        let status = match coordinator.chat(call).await {
            Ok(_) => panic!("the request was taken on"),
            Err(status) => status,
        };
        check_fields(&status, &["inkstone-tenant"]);
    }
}

#[tokio::test]
async fn too_many_stop_strings_are_refused_with_the_limit() {
    let coordinator = coordinator().await;
    let request = wire::ChatRequest {
        stop: Some(wire::StopParams {
            stop_strings: vec!["x".into(); 17],
            ..Default::default()
        }),
        ..question("hi")
    };
    let status = coordinator.refusal(request).await;
    check_fields(&status, &["stop.stop_strings"]);
    assert!(
        status.message().contains("17 strings, limit is 16"),
        "{status:?}"
    );
}

#[tokio::test]
async fn pictures_from_others_than_the_user_are_refused() {
    let coordinator = coordinator().await;
    let request = conversation(vec![
        message(wire::Role::System, vec![picture_part(b"picture")]),
        message(wire::Role::User, vec![text_part("hi")]),
    ]);
    let status = coordinator.refusal(request).await;
    check_fields(&status, &["messages[0].parts[0].picture"]);
}

#[tokio::test]
async fn too_many_and_too_large_pictures_are_refused_with_the_limit() {
    let change = |config: &mut Config| {
        config.limits.max_pictures = 2;
        config.limits.max_picture_bytes = 10;
    };
    let coordinator = Coordinator::with(&FakeCluster::new(1, 1), change).await;
    let parts = vec![
        picture_part(b"small"),
        picture_part(b"eleven byte"),
        picture_part(b""),
    ];
    let status = coordinator
        .refusal(conversation(vec![message(wire::Role::User, parts)]))
        .await;
    check_fields(
        &status,
        &[
            "messages[0].parts[1].picture",
            "messages[0].parts[2].picture",
        ],
    );
    assert!(
        status.message().contains("11 bytes, limit is 10"),
        "{status:?}"
    );

    let parts = vec![picture_part(b"small"); 3];
    let status = coordinator
        .refusal(conversation(vec![message(wire::Role::User, parts)]))
        .await;
    check_fields(&status, &["messages"]);
    assert!(
        status.message().contains("3 pictures, limit is 2"),
        "{status:?}"
    );
}

#[tokio::test]
async fn an_over_long_prompt_is_refused_with_count_and_limit() {
    let coordinator = coordinator().await;
    let status = coordinator.refusal(question(&"z".repeat(2000))).await;
    check_error(&status, Code::InvalidArgument, "PROMPT_TOO_LONG");
    assert_eq!(field_paths(&status), ["messages"]);
    let numbers = status.get_details_error_info().unwrap().metadata;
    let prompt_tokens: usize = numbers["prompt_tokens"].parse().unwrap();
    assert!(prompt_tokens > 2000, "{prompt_tokens}");
    assert_eq!(
        numbers["max_prompt_tokens"],
        fake::MAX_PROMPT_TOKENS.to_string()
    );
    let message = format!("prompt has {prompt_tokens} tokens, limit is 2000");
    assert_eq!(status.message(), message);
}

#[tokio::test]
async fn text_past_the_limit_is_not_even_tokenised() {
    let change = |config: &mut Config| config.limits.max_text_bytes = 10;
    let coordinator = Coordinator::with(&FakeCluster::new(1, 1), change).await;
    let status = coordinator.refusal(question("eleven byte")).await;
    check_fields(&status, &["messages"]);
    assert!(
        status.message().contains("11 bytes of text, limit is 10"),
        "{status:?}"
    );
}

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let coordinator = coordinator().await;
    let request = wire::ChatRequest {
        model: "other".into(),
        ..question("hi")
    };
    let status = coordinator.refusal(request).await;
    check_error(&status, Code::NotFound, "MODEL_NOT_FOUND");
    assert_eq!(
        status.message(),
        "model `other` is not served, `fake-vl` is"
    );
    let resource = status.get_details_resource_info().unwrap();
    assert_eq!(resource.resource_name, "other");
}

#[tokio::test]
async fn an_id_that_would_spoil_the_logs_is_refused() {
    let coordinator = coordinator().await;
    for id in ["x".repeat(129), "line\nbreak".into()] {
        let request = wire::ChatRequest {
            request_id: id,
            ..question("hi")
        };
        let status = coordinator.refusal(request).await;
        check_fields(&status, &["request_id"]);
    }
}

#[tokio::test]
async fn errors_carry_the_request_id() {
    let coordinator = coordinator().await;
    let request = wire::ChatRequest {
        request_id: "mine".into(),
        ..conversation(vec![])
    };
    let status = coordinator.refusal(request).await;
    let info = status.get_details_request_info().unwrap();
    assert_eq!(info.request_id, "mine");
}

#[tokio::test]
async fn past_the_limit_of_requests_new_ones_are_refused_until_one_ends() {
    let cluster = FakeCluster::new(1, 1);
    let change = |config: &mut Config| {
        config.limits.max_requests = 1;
        config.limits.max_queued_requests = 0;
    };
    let coordinator = Coordinator::with(&cluster, change).await;
    cluster
        .group()
        .play([Step::Repeat("word ".into(), PATIENCE)]);
    let running = coordinator.chat(question("hi")).await.unwrap();
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::ResourceExhausted, "TOO_MANY_REQUESTS");
    assert!(status.get_details_quota_failure().is_some(), "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    drop(running);
    eventually("the sequence ends", || cluster.group().num_running() == 0).await;
    // The permit goes back a moment after the sequence ended.
    let answer = loop {
        match coordinator.chat(question("hi")).await {
            Ok(answer) => break answer,
            Err(status) => check_error(&status, Code::ResourceExhausted, "TOO_MANY_REQUESTS"),
        }
    };
    Answer::read(answer).await.finished();
}

#[tokio::test]
async fn a_message_past_the_limit_is_refused() {
    let change = |config: &mut Config| {
        config.limits.max_message_bytes = 1000;
        config.limits.max_picture_bytes = 1000;
    };
    let coordinator = Coordinator::with(&FakeCluster::new(1, 1), change).await;
    let parts = vec![picture_part(&[0; 2000])];
    let status = coordinator
        .refusal(conversation(vec![message(wire::Role::User, parts)]))
        .await;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}
