//! What is done to an article, and steps without one.

use super::*;

#[tokio::test]
async fn an_article_is_edited_by_the_model_and_by_hand() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let mut client = client(&coordinator).await;
    let article = text_only(&cluster, &mut client).await;
    let (article_id, revision) = (article.id.clone(), article.revision);
    let segment = article.segments[1].id;

    answer(&cluster, "hello world");
    let edit = wire::EditRequest {
        article_id: article_id.clone(),
        revision,
        segment,
        operation: wire::EditOperation::Rewrite.into(),
        instruction: "with rain".into(),
    };
    let mut edits = client.edit(edit).await.unwrap().into_inner();
    let mut text = String::new();
    let proposed = loop {
        let event = timeout(PATIENCE, edits.message()).await.unwrap().unwrap();
        match event.expect("the proposal is last").event {
            Some(edit_event::Event::TextDelta(delta)) => text += &delta.text,
            Some(edit_event::Event::Proposed(proposed)) => break proposed,
            other => panic!("unexpected event {other:?}"),
        }
    };
    assert_eq!(text, "hello world");
    assert_eq!(proposed.text, "hello world");
    assert_eq!(proposed.finish_reason(), wire::ArticleFinishReason::Stop);
    let get = wire::GetArticleRequest {
        article_id: article_id.clone(),
    };
    let open = client.get_article(get.clone()).await.unwrap().into_inner();
    let open = open.article.unwrap().open_edit.expect("the edit is open");
    assert_eq!(open.operation(), wire::EditOperation::Rewrite);
    assert_eq!((open.segment, open.text.as_str()), (segment, "hello world"));

    let apply = wire::ApplyEditRequest {
        article_id: article_id.clone(),
        revision,
        text: Some("rain".into()),
    };
    let applied = client.apply_edit(apply).await.unwrap().into_inner();
    let applied = applied.article.unwrap();
    assert_eq!(texts(&applied), ["A title", "rain", "second"]);
    assert!(applied.revision > revision);
    assert_eq!((applied.num_undo, applied.num_redo), (1, 0));

    let change =
        |revision: u64, change: wire::change_article_request::Change| wire::ChangeArticleRequest {
            article_id: article_id.clone(),
            revision,
            change: Some(change),
        };
    use wire::change_article_request::Change;
    let late = client.change_article(change(revision, Change::Undo(wire::Undo {})));
    let late = check_refused(late.await, Code::Aborted, "REVISION_CONFLICT");
    let info = late.get_details_error_info().unwrap();
    assert_eq!(info.metadata["revision"], applied.revision.to_string());
    let undone = client.change_article(change(applied.revision, Change::Undo(wire::Undo {})));
    let undone = undone.await.unwrap().into_inner().article.unwrap();
    assert_eq!(texts(&undone), ["A title", "first", "second"]);
    let unfit = client.change_article(change(undone.revision, Change::Delete(99)));
    let unfit = check_refused(unfit.await, Code::FailedPrecondition, "EDIT_REFUSED");
    assert!(unfit.get_details_precondition_failure().is_some());
    let upload = wire::SetPictures {
        segment,
        caption: "mine".into(),
        picture_ids: vec![],
        uploads: vec![provided(b"one")],
    };
    let set = client.change_article(change(undone.revision, Change::SetPictures(upload)));
    let set = set.await.unwrap().into_inner().article.unwrap();
    let shown = set.segments[1].illustration.as_ref().expect("a picture");
    assert_eq!(shown.caption, "mine");
    assert_eq!(
        client.get_article(get).await.unwrap().into_inner().article,
        Some(set)
    );

    let nothing = wire::CancelEditRequest {
        article_id: article_id.clone(),
    };
    let nothing = client.cancel_edit(nothing).await;
    check_refused(nothing, Code::FailedPrecondition, "EDIT_REFUSED");
    let delete = wire::DeleteArticleRequest {
        article_id: article_id.clone(),
    };
    client.delete_article(delete.clone()).await.unwrap();
    let gone = client.delete_article(delete).await;
    let gone = check_refused(gone, Code::NotFound, "ARTICLE_NOT_FOUND");
    let resource = gone.get_details_resource_info().expect("what is not there");
    assert_eq!(resource.resource_name, article_id);
}

#[tokio::test]
async fn steps_by_themselves() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let mut client = client(&coordinator).await;
    let segments: Vec<String> = ["A title", "first", "second"].map(str::to_owned).into();

    answer(&cluster, "<Seg2>");
    let ask = wire::SuggestLocationsRequest {
        segments: segments.clone(),
        count: Some(1),
        ..Default::default()
    };
    let found = client.suggest_locations(ask).await.unwrap().into_inner();
    let locations = found.locations.expect("places are told");
    assert_eq!(locations.locations, [2]);
    assert_eq!(locations.raw, "<Seg2>");
    assert!(!locations.by_default && !found.is_shortened);

    answer(&cluster, " a sea \"");
    let ask = wire::SuggestCaptionRequest {
        segments: segments.clone(),
        location: 2,
        ..Default::default()
    };
    let found = client.suggest_caption(ask).await.unwrap().into_inner();
    let caption = found.caption.expect("a caption is told");
    assert_eq!((caption.location, caption.text.as_str()), (2, "a sea"));

    answer(&cluster, ": B");
    let ask = wire::SelectImageRequest {
        segments: segments.clone(),
        location: 2,
        earlier: vec![wire::PlacedImage {
            location: 1,
            picture: Some(picture(b"zero")),
        }],
        candidates: vec![picture(b"one"), picture(b"two")],
        ..Default::default()
    };
    let found = client.select_image(ask).await.unwrap().into_inner();
    assert_eq!((found.candidate, found.by_default), (1, false));

    let ask = wire::SelectImageRequest {
        segments,
        location: 2,
        candidates: vec![picture(b"one"), picture(CORRUPT)],
        ..Default::default()
    };
    let refused = client.select_image(ask).await;
    let refused = check_refused(refused, Code::InvalidArgument, "PICTURE_REFUSED");
    assert_eq!(field_paths(&refused), ["candidates[1]"]);
}
