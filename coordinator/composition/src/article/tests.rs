//! An article under edits: by hand, by the model, by two people at once; and back.

mod pending;
mod random;

use super::*;
use crate::tests::{found, upload};

fn article() -> Article {
    let illustration = |name: &str| {
        let candidates = ["a", "b"]
            .map(|letter| found(&format!("{name}{letter}")))
            .into();
        Illustration::new(format!("caption {name}"), candidates, 1, true)
    };
    let written = [
        ("A title", None),
        ("first", illustration("1")),
        ("second", None),
        ("third", illustration("3")),
    ];
    Article::new(
        ArticleId("id".into()),
        ComposeRequest::of("Write."),
        written.map(|(text, illustration)| (text.to_owned(), illustration)),
        vec!["index-1a".into()],
    )
}

const TITLE: SegmentId = SegmentId(0);
const FIRST: SegmentId = SegmentId(1);
const SECOND: SegmentId = SegmentId(2);
const THIRD: SegmentId = SegmentId(3);

/// Makes an edit for the present revision.
fn edit(article: &mut Article, edit: Edit) -> Result<Revision, EditError> {
    article.edit(article.revision(), edit)
}

/// The texts, with a `*` after those that have a picture.
fn shown(article: &Article) -> String {
    let segments = article.segments().iter().map(|segment| {
        let mark = if segment.illustration.is_some() {
            "*"
        } else {
            ""
        };
        format!("{}{mark}", segment.text)
    });
    segments.collect::<Vec<_>>().join("|")
}

#[track_caller]
fn check(edit: Edit, wanted: &str) {
    let mut article = article();
    let before = shown(&article);
    assert_eq!(self::edit(&mut article, edit), Ok(Revision(1)));
    assert_eq!(shown(&article), wanted);
    assert_eq!(article.undo(Revision(1)), Ok(Revision(2)));
    assert_eq!(shown(&article), before);
    assert_eq!(article.redo(Revision(2)), Ok(Revision(3)));
    assert_eq!(shown(&article), wanted);
}

#[track_caller]
fn check_refused(edit: Edit, wanted: &str) {
    let mut article = article();
    let before = article.clone();
    let error = self::edit(&mut article, edit).unwrap_err();
    assert_eq!(error.to_string(), wanted);
    assert_eq!(article, before);
}

#[test]
fn texts_are_changed_inserted_deleted_and_moved() {
    let text = |text: &str| text.to_owned();
    let set = |segment, text: &str| Edit::SetText {
        segment,
        text: text.to_owned(),
    };
    check(
        set(FIRST, " new\n\ntext "),
        "A title|new text*|second|third*",
    );
    check(set(FIRST, " \n"), "A title|second|third*");
    check(
        Edit::Insert {
            at: 1,
            text: text("new"),
        },
        "A title|new|first*|second|third*",
    );
    check(
        Edit::Insert {
            at: 4,
            text: text("new"),
        },
        "A title|first*|second|third*|new",
    );
    check(Edit::Delete { segment: THIRD }, "A title|first*|second");
    check(
        Edit::Move {
            segment: FIRST,
            to: 3,
        },
        "A title|second|third*|first*",
    );
    check(
        Edit::Move {
            segment: THIRD,
            to: 0,
        },
        "third*|A title|first*|second",
    );
}

#[test]
fn pictures_are_replaced_chosen_captioned_and_removed() {
    let caption = || "a\nnew caption ".to_owned();
    check(
        Edit::RemovePicture { segment: FIRST },
        "A title|first|second|third*",
    );
    let uploaded = Edit::SetPictures {
        segment: SECOND,
        caption: String::new(),
        pictures: vec![upload("mine")],
    };
    check(uploaded, "A title|first*|second*|third*");
    let mut article = article();
    let searched = Edit::SetPictures {
        segment: FIRST,
        caption: caption(),
        pictures: vec![found("x"), found("y")],
    };
    edit(&mut article, searched).unwrap();
    let group = article.segments()[1].illustration.clone().unwrap();
    assert_eq!(group.caption(), "a new caption");
    assert_eq!(
        (group.picture(), group.chosen(), group.by_default()),
        (&found("x"), 0, false)
    );
    assert_eq!(article.excluded(), ["index-1a", "index-x", "index-y"]);
    edit(
        &mut article,
        Edit::ChoosePicture {
            segment: FIRST,
            candidate: 1,
        },
    )
    .unwrap();
    assert_eq!(
        article.segments()[1]
            .illustration
            .as_ref()
            .unwrap()
            .picture(),
        &found("y")
    );
    edit(
        &mut article,
        Edit::SetCaption {
            segment: FIRST,
            caption: "other".into(),
        },
    )
    .unwrap();
    assert_eq!(
        article.segments()[1]
            .illustration
            .as_ref()
            .unwrap()
            .caption(),
        "other"
    );
    // A single picture of the user's can be changed too, which the demo forbids.
    let mine = Edit::SetPictures {
        segment: FIRST,
        caption: String::new(),
        pictures: vec![upload("mine")],
    };
    edit(&mut article, mine).unwrap();
    edit(
        &mut article,
        Edit::SetCaption {
            segment: FIRST,
            caption: "mine".into(),
        },
    )
    .unwrap();
    edit(&mut article, Edit::RemovePicture { segment: FIRST }).unwrap();
    assert_eq!(shown(&article), "A title|first|second|third*");
}

#[test]
fn a_choice_by_hand_is_no_default() {
    let mut article = article();
    assert!(
        article.segments()[1]
            .illustration
            .as_ref()
            .unwrap()
            .by_default()
    );
    edit(
        &mut article,
        Edit::ChoosePicture {
            segment: FIRST,
            candidate: 1,
        },
    )
    .unwrap();
    assert!(
        !article.segments()[1]
            .illustration
            .as_ref()
            .unwrap()
            .by_default()
    );
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let gone = SegmentId(9);
    check_refused(Edit::Delete { segment: gone }, "article has no segment 9");
    check_refused(
        Edit::RemovePicture { segment: SECOND },
        "segment 2 has no picture",
    );
    let text = "x".to_owned();
    check_refused(
        Edit::Insert { at: 5, text },
        "position must be at most 4, found 5",
    );
    check_refused(
        Edit::Move {
            segment: TITLE,
            to: 4,
        },
        "position must be at most 3, found 4",
    );
    let choose = Edit::ChoosePicture {
        segment: FIRST,
        candidate: 2,
    };
    check_refused(choose, "candidate must be below 2, found 2");
    for (count, wanted) in [(0, "found 0"), (17, "found 17")] {
        let pictures = (0..count).map(|at| found(&at.to_string())).collect();
        let caption = String::new();
        let set = Edit::SetPictures {
            segment: FIRST,
            caption,
            pictures,
        };
        check_refused(set, &format!("pictures must be 1 to 16, {wanted}"));
    }
    let text = "x".repeat(MAX_SEGMENT_BYTES + 1);
    let wanted = "text must be at most 65536 bytes, found 65537";
    check_refused(
        Edit::SetText {
            segment: FIRST,
            text: text.clone(),
        },
        wanted,
    );
    check_refused(
        Edit::SetCaption {
            segment: FIRST,
            caption: text,
        },
        wanted,
    );
}

#[test]
fn the_second_of_two_edits_at_once_is_told() {
    let mut article = article();
    let seen = article.revision();
    article.edit(seen, Edit::Delete { segment: FIRST }).unwrap();
    let late = article
        .edit(seen, Edit::Delete { segment: SECOND })
        .unwrap_err();
    assert_eq!(
        late.to_string(),
        "edit is for revision 0, the article is at 1: read it again and repeat the edit"
    );
    assert!(matches!(
        article.undo(seen),
        Err(EditError::Conflict { .. })
    ));
    assert_eq!(shown(&article), "A title|second|third*");
    // Back to the same texts is no way back to the same revision.
    article.undo(Revision(1)).unwrap();
    assert!(
        article
            .edit(seen, Edit::Delete { segment: SECOND })
            .is_err()
    );
}

#[test]
fn what_changes_nothing_makes_no_revision() {
    let mut article = article();
    let same = Edit::SetText {
        segment: FIRST,
        text: "first\n".into(),
    };
    assert_eq!(edit(&mut article, same), Ok(Revision(0)));
    let empty = Edit::Insert {
        at: 0,
        text: "\n ".into(),
    };
    assert_eq!(edit(&mut article, empty), Ok(Revision(0)));
    assert_eq!(article.undo(Revision(0)), Err(EditError::NothingToUndo));
    assert_eq!(article.redo(Revision(0)), Err(EditError::NothingToRedo));
}

#[test]
fn the_history_is_bounded_and_forks() {
    let mut article = article();
    for number in 0..MAX_UNDO + 10 {
        let text = format!("text {number}");
        edit(
            &mut article,
            Edit::SetText {
                segment: FIRST,
                text,
            },
        )
        .unwrap();
    }
    assert_eq!(article.history().num_undo(), MAX_UNDO);
    while article.undo(article.revision()).is_ok() {}
    assert_eq!(article.segments()[1].text, "text 9");
    assert_eq!(article.history().num_redo(), MAX_UNDO);
    edit(&mut article, Edit::Delete { segment: SECOND }).unwrap();
    assert_eq!(
        article.redo(article.revision()),
        Err(EditError::NothingToRedo)
    );
}

#[test]
fn an_article_grows_to_its_limit() {
    let mut article = article();
    let mut last = Ok(Revision(0));
    for _ in 0..MAX_ARTICLE_SEGMENTS {
        last = edit(
            &mut article,
            Edit::Insert {
                at: 0,
                text: "x".into(),
            },
        );
    }
    assert_eq!(last, Err(EditError::Full));
    assert_eq!(article.segments().len(), MAX_ARTICLE_SEGMENTS);
}

#[test]
fn a_search_leaves_out_what_was_offered() {
    let article = article();
    let search = article.search(" a red\ncircle ").unwrap();
    assert_eq!(search.caption, "a red circle");
    assert_eq!(search.exclude, ["index-1a"]);
    assert_eq!(article.search(" \n"), Err(EditError::EmptyCaption));
    let search = article.search(&"字".repeat(60)).unwrap();
    assert_eq!(search.short_caption(), "字".repeat(53));
    // Where no pictures were wanted, the demo's search fails.
    let plain = Article::new(
        ArticleId("id".into()),
        ComposeRequest::of("Write."),
        [("text".to_owned(), None)],
        vec![],
    );
    assert!(plain.search("x").unwrap().exclude.is_empty());
}

#[test]
fn a_written_article_has_lines_only() {
    let written = ["a\r", " \u{3000}", "b\nc"].map(|text| (text.to_owned(), None));
    let id = ArticleId("id".into());
    let article = Article::new(id, ComposeRequest::of("Write."), written, vec![]);
    assert_eq!(article.texts(), ["a", "b c"]);
}

#[test]
fn a_stored_article_that_points_at_no_picture_is_refused() {
    let mut json = serde_json::to_value(article()).unwrap();
    json["segments"][1]["illustration"]["chosen"] = 2.into();
    let error = serde_json::from_value::<Article>(json).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("chosen picture must be one of 2, found 2"),
        "{error}"
    );
}
