use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const SALT: [u8; 32] = [3; 32];

fn hashes(spans: &[Span<'_>]) -> BlockHashes {
    block_hashes(SALT, spans)
}

fn ids(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

#[test]
fn how_tokens_are_cut_into_spans_does_not_matter() {
    let all = ids(0..40);
    let whole = hashes(&[Span::Tokens(&all)]);
    assert_eq!((whole.full.len(), whole.open.len()), (2, 8));
    for at in 0..=40 {
        let (left, right) = all.split_at(at);
        let cut = hashes(&[Span::Tokens(left), Span::Tokens(right)]);
        assert_eq!((&cut.full, &cut.open), (&whole.full, &whole.open));
    }
}

#[test]
fn a_hash_depends_on_all_before_it_and_on_nothing_after() {
    let base = hashes(&[Span::Tokens(&ids(0..48))]).full;
    for at in 0..48_u32 {
        let mut other = ids(0..48);
        other[at as usize] = 99;
        let other = hashes(&[Span::Tokens(&other)]).full;
        let block = at as usize / BLOCK_TOKENS;
        assert_eq!(other[..block], base[..block]);
        (block..3).for_each(|later| assert_ne!(other[later], base[later]));
    }
    let salted = block_hashes([4; 32], &[Span::Tokens(&ids(0..48))]).full;
    (0..3).for_each(|block| assert_ne!(salted[block], base[block]));
}

#[test]
fn pictures_count_by_digest_row_and_order() {
    let picture = |digest, num_tokens| Span::Picture { digest, num_tokens };
    let (a, b) = ([1; 32], [2; 32]);
    let first = |spans: &[Span<'_>]| hashes(spans).full[0];
    let all: HashSet<_> = [
        first(&[picture(&a, 8), picture(&b, 8)]),
        first(&[picture(&b, 8), picture(&a, 8)]),
        first(&[picture(&a, 16)]),
        first(&[picture(&a, 8), picture(&a, 8)]),
        first(&[Span::Tokens(&[1; 16])]),
    ]
    .into();
    assert_eq!(all.len(), 5);
}

#[test]
fn the_end_of_a_picture_inside_a_block_has_a_hash_of_its_own() {
    let digest = [1; 32];
    let picture = Span::Picture {
        digest: &digest,
        num_tokens: 20,
    };
    let first = hashes(&[picture, Span::Tokens(&[5; 20])]);
    let second = hashes(&[picture, Span::Tokens(&[6; 20])]);
    assert_eq!(first.picture_ends, second.picture_ends);
    assert_eq!(first.picture_ends[0].0, 20);
    assert_ne!(first.full[1], second.full[1]);
    assert_eq!(first.picture_ends_in(1), first.picture_ends);
    assert_eq!(first.picture_ends_in(0), []);
    let edge = Span::Picture {
        digest: &digest,
        num_tokens: 32,
    };
    assert_eq!(hashes(&[edge]).picture_ends, []);
}

#[test]
fn a_cache_covers_whole_blocks_and_the_picture_behind_them() {
    let digest = [1; 32];
    let picture = Span::Picture {
        digest: &digest,
        num_tokens: 20,
    };
    let known = hashes(&[Span::Tokens(&ids(0..16)), picture, Span::Tokens(&[5; 40])]);
    let held: HashSet<_> = known
        .full
        .iter()
        .copied()
        .chain([known.picture_ends[0].1])
        .collect();
    let covered =
        |spans: &[Span<'_>], limit| hashes(spans).covered(limit, |hash| held.contains(hash));
    let other = [Span::Tokens(&ids(0..16)), picture, Span::Tokens(&[6; 40])];
    assert_eq!(covered(&other, 75), 36, "up to the end of the picture");
    assert_eq!(covered(&other, 35), 32, "the end is past the limit");
    let same = [Span::Tokens(&ids(0..16)), picture, Span::Tokens(&[5; 40])];
    assert_eq!(covered(&same, 75), 64);
    assert_eq!(covered(&same, 63), 63, "inside a block that is held");
    assert_eq!(covered(&[Span::Tokens(&[9; 40])], 39), 0);
    assert_eq!(covered(&same, 0), 0);
}

#[test]
fn the_open_block_goes_on_where_the_prompt_ends() {
    let prompt = hashes(&[Span::Tokens(&ids(0..20))]);
    let mut open = prompt.open.clone();
    (20..32).for_each(|id| open.push_token(id));
    assert!(open.is_full());
    assert_eq!(open.hash(), hashes(&[Span::Tokens(&ids(0..32))]).full[1]);
    assert_eq!(OpenBlock::after(prompt.full[0]).len(), 0);
}

#[test]
fn salts_differ_by_namespace_tenant_and_rotary_base() {
    let all: HashSet<_> = [
        salt(b"model", b"tenant", 0),
        salt(b"model", b"tenant", 1),
        salt(b"model", b"other", 0),
        salt(b"modelt", b"enant", 0),
        salt(b"", b"modeltenant", 0),
    ]
    .into();
    assert_eq!(all.len(), 5);
    assert_eq!(rope_class(100, None), 0);
    assert_eq!(rope_class(100, Some(100)), 0);
    assert_eq!(rope_class(101, Some(100)), 101);
}

proptest! {
    #[test]
    fn a_cache_of_one_prompt_covers_what_another_shares_with_it(
        shared in 0_usize..70,
        left in 1_usize..40,
        right in 1_usize..40,
    ) {
        let prompt = |ids: &[u32]| hashes(&[Span::Tokens(ids)]);
        let mut first = ids(0..shared as u32);
        let mut second = first.clone();
        first.extend(vec![1000; left]);
        second.extend(vec![2000; right]);
        let held: HashSet<_> = prompt(&first).full.into_iter().collect();
        let covered = prompt(&second).covered(second.len() - 1, |hash| held.contains(hash));
        prop_assert_eq!(covered, shared / BLOCK_TOKENS * BLOCK_TOKENS);
    }
}
