//! Byte-pair merging over symbols (spec section 9.2, step 3).
//!
//! Two symbols merge when their texts joined are a normal piece; the piece with the highest score goes first, the
//! leftmost of equals. Text is cut into segments between neighbours that stand side by side in no piece: no merge can
//! cross such a place, so each segment can be merged by itself and the result is the same.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::hash::{FastMap, FastSet, mix};
use super::sentencepiece::{Piece, PieceKind};
use super::symbols::{CharTable, NO_SYMBOL};

/// The character that stands for a space inside pieces.
pub(super) const SPACE_MARK: char = '\u{2581}';

/// Up to this length a segment is merged by searching it again after each merge; the memory of a heap costs more.
const MAX_SCANNED: usize = 48;

/// A possible merge: the piece it gives, and the piece's place in the order of scores (0 is the best).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Merge {
    rank: u32,
    merged: u32,
}

const NO_MERGE: Merge = Merge {
    rank: u32::MAX,
    merged: NO_SYMBOL,
};

/// Everything merging needs, made once from the pieces.
#[derive(Debug, Clone)]
pub(super) struct Merger {
    merges: FastMap<(u32, u32), Merge>,
    neighbours: NeighbourFilter,
    /// Segments whose merging ends in one piece, which then needs no merging.
    whole: FastMap<Box<[u32]>, u32>,
}

impl Merger {
    /// Makes the tables and gives every character inside a piece its symbol in `chars`. The list returned has the
    /// characters whose symbols stand past the last id.
    pub(super) fn new(pieces: &[Piece], chars: &mut CharTable) -> (Self, Vec<char>) {
        let ids: FastMap<&str, u32> = mergeable(pieces)
            .map(|(id, piece)| (&*piece.text, id))
            .collect();
        let lone_chars = assign_symbols(pieces, &ids, chars);
        let spelt: Vec<(u32, Vec<u32>)> = mergeable(pieces)
            .filter(|(_, piece)| piece.text.chars().nth(1).is_some())
            .map(|(id, piece)| {
                (
                    id,
                    piece.text.chars().map(|c| chars.get(c).symbol()).collect(),
                )
            })
            .collect();
        let mut merger = Self {
            merges: merges_of(pieces, &ids, chars),
            neighbours: NeighbourFilter::new(&spelt),
            whole: FastMap::default(),
        };
        merger.whole = merger.find_whole(spelt);
        (merger, lone_chars)
    }

    /// Whether `left` and `right` may stand side by side in a piece. Never wrong when it says no.
    #[inline]
    pub(super) fn may_join(&self, left: u32, right: u32) -> bool {
        self.neighbours.may_contain(left, right)
    }

    /// Merges the symbols of one segment and appends what is left of them to `out`. Leaves `segment` in any state.
    #[inline]
    pub(super) fn merge(&self, segment: &mut Vec<u32>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if segment.len() == 1 {
            out.push(segment[0]);
        } else if let Some(&id) = self.whole.get(segment.as_slice()) {
            out.push(id);
        } else {
            self.merge_parts(segment, scratch, out);
        }
    }

    fn merge_parts(&self, segment: &mut Vec<u32>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if segment.len() <= MAX_SCANNED {
            self.merge_by_scan(segment, &mut scratch.pairs);
            out.extend_from_slice(segment);
        } else {
            self.merge_by_heap(segment, scratch);
            out.extend(segment.iter().filter(|&&symbol| symbol != GONE));
        }
    }

    fn lookup(&self, left: u32, right: u32) -> Merge {
        self.merges.get(&(left, right)).copied().unwrap_or(NO_MERGE)
    }

    fn merge_by_scan(&self, symbols: &mut Vec<u32>, pairs: &mut Vec<Merge>) {
        pairs.clear();
        pairs.extend(symbols.windows(2).map(|pair| self.lookup(pair[0], pair[1])));
        loop {
            let mut best = (u32::MAX, 0);
            for (at, pair) in pairs.iter().enumerate() {
                if pair.rank < best.0 {
                    best = (pair.rank, at);
                }
            }
            let (rank, at) = best;
            if rank == u32::MAX {
                return;
            }
            symbols[at] = pairs[at].merged;
            symbols.remove(at + 1);
            pairs.remove(at);
            if at > 0 {
                pairs[at - 1] = self.lookup(symbols[at - 1], symbols[at]);
            }
            if at < pairs.len() {
                pairs[at] = self.lookup(symbols[at], symbols[at + 1]);
            }
        }
    }

    /// The same for long segments in n log n steps: symbols form a linked list, candidates wait in a heap, and a
    /// candidate whose symbols have changed meanwhile is dropped. Merged symbols become [`GONE`].
    fn merge_by_heap(&self, symbols: &mut [u32], scratch: &mut Scratch) {
        let Scratch { links, heap, .. } = scratch;
        links.clear();
        links.extend((0..symbols.len()).map(|at| Link {
            previous: at.wrapping_sub(1),
            next: at + 1,
        }));
        heap.clear();
        for at in 1..symbols.len() {
            self.push_candidate(symbols, at - 1, at, heap);
        }
        while let Some(Reverse(candidate)) = heap.pop() {
            let at = candidate.at;
            let right = links[at].next;
            let stale = symbols[at] != candidate.left
                || right >= symbols.len()
                || symbols[right] != candidate.right;
            if stale {
                continue;
            }
            symbols[at] = candidate.merged;
            symbols[right] = GONE;
            let after = links[right].next;
            links[at].next = after;
            if after < symbols.len() {
                links[after].previous = at;
                self.push_candidate(symbols, at, after, heap);
            }
            if at > 0 {
                self.push_candidate(symbols, links[at].previous, at, heap);
            }
        }
    }

    fn push_candidate(
        &self,
        symbols: &[u32],
        at: usize,
        next: usize,
        heap: &mut BinaryHeap<Reverse<Candidate>>,
    ) {
        let (left, right) = (symbols[at], symbols[next]);
        let Merge { rank, merged } = self.lookup(left, right);
        if rank != u32::MAX {
            heap.push(Reverse(Candidate {
                rank,
                at,
                merged,
                left,
                right,
            }));
        }
    }

    /// The pieces that merging their own characters gives back, by those characters.
    fn find_whole(&self, spelt: Vec<(u32, Vec<u32>)>) -> FastMap<Box<[u32]>, u32> {
        let mut scratch = Scratch::default();
        let mut merged = Vec::new();
        let mut found = FastMap::with_capacity_and_hasher(spelt.len(), Default::default());
        for (id, symbols) in spelt {
            merged.clear();
            self.merge_parts(&mut symbols.clone(), &mut scratch, &mut merged);
            if merged == [id] {
                found.insert(symbols.into(), id);
            }
        }
        found
    }
}

/// Memory of the merging that is used again from segment to segment.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pairs: Vec<Merge>,
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

/// A symbol that was merged into the one before it. No piece has this id.
const GONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    previous: usize,
    next: usize,
}

/// Ordered by rank, then by place: the order in which candidates are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    at: usize,
    merged: u32,
    left: u32,
    right: u32,
}

/// The pairs of characters that stand side by side in some piece, as bits under a hash: it may say yes to a few
/// others, which only makes a segment longer than need be.
#[derive(Debug, Clone)]
struct NeighbourFilter {
    bits: Vec<u64>,
    shift: u32,
}

impl NeighbourFilter {
    fn new(spelt: &[(u32, Vec<u32>)]) -> Self {
        let mut pairs = FastSet::with_capacity_and_hasher(2 * spelt.len(), Default::default());
        pairs.extend(
            spelt
                .iter()
                .flat_map(|(_, symbols)| symbols.windows(2).map(|pair| (pair[0], pair[1]))),
        );
        let num_bits = (pairs.len() * 16).next_power_of_two().max(64);
        let mut filter = Self {
            bits: vec![0; num_bits / 64],
            shift: 64 - num_bits.trailing_zeros(),
        };
        for (left, right) in pairs {
            let bit = filter.bit(left, right);
            filter.bits[bit / 64] |= 1 << (bit % 64);
        }
        filter
    }

    #[inline]
    fn may_contain(&self, left: u32, right: u32) -> bool {
        let bit = self.bit(left, right);
        self.bits[bit / 64] >> (bit % 64) & 1 != 0
    }

    #[inline]
    fn bit(&self, left: u32, right: u32) -> usize {
        (mix(u64::from(left) << 32 | u64::from(right)) >> self.shift) as usize
    }
}

/// The pieces that text can merge to. U+0000 is always encoded as its byte and a space never reaches the merging.
fn mergeable(pieces: &[Piece]) -> impl Iterator<Item = (u32, &Piece)> {
    pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| piece.kind == PieceKind::Normal && !piece.text.contains(['\0', ' ']))
        .map(|(id, piece)| (id as u32, piece))
}

/// Gives characters their symbols, and symbols past the last id to those that are no piece by themselves.
fn assign_symbols(pieces: &[Piece], ids: &FastMap<&str, u32>, chars: &mut CharTable) -> Vec<char> {
    let mut lone_chars = Vec::new();
    let mut buffer = [0; 4];
    for c in mergeable(pieces).flat_map(|(_, piece)| piece.text.chars()) {
        if chars.get(c).symbol() != NO_SYMBOL {
            continue;
        }
        let symbol = ids
            .get(&*c.encode_utf8(&mut buffer))
            .copied()
            .unwrap_or_else(|| {
                lone_chars.push(c);
                (pieces.len() + lone_chars.len() - 1) as u32
            });
        chars.set_symbol(c, symbol);
    }
    chars.set_symbol(' ', chars.get(SPACE_MARK).symbol());
    lone_chars
}

/// Every way to put a piece together from two symbols.
fn merges_of(
    pieces: &[Piece],
    ids: &FastMap<&str, u32>,
    chars: &CharTable,
) -> FastMap<(u32, u32), Merge> {
    let symbol_of = |text: &str| {
        let mut rest = text.chars();
        match (rest.next(), rest.next()) {
            (Some(c), None) => Some(chars.get(c).symbol()),
            _ => ids.get(text).copied(),
        }
    };
    let ranks = ranks_of(pieces);
    let mut merges = FastMap::with_capacity_and_hasher(4 * pieces.len(), Default::default());
    for (id, piece) in mergeable(pieces) {
        for (cut, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(cut);
            if let (Some(left), Some(right)) = (symbol_of(left), symbol_of(right)) {
                merges.insert(
                    (left, right),
                    Merge {
                        rank: ranks[id as usize],
                        merged: id,
                    },
                );
            }
        }
    }
    merges
}

/// For each piece its place in the order of falling scores. Equal scores share a place, since among them the text's
/// order decides and not the ids'.
fn ranks_of(pieces: &[Piece]) -> Vec<u32> {
    // Adding zero makes the two zeros one.
    let score = |id: usize| pieces[id].score + 0.0;
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    let mut ranks = vec![0; pieces.len()];
    for pair in order.windows(2) {
        ranks[pair[1]] = ranks[pair[0]] + u32::from(score(pair[0]) != score(pair[1]));
    }
    ranks
}
