//! What text becomes in the index: words of either language, and pieces of Chinese.
//!
//! English and whatever else is written with spaces is lowercased, freed of accents and stemmed. Chinese is cut by jieba's dictionary, long
//! words together with the words inside them. tantivy-jieba would do that, but takes a whole text for Chinese; captions mix both.
//! Since two texts need not be cut alike, Chinese is also indexed by pairs of neighbouring characters and by single ones, which
//! count for less.

use std::sync::LazyLock;

use jieba_rs::Jieba;
use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, Stemmer, TextAnalyzer, Token, TokenStream, Tokenizer,
};

pub(super) const WORDS: &str = "words";
pub(super) const PIECES: &str = "pieces";

/// Nothing that people search for is longer, and the index takes no longer ones.
const MAX_WORD_BYTES: usize = 128;

/// Loading the dictionary takes a moment, so all libraries share it.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// Words that say nothing of what a picture shows, the many ways to say "a picture of" among them.
const STOP_WORDS: &[&str] = &[
    "a",
    "an",
    "and",
    "are",
    "as",
    "at",
    "be",
    "by",
    "for",
    "from",
    "has",
    "have",
    "he",
    "her",
    "his",
    "in",
    "into",
    "is",
    "it",
    "its",
    "of",
    "on",
    "or",
    "s",
    "she",
    "that",
    "the",
    "their",
    "there",
    "these",
    "they",
    "this",
    "those",
    "to",
    "was",
    "were",
    "which",
    "who",
    "with",
    "image",
    "images",
    "photo",
    "photograph",
    "photos",
    "picture",
    "pictures",
    "showing",
    "shows",
    "的",
    "了",
    "着",
    "和",
    "与",
    "及",
    "在",
    "是",
    "有",
    "一",
    "个",
    "一个",
    "一只",
    "一张",
    "一幅",
    "这",
    "这个",
    "那",
    "那个",
    "中",
    "上",
    "下",
    "里",
    "张",
    "幅",
    "只",
    "被",
    "把",
    "地",
    "得",
    "照片",
    "图片",
    "图像",
];

/// As words are indexed and looked for.
pub(super) fn words() -> TextAnalyzer {
    TextAnalyzer::builder(WordTokenizer)
        .filter(AsciiFoldingFilter)
        .filter(Stemmer::new(Language::English))
        .build()
}

/// As pieces are indexed.
pub(super) fn pieces() -> TextAnalyzer {
    TextAnalyzer::builder(PieceTokenizer).build()
}

/// What a query is made of, each once, in the order in which it appears.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct QueryTerms {
    pub(super) words: Vec<String>,
    /// Pairs of characters.
    pub(super) pairs: Vec<String>,
    /// Chinese words of one character: they may be part of a longer one in a caption.
    pub(super) characters: Vec<String>,
}

/// At most so many of each kind: a caption is a line, and what comes after its first hundred words does not make it clearer.
pub(super) fn query_terms(text: &str, max_terms: usize) -> QueryTerms {
    let mut terms = QueryTerms::default();
    let push = |list: &mut Vec<String>, term: &str| {
        if list.len() < max_terms && !list.iter().any(|known| known == term) {
            list.push(term.to_owned());
        }
    };
    words().token_stream(text).process(&mut |token| {
        push(&mut terms.words, &token.text);
        let mut characters = token.text.chars();
        if let (Some(character), None) = (characters.next(), characters.next())
            && is_han(character)
        {
            push(&mut terms.characters, &token.text);
        }
    });
    pieces().token_stream(text).process(&mut |token| {
        if token.text.chars().nth(1).is_some() {
            push(&mut terms.pairs, &token.text);
        }
    });
    terms
}

#[derive(Clone)]
struct WordTokenizer;

impl Tokenizer for WordTokenizer {
    type TokenStream<'a> = Tokens;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Tokens {
        let mut tokens = Tokens::default();
        for run in runs(text) {
            match run {
                Run::Han { offset, text } => {
                    for token in JIEBA.cut_for_search(text, true) {
                        tokens.push(
                            offset + token.byte_start,
                            offset + token.byte_end,
                            token.word.to_owned(),
                        );
                    }
                }
                Run::Other { offset, text } => {
                    tokens.push(offset, offset + text.len(), folded(text))
                }
            }
        }
        tokens
    }
}

#[derive(Clone)]
struct PieceTokenizer;

impl Tokenizer for PieceTokenizer {
    type TokenStream<'a> = Tokens;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Tokens {
        let mut tokens = Tokens::default();
        for run in runs(text) {
            let Run::Han { offset, text } = run else {
                continue;
            };
            let mut before: Option<(usize, char)> = None;
            for (at, character) in text.char_indices() {
                let end = offset + at + character.len_utf8();
                if let Some((pair_start, first)) = before {
                    tokens.push(
                        offset + pair_start,
                        end,
                        String::from_iter([first, character]),
                    );
                }
                tokens.push(offset + at, end, character.to_string());
                before = Some((at, character));
            }
        }
        tokens
    }
}

/// Captions are short, so their tokens are made at once.
#[derive(Default)]
struct Tokens {
    tokens: Vec<Token>,
    /// One past the current one.
    next: usize,
    none: Token,
}

impl Tokens {
    fn push(&mut self, offset_from: usize, offset_to: usize, text: String) {
        if text.is_empty() || text.len() > MAX_WORD_BYTES || STOP_WORDS.contains(&text.as_str()) {
            return;
        }
        let position = self.tokens.len();
        self.tokens.push(Token {
            offset_from,
            offset_to,
            position,
            text,
            position_length: 1,
        });
    }
}

impl TokenStream for Tokens {
    fn advance(&mut self) -> bool {
        self.next += 1;
        self.next <= self.tokens.len()
    }

    fn token(&self) -> &Token {
        self.next
            .checked_sub(1)
            .and_then(|at| self.tokens.get(at))
            .unwrap_or(&self.none)
    }

    fn token_mut(&mut self) -> &mut Token {
        self.next
            .checked_sub(1)
            .and_then(|at| self.tokens.get_mut(at))
            .unwrap_or(&mut self.none)
    }
}

/// Characters that belong together.
enum Run<'a> {
    Han { offset: usize, text: &'a str },
    Other { offset: usize, text: &'a str },
}

fn runs(text: &str) -> impl Iterator<Item = Run<'_>> {
    let mut rest = text;
    let mut offset = 0;
    std::iter::from_fn(move || {
        let skipped = rest.find(char::is_alphanumeric)?;
        let from = rest.get(skipped..)?;
        let is_chinese = from.chars().next().is_some_and(is_han);
        let length = from
            .find(|character: char| !character.is_alphanumeric() || is_han(character) != is_chinese)
            .unwrap_or(from.len());
        let (text, after) = from.split_at_checked(length)?;
        let start = offset + skipped;
        offset = start + length;
        rest = after;
        Some(if is_chinese {
            Run::Han {
                offset: start,
                text,
            }
        } else {
            Run::Other {
                offset: start,
                text,
            }
        })
    })
}

const fn is_han(character: char) -> bool {
    matches!(character, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

/// Lowercase, and full-width forms as their plain ones.
fn folded(word: &str) -> String {
    let plain = word.chars().map(|character| match character {
        '\u{ff01}'..='\u{ff5e}' => {
            char::from_u32(u32::from(character) - 0xfee0).unwrap_or(character)
        }
        other => other,
    });
    plain.flat_map(char::to_lowercase).collect()
}
