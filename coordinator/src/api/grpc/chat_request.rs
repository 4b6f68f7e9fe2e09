//! A chat request off the wire, every field checked once; all faults are reported together.

mod generation;

use bytes::Bytes;
use inkstone_interface::chat_template::{BosRule, Role};
use inkstone_proto::v1 as wire;
use tonic::metadata::MetadataMap;

use super::faults::Faults;
use crate::{
    config::Limits,
    error::RequestError,
    request::{ChatRequest, Content, Message, MessagePart, PromptLayout, StopRule},
};

/// Longest id a caller may give, in characters.
const MAX_REQUEST_ID_CHARS: usize = 128;
/// Longest stop string in bytes: each byte may be held back from the client.
const MAX_STOP_STRING_BYTES: usize = 256;
/// Longest given beginning of an answer, in bytes: some hundred tokens, more than any step of composition gives.
const MAX_ANSWER_PREFIX_BYTES: usize = 4096;
/// The metadata that names a tenant.
const TENANT: &str = "inkstone-tenant";
/// Longest name of a tenant, in bytes.
const MAX_TENANT_BYTES: usize = 128;
/// Tile budgets that a caller may ask for.
const HD_NUM: std::ops::RangeInclusive<u32> = 1..=128;

const DEFAULT_MAX_TOKENS: u32 = 1024;

/// Checks a request. Its id, tenant and deadline are the caller's to fill in.
pub(super) fn parse(
    request: wire::ChatRequest,
    limits: &Limits,
) -> Result<ChatRequest, RequestError> {
    let mut faults = Faults::default();
    let wire_sampling = request.sampling.unwrap_or_default();
    let answers = faults.answers(&wire_sampling, request.beam);
    let (logprobs, prompt_logprobs) = (wire_sampling.logprobs, wire_sampling.prompt_logprobs);
    let mut sampling = faults.sampling(wire_sampling, &answers);
    let stop = faults.stop(request.stop.unwrap_or_default(), limits);
    sampling.constraint = faults.constraint(request.constraint);
    let priority = faults.priority(request.priority);
    let layout = faults.layout(request.prompt.unwrap_or_default());
    let messages = faults.messages(request.messages, limits);
    faults.none()?;
    Ok(ChatRequest {
        request_id: request.request_id,
        model: request.model,
        content: Content::Chat {
            messages: messages.into(),
            layout,
        },
        sampling,
        answers,
        stop,
        logprobs,
        prompt_logprobs,
        priority,
        tenant: Bytes::new(),
        deadline: None,
    })
}

/// On whose behalf a call is made; empty where nobody is named.
pub(super) fn tenant(metadata: &MetadataMap) -> Result<Bytes, RequestError> {
    let Some(tenant) = metadata.get(TENANT) else {
        return Ok(Bytes::new());
    };
    let tenant = tenant.as_bytes();
    let num_bytes = tenant.len();
    if num_bytes > MAX_TENANT_BYTES {
        let description = format!("has {num_bytes} bytes, limit is {MAX_TENANT_BYTES}");
        return Err(RequestError::invalid(TENANT, description));
    }
    if !tenant.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        let description = "must be printable ASCII";
        return Err(RequestError::invalid(TENANT, description));
    }
    Ok(Bytes::copy_from_slice(tenant))
}

/// Its bytes; none where it has no source.
pub(super) fn picture_data(picture: wire::Picture) -> Bytes {
    match picture.source {
        Some(wire::picture::Source::Data(data)) => data,
        None => Bytes::new(),
    }
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

impl Faults {
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
        let min_tokens = stop.min_tokens;
        if min_tokens > max_tokens {
            let description =
                format!("must be at most max_tokens ({max_tokens}), found {min_tokens}");
            self.add("stop.min_tokens", description);
        }
        StopRule {
            max_tokens,
            stop_strings: stop.stop_strings,
            ignore_eos: stop.ignore_eos,
            min_tokens,
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
                let data = picture_data(picture);
                let data = self.picture(&path, data, limits);
                data.map(MessagePart::Picture)
            }
            None => {
                self.add(path, "must be text or a picture, found neither");
                None
            }
        }
    }
}
