//! Answers of a given form: which tokens may come next so that the text can still become one of some strings, match a regular
//! expression, or be JSON of a schema.
//!
//! The text is what the client sees: every token's bytes, from the first one on, with nothing trimmed. So where "red" is wanted, a
//! piece that is spelt with a space before it is no beginning, and `red` without one is. Marks such as `[UNUSED_TOKEN_145]` and special
//! tokens are never part of a text; the model's stop tokens are allowed exactly where the text may end. Grammars are compiled and
//! followed by llguidance, with limits, so that no form can take long or much.

mod grammar;
#[cfg(test)]
mod tests;
mod vocabulary;

use inkstone_model::sampling::TokenMask;
use llguidance::{Matcher, toktrie::SimpleVob};

pub use vocabulary::ConstraintVocabulary;

/// What form an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub enum ConstraintForm {
    /// It is one of these strings.
    Choices(Vec<String>),
    /// It is JSON that satisfies this schema.
    JsonSchema(String),
    /// It matches this regular expression as a whole.
    Regex(String),
}

/// Follows one answer. A clone goes on from where the original is, on its own.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    /// Tokens that end an answer.
    stop_token_ids: Vec<u32>,
    num_tokens: usize,
    has_ended: bool,
}

impl Constraint {
    fn new(mut matcher: Matcher, vocabulary: &ConstraintVocabulary) -> Result<Self, String> {
        match matcher.get_error() {
            Some(error) => Err(first_line(&error)),
            None => Ok(Self {
                stop_token_ids: vocabulary.stop_token_ids().to_vec(),
                num_tokens: vocabulary.num_tokens(),
                has_ended: is_complete(&mut matcher)? && matcher.is_stopped(),
                matcher,
            }),
        }
    }

    /// The tokens that may come next: a bit for each of the vocabulary. Once a stop token came, only stop tokens.
    pub fn allowed(&mut self) -> Result<TokenMask, String> {
        let mut mask = match self.has_ended || self.matcher.is_stopped() {
            true => TokenMask::none(self.num_tokens),
            false => {
                let mask = self.matcher.compute_mask().map_err(in_words)?;
                TokenMask::from_words(words(&mask), self.num_tokens)
            }
        };
        if self.may_end()? {
            self.stop_token_ids.iter().for_each(|&id| mask.allow(id));
        }
        Ok(mask)
    }

    /// Takes the next token of the answer. After an error the constraint is of no more use.
    pub fn accept(&mut self, token_id: u32) -> Result<(), String> {
        if self.stop_token_ids.contains(&token_id) {
            if !self.may_end()? {
                return Err(format!(
                    "the answer may not end here, but token {token_id} ends it"
                ));
            }
            self.has_ended = true;
            return Ok(());
        }
        if self.has_ended || self.matcher.is_stopped() {
            return Err(format!(
                "the answer is complete, but token {token_id} goes on"
            ));
        }
        self.matcher.consume_token(token_id).map_err(in_words)
    }

    fn may_end(&mut self) -> Result<bool, String> {
        Ok(self.has_ended || is_complete(&mut self.matcher)?)
    }
}

/// Whether the text so far has the form.
fn is_complete(matcher: &mut Matcher) -> Result<bool, String> {
    matcher.is_accepting().map_err(in_words)
}

/// Two words of 32 bits each make one of 64.
fn words(mask: &SimpleVob) -> Vec<u64> {
    mask.as_slice()
        .chunks(2)
        .map(|pair| {
            let high = pair.get(1).copied().unwrap_or(0);
            u64::from(pair[0]) | u64::from(high) << 32
        })
        .collect()
}

fn in_words(error: impl std::fmt::Display) -> String {
    first_line(&format!("{error:#}"))
}

/// The sentence that says it; what follows is the library's own state.
fn first_line(message: &str) -> String {
    const MAX_CHARS: usize = 300;
    let line = message.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("no reason given")
        .chars()
        .take(MAX_CHARS)
        .collect()
}
