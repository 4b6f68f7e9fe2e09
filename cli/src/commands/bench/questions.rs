//! What a load asks: questions of about so many tokens that differ from their first words on, so that none finds another's
//! prompt in the cache.

use bytes::Bytes;
use inkstone_proto::v1::{ChatRequest, PromptParams, Role, SamplingParams, StopParams};

use crate::commands::client::{message, picture_part, text_part};

/// Frequent words: a token each for a tokenizer that was trained on English.
const WORDS: &str = "the of and to in is that for it as was with be by on not he but at are this have from or had an they \
    which one you were all there would their we him been has when who will more no if out so said what up its about \
    into than them can only other new some could time these two may then do first any my now such like our over man \
    even most made after also did many before must through back years where much your way well down";

/// A load's questions.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    /// Other seeds ask other questions.
    pub(crate) seed: u64,
    /// Of a question, about.
    pub(crate) prompt_tokens: u32,
    /// Of an answer, exactly.
    pub(crate) answer_tokens: u32,
    /// What all questions are about.
    pub(crate) picture: Option<Bytes>,
    /// Beginnings that questions share; none: they differ from their first words on.
    pub(crate) beginnings: Option<Beginnings>,
}

/// Long beginnings, one of which each question has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginnings {
    /// How many there are.
    pub(crate) count: u64,
    /// Tokens of each, about.
    pub(crate) tokens: u32,
}

impl Questions {
    /// Which of the beginnings question number `index` has.
    pub(crate) fn beginning(&self, index: u64) -> Option<u64> {
        let count = self.beginnings?.count;
        Some(mix(self.seed ^ 2, index) % count.max(1))
    }

    /// Question number `index`.
    pub(crate) fn request(&self, index: u64) -> ChatRequest {
        let text = text_part(&self.text(index));
        let picture = self.picture.clone().map(picture_part);
        let parts = picture.into_iter().chain([text]).collect();
        ChatRequest {
            messages: vec![message(Role::User, parts)],
            sampling: Some(SamplingParams {
                temperature: Some(1.0),
                seed: Some(mix(self.seed, index)),
                ..SamplingParams::default()
            }),
            stop: Some(StopParams {
                max_tokens: Some(self.answer_tokens),
                ignore_eos: true,
                ..StopParams::default()
            }),
            prompt: Some(PromptParams {
                omit_default_system: true,
                ..PromptParams::default()
            }),
            ..ChatRequest::default()
        }
    }

    fn text(&self, index: u64) -> String {
        let own = words(mix(self.seed, index), self.prompt_tokens);
        match (self.beginnings, self.beginning(index)) {
            (Some(Beginnings { tokens, .. }), Some(number)) => {
                words(mix(self.seed ^ 3, number), tokens) + " " + &own
            }
            _ => own,
        }
    }
}

/// So many words, others for each `state`.
fn words(mut state: u64, count: u32) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut text = String::new();
    for place in 0..count {
        state = mix(state, u64::from(place));
        if place > 0 {
            text.push(' ');
        }
        text += words[(state % words.len() as u64) as usize];
    }
    text
}

/// Two numbers to one (the finalizer of splitmix64).
pub(crate) fn mix(seed: u64, number: u64) -> u64 {
    let mut mixed = seed
        .rotate_left(32)
        .wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions() -> Questions {
        Questions {
            seed: 1,
            prompt_tokens: 40,
            answer_tokens: 8,
            picture: None,
            beginnings: None,
        }
    }

    #[test]
    fn questions_share_beginnings_and_differ_after_them() {
        let beginnings = Beginnings {
            count: 3,
            tokens: 30,
        };
        let questions = Questions {
            beginnings: Some(beginnings),
            ..questions()
        };
        for index in 0..60 {
            let (text, number) = (questions.text(index), questions.beginning(index));
            assert_eq!(text.split(' ').count(), 70);
            for other in 0..index {
                let same = questions.beginning(other) == number;
                let (a, b) = (text.split(' '), questions.text(other));
                let alike = a.zip(b.split(' ')).take_while(|(a, b)| a == b).count();
                assert_eq!(same, alike >= 30, "{index} and {other}");
                assert!(alike < 45, "{index} and {other}");
            }
        }
        let used: std::collections::BTreeSet<_> = (0..60).map(|i| questions.beginning(i)).collect();
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn questions_have_their_length_and_differ_early() {
        let questions = questions();
        let texts: Vec<String> = (0..200).map(|index| questions.text(index)).collect();
        assert!(texts.iter().all(|text| text.split(' ').count() == 40));
        let mut beginnings: Vec<String> = texts
            .iter()
            .map(|text| text.split(' ').take(8).collect::<Vec<_>>().join(" "))
            .collect();
        beginnings.sort();
        beginnings.dedup();
        assert_eq!(beginnings.len(), 200);
    }

    #[test]
    fn the_same_seed_asks_the_same() {
        assert_eq!(questions().request(3), questions().request(3));
        let other = Questions {
            seed: 2,
            ..questions()
        };
        assert_ne!(other.text(3), questions().text(3));
    }
}
