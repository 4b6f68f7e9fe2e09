//! Which rows of which parts a chunk of a prompt touches.

use super::request::parts_in;
use crate::executor::PromptPart;

fn prompt(lengths: &[usize]) -> Vec<PromptPart> {
    lengths
        .iter()
        .map(|len| PromptPart::Tokens(vec![1; *len]))
        .collect()
}

#[test]
fn a_chunk_touches_the_parts_it_overlaps_with_their_own_rows() {
    let prompt = prompt(&[3, 5, 2]);
    assert_eq!(parts_in(&prompt, 0..10), [(0, 0..3), (1, 0..5), (2, 0..2)]);
    assert_eq!(parts_in(&prompt, 2..4), [(0, 2..3), (1, 0..1)]);
    assert_eq!(parts_in(&prompt, 3..8), [(1, 0..5)]);
    assert_eq!(parts_in(&prompt, 9..10), [(2, 1..2)]);
    assert_eq!(parts_in(&prompt, 10..10), []);
}

#[test]
fn an_empty_part_is_never_touched() {
    assert_eq!(parts_in(&prompt(&[2, 0, 2]), 0..4), [(0, 0..2), (2, 0..2)]);
}
