//! Text to ids (spec section 9.2).
//!
//! User-defined pieces are found first, the longest at each place, and stay as they are; what stands between them is
//! merged. Pieces that mark roles in the chat template are found in trusted text only, so that nobody can write a
//! role boundary into a question.

use std::collections::BTreeSet;

use super::hash::FastMap;
use super::merge::{Merger, SPACE_MARK, Scratch};
use super::sentencepiece::{Piece, PieceKind};
use super::symbols::{CharTable, NO_SYMBOL};
use super::{TextSpan, TokenizerError, Trust};

#[derive(Debug, Clone)]
pub(super) struct Encoder {
    chars: CharTable,
    merger: Merger,
    user_defined: UserDefined,
    /// Characters whose symbols stand past the last id, in the order of their symbols.
    lone_chars: Vec<char>,
    /// Ids from here on are symbols of `lone_chars`.
    first_lone: u32,
    byte_ids: [u32; 256],
}

impl Encoder {
    pub(super) fn new(pieces: &[Piece]) -> Result<Self, TokenizerError> {
        let byte_ids = byte_ids(pieces)?;
        let is_space =
            |piece: &Piece| piece.kind == PieceKind::Normal && piece.text.chars().eq([SPACE_MARK]);
        if !pieces.iter().any(is_space) {
            return Err(TokenizerError::Invalid {
                reason: "there is no piece for the space (U+2581)".to_owned(),
            });
        }
        let mut chars = CharTable::new();
        let (merger, lone_chars) = Merger::new(pieces, &mut chars);
        let mut encoder = Self {
            chars,
            merger,
            user_defined: UserDefined::default(),
            lone_chars,
            first_lone: pieces.len() as u32,
            byte_ids,
        };
        for (id, piece) in pieces.iter().enumerate() {
            if piece.kind == PieceKind::UserDefined {
                encoder.add_user_defined(&piece.text, id as u32, is_marker(&piece.text));
            }
        }
        Ok(encoder)
    }

    /// Makes `text` stand for `id` wherever it is found; a marker only in trusted text.
    pub(super) fn add_user_defined(&mut self, text: &str, id: u32, marker: bool) {
        if let Some(first) = text.chars().next() {
            self.chars.mark_user_defined(first);
            self.user_defined.insert(first, text, Frozen { id, marker });
        }
    }

    /// Whether an id stands for a text that is found in trusted text only.
    pub(super) fn is_marker_id(&self, id: u32) -> bool {
        self.user_defined.marker_ids.contains(&id)
    }

    /// Encodes the spans as one text: symbols merge across their borders, markers must lie in trusted text.
    pub(super) fn encode_spans(&self, spans: &[TextSpan<'_>]) -> Vec<u32> {
        if let [span] = spans {
            let trusted = [(0, span.text.len())];
            let trusted = if span.trust == Trust::Trusted {
                &trusted[..]
            } else {
                &[]
            };
            return self.encode(span.text, trusted);
        }
        let text: String = spans.iter().map(|span| span.text).collect();
        self.encode(&text, &trusted_ranges(spans))
    }

    /// `trusted` has the start and end of each range in which markers may lie, in order and apart from each other.
    fn encode(&self, text: &str, trusted: &[(usize, usize)]) -> Vec<u32> {
        let mut pass = Pass {
            encoder: self,
            // English takes a token for four bytes, Chinese for three or more.
            out: Vec::with_capacity(text.len() / 3 + 8),
            segment: Vec::new(),
            scratch: Scratch::default(),
        };
        let mut trusted = trusted;
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            let class = self.chars.get(c);
            if class.starts_user_defined() {
                while trusted.first().is_some_and(|&(_, end)| end <= at) {
                    trusted = &trusted[1..];
                }
                let marker_limit = trusted
                    .first()
                    .filter(|&&(start, _)| start <= at)
                    .map_or(0, |&(_, end)| end);
                if let Some((length, id)) = self.user_defined.longest(c, text, at, marker_limit) {
                    pass.push_frozen(id);
                    at += length;
                    continue;
                }
            }
            pass.push_char(c, class.symbol());
            at += c.len_utf8();
        }
        pass.finish()
    }
}

/// One run over a text.
struct Pass<'a> {
    encoder: &'a Encoder,
    out: Vec<u32>,
    /// Symbols that may still merge with what comes.
    segment: Vec<u32>,
    scratch: Scratch,
}

impl Pass<'_> {
    #[inline]
    fn push_char(&mut self, c: char, symbol: u32) {
        if symbol == NO_SYMBOL {
            self.close_segment();
            self.push_bytes(c);
            return;
        }
        if self
            .segment
            .last()
            .is_some_and(|&last| !self.encoder.merger.may_join(last, symbol))
        {
            self.close_segment();
        }
        self.segment.push(symbol);
    }

    fn push_frozen(&mut self, id: u32) {
        self.close_segment();
        self.out.push(id);
    }

    fn push_bytes(&mut self, c: char) {
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).bytes();
        self.out
            .extend(bytes.map(|byte| self.encoder.byte_ids[byte as usize]));
    }

    #[inline]
    fn close_segment(&mut self) {
        if self.segment.is_empty() {
            return;
        }
        let merged_from = self.out.len();
        self.encoder
            .merger
            .merge(&mut self.segment, &mut self.scratch, &mut self.out);
        self.segment.clear();
        if !self.encoder.lone_chars.is_empty() {
            self.spell_lone_chars(merged_from);
        }
    }

    /// Writes the characters that are no piece and were not merged into one as their bytes.
    fn spell_lone_chars(&mut self, from: usize) {
        let first_lone = self.encoder.first_lone;
        if self.out[from..].iter().all(|&symbol| symbol < first_lone) {
            return;
        }
        for symbol in self.out.split_off(from) {
            match symbol.checked_sub(first_lone) {
                Some(lone) => self.push_bytes(self.encoder.lone_chars[lone as usize]),
                None => self.out.push(symbol),
            }
        }
    }

    fn finish(mut self) -> Vec<u32> {
        self.close_segment();
        self.out
    }
}

/// The pieces that are found in the text before merging.
#[derive(Debug, Clone, Default)]
struct UserDefined {
    by_text: FastMap<Box<str>, Frozen>,
    marker_ids: BTreeSet<u32>,
    /// For each first character the lengths in bytes to try, the longest first.
    lengths: FastMap<char, Vec<usize>>,
}

#[derive(Debug, Clone, Copy)]
struct Frozen {
    id: u32,
    /// Whether it is found in trusted text only.
    marker: bool,
}

impl UserDefined {
    fn insert(&mut self, first: char, text: &str, frozen: Frozen) {
        if frozen.marker {
            self.marker_ids.insert(frozen.id);
        }
        self.by_text.insert(text.into(), frozen);
        let lengths = self.lengths.entry(first).or_default();
        if !lengths.contains(&text.len()) {
            lengths.push(text.len());
            lengths.sort_unstable_by(|a, b| b.cmp(a));
        }
    }

    /// Length and id of the longest piece at `at`, where a marker must end at `marker_limit` or before.
    fn longest(
        &self,
        first: char,
        text: &str,
        at: usize,
        marker_limit: usize,
    ) -> Option<(usize, u32)> {
        self.lengths.get(&first)?.iter().find_map(|&length| {
            let frozen = self.by_text.get(text.get(at..at + length)?)?;
            let allowed = !frozen.marker || at + length <= marker_limit;
            allowed.then_some((length, frozen.id))
        })
    }
}

/// Whether a user-defined piece is more than a symbol: `[UNUSED_TOKEN_145]` and `<|im_end|>` are, `……` is not.
pub(super) fn is_marker(text: &str) -> bool {
    (text.starts_with('[') && text.ends_with(']')) || (text.starts_with('<') && text.ends_with('>'))
}

fn trusted_ranges(spans: &[TextSpan<'_>]) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let mut start = 0;
    for span in spans {
        let end = start + span.text.len();
        match ranges.last_mut() {
            _ if span.trust == Trust::Untrusted || start == end => {}
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
        start = end;
    }
    ranges
}

fn byte_ids(pieces: &[Piece]) -> Result<[u32; 256], TokenizerError> {
    let mut ids = [None; 256];
    for (id, piece) in pieces.iter().enumerate() {
        if let PieceKind::Byte(byte) = piece.kind {
            ids[byte as usize] = Some(id as u32);
        }
    }
    match ids.iter().position(Option::is_none) {
        Some(byte) => Err(TokenizerError::Invalid {
            reason: format!("there is no piece for byte {byte:#04x}"),
        }),
        None => Ok(ids.map(Option::unwrap_or_default)),
    }
}
