//! From token ids to the text that a client sees: whole characters, without stop tokens, up to a stop string.

use std::sync::Arc;

use inkstone_interface::tokenizer::StreamDecoder;

use super::stop_strings::{Scan, StopStrings};

/// One answer as it grows.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    decoder: StreamDecoder,
    stop_strings: StopStrings,
    /// Tokens that end the answer and are no text of it.
    stop_token_ids: Arc<[u32]>,
    num_tokens: u32,
}

/// What some tokens added to an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Whole characters that are certain not to belong to a stop string.
    pub(crate) text: String,
    /// The tokens taken in; those after a stop string are not.
    pub(crate) token_ids: Vec<u32>,
    /// The stop string that ended the answer.
    pub(crate) stop_string: Option<String>,
}

impl Answer {
    pub(crate) fn new(
        decoder: StreamDecoder,
        stop_strings: Vec<String>,
        stop_token_ids: Arc<[u32]>,
    ) -> Self {
        Self {
            decoder,
            stop_strings: StopStrings::new(stop_strings),
            stop_token_ids,
            num_tokens: 0,
        }
    }

    /// Tokens taken in so far.
    pub(crate) fn num_tokens(&self) -> u32 {
        self.num_tokens
    }

    /// Whether this token ends the answer.
    pub(crate) fn is_stop(&self, id: u32) -> bool {
        self.stop_token_ids.contains(&id)
    }

    /// Takes the next tokens.
    pub(crate) fn push(&mut self, mut ids: Vec<u32>) -> Growth {
        let mut growth = Growth::default();
        let mut num_taken = ids.len();
        for (index, &id) in ids.iter().enumerate() {
            if self.is_stop(id) {
                continue;
            }
            if self.stop_strings.is_empty() {
                self.decoder.push_to(id, &mut growth.text);
                continue;
            }
            let text = self.decoder.push(id);
            if self.scan(&text, &mut growth) {
                num_taken = index + 1;
                break;
            }
        }
        ids.truncate(num_taken);
        self.num_tokens += u32::try_from(num_taken).unwrap_or(u32::MAX);
        growth.token_ids = ids;
        growth
    }

    /// Lets out what was held back, as no token follows.
    pub(crate) fn finish(&mut self) -> Growth {
        let mut growth = Growth::default();
        let text = self.decoder.finish();
        if !self.scan(&text, &mut growth) {
            growth.text += &self.stop_strings.finish();
        }
        growth
    }

    /// Whether a stop string is complete with this text.
    fn scan(&mut self, text: &str, growth: &mut Growth) -> bool {
        match self.stop_strings.push(text) {
            Scan::Pass(text) => {
                growth.text += &text;
                false
            }
            Scan::Stop {
                before,
                stop_string,
            } => {
                growth.text += &before;
                growth.stop_string = Some(stop_string);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use inkstone_interface::tokenizer::{Tokenizer, Trust, synthetic};

    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_model_bytes(&synthetic::model_bytes(&["hello"])).unwrap()
    }

    fn answer(tokenizer: &Tokenizer, stops: &[&str]) -> Answer {
        Answer::new(
            tokenizer.stream_decoder(),
            stops.iter().map(ToString::to_string).collect(),
            tokenizer.stop_token_ids().into(),
        )
    }

    #[test]
    fn a_character_of_several_tokens_comes_whole() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("🙂", Trust::Untrusted);
        assert_eq!(
            ids.len(),
            4,
            "the tokenizer knows the character by its bytes"
        );
        let mut answer = answer(&tokenizer, &[]);
        let texts: Vec<_> = ids.iter().map(|&id| answer.push(vec![id]).text).collect();
        assert_eq!(texts, ["", "", "", "🙂"]);
    }

    #[test]
    fn half_a_character_at_the_end_becomes_replacement_characters() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("🙂", Trust::Untrusted);
        let mut answer = answer(&tokenizer, &[]);
        assert_eq!(answer.push(ids[..2].to_vec()).text, "");
        assert_eq!(answer.finish().text, "\u{fffd}\u{fffd}");
    }

    #[test]
    fn stop_tokens_are_counted_and_named_but_are_no_text() {
        let tokenizer = tokenizer();
        let mut answer = answer(&tokenizer, &[]);
        let mut ids = tokenizer.encode("hello", Trust::Untrusted);
        ids.push(tokenizer.end_of_turn_id());
        let growth = answer.push(ids.clone());
        assert_eq!(growth.text, "hello");
        assert_eq!(growth.token_ids, ids);
        assert_eq!(answer.num_tokens(), ids.len() as u32);
        assert_eq!(answer.finish(), Growth::default());
    }

    #[test]
    fn tokens_after_a_stop_string_are_not_taken_in() {
        let tokenizer = tokenizer();
        let mut answer = answer(&tokenizer, &["lo!"]);
        let first = tokenizer.encode("hello", Trust::Untrusted);
        assert_eq!(answer.push(first).text, "hel");
        let growth = answer.push(tokenizer.encode("!xyz", Trust::Untrusted));
        assert_eq!(growth.text, "");
        assert_eq!(growth.token_ids.len(), 1);
        assert_eq!(growth.stop_string.as_deref(), Some("lo!"));
    }

    #[test]
    fn what_might_have_become_a_stop_string_comes_at_the_end() {
        let tokenizer = tokenizer();
        let mut answer = answer(&tokenizer, &["low"]);
        let ids = tokenizer.encode("hello", Trust::Untrusted);
        assert_eq!(answer.push(ids).text, "hel");
        assert_eq!(answer.finish().text, "lo");
    }
}
