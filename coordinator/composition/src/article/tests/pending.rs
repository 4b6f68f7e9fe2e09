//! Edits by the model.

use super::*;
use crate::{Meter, Sampling, SystemText, steps::edit::Operation, tests::CharMeter};

fn proposal(segment: SegmentId, operation: Operation, instruction: &str) -> Proposal {
    Proposal {
        segment,
        operation,
        instruction: instruction.to_owned(),
    }
}

fn propose(article: &mut Article, proposal: Proposal) -> Result<crate::Asked, EditError> {
    article.propose(article.revision(), proposal, &CharMeter::WIDE)
}

/// Opens an edit and fills it in two stretches.
fn proposed(article: &mut Article, segment: SegmentId, operation: Operation) {
    propose(article, proposal(segment, operation, "outline")).unwrap();
    article.push_proposed("new\n").unwrap();
    article.push_proposed("text").unwrap();
}

#[track_caller]
fn check_applied(segment: SegmentId, operation: Operation, text: Option<&str>, wanted: &str) {
    let mut article = article();
    proposed(&mut article, segment, operation);
    assert_eq!(
        shown(&article),
        "A title|first*|second|third*",
        "until it is applied"
    );
    let revision = article.revision();
    article
        .apply_proposed(revision, text.map(str::to_owned))
        .unwrap();
    assert_eq!(shown(&article), wanted);
    assert!(article.pending().is_none());
}

#[test]
fn a_proposal_is_applied_where_it_belongs() {
    use Operation::{Abbreviate, Expand, InsertAfter, InsertBefore, Rewrite};
    for operation in [Rewrite, Expand, Abbreviate] {
        check_applied(FIRST, operation, None, "A title|new text*|second|third*");
        check_applied(
            FIRST,
            operation,
            Some("my\n\nown"),
            "A title|my own*|second|third*",
        );
        check_applied(FIRST, operation, Some(" "), "A title|second|third*");
    }
    check_applied(
        FIRST,
        InsertBefore,
        None,
        "A title|new text|first*|second|third*",
    );
    check_applied(
        FIRST,
        InsertAfter,
        None,
        "A title|first*|new text|second|third*",
    );
    check_applied(
        THIRD,
        InsertAfter,
        Some("end"),
        "A title|first*|second|third*|end",
    );
    check_applied(FIRST, InsertAfter, Some(""), "A title|first*|second|third*");
}

#[test]
fn the_model_is_told_what_surrounds_an_insertion() {
    let ask = |segment, operation| {
        let asked = propose(&mut article(), proposal(segment, operation, "o"));
        asked.unwrap().generation.prompt.to_string()
    };
    let before_title = ask(TITLE, Operation::InsertBefore);
    assert!(before_title.contains("第一段：\n第二段：A title\n插入段的大纲：o"));
    let after_last = ask(THIRD, Operation::InsertAfter);
    assert!(after_last.contains("第一段：third\n第二段：\n插入段的大纲：o"));
    let between = ask(SECOND, Operation::InsertAfter);
    assert!(between.contains("第一段：second\n第二段：third\n"));
}

#[test]
fn one_edit_is_open_at_a_time_and_can_be_cancelled() {
    let mut article = article();
    proposed(&mut article, FIRST, Operation::Rewrite);
    let second = propose(&mut article, proposal(SECOND, Operation::Rewrite, ""));
    assert_eq!(
        second.unwrap_err().to_string(),
        "an edit of segment 1 is open: apply or cancel it first"
    );
    article.cancel_proposed().unwrap();
    assert_eq!(article.cancel_proposed(), Err(EditError::NoEditOpen));
    assert_eq!(article.push_proposed("x"), Err(EditError::NoEditOpen));
    let revision = article.revision();
    assert_eq!(
        article.apply_proposed(revision, None),
        Err(EditError::NoEditOpen)
    );
    assert_eq!(revision, Revision(0), "nothing has changed");
    proposed(&mut article, SECOND, Operation::Rewrite);
}

#[test]
fn insertions_want_an_outline() {
    for operation in [Operation::InsertBefore, Operation::InsertAfter] {
        let refused = propose(&mut article(), proposal(FIRST, operation, " \n"));
        assert_eq!(refused.unwrap_err(), EditError::EmptyOutline);
    }
    propose(&mut article(), proposal(FIRST, Operation::Expand, "")).unwrap();
}

#[test]
fn an_edit_of_a_text_that_is_gone_is_closed() {
    for change in [
        Edit::Delete { segment: FIRST },
        Edit::SetText {
            segment: FIRST,
            text: "other".into(),
        },
    ] {
        let mut article = article();
        proposed(&mut article, FIRST, Operation::Rewrite);
        edit(&mut article, change).unwrap();
        assert!(article.pending().is_none());
    }
    // Elsewhere the article may change; whoever applies must have seen it.
    let mut article = article();
    proposed(&mut article, FIRST, Operation::Rewrite);
    edit(
        &mut article,
        Edit::Move {
            segment: FIRST,
            to: 3,
        },
    )
    .unwrap();
    assert!(matches!(
        article.apply_proposed(Revision(0), None),
        Err(EditError::Conflict { .. })
    ));
    article.apply_proposed(Revision(1), None).unwrap();
    assert_eq!(shown(&article), "A title|second|third*|new text*");
}

#[test]
fn runs_are_drawn_like_later_steps_and_each_with_its_own_seed() {
    let mut article = article();
    article.request.system = SystemText::Text("Be kind.".into());
    let first = propose(&mut article, proposal(FIRST, Operation::Rewrite, "")).unwrap();
    article.cancel_proposed().unwrap();
    let second = propose(&mut article, proposal(FIRST, Operation::Rewrite, "")).unwrap();
    assert_eq!(first.generation.prompt, second.generation.prompt);
    assert_eq!(first.generation.prompt.system(), Some("Be kind."));
    assert_ne!(first.generation.seed, second.generation.seed);
    assert_eq!(first.generation.sampling, Sampling::STANDARD);
}

#[test]
fn a_paragraph_that_does_not_fit_is_refused_with_the_numbers() {
    let meter = CharMeter {
        context: 130,
        picture: 256,
    };
    let mut article = article();
    let proposal = proposal(FIRST, Operation::Rewrite, "material");
    let refused = article.propose(Revision(0), proposal, &meter).unwrap_err();
    assert!(refused.to_string().starts_with("prompt has "), "{refused}");
    assert!(
        refused
            .to_string()
            .ends_with(&format!("limit is {}", meter.context_tokens() - 128))
    );
    assert!(article.pending().is_none());
}

#[test]
fn a_proposal_has_a_bound() {
    let mut article = article();
    proposed(&mut article, FIRST, Operation::Rewrite);
    let refused = article.push_proposed(&"x".repeat(MAX_SEGMENT_BYTES));
    assert!(matches!(refused, Err(EditError::TextTooLong(_))));
    assert_eq!(article.pending().unwrap().text, "new\ntext");
}

#[test]
fn an_open_edit_survives_json() {
    let mut article = article();
    proposed(&mut article, FIRST, Operation::InsertAfter);
    let json = serde_json::to_string(&article).unwrap();
    assert_eq!(serde_json::from_str::<Article>(&json).unwrap(), article);
}
