//! Changes of an article, by hand and by the model.

use inkstone_composition::{
    article::{Edit, EditError, Proposal, Revision, SegmentId},
    procedure::FinishReason,
    steps::edit::Operation,
};

use super::*;

fn rewrite(segment: SegmentId) -> Proposal {
    Proposal {
        segment,
        operation: Operation::Rewrite,
        instruction: "More colour.".into(),
    }
}

async fn updates(events: EditEvents) -> Vec<Result<EditUpdate, RequestError>> {
    timeout(PATIENCE, events.collect())
        .await
        .expect("an edit ends in time")
}

fn conflict(wanted: u64, found: u64) -> RequestError {
    let (wanted, found) = (Revision(wanted), Revision(found));
    ArticleError::Conflict(EditError::Conflict { wanted, found }).into()
}

#[tokio::test]
async fn an_edit_is_proposed_then_applied_then_undone() {
    let world = World::new();
    let (id, article) = world.article().await;
    let segment = article.segments()[1].id;
    let composer = &world.composer;
    world.says("call", "A house, all red.");
    let editing = composer
        .edit(caller(""), &id, article.revision(), rewrite(segment))
        .await;
    let told = updates(editing.unwrap()).await;
    let proposed = EditUpdate::Proposed {
        text: "A house, all red.".into(),
        finish: FinishReason::Stop,
    };
    assert_eq!(told.last(), Some(&Ok(proposed)));
    assert!(matches!(&told[0], Ok(EditUpdate::Delta(_))));
    // Nothing has changed yet.
    let view = composer.article(&nobody(), &id).unwrap().article.unwrap();
    assert_eq!(view.texts()[1], "One.");
    assert_eq!(view.pending().unwrap().text, "A house, all red.");
    let another = composer
        .edit(caller(""), &id, article.revision(), rewrite(segment))
        .await;
    let open = RequestError::from(ArticleError::Unfit(EditError::EditOpen(segment)));
    assert_eq!(another.err(), Some(open));
    let view = composer
        .apply_edit(&nobody(), &id, article.revision(), None)
        .unwrap();
    let edited = view.article.unwrap();
    assert_eq!(edited.texts()[1], "A house, all red.");
    assert!(edited.segments()[1].illustration.is_some());
    // The caller knows the revision before.
    let undone = composer
        .change(caller(""), &id, article.revision(), Change::Undo)
        .await;
    assert_eq!(undone.err(), Some(conflict(0, 1)));
    let undone = composer
        .change(caller(""), &id, edited.revision(), Change::Undo)
        .await;
    let undone = undone.unwrap().article.unwrap();
    assert_eq!(undone.texts()[1], "One.");
    let redone = composer
        .change(caller(""), &id, undone.revision(), Change::Redo)
        .await;
    assert_eq!(
        redone.unwrap().article.unwrap().texts()[1],
        "A house, all red."
    );
}

#[tokio::test]
async fn an_edit_that_is_cancelled_ends_and_leaves_the_article() {
    let world = World::new();
    let (id, article) = world.article().await;
    let segment = article.segments()[1].id;
    let composer = &world.composer;
    world.plays(
        "call",
        vec![
            Step::Text("A"),
            Step::Repeat("word ".into(), Duration::from_millis(5)),
        ],
    );
    let editing = composer
        .edit(caller(""), &id, article.revision(), rewrite(segment))
        .await;
    let mut editing = editing.unwrap();
    assert!(matches!(
        editing.next().await,
        Some(Ok(EditUpdate::Delta(_)))
    ));
    let applied = composer.apply_edit(&nobody(), &id, article.revision(), None);
    assert_eq!(applied.err(), Some(ArticleError::EditRunning.into()));
    composer.cancel_edit(&nobody(), &id).unwrap();
    let told = updates(editing).await;
    assert!(matches!(
        told.last(),
        Some(Ok(EditUpdate::Proposed {
            finish: FinishReason::Cancelled,
            ..
        }))
    ));
    let group = world.cluster.group();
    eventually("the group is told", || group.num_running() == 0).await;
    let view = composer.article(&nobody(), &id).unwrap().article.unwrap();
    assert_eq!(view.segments(), article.segments());
    assert_eq!(view.revision(), article.revision());
    assert!(view.pending().is_none());
    let none = RequestError::from(ArticleError::Unfit(EditError::NoEditOpen));
    assert_eq!(composer.cancel_edit(&nobody(), &id).err(), Some(none));
}

#[tokio::test]
async fn an_edit_whose_reader_goes_away_or_that_fails_is_closed() {
    let world = World::new();
    let (id, article) = world.article().await;
    let segment = article.segments()[2].id;
    let composer = &world.composer;
    let revision = article.revision();
    let pending = || {
        let view = composer.article(&nobody(), &id).unwrap();
        view.article.unwrap().pending().cloned()
    };
    world.plays("call", vec![Step::Text("A"), Step::Pause(PATIENCE)]);
    let mut editing = composer
        .edit(caller(""), &id, revision, rewrite(segment))
        .await
        .unwrap();
    editing.next().await.unwrap().unwrap();
    assert_eq!(pending().unwrap().text, "A");
    drop(editing);
    assert!(pending().is_none());

    world.plays(
        "call",
        vec![
            Step::Text("A"),
            Step::Fail(WorkerError::Faulty("a bug".into())),
        ],
    );
    let editing = composer
        .edit(caller(""), &id, revision, rewrite(segment))
        .await
        .unwrap();
    let told = updates(editing).await;
    assert!(matches!(told.last(), Some(Err(RequestError::Internal(_)))));
    assert!(pending().is_none());

    let busy = WorkerError::Busy {
        message: "full".into(),
        retry_after: None,
    };
    world
        .cluster
        .group()
        .script_for("call", Script::Refuse(busy));
    let refused = composer
        .edit(caller(""), &id, revision, rewrite(segment))
        .await;
    assert!(matches!(
        refused.err(),
        Some(RequestError::ClusterFull { .. })
    ));
    assert!(pending().is_none());
}

#[tokio::test]
async fn a_change_of_the_text_closes_the_edit_of_it() {
    let world = World::new();
    let (id, article) = world.article().await;
    let segment = article.segments()[2].id;
    let composer = &world.composer;
    world.plays("call", vec![Step::Text("A"), Step::Pause(PATIENCE)]);
    let editing = composer
        .edit(caller(""), &id, article.revision(), rewrite(segment))
        .await;
    let mut editing = editing.unwrap();
    editing.next().await.unwrap().unwrap();
    let change = Change::Edit(Edit::Delete { segment });
    composer
        .change(caller(""), &id, article.revision(), change)
        .await
        .unwrap();
    let told = updates(editing).await;
    assert!(matches!(
        told.last(),
        Some(Ok(EditUpdate::Proposed {
            finish: FinishReason::Cancelled,
            ..
        }))
    ));
}

#[tokio::test]
async fn pictures_of_a_segment_are_replaced_by_found_or_new_ones() {
    let world = World::new();
    let (id, article) = world.article().await;
    let composer = &world.composer;
    let search = SearchImages {
        caption: "a green tree".into(),
        article: Some(id.clone()),
        max_pictures: 2,
        exclude: vec!["shelf-8".into()],
    };
    let found = composer
        .search_images(caller(""), search.clone())
        .await
        .unwrap();
    let indices = |found: &[FoundImage]| -> Vec<String> {
        found
            .iter()
            .map(|found| found.picture.index.clone().unwrap())
            .collect()
    };
    assert_eq!(indices(&found), ["shelf-9", "shelf-10"]);
    assert!(
        found
            .iter()
            .all(|found| found.data.is_none() && found.caption.starts_with("number"))
    );
    let more = composer.search_images(caller(""), search).await.unwrap();
    assert_eq!(
        indices(&more),
        ["shelf-11", "shelf-12"],
        "none is offered twice"
    );

    let segment = article.segments()[0].id;
    let set = |ids: Vec<PictureId>, uploads: &[&'static str]| Change::SetPictures {
        segment,
        caption: "a tree".into(),
        ids,
        uploads: uploads
            .iter()
            .map(|data| ProvidedPicture {
                data: Bytes::from_static(data.as_bytes()),
                ..ProvidedPicture::default()
            })
            .collect(),
    };
    let change = |revision, change| composer.change(caller(""), &id, revision, change);
    let ids: Vec<_> = found.iter().map(|found| found.picture.id.clone()).collect();
    let view = change(article.revision(), set(ids, &["new"]))
        .await
        .unwrap();
    let now = view.article.unwrap();
    let shown = now.segments()[0].illustration.as_ref().unwrap();
    assert_eq!(shown.candidates().len(), 3);
    assert_eq!(shown.picture().index.as_deref(), Some("shelf-9"));
    let (_, data) = composer
        .picture(&nobody(), &id, &shown.candidates()[2].id)
        .unwrap();
    assert_eq!(data, Bytes::from_static(b"new"));

    let unknown = PictureId::new("nothing");
    let refused = change(now.revision(), set(vec![unknown.clone()], &[])).await;
    assert_eq!(
        refused.err(),
        Some(ArticleError::PictureNotFound { wanted: unknown }.into())
    );
    let refused = change(now.revision(), set(vec![], &["corrupt"]))
        .await
        .unwrap_err();
    let RequestError::PictureRefused(violations) = refused else {
        panic!("{refused}");
    };
    assert_eq!(violations[0].path, "set_pictures.uploads[0].data");
    let refused = change(now.revision(), set(vec![], &[])).await.unwrap_err();
    assert!(matches!(refused, RequestError::Invalid(_)), "{refused}");
    let num_uploads = world.cluster.vision_workers[0].uploads().len();
    let refused = change(article.revision(), set(vec![], &["newer"])).await;
    assert_eq!(refused.err(), Some(conflict(0, 1)));
    let uploads = world.cluster.vision_workers[0].uploads().len();
    assert_eq!(uploads, num_uploads, "nothing is brought anywhere for it");
}

#[tokio::test]
async fn an_article_is_not_changed_while_it_is_composed() {
    let world = World::new();
    world.plays(
        "article",
        vec![Step::Text("Title\nOne"), Step::Pause(PATIENCE)],
    );
    let events = world.compose(ask(PictureCount::None)).await;
    let id = events.article_id().clone();
    let composer = &world.composer;
    let changed = composer
        .change(caller(""), &id, Revision(0), Change::Undo)
        .await;
    assert_eq!(changed.err(), Some(ArticleError::StillComposing.into()));
    let edited = composer
        .edit(caller(""), &id, Revision(0), rewrite(SegmentId(0)))
        .await;
    assert_eq!(edited.err(), Some(ArticleError::StillComposing.into()));
    assert!(composer.article(&nobody(), &id).unwrap().is_composing);
}

#[tokio::test]
async fn an_article_is_exported_as_its_owner_made_it() {
    let world = World::new();
    let (id, article) = world.article().await;
    let change = Change::Edit(Edit::SetText {
        segment: article.segments()[2].id,
        text: "Second.".into(),
    });
    world
        .composer
        .change(caller(""), &id, article.revision(), change)
        .await
        .unwrap();
    let file = world
        .composer
        .export(&nobody(), &id, ExportFormat::Markdown)
        .await
        .unwrap();
    assert!(
        String::from_utf8(file.data.to_vec())
            .unwrap()
            .contains("Second.")
    );
    assert_eq!(file.name, "article.md");
}
