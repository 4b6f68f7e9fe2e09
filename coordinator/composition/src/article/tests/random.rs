//! Random edits: what holds whatever is done, in whatever order.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Edit(Edit),
    Undo,
    Redo,
    /// For a revision that is over.
    Late(Edit),
}

fn any_segment() -> impl Strategy<Value = SegmentId> {
    (0_u32..7).prop_map(SegmentId)
}

fn any_text() -> impl Strategy<Value = String> {
    "(\\PC|\n|\r| ){0,6}"
}

fn any_pictures() -> impl Strategy<Value = Vec<Picture>> {
    vec("[a-f]".prop_map(|name| found(&name)), 0..4)
}

fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any_segment(), any_text()).prop_map(|(segment, text)| Edit::SetText { segment, text }),
        (0_usize..8, any_text()).prop_map(|(at, text)| Edit::Insert { at, text }),
        any_segment().prop_map(|segment| Edit::Delete { segment }),
        (any_segment(), 0_usize..8).prop_map(|(segment, to)| Edit::Move { segment, to }),
        (any_segment(), any_text(), any_pictures()).prop_map(|(segment, caption, pictures)| {
            Edit::SetPictures {
                segment,
                caption,
                pictures,
            }
        }),
        (any_segment(), 0_usize..4)
            .prop_map(|(segment, candidate)| Edit::ChoosePicture { segment, candidate }),
        (any_segment(), any_text())
            .prop_map(|(segment, caption)| Edit::SetCaption { segment, caption }),
        any_segment().prop_map(|segment| Edit::RemovePicture { segment }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_edit().prop_map(Step::Edit),
        2 => Just(Step::Undo),
        1 => Just(Step::Redo),
        1 => any_edit().prop_map(Step::Late),
    ]
}

#[track_caller]
fn check_whole(article: &Article) {
    let ids: BTreeSet<SegmentId> = article
        .segments()
        .iter()
        .map(|segment| segment.id)
        .collect();
    assert_eq!(
        ids.len(),
        article.segments().len(),
        "no two segments have one name"
    );
    for segment in article.segments() {
        assert!(!segment.text.is_empty());
        assert!(!segment.text.contains(['\n', '\r']));
        if let Some(illustration) = &segment.illustration {
            assert!(illustration.chosen() < illustration.candidates().len());
            assert!(!illustration.caption().contains(['\n', '\r']));
        }
    }
    assert!(article.history().num_undo() <= MAX_UNDO);
    assert!(article.history().num_redo() <= MAX_UNDO);
}

proptest! {
    #[test]
    fn steps_are_undone_one_by_one(steps in vec(any_step(), 0..40)) {
        let mut article = article();
        // What undo must lead back to, and redo forth to.
        let mut earlier: Vec<Vec<Segment>> = vec![];
        let mut later: Vec<Vec<Segment>> = vec![];
        for step in steps {
            let before = article.clone();
            let present = before.revision();
            let result = match step {
                Step::Edit(edit) => article.edit(present, edit),
                Step::Undo => article.undo(present),
                Step::Redo => article.redo(present),
                Step::Late(edit) => {
                    let late = article.edit(Revision(present.0 + 1), edit);
                    prop_assert!(late.is_err());
                    late
                }
            };
            check_whole(&article);
            match result {
                Err(_) => prop_assert_eq!(&article.segments, &before.segments),
                Ok(revision) if revision == present => {
                    prop_assert_eq!(&article.segments, &before.segments);
                }
                Ok(revision) => {
                    prop_assert_eq!(revision.0, present.0 + 1);
                    if later.last() == Some(&article.segments)
                        && article.history().num_redo() + 1 == before.history().num_redo()
                    {
                        later.pop();
                        earlier.push(before.segments);
                    } else if article.history().num_undo() + 1 == before.history().num_undo() {
                        prop_assert_eq!(earlier.pop(), Some(article.segments.clone()));
                        later.push(before.segments);
                    } else {
                        earlier.push(before.segments);
                        later.clear();
                    }
                }
            }
            prop_assert_eq!(article.history().num_undo(), earlier.len());
            prop_assert_eq!(article.history().num_redo(), later.len());
        }
        let json = serde_json::to_string(&article).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Article>(&json).unwrap(), &article);
        while article.undo(article.revision()).is_ok() {
            prop_assert_eq!(earlier.pop(), Some(article.segments.clone()));
        }
        prop_assert!(earlier.is_empty());
        let first = super::article();
        prop_assert_eq!(article.segments(), first.segments());
    }
}
