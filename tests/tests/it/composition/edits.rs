//! Edits over the wire: by the model, by hand, by two at once.

use inkstone_proto::v1::{
    ApplyEditRequest, Article, ArticleFinishReason, CancelEditRequest, ChangeArticleRequest,
    ChoosePicture, ComposeRequest, EditOperation, EditRequest, InsertSegment, MoveSegment,
    PictureSource, Redo, SearchImagesRequest, SetCaption, SetPictures, SetText, Undo,
    change_article_request::Change, edit_event::Event,
};
use inkstone_tests::pictures::stripes;
use inkstone_world::Skill;
use tonic::{Code, Status};

use super::{
    client::{
        Client, article, assert_refused, assert_wrong, compose_events, connect, get_picture,
        greedy, provided,
    },
    pictures::{drawn_library, import},
    scripted::{Asked, Model, Reply, Scripted, Step},
};
use crate::cluster_fixture::{Served, small_model};

/// Has the model write a proposal, and checks how it is told.
pub(super) async fn propose(client: &mut Client, edit: EditRequest) -> String {
    try_propose(client, edit).await.expect("it can be edited")
}

pub(super) async fn try_propose(client: &mut Client, edit: EditRequest) -> Result<String, Status> {
    let mut stream = client.edit(edit).await?.into_inner();
    let (mut text, mut proposed) = (String::new(), None);
    while let Some(event) = stream.message().await? {
        assert!(proposed.is_none(), "the proposal is last");
        match event.event.expect("an event") {
            Event::TextDelta(delta) => text += &delta.text,
            Event::Proposed(all) => proposed = Some(all),
            Event::Warning(_) => {}
        }
    }
    let proposed = proposed.expect("a proposal");
    assert_eq!(proposed.text.trim(), text.trim(), "it is what was streamed");
    assert_ne!(
        proposed.finish_reason(),
        ArticleFinishReason::Unspecified,
        "it says why it ended"
    );
    Ok(proposed.text)
}

pub(super) async fn cancel(client: &mut Client, article_id: &str) {
    let cancel = CancelEditRequest {
        article_id: article_id.to_owned(),
    };
    client.cancel_edit(cancel).await.expect("one is open");
}

/// Somebody who edits an article, and knows it as it was when he last looked.
struct Editor {
    client: Client,
    article: Article,
}

impl Editor {
    async fn open(mut client: Client, article_id: &str) -> Self {
        let article = article(&mut client, article_id).await;
        Self { client, article }
    }

    /// Composes without chance, and opens what comes of it.
    async fn compose(mut client: Client, request: ComposeRequest) -> Self {
        let events = compose_events(&mut client, request).await;
        Self::open(client, &events[0].article_id).await
    }

    fn texts(&self) -> Vec<&str> {
        let segments = self.article.segments.iter();
        segments.map(|segment| &*segment.text).collect()
    }

    fn segment(&self, number: usize) -> u32 {
        self.article.segments[number].id
    }

    async fn try_change(&mut self, change: Change) -> Result<(), Status> {
        let request = ChangeArticleRequest {
            article_id: self.article.id.clone(),
            revision: self.article.revision,
            change: Some(change),
        };
        let answer = self.client.change_article(request).await?;
        self.now(answer.into_inner().article.expect("an article"));
        Ok(())
    }

    async fn change(&mut self, change: Change) {
        let before = self.article.revision;
        let changed = self.try_change(change).await;
        changed.expect("it can be changed");
        assert!(self.article.revision > before, "it has a new revision");
    }

    fn now(&mut self, article: Article) {
        assert_eq!(article.id, self.article.id);
        self.article = article;
    }

    fn edit(&self, number: usize, operation: EditOperation, instruction: &str) -> EditRequest {
        EditRequest {
            article_id: self.article.id.clone(),
            revision: self.article.revision,
            segment: self.segment(number),
            operation: operation.into(),
            instruction: instruction.to_owned(),
        }
    }

    async fn propose(
        &mut self,
        number: usize,
        operation: EditOperation,
        instruction: &str,
    ) -> String {
        let edit = self.edit(number, operation, instruction);
        let text = propose(&mut self.client, edit).await;
        let now = article(&mut self.client, &self.article.id).await;
        assert_eq!(now.segments, self.article.segments, "it does not change it");
        assert_eq!(now.revision, self.article.revision);
        let open = now.open_edit.expect("it is open");
        assert_eq!(open.segment, self.segment(number));
        assert_eq!((open.operation(), &*open.text), (operation, &*text));
        text
    }

    async fn try_apply(&mut self, text: Option<&str>) -> Result<(), Status> {
        let apply = ApplyEditRequest {
            article_id: self.article.id.clone(),
            revision: self.article.revision,
            text: text.map(str::to_owned),
        };
        let answer = self.client.apply_edit(apply).await?;
        self.now(answer.into_inner().article.expect("an article"));
        Ok(())
    }

    async fn apply(&mut self, text: Option<&str>) {
        self.try_apply(text).await.expect("it fits");
        assert_eq!(self.article.open_edit, None);
    }

    /// What the server has is what this editor was told.
    async fn assert_up_to_date(&mut self) {
        let now = article(&mut self.client, &self.article.id).await;
        assert_eq!(now, self.article);
    }
}

/// The small model knows the five operations; what it makes of them is right nearly always, and these it knows.
#[tokio::test(flavor = "multi_thread")]
async fn composition_five_edits_by_the_small_model_are_applied_cancelled_undone_and_redone() {
    let served = Served::start(small_model(), &[]);
    let client = connect(&served.address).await;
    let outline = "Write an article about the park from this outline:\n1. a red circle\n2. a blue star\n3. a green ring";
    let mut editor = Editor::compose(
        client,
        ComposeRequest {
            picture_count: Some(0),
            ..greedy(outline)
        },
    )
    .await;
    let first: Vec<String> = editor.texts().into_iter().map(str::to_owned).collect();
    assert_eq!(first.len(), 4, "{first:#?}");
    let shows = |text: &str, things: &[&str]| {
        let wanted = things.join(", ");
        assert!(Skill::Edit.is_right(&wanted, text), "{text}, not {wanted}");
    };

    let text = editor.propose(1, EditOperation::Rewrite, "").await;
    shows(&text, &["a red circle"]);
    assert_ne!(text.trim(), first[1]);
    editor.apply(None).await;
    assert_eq!(editor.texts()[1], text.trim());

    let text = editor
        .propose(2, EditOperation::Expand, "a yellow square")
        .await;
    shows(&text, &["a blue star", "a yellow square"]);
    editor.apply(None).await;

    let text = editor.propose(3, EditOperation::Abbreviate, "").await;
    shows(&text, &["a green ring"]);
    assert!(text.len() < first[3].len(), "{text} is no shorter");
    // What was proposed is left alone.
    let id = editor.article.id.clone();
    cancel(&mut editor.client, &id).await;
    assert_eq!(editor.texts()[3], first[3]);
    editor.assert_up_to_date().await;

    let text = editor
        .propose(1, EditOperation::InsertBefore, "a purple cross")
        .await;
    shows(&text, &["a purple cross"]);
    editor.apply(None).await;
    assert_eq!(editor.texts().len(), 5);
    assert_eq!(editor.texts()[1], text.trim());

    let text = editor
        .propose(4, EditOperation::InsertAfter, "a black triangle")
        .await;
    shows(&text, &["a black triangle"]);
    // The user may improve on it; a segment has one line.
    editor.apply(Some(" At last\n\na black triangle. ")).await;
    assert_eq!(editor.texts()[5], "At last a black triangle.");
    assert_eq!(editor.texts().len(), 6);

    // Applying nothing deletes the segment.
    editor.propose(5, EditOperation::Rewrite, "").await;
    editor.apply(Some("")).await;
    assert_eq!(editor.texts().len(), 5);

    assert_eq!(editor.article.num_undo, 5);
    let last = editor.article.segments.clone();
    while editor.article.num_undo > 0 {
        editor.change(Change::Undo(Undo {})).await;
    }
    assert_eq!(editor.texts(), first);
    let status = editor.try_change(Change::Undo(Undo {})).await;
    let status = status.expect_err("there is nothing");
    assert_refused(&status, Code::FailedPrecondition, "EDIT_REFUSED");
    while editor.article.num_redo > 0 {
        editor.change(Change::Redo(Redo {})).await;
    }
    assert_eq!(editor.article.segments, last);
    editor.assert_up_to_date().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn composition_pictures_are_replaced_searched_for_uploaded_and_removed() {
    let library = import(&drawn_library("edits"));
    let served = Served::start(small_model(), &["--library", library.location()]);
    let client = connect(&served.address).await;
    let request = ComposeRequest {
        picture_count: Some(1),
        picture_source: PictureSource::Search.into(),
        ..greedy(
            "Write an article about the market from this outline:\n1. a red circle\n2. a blue star",
        )
    };
    let mut editor = Editor::compose(client, request).await;
    let shown = |editor: &Editor, number: usize| {
        let illustration = editor.article.segments[number].illustration.clone();
        illustration.map(|it| it.candidates[it.chosen as usize].id.clone())
    };
    let number =
        (0..editor.article.segments.len()).find(|number| shown(&editor, *number).is_some());
    let number = number.expect("it has a picture");
    let segment = editor.segment(number);
    let group = editor.article.segments[number].illustration.clone();
    let group = group.expect("it has a picture");
    assert_eq!(group.candidates.len(), 4, "{group:#?}");

    // Another candidate.
    let candidate = (group.chosen + 1) % 4;
    let choose = ChoosePicture { segment, candidate };
    editor.change(Change::ChoosePicture(choose)).await;
    assert_eq!(
        shown(&editor, number).expect("a picture"),
        group.candidates[candidate as usize].id
    );

    // Another search finds others, and they take the place of those.
    let search = SearchImagesRequest {
        caption: "a blue star".to_owned(),
        article_id: editor.article.id.clone(),
        ..SearchImagesRequest::default()
    };
    let found = editor.client.search_images(search.clone()).await;
    let found = found.expect("there is a library").into_inner().pictures;
    assert_eq!(found.len(), 4, "{found:#?}");
    let ids: Vec<String> = found
        .iter()
        .map(|found| {
            assert!(found.data.is_empty(), "the article keeps it");
            assert!(found.caption.contains("blue star"), "{found:#?}");
            found.info.clone().expect("it says which").id
        })
        .collect();
    assert!(group.candidates.iter().all(|one| !ids.contains(&one.id)));
    let (media_type, data) = get_picture(&mut editor.client, &editor.article.id, &ids[0])
        .await
        .expect("it is kept");
    assert!(media_type.starts_with("image/") && !data.is_empty());
    let set = SetPictures {
        segment,
        caption: " a blue\nstar ".to_owned(),
        picture_ids: ids.clone(),
        uploads: vec![],
    };
    editor.change(Change::SetPictures(set)).await;
    assert_eq!(shown(&editor, number).as_ref(), Some(&ids[0]));
    let caption = |editor: &Editor| {
        let illustration = editor.article.segments[number].illustration.clone();
        illustration.expect("a picture").caption
    };
    assert_eq!(caption(&editor), "a blue star");

    // They are not offered to this article again.
    let again = editor.client.search_images(search).await;
    let again = again.expect("there is a library").into_inner().pictures;
    let again = again
        .iter()
        .map(|found| found.info.clone().expect("it says which").id);
    assert!(again.into_iter().all(|id| !ids.contains(&id)));

    // A picture of the user's own.
    let file = stripes(7);
    let set = SetPictures {
        segment,
        uploads: vec![provided(file.clone(), "")],
        ..SetPictures::default()
    };
    editor.change(Change::SetPictures(set)).await;
    let id = shown(&editor, number).expect("a picture");
    let (_, data) = get_picture(&mut editor.client, &editor.article.id, &id)
        .await
        .expect("it is kept");
    assert_eq!(data, file);
    let set = SetCaption {
        segment,
        caption: "stripes".to_owned(),
    };
    editor.change(Change::SetCaption(set)).await;
    assert_eq!(caption(&editor), "stripes");

    // A broken one changes nothing.
    let set = SetPictures {
        segment,
        uploads: vec![provided(b"no picture".to_vec(), "")],
        ..SetPictures::default()
    };
    let status = editor.try_change(Change::SetPictures(set)).await;
    let status = status.expect_err("it is none");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let set = SetPictures {
        segment,
        picture_ids: vec!["../../etc/passwd".to_owned()],
        ..SetPictures::default()
    };
    let status = editor.try_change(Change::SetPictures(set)).await;
    let status = status.expect_err("there is none");
    assert!(
        matches!(status.code(), Code::NotFound | Code::InvalidArgument),
        "{status:?}"
    );
    editor.assert_up_to_date().await;

    editor.change(Change::RemovePicture(segment)).await;
    assert_eq!(shown(&editor, number), None);
    let status = editor.try_change(Change::RemovePicture(segment)).await;
    let status = status.expect_err("there is none");
    assert_refused(&status, Code::FailedPrecondition, "EDIT_REFUSED");

    // A picture that left can be brought back, whichever it was.
    editor.change(Change::Undo(Undo {})).await;
    assert_eq!(shown(&editor, number), Some(id));
}

const SEGMENTS: [&str; 4] = ["Title", "one", "two", "three"];

fn answer(asked: &Asked) -> Reply {
    match asked.step() {
        Step::Article => SEGMENTS.join("\n").as_str().into(),
        Step::Edit => "another".into(),
        step => panic!("{step:?} is not asked"),
    }
}

async fn plain(scripted: &Scripted) -> Editor {
    let client = connect(&scripted.address).await;
    let request = ComposeRequest {
        picture_count: Some(0),
        ..super::client::request("Write.")
    };
    Editor::compose(client, request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_segments_are_set_inserted_moved_and_deleted_by_hand() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut editor = plain(&scripted).await;
    let ids: Vec<u32> = (0..4).map(|number| editor.segment(number)).collect();
    let set = SetText {
        segment: ids[1],
        text: "\none\n\nmore ".to_owned(),
    };
    editor.change(Change::SetText(set)).await;
    assert_eq!(editor.texts(), ["Title", "one more", "two", "three"]);
    let insert = InsertSegment {
        position: 4,
        text: "four".to_owned(),
    };
    editor.change(Change::Insert(insert)).await;
    let moved = MoveSegment {
        segment: ids[3],
        position: 0,
    };
    editor.change(Change::Move(moved)).await;
    assert_eq!(
        editor.texts(),
        ["three", "Title", "one more", "two", "four"]
    );
    assert_eq!(editor.segment(0), ids[3], "it keeps its name");
    editor.change(Change::Delete(ids[2])).await;
    let set = SetText {
        segment: ids[0],
        text: " \n ".to_owned(),
    };
    editor.change(Change::SetText(set)).await;
    assert_eq!(editor.texts(), ["three", "one more", "four"]);

    // What does not fit is refused, and changes nothing.
    let missing = [
        Change::Delete(ids[2]),
        Change::SetText(SetText {
            segment: 999,
            text: "x".to_owned(),
        }),
        Change::Move(MoveSegment {
            segment: ids[1],
            position: 3,
        }),
        Change::Insert(InsertSegment {
            position: 4,
            text: "x".to_owned(),
        }),
        Change::ChoosePicture(ChoosePicture {
            segment: ids[1],
            candidate: 0,
        }),
        Change::SetCaption(SetCaption {
            segment: ids[1],
            caption: "x".to_owned(),
        }),
    ];
    for change in missing {
        let status = editor.try_change(change.clone()).await;
        let status = status.expect_err("it does not fit");
        assert_refused(&status, Code::FailedPrecondition, "EDIT_REFUSED");
    }
    let nothing = ChangeArticleRequest {
        article_id: editor.article.id.clone(),
        revision: editor.article.revision,
        change: None,
    };
    let status = editor.client.change_article(nothing).await;
    let status = status.expect_err("it says nothing");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let set = SetText {
        segment: ids[1],
        text: "long ".repeat(1 << 14),
    };
    let status = editor.try_change(Change::SetText(set)).await;
    let status = status.expect_err("it is too long");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    editor.assert_up_to_date().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_of_two_who_edit_at_once_one_is_told_of_the_conflict() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut one = plain(&scripted).await;
    let other = connect(&scripted.address).await;
    let mut other = Editor::open(other, &one.article.id).await;
    let set = |editor: &Editor, text: &str| {
        Change::SetText(SetText {
            segment: editor.segment(1),
            text: text.to_owned(),
        })
    };
    for round in 0..8 {
        let (mine, theirs) = (format!("mine {round}"), format!("theirs {round}"));
        let changes = (set(&one, &mine), set(&other, &theirs));
        let (first, second) = tokio::join!(one.try_change(changes.0), other.try_change(changes.1));
        let (loser, status) = match (first, second) {
            (Ok(()), Err(status)) => (&mut other, status),
            (Err(status), Ok(())) => (&mut one, status),
            both => panic!("one of them is right: {both:?}"),
        };
        assert_refused(&status, Code::Aborted, "REVISION_CONFLICT");
        let now = article(&mut loser.client, &loser.article.id).await;
        loser.now(now);
        assert_eq!(one.article, other.article);
    }
    // An edit by the model for an article that changed meanwhile.
    let stale = one.edit(2, EditOperation::Rewrite, "");
    other.change(set(&other, "once more")).await;
    let status = try_propose(&mut one.client, stale).await;
    let status = status.expect_err("it is for an older one");
    assert_refused(&status, Code::Aborted, "REVISION_CONFLICT");
    one.now(other.article.clone());

    // A proposal for one segment goes with a change of another; applying names the new revision.
    one.propose(2, EditOperation::Rewrite, "").await;
    let open = other.edit(3, EditOperation::Rewrite, "");
    let status = try_propose(&mut other.client, open).await;
    let status = status.expect_err("one is open");
    assert_refused(&status, Code::FailedPrecondition, "EDIT_REFUSED");
    other.change(set(&other, "and again")).await;
    let status = one.try_apply(None).await;
    let status = status.expect_err("it names an older one");
    assert_refused(&status, Code::Aborted, "REVISION_CONFLICT");
    one.article.revision = other.article.revision;
    one.apply(None).await;
    assert_eq!(one.texts(), ["Title", "and again", "another", "three"]);

    // A proposal for a text that is gone has nothing to be applied to.
    one.propose(2, EditOperation::Abbreviate, "").await;
    other.now(one.article.clone());
    let gone = other.segment(2);
    other.change(Change::Delete(gone)).await;
    one.article.revision = other.article.revision;
    let status = one.try_apply(None).await;
    let status = status.expect_err("it is gone");
    assert_refused(&status, Code::FailedPrecondition, "EDIT_REFUSED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_edits_that_make_no_sense_are_refused_by_name() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut editor = plain(&scripted).await;
    let edit = editor.edit(1, EditOperation::InsertAfter, " \n ");
    let status = try_propose(&mut editor.client, edit).await;
    assert_wrong(&status.expect_err("no outline"), "instruction", "outline");
    let edit = editor.edit(1, EditOperation::Unspecified, "x");
    let status = try_propose(&mut editor.client, edit).await;
    assert_wrong(&status.expect_err("no operation"), "operation", "");
    let edit = EditRequest {
        segment: 4711,
        ..editor.edit(1, EditOperation::Rewrite, "")
    };
    let status = try_propose(&mut editor.client, edit).await;
    let status = status.expect_err("there is no such segment");
    assert_refused(&status, Code::FailedPrecondition, "EDIT_REFUSED");
    let status = editor.try_apply(None).await;
    let status = status.expect_err("none is open");
    assert_refused(&status, Code::FailedPrecondition, "EDIT_REFUSED");
    let cancel = CancelEditRequest {
        article_id: editor.article.id.clone(),
    };
    let status = editor.client.cancel_edit(cancel).await;
    let status = status.expect_err("none is open");
    assert_refused(&status, Code::FailedPrecondition, "EDIT_REFUSED");
    assert_eq!(scripted.asked().len(), 1, "the model heard of none of it");
    editor.assert_up_to_date().await;
}
