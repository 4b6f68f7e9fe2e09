//! How what cannot be done is refused.

use super::*;

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
