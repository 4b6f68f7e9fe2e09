//! Captions by the model, asked for as anybody asks about a picture.

use async_trait::async_trait;
use inkstone_pictures::library::import::{Candidate, CaptionError, Captioner};
use inkstone_proto::v1::{ChatRequest, Priority, Role, SamplingParams, StopParams};
use tonic::{Code, Status};

use crate::commands::client::{Client, ask_until_taken, message, picture_part, text_part};

/// Searches are for what is to be seen, so that is asked for; in words that every variant knows.
const QUESTION: &str = "Please describe this picture.";
/// Of an answer. Captions are short.
const MAX_TOKENS: u32 = 96;
/// Characters of a caption: what is longer describes what nobody looks for.
const MAX_CHARACTERS: usize = 300;

/// Asks a coordinator's model.
pub(super) struct ModelCaptioner(pub(super) Client);

#[async_trait]
impl Captioner for ModelCaptioner {
    async fn caption(&self, picture: &Candidate) -> Result<String, CaptionError> {
        let mut client = self.0.clone();
        let parts = vec![picture_part(picture.data.clone()), text_part(QUESTION)];
        let request = ChatRequest {
            messages: vec![message(Role::User, parts)],
            sampling: Some(SamplingParams {
                temperature: Some(0.0),
                ..SamplingParams::default()
            }),
            stop: Some(StopParams {
                max_tokens: Some(MAX_TOKENS),
                ..StopParams::default()
            }),
            // Whoever waits for an answer goes first.
            priority: Priority::Batch.into(),
            ..ChatRequest::default()
        };
        let answer = ask_until_taken(&mut client, request).await;
        let answer = answer.map_err(error_of)?;
        match caption_of(&answer) {
            caption if caption.is_empty() => Err(CaptionError::Refused {
                reason: "the model says nothing about it".to_owned(),
            }),
            caption => Ok(caption),
        }
    }
}

/// Whether the picture is at fault or the server.
fn error_of(status: Status) -> CaptionError {
    let reason = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => CaptionError::Refused { reason },
        _ => CaptionError::Unavailable { reason },
    }
}

/// One line of whole sentences, as many as a caption has room for.
fn caption_of(answer: &str) -> String {
    let words: Vec<&str> = answer
        .split(is_no_text)
        .filter(|word| !word.is_empty())
        .collect();
    let line = words.join(" ");
    let room = match line.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => &line[..end],
        None => &line,
    };
    let ends_sentence = |(at, mark): (usize, char)| {
        let end = at + mark.len_utf8();
        let is_end = match mark {
            '。' | '！' | '？' => true,
            // `1.5` is no end.
            '.' | '!' | '?' => line[end..].chars().next().is_none_or(char::is_whitespace),
            _ => false,
        };
        is_end.then_some(end)
    };
    let sentences = room.char_indices().filter_map(ends_sentence).next_back();
    room[..sentences.unwrap_or(room.len())].trim().to_owned()
}

fn is_no_text(character: char) -> bool {
    character.is_whitespace() || character.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_is_one_line_of_whole_sentences() {
        for (answer, caption) in [
            (
                " There is one shape:\na red circle. The wor",
                "There is one shape: a red circle.",
            ),
            ("a red circle", "a red circle"),
            ("It is 1.5 m high", "It is 1.5 m high"),
            ("Hi! It is 1.5 m", "Hi!"),
            ("图中有两个图形。还有", "图中有两个图形。"),
            ("\u{1b}[31m \n", "[31m"),
            ("", ""),
        ] {
            assert_eq!(caption_of(answer), caption, "{answer:?}");
        }
    }

    #[test]
    fn a_long_answer_is_cut_at_a_sentence_where_there_is_one() {
        let sentence = "A boat lies at the shore of a lake. ";
        let caption = caption_of(&sentence.repeat(40));
        assert!(caption.chars().count() <= MAX_CHARACTERS);
        assert!(caption.ends_with("of a lake."), "{caption}");
        assert_eq!(
            caption_of(&"船".repeat(1000)).chars().count(),
            MAX_CHARACTERS
        );
    }

    #[test]
    fn a_bad_picture_is_left_out_and_a_bad_server_ends_the_import() {
        let refused = error_of(Status::invalid_argument("no picture"));
        assert_eq!(refused.to_string(), "no picture");
        assert!(matches!(refused, CaptionError::Refused { .. }));
        for status in [Status::unavailable("away"), Status::internal("broken")] {
            assert!(matches!(error_of(status), CaptionError::Unavailable { .. }));
        }
    }
}
