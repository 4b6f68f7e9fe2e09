//! A chat request off the wire, every field checked once; all faults are reported together.

use bytes::Bytes;
use inkstone_interface::chat_template::{BosRule, Role};
use inkstone_proto::v1 as wire;

use crate::{
    config::Limits,
    error::{FieldViolation, RequestError},
    request::{ChatRequest, Message, MessagePart, PromptLayout, StopRule},
    worker_client::Sampling,
};

/// Longest id a caller may give, in characters.
const MAX_REQUEST_ID_CHARS: usize = 128;
/// Longest stop string in bytes: each byte may be held back from the client.
const MAX_STOP_STRING_BYTES: usize = 256;
/// Longest given beginning of an answer, in bytes: some hundred tokens, more than any step of composition gives.
const MAX_ANSWER_PREFIX_BYTES: usize = 4096;
/// Tile budgets that a caller may ask for.
const HD_NUM: std::ops::RangeInclusive<u32> = 1..=128;
/// Faults reported at most; a broken client may have one in each of many messages.
const MAX_VIOLATIONS: usize = 16;

const DEFAULT_TEMPERATURE: f32 = 1.0;
const DEFAULT_TOP_K: u32 = 50;
const DEFAULT_TOP_P: f32 = 0.8;
const DEFAULT_REPETITION_PENALTY: f32 = 1.005;
const DEFAULT_MAX_TOKENS: u32 = 1024;

/// Checks a request. Its id and deadline are the caller's to fill in.
pub(super) fn parse(
    request: wire::ChatRequest,
    limits: &Limits,
) -> Result<ChatRequest, RequestError> {
    let mut faults = Faults::default();
    let sampling = faults.sampling(request.sampling.unwrap_or_default());
    let stop = faults.stop(request.stop.unwrap_or_default(), limits);
    let layout = faults.layout(request.prompt.unwrap_or_default());
    let messages = faults.messages(request.messages, limits);
    faults.none()?;
    Ok(ChatRequest {
        request_id: request.request_id,
        model: request.model,
        messages: messages.into(),
        sampling,
        stop,
        layout,
        deadline: None,
    })
}

/// Checks an id that the caller gave.
pub(super) fn check_request_id(id: &str) -> Result<(), RequestError> {
    let num_chars = id.chars().count();
    if num_chars > MAX_REQUEST_ID_CHARS {
        let description = format!("has {num_chars} characters, limit is {MAX_REQUEST_ID_CHARS}");
        return Err(RequestError::invalid("request_id", description));
    }
    if id.chars().any(char::is_control) {
        let description = "must not have control characters";
        return Err(RequestError::invalid("request_id", description));
    }
    Ok(())
}

/// What is wrong with a request, as far as it was read.
#[derive(Default)]
struct Faults(Vec<FieldViolation>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, description: impl Into<String>) {
        if self.0.len() < MAX_VIOLATIONS {
            self.0.push(FieldViolation::new(path, description));
        }
    }

    fn none(self) -> Result<(), RequestError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(RequestError::Invalid(self.0))
        }
    }

    fn sampling(&mut self, sampling: wire::SamplingParams) -> Sampling {
        let temperature = sampling.temperature.unwrap_or(DEFAULT_TEMPERATURE);
        if !(0.0..=10.0).contains(&temperature) {
            let description = format!("must be from 0 to 10, found {temperature}");
            self.add("sampling.temperature", description);
        }
        let top_p = sampling.top_p.unwrap_or(DEFAULT_TOP_P);
        if !(top_p > 0.0 && top_p <= 1.0) {
            let description = format!("must be above 0 and at most 1, found {top_p}");
            self.add("sampling.top_p", description);
        }
        let penalty = sampling.repetition_penalty;
        let repetition_penalty = penalty.unwrap_or(DEFAULT_REPETITION_PENALTY);
        if !(repetition_penalty > 0.0 && repetition_penalty <= 10.0) {
            let description = format!("must be above 0 and at most 10, found {repetition_penalty}");
            self.add("sampling.repetition_penalty", description);
        }
        Sampling {
            temperature,
            top_k: sampling.top_k.unwrap_or(DEFAULT_TOP_K),
            top_p,
            repetition_penalty,
            seed: sampling.seed.unwrap_or_else(rand::random),
        }
    }

    fn stop(&mut self, stop: wire::StopParams, limits: &Limits) -> StopRule {
        let max_tokens = stop.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        if max_tokens == 0 {
            self.add("stop.max_tokens", "must be at least 1, found 0");
        }
        let (num_strings, limit) = (stop.stop_strings.len(), limits.max_stop_strings);
        if num_strings > limit {
            let description = format!("has {num_strings} strings, limit is {limit}");
            self.add("stop.stop_strings", description);
        }
        for (index, text) in stop.stop_strings.iter().enumerate() {
            let num_bytes = text.len();
            if !(1..=MAX_STOP_STRING_BYTES).contains(&num_bytes) {
                let description =
                    format!("must have 1 to {MAX_STOP_STRING_BYTES} bytes, found {num_bytes}");
                self.add(format!("stop.stop_strings[{index}]"), description);
            }
        }
        StopRule {
            max_tokens,
            stop_strings: stop.stop_strings,
            ignore_eos: stop.ignore_eos,
        }
    }

    fn layout(&mut self, prompt: wire::PromptParams) -> PromptLayout {
        let bos = match wire::BosRule::try_from(prompt.bos_rule) {
            Ok(wire::BosRule::Unspecified | wire::BosRule::Once) => BosRule::Once,
            Ok(wire::BosRule::Reference) => BosRule::Reference,
            Err(_) => {
                self.add(
                    "prompt.bos_rule",
                    format!("unknown value {}", prompt.bos_rule),
                );
                BosRule::Once
            }
        };
        if let Some(hd_num) = prompt.hd_num.filter(|hd_num| !HD_NUM.contains(hd_num)) {
            let description = format!("must be from 1 to 128, found {hd_num}");
            self.add("prompt.hd_num", description);
        }
        self.at_most(
            "prompt.answer_prefix",
            prompt.answer_prefix.len(),
            MAX_ANSWER_PREFIX_BYTES,
            "bytes",
        );
        PromptLayout {
            bos,
            omit_default_system: prompt.omit_default_system,
            hd_num: prompt.hd_num,
            answer_prefix: prompt.answer_prefix,
        }
    }

    fn messages(&mut self, messages: Vec<wire::Message>, limits: &Limits) -> Vec<Message> {
        if messages.is_empty() {
            self.add("messages", "at least one message is wanted, found none");
        }
        self.at_most("messages", messages.len(), limits.max_messages, "messages");
        let messages = messages.into_iter().take(limits.max_messages).enumerate();
        let messages: Vec<_> = messages
            .map(|(index, message)| self.message(index, message, limits))
            .collect();
        let parts = || messages.iter().flat_map(|message| &message.parts);
        let num_pictures = parts()
            .filter(|part| matches!(part, MessagePart::Picture(_)))
            .count();
        self.at_most("messages", num_pictures, limits.max_pictures, "pictures");
        let text_bytes = parts().map(|part| match part {
            MessagePart::Text(text) => text.len(),
            MessagePart::Picture(_) => 0,
        });
        self.at_most(
            "messages",
            text_bytes.sum(),
            limits.max_text_bytes,
            "bytes of text",
        );
        messages
    }

    fn at_most(&mut self, path: &str, found: usize, limit: usize, of: &str) {
        if found > limit {
            self.add(path, format!("has {found} {of}, limit is {limit}"));
        }
    }

    fn message(&mut self, index: usize, message: wire::Message, limits: &Limits) -> Message {
        let path = format!("messages[{index}]");
        let role = match message.role() {
            wire::Role::System => Role::System,
            wire::Role::User => Role::User,
            wire::Role::Assistant => Role::Assistant,
            wire::Role::Unspecified => {
                let description = format!("must be a role, found {}", message.role);
                self.add(format!("{path}.role"), description);
                Role::User
            }
        };
        let parts = message.parts.into_iter().enumerate();
        let parts = parts.filter_map(|(part_index, part)| {
            let path = format!("{path}.parts[{part_index}]");
            self.part(&path, part, role, limits)
        });
        Message {
            role,
            parts: parts.collect(),
        }
    }

    fn part(
        &mut self,
        path: &str,
        part: wire::ContentPart,
        role: Role,
        limits: &Limits,
    ) -> Option<MessagePart> {
        use wire::content_part::Content;
        match part.content {
            Some(Content::Text(text)) => Some(MessagePart::Text(text)),
            Some(Content::Picture(picture)) => {
                let path = format!("{path}.picture");
                if role != Role::User {
                    self.add(&path, "pictures come from the user only");
                }
                self.picture(&path, picture, limits)
            }
            None => {
                self.add(path, "must be text or a picture, found neither");
                None
            }
        }
    }

    fn picture(
        &mut self,
        path: &str,
        picture: wire::Picture,
        limits: &Limits,
    ) -> Option<MessagePart> {
        let data = match picture.source {
            Some(wire::picture::Source::Data(data)) => data,
            None => Bytes::new(),
        };
        if data.is_empty() {
            self.add(path, "must have data, found none");
            return None;
        }
        self.at_most(path, data.len(), limits.max_picture_bytes, "bytes");
        Some(MessagePart::Picture(data))
    }
}
