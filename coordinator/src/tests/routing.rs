//! Requests go where they are expected to be done first, and are told what was expected.

use inkstone_prefix::{Span, block_hashes, salt};
use tonic::metadata::MetadataValue;

use super::*;
use crate::{
    cluster_load::LoadReport,
    routing::CacheChange,
    worker_client::{
        LanguageClient, PromptPiece, WorkerError,
        fake::{FakeGroup, Script, Step},
    },
};

fn report(running: u32) -> LoadReport {
    LoadReport {
        running,
        rows_per_second: 1000.0,
        ..LoadReport::default()
    }
}

fn idle(cluster: &FakeCluster) {
    for group in &cluster.groups {
        group.pulse().load(report(0));
    }
}

/// Without the system's text, so that questions about different things have nothing in common.
fn long_question(about: &str) -> wire::ChatRequest {
    wire::ChatRequest {
        prompt: Some(wire::PromptParams {
            omit_default_system: true,
            ..Default::default()
        }),
        ..question(&format!("{about}: {}", "word ".repeat(300)))
    }
}

async fn ask(coordinator: &Coordinator, request: wire::ChatRequest) -> wire::RoutingReceipt {
    let answer = coordinator.chat(request).await.unwrap();
    let answer = Answer::read(answer).await;
    let receipt = answer.started.routing.clone().unwrap();
    assert_eq!(answer.trailer("inkstone-group"), receipt.group);
    let predicted = receipt.predicted_cached_tokens.to_string();
    assert_eq!(
        answer.trailer("inkstone-predicted-cached-tokens"),
        predicted
    );
    receipt
}

/// The names of the blocks of a prompt that a group was asked to run.
fn blocks(group: &FakeGroup, request: usize, tenant: &[u8]) -> Vec<u64> {
    let asked = &group.asked()[request];
    let [PromptPiece::Tokens(ids)] = &asked.prompt[..] else {
        panic!("{asked:?}");
    };
    let hashes = block_hashes(salt(b"fake", tenant, 0), &[Span::Tokens(ids)]);
    hashes.full.iter().map(|hash| hash.short()).collect()
}

#[tokio::test]
async fn a_prompt_goes_where_it_was_before_and_other_prompts_elsewhere() {
    let cluster = FakeCluster::new(4, 1);
    let coordinator = Coordinator::over(&cluster).await;
    idle(&cluster);
    let first = ask(&coordinator, long_question("cats")).await;
    assert_eq!((first.predicted_cached_tokens, first.cached_tokens), (0, 0));
    for _ in 0..5 {
        idle(&cluster);
        let again = ask(&coordinator, long_question("cats")).await;
        assert_eq!(again.group, first.group);
        assert!(again.predicted_cached_tokens > 200, "{again:?}");
    }
    // Others are spread.
    let mut groups = std::collections::BTreeSet::new();
    for index in 0..16 {
        idle(&cluster);
        let about = format!("{index} dogs");
        groups.insert(ask(&coordinator, long_question(&about)).await.group);
    }
    assert!(groups.len() > 2, "{groups:?}");
}

#[tokio::test]
async fn what_leaders_say_of_their_caches_decides_and_the_receipt_tells_both_numbers() {
    let cluster = FakeCluster::new(2, 1);
    let coordinator = Coordinator::over(&cluster).await;
    idle(&cluster);
    let first = ask(&coordinator, long_question("cats")).await;
    let (here, there) = match first.group.as_str() {
        "0" => (&cluster.groups[0], &cluster.groups[1]),
        _ => (&cluster.groups[1], &cluster.groups[0]),
    };
    let names = blocks(here, 0, b"");
    // It was evicted here and is there, where another coordinator's request left it.
    here.pulse().cache(&CacheChange {
        reset: false,
        added: vec![],
        removed: names.clone(),
    });
    there.pulse().cache(&CacheChange {
        reset: true,
        added: names.clone(),
        removed: vec![],
    });
    idle(&cluster);
    let found = crate::worker_client::GenerationEvent::Started { cached_tokens: 77 };
    there.play([
        Step::Event(found),
        Step::Text("hello"),
        Step::End(crate::worker_client::EndReason::Stop),
    ]);
    let second = ask(&coordinator, long_question("cats")).await;
    assert_ne!(second.group, first.group);
    assert_eq!(second.predicted_cached_tokens as usize, names.len() * 16);
    assert_eq!(second.cached_tokens, 77);
}

#[tokio::test]
async fn what_one_tenant_left_is_nothing_to_another() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let mut predicted = vec![];
    for tenant in ["a", "b", "a"] {
        let mut call = Request::new(long_question("cats"));
        let value = MetadataValue::from_static(tenant);
        call.metadata_mut().insert("inkstone-tenant", value);
        let answer = Answer::read(coordinator.chat(call).await.unwrap()).await;
        predicted.push(answer.started.routing.unwrap().predicted_cached_tokens);
    }
    assert_eq!(predicted[..2], [0, 0]);
    assert!(predicted[2] > 200, "{predicted:?}");
    let group = cluster.group();
    assert_ne!(blocks(group, 0, b"a"), blocks(group, 0, b"b"));
}

#[tokio::test]
async fn a_busy_group_gets_the_next_request_only_where_that_is_quicker() {
    let cluster = FakeCluster::new(2, 1);
    let coordinator = Coordinator::over(&cluster).await;
    for _ in 0..4 {
        cluster.groups[0].pulse().load(report(20));
        cluster.groups[1].pulse().load(report(0));
        assert_eq!(ask(&coordinator, question("hi")).await.group, "1");
    }
}

#[tokio::test]
async fn a_group_that_failed_is_left_alone_for_a_moment() {
    let cluster = FakeCluster::new(2, 1);
    let coordinator = Coordinator::over(&cluster).await;
    // Whoever is asked first refuses.
    for group in &cluster.groups {
        group.script(Script::Refuse(WorkerError::NotServing("stopping".into())));
    }
    idle(&cluster);
    let first = ask(&coordinator, question("hi")).await;
    let count = |index: usize| cluster.groups[index].asked().len();
    let (refused, serves) = match first.group.as_str() {
        "0" => (1, 0),
        _ => (0, 1),
    };
    // Both refused once, and the one that was tried first in the second round took it.
    assert_eq!(
        (count(0), count(1)),
        (1 + usize::from(serves == 0), 1 + usize::from(serves == 1))
    );
    idle(&cluster);
    ask(&coordinator, question("hi")).await;
    assert_eq!(count(refused), 1);
}

#[tokio::test]
async fn the_loads_that_leaders_tell_are_known() {
    let cluster = FakeCluster::new(2, 1);
    let connector = Arc::new(cluster.clone());
    let membership = config(&cluster).membership;
    let view = crate::cluster_view::ClusterView::new(membership, connector);
    assert!(view.loads().is_empty());
    cluster.groups[1].pulse().load(report(3));
    let loads = view.loads();
    assert_eq!(loads.len(), 1);
    assert_eq!((loads[0].group.as_str(), loads[0].report.running), ("1", 3));
    assert!(loads[0].age < PATIENCE);
}
