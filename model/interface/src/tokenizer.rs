//! The tokenizer of InternLM2 and the XComposer2 family, read from the SentencePiece `tokenizer.model` itself
//! (spec section 9), so that ids equal those the models were trained with.
//!
//! Encoding tells trusted text (the chat template) from untrusted text (whatever a client wrote). Decoding works at
//! once or token by token.

mod decode;
mod encode;
mod hash;
mod merge;
mod sentencepiece;
mod symbols;
pub mod synthetic;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use decode::SpecialTokens;
pub use decode::StreamDecoder;
use encode::Encoder;
use hash::FastMap;
use sentencepiece::{Piece, PieceKind};

#[cfg(test)]
mod tests;

/// The name of the model file in a checkpoint.
pub const MODEL_FILE: &str = "tokenizer.model";

/// The name of the file of aliases that 4KHD and 2.5 have beside it.
pub const ADDED_TOKENS_FILE: &str = "added_tokens.json";

const START_OF_TURN: &str = "[UNUSED_TOKEN_146]";
const END_OF_TURN: &str = "[UNUSED_TOKEN_145]";

/// How far past the last piece an added token may lie.
const MAX_ADDED_TOKENS: usize = 1 << 12;

/// Who wrote a text: whether it may hold the marks that open and end turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Ours. `[UNUSED_TOKEN_146]` becomes its single id.
    Trusted,
    /// A client's. The same characters become ordinary pieces.
    Untrusted,
}

/// A stretch of a text that was written by one party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextSpan<'a> {
    pub text: &'a str,
    pub trust: Trust,
}

impl<'a> TextSpan<'a> {
    pub fn trusted(text: &'a str) -> Self {
        Self {
            text,
            trust: Trust::Trusted,
        }
    }

    pub fn untrusted(text: &'a str) -> Self {
        Self {
            text,
            trust: Trust::Untrusted,
        }
    }
}

/// What happens to whitespace beside a written-out `<s>`, `</s>` or `<unk>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceBesideSpecial {
    /// It stays, as newer transformers have it.
    Kept,
    /// It goes, as in transformers 4.33, which the 2.0 release is made for.
    Stripped,
}

/// A loaded tokenizer. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Tokenizer(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    tokens: Vec<Token>,
    ids: FastMap<Box<str>, u32>,
    encoder: Encoder,
    unknown: u32,
    bos: u32,
    eos: u32,
    start_of_turn: u32,
    end_of_turn: u32,
}

/// What an id is when it is written out.
#[derive(Debug, Clone)]
struct Token {
    piece: Box<str>,
    surface: Box<[u8]>,
    /// Left out of text.
    special: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.model` and, where there is one, `added_tokens.json` from a checkpoint's folder.
    pub fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let tokenizer = Self::from_model_bytes(&read_file(&dir.join(MODEL_FILE))?)?;
        let added = dir.join(ADDED_TOKENS_FILE);
        if !added.exists() {
            return Ok(tokenizer);
        }
        let aliases = serde_json::from_slice(&read_file(&added)?).map_err(|source| {
            TokenizerError::AddedTokensFile {
                file: added,
                source,
            }
        })?;
        tokenizer.with_added_tokens(&aliases)
    }

    /// Builds a tokenizer from the bytes of a `tokenizer.model`.
    pub fn from_model_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let pieces = sentencepiece::parse(bytes)?;
        let encoder = Encoder::new(&pieces)?;
        let mut ids = FastMap::with_capacity_and_hasher(pieces.len(), Default::default());
        for (id, piece) in pieces.iter().enumerate() {
            if ids.insert(piece.text.clone(), id as u32).is_some() {
                return Err(TokenizerError::Invalid {
                    reason: format!("piece {:?} is there twice", piece.text),
                });
            }
        }
        let find = |text: &str, kind: PieceKind| {
            let id = ids
                .get(text)
                .copied()
                .filter(|&id| pieces[id as usize].kind == kind);
            id.ok_or_else(|| TokenizerError::Invalid {
                reason: format!("there is no piece {text} of type {kind:?}"),
            })
        };
        Ok(Self(Arc::new(Inner {
            unknown: find("<unk>", PieceKind::Unknown)?,
            bos: find("<s>", PieceKind::Control)?,
            eos: find("</s>", PieceKind::Control)?,
            start_of_turn: find(START_OF_TURN, PieceKind::UserDefined)?,
            end_of_turn: find(END_OF_TURN, PieceKind::UserDefined)?,
            tokens: pieces.into_iter().map(Token::of_piece).collect(),
            ids,
            encoder,
        })))
    }

    /// Adds the entries of an `added_tokens.json`: names of ids that are found in trusted text before anything else,
    /// and that are special when written out (spec section 9.2). A name that is the id's own piece changes nothing.
    pub fn with_added_tokens(
        mut self,
        added: &BTreeMap<String, u32>,
    ) -> Result<Self, TokenizerError> {
        let inner = Arc::make_mut(&mut self.0);
        for (name, &id) in added {
            inner.add_token(name, id)?;
        }
        Ok(self)
    }

    /// Encodes a text that one party wrote. No `<s>` is put before it.
    pub fn encode(&self, text: &str, trust: Trust) -> Vec<u32> {
        self.0.encoder.encode_spans(&[TextSpan { text, trust }])
    }

    /// Encodes spans as the one text they are together: the ids are those of the joined text, save that marks of
    /// turns are found only where they lie in trusted spans. No `<s>` is put before it.
    pub fn encode_spans(&self, spans: &[TextSpan<'_>]) -> Vec<u32> {
        self.0.encoder.encode_spans(spans)
    }

    /// Encodes trusted text in which `<s>`, `</s>` and `<unk>` written out stand for their ids, as transformers does.
    pub fn encode_with_special(&self, text: &str, space: SpaceBesideSpecial) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut rest = text;
        let mut after_special = false;
        loop {
            let special = self.find_special(rest);
            let plain = special.as_ref().map_or(rest, |found| &rest[..found.start]);
            let stripped = match space {
                SpaceBesideSpecial::Kept => plain,
                SpaceBesideSpecial::Stripped => strip(plain, after_special, special.is_some()),
            };
            ids.extend(self.encode(stripped, Trust::Trusted));
            let Some(found) = special else { return ids };
            ids.push(found.id);
            rest = &rest[found.end..];
            after_special = true;
        }
    }

    fn find_special(&self, text: &str) -> Option<FoundSpecial> {
        let inner = &*self.0;
        [inner.unknown, inner.bos, inner.eos]
            .into_iter()
            .filter_map(|id| {
                let piece = &inner.tokens[id as usize].piece;
                text.find(&**piece).map(|start| FoundSpecial {
                    start,
                    end: start + piece.len(),
                    id,
                })
            })
            .min_by_key(|found| found.start)
    }

    /// The text of the ids without special tokens. Leading spaces are kept, as the reference does in every case.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_all(ids, SpecialTokens::Skip)
    }

    /// The text of the ids with special tokens written out by their names.
    pub fn decode_with_special(&self, ids: &[u32]) -> String {
        self.decode_all(ids, SpecialTokens::Write)
    }

    fn decode_all(&self, ids: &[u32], special: SpecialTokens) -> String {
        let mut decoder = StreamDecoder::new(self.clone(), special);
        let mut text = String::with_capacity(ids.len() * 4);
        for &id in ids {
            decoder.push_to(id, &mut text);
        }
        text.push_str(&decoder.finish());
        text
    }

    /// A decoder that takes one id after the other and leaves special tokens out.
    pub fn stream_decoder(&self) -> StreamDecoder {
        StreamDecoder::new(self.clone(), SpecialTokens::Skip)
    }

    /// The bytes an id adds to a text: nothing for special tokens and ids outside the vocabulary, maybe a part of a
    /// character.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.token(id)
            .filter(|token| !token.special)
            .map_or(&[], |token| &token.surface)
    }

    /// The same with special tokens written out.
    pub fn token_bytes_with_special(&self, id: u32) -> &[u8] {
        self.token(id).map_or(&[], |token| &token.surface)
    }

    /// The piece as the model file or `added_tokens.json` spells it, with U+2581 for a space.
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.token(id).map(|token| &*token.piece)
    }

    /// The id of a piece or alias, spelt as in the files.
    pub fn piece_id(&self, piece: &str) -> Option<u32> {
        self.0.ids.get(piece).copied()
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.0.tokens.len()
    }

    /// `<s>`, which begins a prompt.
    pub fn bos_id(&self) -> u32 {
        self.0.bos
    }

    /// `</s>`.
    pub fn eos_id(&self) -> u32 {
        self.0.eos
    }

    /// `[UNUSED_TOKEN_146]`, which opens a turn.
    pub fn start_of_turn_id(&self) -> u32 {
        self.0.start_of_turn
    }

    /// `[UNUSED_TOKEN_145]`, which ends a turn.
    pub fn end_of_turn_id(&self) -> u32 {
        self.0.end_of_turn
    }

    /// The ids that end an answer: `</s>` and the end of a turn (spec section 10.3).
    pub fn stop_token_ids(&self) -> Vec<u32> {
        vec![self.0.eos, self.0.end_of_turn]
    }

    /// Whether an id is one that untrusted text never encodes to: special, or a mark such as `[UNUSED_TOKEN_0]`.
    pub fn is_reserved(&self, id: u32) -> bool {
        self.token(id)
            .is_some_and(|token| token.special || self.0.encoder.is_marker_id(id))
    }

    fn token(&self, id: u32) -> Option<&Token> {
        self.0.tokens.get(id as usize)
    }
}

impl Inner {
    fn add_token(&mut self, name: &str, id: u32) -> Result<(), TokenizerError> {
        let limit = self.tokens.len() + MAX_ADDED_TOKENS;
        if name.is_empty() || id as usize >= limit {
            return Err(TokenizerError::AddedToken {
                name: name.to_owned(),
                id,
                limit,
            });
        }
        if self
            .tokens
            .get(id as usize)
            .is_some_and(|token| &*token.piece == name)
        {
            return Ok(());
        }
        if self.tokens.len() <= id as usize {
            self.tokens.resize(
                id as usize + 1,
                Token {
                    piece: "".into(),
                    surface: [].into(),
                    special: true,
                },
            );
        }
        self.encoder.add_user_defined(name, id, true);
        self.ids.insert(name.into(), id);
        self.tokens[id as usize] = Token {
            piece: name.into(),
            surface: name.as_bytes().into(),
            special: true,
        };
        Ok(())
    }
}

impl Token {
    fn of_piece(piece: Piece) -> Self {
        let (surface, special) = match piece.kind {
            PieceKind::Byte(byte) => (vec![byte], false),
            PieceKind::Normal | PieceKind::UserDefined => (
                piece.text.replace(merge::SPACE_MARK, " ").into_bytes(),
                false,
            ),
            PieceKind::Unknown | PieceKind::Control => (piece.text.as_bytes().to_vec(), true),
        };
        Self {
            piece: piece.text,
            surface: surface.into(),
            special,
        }
    }
}

struct FoundSpecial {
    start: usize,
    end: usize,
    id: u32,
}

fn strip(text: &str, start: bool, end: bool) -> &str {
    let text = if start { text.trim_start() } else { text };
    if end { text.trim_end() } else { text }
}

fn read_file(file: &Path) -> Result<Vec<u8>, TokenizerError> {
    std::fs::read(file).map_err(|source| TokenizerError::Read {
        file: file.to_owned(),
        source,
    })
}

/// Why a tokenizer cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("cannot read {}: {source}", file.display())]
    Read {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("tokenizer.model is not a SentencePiece model: {0}")]
    Parse(prost::DecodeError),
    #[error("tokenizer.model uses what is not supported: {what}")]
    Unsupported { what: String },
    #[error("tokenizer.model is invalid: {reason}")]
    Invalid { reason: String },
    #[error("cannot parse {}: {source}", file.display())]
    AddedTokensFile {
        file: PathBuf,
        source: serde_json::Error,
    },
    #[error("added token {name:?} has id {id}, wanted a name and an id below {limit}")]
    AddedToken { name: String, id: u32, limit: usize },
}
