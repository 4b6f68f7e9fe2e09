//! Segments of a text at once and stretch by stretch.

use proptest::prelude::*;

use crate::{SegmentReader, segments::is_space, segments_of};

/// As the specification words it: strip, collapse, split, keep.
fn reference(text: &str, max_segments: usize) -> Vec<String> {
    let text = text.trim_matches(is_space);
    let mut collapsed = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        collapsed.push(c);
        if c == '\n' {
            while chars.next_if(|&c| is_space(c)).is_some() {}
        }
    }
    let pieces = collapsed.split('\n').filter(|piece| !piece.is_empty());
    pieces.take(max_segments).map(str::to_owned).collect()
}

#[test]
fn runs_of_newlines_end_segments() {
    let text = "\n  Title\n\n  First, \u{3000}still first \n \t\nSecond\r\nThird\n\n";
    let wanted = ["Title", "First, \u{3000}still first ", "Second\r", "Third"];
    assert_eq!(segments_of(text, 60), wanted);
    assert_eq!(segments_of(text, 2), wanted[..2]);
    assert!(segments_of(" \n\u{3000}\n", 60).is_empty());
}

#[test]
fn a_segment_closes_when_the_next_one_begins() {
    let mut reader = SegmentReader::new(60);
    assert!(reader.push("Title \n").closed.is_empty());
    assert!(reader.push("  ").closed.is_empty());
    assert_eq!(reader.push("B").closed, ["Title "]);
    assert_eq!(reader.finish(), Some("B".into()));
}

#[test]
fn text_past_the_last_segment_is_not_the_articles() {
    let mut reader = SegmentReader::new(1);
    let read = reader.push("one\ntwo");
    assert_eq!(read.closed, ["one"]);
    assert_eq!(read.num_bytes, "one\n".len());
    assert!(reader.is_full());
    assert_eq!(reader.push("more").num_bytes, 0);
    assert_eq!(reader.finish(), None);
}

fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("\n".to_owned()),
        Just(" ".to_owned()),
        Just("\n\n".to_owned()),
        Just("\u{3000}".to_owned()),
        Just("\r\n".to_owned()),
        Just("\u{1c}".to_owned()),
        "\\PC{1,3}",
        "[a字]{1,3}",
    ];
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn segments_are_those_of_the_specification(text in any_text(), max in 1_usize..6) {
        prop_assert_eq!(segments_of(&text, max), reference(&text, max));
    }

    #[test]
    fn stretches_give_what_the_whole_does(text in any_text(), max in 1_usize..6, every in 1_usize..5) {
        let mut reader = SegmentReader::new(max);
        let mut segments = vec![];
        let mut told = String::new();
        let chars: Vec<char> = text.chars().collect();
        for stretch in chars.chunks(every) {
            let stretch: String = stretch.iter().collect();
            let read = reader.push(&stretch);
            told.push_str(&stretch[..read.num_bytes]);
            segments.extend(read.closed);
        }
        segments.extend(reader.finish());
        prop_assert_eq!(&segments, &segments_of(&text, max));
        // What is told is the article and nothing more.
        prop_assert!(text.starts_with(&told));
        // White space before the cut may or may not be the last segment's.
        let trimmed = |segments: Vec<String>| {
            let segments = segments.into_iter();
            segments.map(|text| text.trim_end_matches(is_space).to_owned()).collect::<Vec<_>>()
        };
        prop_assert_eq!(trimmed(segments_of(&told, usize::MAX)), trimmed(segments));
    }
}
