//! Edits and changes off the wire.

use bytes::Bytes;
use inkstone_composition::article::Revision;

use super::*;
use crate::config::Limits;

fn limits() -> Limits {
    Limits {
        max_picture_bytes: 100,
        max_text_bytes: 1000,
        ..Limits::default()
    }
}

fn provided_picture(data: &[u8]) -> wire::ProvidedPicture {
    wire::ProvidedPicture {
        data: Bytes::copy_from_slice(data),
        ..Default::default()
    }
}

fn paths<T: std::fmt::Debug>(read: Result<T, RequestError>) -> Vec<String> {
    match read {
        Err(RequestError::Invalid(faults)) => faults.into_iter().map(|fault| fault.path).collect(),
        other => panic!("not refused as invalid: {other:?}"),
    }
}

fn changed(change: change::Change) -> Result<(ArticleId, Change), RequestError> {
    let message = wire::ChangeArticleRequest {
        article_id: "a".into(),
        revision: 0,
        change: Some(change),
    };
    super::change(message, &limits())
}

#[test]
fn an_article_has_a_name() {
    assert_eq!(only_article_id("a".into()).unwrap(), ArticleId("a".into()));
    assert_eq!(paths(only_article_id(String::new())), ["article_id"]);
    assert_eq!(paths(only_article_id("x".repeat(257))), ["article_id"]);
    let nameless = wire::GetPictureRequest::default();
    assert_eq!(paths(picture(nameless)), ["article_id", "picture_id"]);
}

#[test]
fn an_export_without_a_format_is_a_zip() {
    let of = |format: i32| {
        export(wire::ExportRequest {
            article_id: "a".into(),
            format,
        })
    };
    for (format, wanted) in [
        (wire::ExportFormat::Unspecified, ExportFormat::Zip),
        (wire::ExportFormat::Zip, ExportFormat::Zip),
        (wire::ExportFormat::Html, ExportFormat::Html),
        (wire::ExportFormat::Json, ExportFormat::Json),
        (wire::ExportFormat::Markdown, ExportFormat::Markdown),
    ] {
        assert_eq!(of(format.into()).unwrap().1, wanted);
    }
    assert_eq!(paths(of(99)), ["format"]);
}

#[test]
fn every_operation_has_its_own() {
    let of = |operation: i32| {
        let message = wire::EditRequest {
            article_id: "a".into(),
            revision: 3,
            segment: 2,
            operation,
            instruction: "about rain".into(),
        };
        edit(message, &limits())
    };
    for (operation, wanted) in [
        (wire::EditOperation::Rewrite, Operation::Rewrite),
        (wire::EditOperation::Expand, Operation::Expand),
        (wire::EditOperation::Abbreviate, Operation::Abbreviate),
        (wire::EditOperation::InsertBefore, Operation::InsertBefore),
        (wire::EditOperation::InsertAfter, Operation::InsertAfter),
    ] {
        let (_, proposal) = of(operation.into()).unwrap();
        let wanted = Proposal {
            segment: SegmentId(2),
            operation: wanted,
            instruction: "about rain".into(),
        };
        assert_eq!(proposal, wanted);
    }
    assert_eq!(paths(of(0)), ["operation"]);
    assert_eq!(paths(of(6)), ["operation"]);
}

#[test]
fn faults_of_an_edit_are_told_together() {
    let message = wire::EditRequest {
        instruction: "x".repeat(1001),
        ..Default::default()
    };
    assert_eq!(
        paths(edit(message, &limits())),
        ["article_id", "operation", "instruction"]
    );
}

#[test]
fn found_pictures_keep_what_is_told_of_them() {
    let message = wire::ProvideCandidatesRequest {
        article_id: "a".into(),
        location: 3,
        pictures: vec![
            wire::ProvidedPicture {
                data: Bytes::from_static(b"data"),
                index: "17".into(),
                source: "https://example.org".into(),
                author: "Ann".into(),
                licence: "CC0".into(),
            },
            provided_picture(b"other"),
        ],
    };
    let (_, place, pictures) = provided(message, &limits()).unwrap();
    assert_eq!(place, 3);
    let [told, bare] = &pictures[..] else {
        panic!("two pictures, found {}", pictures.len());
    };
    assert_eq!(told.data, "data");
    assert_eq!(told.index.as_deref(), Some("17"));
    assert_eq!(told.source.as_deref(), Some("https://example.org"));
    assert_eq!(told.author.as_deref(), Some("Ann"));
    assert_eq!(told.licence.as_deref(), Some("CC0"));
    let rest = [&bare.index, &bare.source, &bare.author, &bare.licence];
    assert_eq!(rest, [&None; 4]);
}

#[test]
fn no_found_pictures_are_an_answer_and_more_than_four_are_left_out() {
    let with = |count: usize| wire::ProvideCandidatesRequest {
        article_id: "a".into(),
        location: 0,
        pictures: vec![provided_picture(b"data"); count],
    };
    for (given, used) in [(0, 0), (4, 4), (5, 4)] {
        let (_, _, pictures) = provided(with(given), &limits()).unwrap();
        assert_eq!(pictures.len(), used);
    }
}

#[test]
fn found_pictures_without_bytes_or_with_endless_words_are_named() {
    let wordy = wire::ProvidedPicture {
        licence: "x".repeat(4097),
        ..provided_picture(&[0; 101])
    };
    let message = wire::ProvideCandidatesRequest {
        article_id: String::new(),
        location: 0,
        pictures: vec![provided_picture(b""), wordy],
    };
    let wanted = [
        "article_id",
        "pictures[0].data",
        "pictures[1].licence",
        "pictures[1].data",
    ];
    assert_eq!(paths(provided(message, &limits())), wanted);
}

#[test]
fn changes_by_hand_say_what_they_say() {
    let segment = SegmentId(4);
    let text = || "new".to_owned();
    for (change, wanted) in [
        (
            change::Change::SetText(wire::SetText {
                segment: 4,
                text: text(),
            }),
            Edit::SetText {
                segment,
                text: text(),
            },
        ),
        (
            change::Change::Insert(wire::InsertSegment {
                position: 7,
                text: text(),
            }),
            Edit::Insert {
                at: 7,
                text: text(),
            },
        ),
        (change::Change::Delete(4), Edit::Delete { segment }),
        (
            change::Change::Move(wire::MoveSegment {
                segment: 4,
                position: 1,
            }),
            Edit::Move { segment, to: 1 },
        ),
        (
            change::Change::ChoosePicture(wire::ChoosePicture {
                segment: 4,
                candidate: 2,
            }),
            Edit::ChoosePicture {
                segment,
                candidate: 2,
            },
        ),
        (
            change::Change::SetCaption(wire::SetCaption {
                segment: 4,
                caption: text(),
            }),
            Edit::SetCaption {
                segment,
                caption: text(),
            },
        ),
        (
            change::Change::RemovePicture(4),
            Edit::RemovePicture { segment },
        ),
    ] {
        let (_, read) = changed(change).unwrap();
        assert!(
            matches!(&read, Change::Edit(edit) if *edit == wanted),
            "{read:?}"
        );
    }
    let undo = changed(change::Change::Undo(wire::Undo {}));
    assert!(matches!(undo, Ok((_, Change::Undo))));
    let redo = changed(change::Change::Redo(wire::Redo {}));
    assert!(matches!(redo, Ok((_, Change::Redo))));
}

#[test]
fn a_change_of_nothing_is_none() {
    let message = wire::ChangeArticleRequest {
        revision: Revision::default().0,
        ..Default::default()
    };
    assert_eq!(
        paths(super::change(message, &limits())),
        ["article_id", "change"]
    );
}

#[test]
fn pictures_of_a_segment_are_known_ones_then_new_ones() {
    let set = |ids: usize, uploads: usize| {
        changed(change::Change::SetPictures(wire::SetPictures {
            segment: 4,
            caption: "a sea".into(),
            picture_ids: vec!["id".into(); ids],
            uploads: vec![provided_picture(b"data"); uploads],
        }))
    };
    let Ok((_, Change::SetPictures { ids, uploads, .. })) = set(10, 6) else {
        panic!("sixteen pictures are allowed");
    };
    assert_eq!((ids.len(), uploads.len()), (10, 6));
    assert_eq!(paths(set(0, 0)), ["set_pictures"]);
    assert_eq!(paths(set(17, 0)), ["set_pictures"]);
    assert_eq!(paths(set(10, 7)), ["set_pictures"]);
    let nameless = changed(change::Change::SetPictures(wire::SetPictures {
        picture_ids: vec!["id".into(), String::new()],
        uploads: vec![provided_picture(b"")],
        ..Default::default()
    }));
    assert_eq!(
        paths(nameless),
        [
            "set_pictures.picture_ids[1]",
            "set_pictures.uploads[0].data"
        ]
    );
}
