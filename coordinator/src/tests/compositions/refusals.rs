//! How what cannot be done is refused.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};

use super::*;

/// Keeps how many requests had which outcome.
#[derive(Default)]
struct Outcomes(Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Outcomes {
    fn count(&self, outcome: &str) -> u64 {
        let outcomes = self.0.lock().unwrap();
        let count = outcomes.get(outcome);
        count.map_or(0, |count| count.load(Ordering::SeqCst))
    }
}

impl Recorder for Outcomes {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut labels = key.labels();
        match labels.find(|label| label.key() == "outcome") {
            Some(outcome) if key.name() == "inkstone_requests_total" => {
                let mut outcomes = self.0.lock().unwrap();
                let count = outcomes.entry(outcome.value().to_owned()).or_default();
                Counter::from_arc(count.clone())
            }
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn calls_that_are_turned_away_are_counted_by_reason() {
    let outcomes = Outcomes::default();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    // The recorder hears what happens on this thread, which is all that is not blocking work.
    with_local_recorder(&outcomes, || {
        runtime.block_on(async {
            let cluster = FakeCluster::new(1, 1);
            let coordinator = Coordinator::over(&cluster).await;
            let mut client = client(&coordinator).await;
            let empty = wire::ComposeRequest::default();
            client.compose(empty).await.unwrap_err();
            let long_id = wire::ComposeRequest {
                request_id: "x".repeat(129),
                ..wanted()
            };
            client.compose(long_id).await.unwrap_err();
            let unknown = wire::GetArticleRequest {
                article_id: "none".into(),
            };
            client.get_article(unknown).await.unwrap_err();
            let step = wire::SuggestCaptionRequest::default();
            client.suggest_caption(step).await.unwrap_err();
            // What is taken on is counted by its steps.
            answer(&cluster, ARTICLE);
            let taken = wire::ComposeRequest {
                picture_count: Some(0),
                ..wanted()
            };
            let mut events = client.compose(taken).await.unwrap().into_inner();
            while let Ok(Some(_)) = events.message().await {}
        });
    });
    assert_eq!(outcomes.count("INVALID_REQUEST"), 3);
    assert_eq!(outcomes.count("ARTICLE_NOT_FOUND"), 1);
}

#[tokio::test]
async fn nonsense_is_refused_with_every_field_that_is_wrong() {
    let coordinator = Coordinator::over(&FakeCluster::new(1, 1)).await;
    let mut client = client(&coordinator).await;
    let request = wire::ComposeRequest {
        instruction: " ".into(),
        sampling: Some(wire::CompositionSampling {
            top_p: Some(f32::NAN),
            ..Default::default()
        }),
        captions: 9,
        request_id: "mine".into(),
        ..Default::default()
    };
    let status = client.compose(request).await.unwrap_err();
    check_fields(&status, &["captions", "instruction", "sampling.top_p"]);
    let info = status.get_details_request_info().expect("the id is told");
    assert_eq!(info.request_id, "mine");

    let long_id = wire::ComposeRequest {
        request_id: "x".repeat(129),
        ..wanted()
    };
    let status = client.compose(long_id).await.unwrap_err();
    check_fields(&status, &["request_id"]);

    let corrupt = wire::ComposeRequest {
        pictures: vec![picture(b"one"), picture(CORRUPT)],
        ..wanted()
    };
    let status = client.compose(corrupt).await.unwrap_err();
    check_error(&status, Code::InvalidArgument, "PICTURE_REFUSED");
    assert_eq!(field_paths(&status), ["pictures[1]"]);

    let other = wire::ComposeRequest {
        model: "other".into(),
        ..wanted()
    };
    let status = client.compose(other).await.unwrap_err();
    check_error(&status, Code::NotFound, "MODEL_NOT_FOUND");
}

#[expect(
    clippy::needless_update,
    reason = "some of the messages have no other field"
)]
#[tokio::test]
async fn what_nobody_knows_is_not_found() {
    let coordinator = Coordinator::over(&FakeCluster::new(1, 1)).await;
    let mut client = client(&coordinator).await;
    let article_id = "none".to_owned();
    macro_rules! check_unknown {
        ($($method:ident($message:ident { $($field:ident: $value:expr),* })),* $(,)?) => {$({
            let message = wire::$message {
                article_id: article_id.clone(),
                $($field: $value,)*
                ..Default::default()
            };
            check_refused(client.$method(message).await, Code::NotFound, "ARTICLE_NOT_FOUND");
            let nameless = wire::$message { $($field: $value,)* ..Default::default() };
            let status = client.$method(nameless).await.unwrap_err();
            check_fields(&status, &["article_id"]);
        })*};
    }
    check_unknown!(
        resume(ResumeRequest {}),
        provide_candidates(ProvideCandidatesRequest {}),
        get_picture(GetPictureRequest {
            picture_id: "p".into()
        }),
        export(ExportRequest {}),
        edit(EditRequest { operation: 1 }),
        apply_edit(ApplyEditRequest {}),
        change_article(ChangeArticleRequest {
            change: Some(wire::change_article_request::Change::Delete(1))
        }),
    );
    let cancel = wire::CancelRequest {
        article_id: article_id.clone(),
    };
    check_refused(
        client.cancel(cancel).await,
        Code::NotFound,
        "ARTICLE_NOT_FOUND",
    );
    let get = wire::GetArticleRequest { article_id };
    check_refused(
        client.get_article(get).await,
        Code::NotFound,
        "ARTICLE_NOT_FOUND",
    );
}

#[tokio::test]
async fn a_server_without_a_source_looks_for_nothing() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let mut client = client(&coordinator).await;
    let search = wire::SearchImagesRequest {
        caption: "a sea".into(),
        ..Default::default()
    };
    let searched = client.search_images(search).await;
    check_refused(searched, Code::FailedPrecondition, "NO_PICTURE_SOURCE");
    let request = wire::ComposeRequest {
        picture_source: wire::PictureSource::Search.into(),
        ..wanted()
    };
    let composed = client.compose(request).await;
    check_refused(composed, Code::FailedPrecondition, "NO_PICTURE_SOURCE");

    // Where nobody asked for a search the article is text only, and says so.
    answer(&cluster, ARTICLE);
    let mut events = client.compose(wanted()).await.unwrap().into_inner();
    let told = all_events(&mut events).await;
    let warnings: Vec<_> = told
        .iter()
        .filter_map(|event| match &event.event {
            Some(compose_event::Event::Warning(warning)) => Some(warning.code.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(warnings, ["NO_PICTURE_SOURCE"]);
    assert_eq!(texts(&done(&told)), ["A title", "first", "second"]);
}

#[tokio::test]
async fn there_is_no_room_for_another_article() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::with(&cluster, |config| config.compose.max_articles = 1).await;
    let mut client = client(&coordinator).await;
    text_only(&cluster, &mut client).await;
    let full = client.compose(wanted()).await;
    let full = check_refused(full, Code::ResourceExhausted, "ARTICLES_FULL");
    let retry = full.get_details_retry_info().expect("when to come again");
    assert!(retry.retry_delay.is_some());
    assert!(full.metadata().contains_key("grpc-retry-pushback-ms"));
    assert!(full.get_details_quota_failure().is_some());
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let coordinator = Coordinator::with(&FakeCluster::new(1, 1), |config| {
        config.limits.max_message_bytes = 100_000;
        config.limits.max_picture_bytes = 50_000;
    })
    .await;
    let mut client = client(&coordinator).await;
    let request = wire::ComposeRequest {
        instruction: "x".repeat(100_001),
        ..Default::default()
    };
    let status = client.compose(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let request = wire::ComposeRequest {
        pictures: vec![picture(&[7; 50_001])],
        ..wanted()
    };
    let status = client.compose(request).await.unwrap_err();
    check_fields(&status, &["pictures[0]"]);
}
