//! From a conversation to the prompt that a language group runs: text to tokens first, then, once the vision workers
//! said how many positions each picture takes, the whole with its length checked.

use std::sync::Arc;

use inkstone_interface::{
    chat_template::{
        ChatMessage, ChatTemplate, ContentPart, PICTURE_PLACEHOLDER, RenderError, RenderOptions,
        SystemPrompt,
    },
    prompt::{PromptPart, RenderedPrompt},
};

use super::{ChatRequest, Content, Message, MessagePart, PromptLayout, PromptSize};
use crate::{
    error::RequestError,
    model::ServedModel,
    worker_client::{PlacedPicture, PromptPiece},
};

/// A prompt that can be sent to a language group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReadyPrompt {
    pub(crate) pieces: Arc<[PromptPiece]>,
    pub(crate) size: PromptSize,
    /// What was asked for, as far as the context has room.
    pub(crate) max_new_tokens: u32,
}

/// Tokenises what is asked; pictures stay slots. Takes as long as the text, so not for an async thread.
pub(crate) fn tokenise(
    model: &ServedModel,
    request: &ChatRequest,
) -> Result<RenderedPrompt, RequestError> {
    check_bias(model, request)?;
    match &request.content {
        Content::Chat { messages, layout } => tokenise_chat(model, messages, layout),
        Content::Composition(composed) => Ok(composed.prompt.render(&model.tokenizer)),
    }
}

fn tokenise_chat(
    model: &ServedModel,
    messages: &[Message],
    layout: &PromptLayout,
) -> Result<RenderedPrompt, RequestError> {
    if layout.hd_num.is_some() && model.description.picture.hd.is_none() {
        let description = format!(
            "{} has no tiles, so no budget for them",
            model.description.name
        );
        return Err(RequestError::invalid("prompt.hd_num", description));
    }
    let messages: Vec<_> = messages.iter().map(template_message).collect();
    let parts = messages.iter().flat_map(|message| &message.content);
    let options = RenderOptions {
        bos: layout.bos,
        system: if layout.omit_default_system {
            SystemPrompt::None
        } else {
            SystemPrompt::Default
        },
        num_pictures: parts.filter(|part| **part == ContentPart::Picture).count(),
        answer_prefix: Some(&layout.answer_prefix),
    };
    let template = ChatTemplate::of(&model.description);
    let rendered = template.render(&model.tokenizer, &messages, &options);
    rendered.map_err(|error| refusal(&error, messages.len()))
}

/// Only the model's own tokens can be favoured.
fn check_bias(model: &ServedModel, request: &ChatRequest) -> Result<(), RequestError> {
    let vocab_size = model.description.config.vocab_size;
    // Ids are in order.
    match request.sampling.logit_bias.last() {
        Some(&(id, _)) if id as usize >= vocab_size => {
            let path = format!("sampling.logit_bias[{id}]");
            let description = format!("must be a token id below {vocab_size}, found {id}");
            Err(RequestError::invalid(path, description))
        }
        _ => Ok(()),
    }
}

/// Puts the pictures into their slots and checks that the prompt fits.
pub(crate) fn assemble(
    model: &ServedModel,
    prompt: RenderedPrompt,
    pictures: &[PlacedPicture],
    max_tokens: u32,
) -> Result<ReadyPrompt, RequestError> {
    let sizes: Vec<_> = pictures
        .iter()
        .map(|picture| picture.num_tokens as usize)
        .collect();
    let num_tokens = prompt.num_tokens(&sizes);
    let limit = model.max_prompt_tokens;
    if num_tokens > limit {
        return Err(RequestError::PromptTooLong { num_tokens, limit });
    }
    let room = model.max_sequence_tokens.saturating_sub(num_tokens);
    let pieces = prompt.parts.into_iter().map(|part| match part {
        PromptPart::Tokens(ids) => PromptPiece::Tokens(ids),
        PromptPart::Picture { index } => PromptPiece::Picture(pictures[index].clone()),
    });
    Ok(ReadyPrompt {
        pieces: pieces.collect(),
        size: PromptSize {
            prompt_tokens: to_u32(num_tokens),
            picture_tokens: to_u32(sizes.iter().sum()),
        },
        max_new_tokens: max_tokens.min(to_u32(room)),
    })
}

impl ReadyPrompt {
    /// The same prompt with its pictures in other places; they are the same pictures, in order.
    pub(crate) fn with_pictures(&self, pictures: &[PlacedPicture]) -> Result<Self, RequestError> {
        let mut pictures = pictures.iter();
        let pieces = self.pieces.iter().map(|piece| match piece {
            PromptPiece::Tokens(_) => Ok(piece.clone()),
            PromptPiece::Picture(before) => match pictures.next() {
                Some(now) if now.digest == before.digest && now.num_tokens == before.num_tokens => {
                    Ok(PromptPiece::Picture(now.clone()))
                }
                _ => Err(RequestError::Internal(
                    "a picture that was put again is another one than before".into(),
                )),
            },
        });
        Ok(Self {
            pieces: pieces.collect::<Result<_, _>>()?,
            ..self.clone()
        })
    }
}

/// Positions of a prompt that fits; the limit itself comes off the wire as 32 bits.
fn to_u32(positions: usize) -> u32 {
    u32::try_from(positions).unwrap_or(u32::MAX)
}

fn template_message(message: &Message) -> ChatMessage {
    let parts = message.parts.iter();
    let content = parts.flat_map(|part| match part {
        MessagePart::Picture(_) => vec![ContentPart::Picture],
        MessagePart::Text(text) => ordinary_text(text),
    });
    ChatMessage {
        role: message.role,
        content: content.collect(),
    }
}

/// A text in which a literal `<ImageHere>` is ordinary: pictures come as parts of their own, and a placeholder is only
/// seen where it stands whole in one part. Parts are tokenised together, so the cut leaves no trace.
fn ordinary_text(text: &str) -> Vec<ContentPart> {
    let cut = PICTURE_PLACEHOLDER.len() / 2;
    let mut parts = vec![];
    let mut rest = text;
    while let Some(start) = rest.find(PICTURE_PLACEHOLDER) {
        let (part, tail) = rest.split_at(start + cut);
        parts.push(ContentPart::Text(part.to_owned()));
        rest = tail;
    }
    parts.push(ContentPart::Text(rest.to_owned()));
    parts
}

fn refusal(error: &RenderError, num_messages: usize) -> RequestError {
    let path = match error {
        RenderError::Empty | RenderError::PictureCount { .. } => "messages".to_owned(),
        RenderError::SystemNotFirst { index } | RenderError::WrongRole { index, .. } => {
            format!("messages[{index}].role")
        }
        RenderError::LastNotUser { .. } => {
            format!("messages[{}].role", num_messages.saturating_sub(1))
        }
        RenderError::PictureNotFromUser { index, .. } => format!("messages[{index}]"),
    };
    RequestError::invalid(path, error.to_string())
}

#[cfg(test)]
mod tests;
