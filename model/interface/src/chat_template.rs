//! From a conversation to a prompt (spec sections 10.1 and 10.2).
//!
//! The frame of turns is ours and trusted; system texts, questions and answers come from outside and can open or end
//! no turn. Frame and text are tokenised together, as the models were trained, so pieces may reach across the seam.

use serde::{Deserialize, Serialize};

use crate::description::{ModelDescription, Variant};
use crate::prompt::{BosPlacement, PromptBuilder, RenderedPrompt};
use crate::tokenizer::Tokenizer;

#[cfg(test)]
mod tests;

/// The text that marks a picture's place in a user's message.
pub const PICTURE_PLACEHOLDER: &str = "<ImageHere>";

/// System text of vl-7b, 4KHD and 2.5.
const VISION_LANGUAGE_SYSTEM: &str = "\
You are an AI assistant whose name is InternLM-XComposer (浦语·灵笔).
- InternLM-XComposer (浦语·灵笔) is a multi-modality conversational language model that is developed by Shanghai AI Laboratory (上海人工智能实验室). It is designed to be helpful, honest, and harmless.
- InternLM-XComposer (浦语·灵笔) can understand and communicate fluently in the language chosen by the user such as English and 中文.
- InternLM-XComposer (浦语·灵笔) is capable of comprehending and articulating responses effectively based on the provided image.";

/// System text of the composition release, 7b.
const COMPOSITION_SYSTEM: &str = "\
You are an AI assistant whose name is InternLM-XComposer (浦语·灵笔).
- InternLM-XComposer (浦语·灵笔) is a conversational language model that is developed by Shanghai AI Laboratory (上海人工智能实验室). It is designed to be helpful, honest, and harmless.
- InternLM-XComposer (浦语·灵笔) can understand and communicate fluently in the language chosen by the user such as English and 中文.";

/// Side of the pictures of the composition release, which tells it from the others of 2.0.
const COMPOSITION_PICTURE_SIDE: u32 = 224;

const OPEN_SYSTEM: &str = "[UNUSED_TOKEN_146]system\n";
const OPEN_USER: &str = "[UNUSED_TOKEN_146]user\n";
const OPEN_ASSISTANT: &str = "[UNUSED_TOKEN_146]assistant\n";
const CLOSE: &str = "[UNUSED_TOKEN_145]\n";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        })
    }
}

/// A stretch of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentPart {
    Text(String),
    /// The place of the next picture.
    Picture,
}

/// One message of a conversation. Its texts are joined as they are. Pictures stand in messages of the user, as
/// [`ContentPart::Picture`] or, where there is none of these, as `<ImageHere>` in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: Role,
    pub content: Vec<ContentPart>,
}

impl ChatMessage {
    pub fn system(text: impl Into<String>) -> Self {
        Self::text(Role::System, text)
    }

    pub fn user(text: impl Into<String>) -> Self {
        Self::text(Role::User, text)
    }

    pub fn assistant(text: impl Into<String>) -> Self {
        Self::text(Role::Assistant, text)
    }

    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: vec![ContentPart::Text(text.into())],
        }
    }

    fn has_picture_parts(&self) -> bool {
        self.content.contains(&ContentPart::Picture)
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.content.iter().filter_map(|part| match part {
            ContentPart::Text(text) => Some(text.as_str()),
            ContentPart::Picture => None,
        })
    }

    /// Pictures this message places.
    fn num_pictures(&self) -> usize {
        if self.has_picture_parts() {
            return self
                .content
                .iter()
                .filter(|&part| *part == ContentPart::Picture)
                .count();
        }
        match self.role {
            Role::User => self
                .texts()
                .map(|text| text.matches(PICTURE_PLACEHOLDER).count())
                .sum(),
            Role::System | Role::Assistant => 0,
        }
    }
}

/// Where `<s>` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BosRule {
    /// Once at the start: the layout of training.
    #[default]
    Once,
    /// As the release's own `chat()` does: 2.0 and 4KHD before every text, and twice where there is no picture; 2.5
    /// once.
    Reference,
}

/// The system text of a conversation that brings none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SystemPrompt {
    /// What the release's `chat()` does unasked: its own text in 2.0 and 4KHD, none in 2.5.
    #[default]
    Default,
    None,
    Text(String),
}

/// How to render a conversation.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions<'a> {
    pub bos: BosRule,
    /// Used where the conversation has no system message of its own.
    pub system: SystemPrompt,
    /// Pictures that were sent along.
    pub num_pictures: usize,
    /// The beginning of the answer, which the model goes on from.
    pub answer_prefix: Option<&'a str>,
}

/// The chat template of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatTemplate {
    pub variant: Variant,
    /// Side of a tile or square in pixels: 224 is the composition release, whose system text differs.
    pub picture_side: u32,
}

impl ChatTemplate {
    pub fn of(model: &ModelDescription) -> Self {
        Self {
            variant: model.variant,
            picture_side: model.picture.side,
        }
    }

    /// The release's own system text, whether or not it is sent unasked.
    pub fn release_system(self) -> &'static str {
        match (self.variant, self.picture_side) {
            (Variant::Xc2, COMPOSITION_PICTURE_SIDE) => COMPOSITION_SYSTEM,
            _ => VISION_LANGUAGE_SYSTEM,
        }
    }

    /// The system text the release sends unasked.
    pub fn default_system(self) -> Option<&'static str> {
        match self.variant {
            Variant::Xc2 | Variant::Xc2FourKhd => Some(self.release_system()),
            Variant::Xc2d5 => None,
        }
    }

    /// Renders a conversation that ends with the user's question into a prompt that ends where the answer begins.
    ///
    /// Fails where the roles do not alternate, or where as many pictures are not placed as were sent. One picture
    /// without a place goes to the very front in 2.5; the others ask for a place.
    pub fn render(
        self,
        tokenizer: &Tokenizer,
        messages: &[ChatMessage],
        options: &RenderOptions<'_>,
    ) -> Result<RenderedPrompt, RenderError> {
        let conversation = Conversation::of(messages)?;
        let unplaced = self.check_pictures(messages, options.num_pictures)?;
        let mut prompt = PromptBuilder::new(tokenizer, self.bos_placement(options));
        if unplaced {
            prompt.picture();
        }
        self.push_system(&mut prompt, conversation.system, &options.system);
        for message in conversation.turns {
            prompt.trusted(if message.role == Role::User {
                OPEN_USER
            } else {
                OPEN_ASSISTANT
            });
            push_content(&mut prompt, message);
            prompt.trusted(CLOSE);
        }
        prompt
            .trusted(OPEN_ASSISTANT)
            .untrusted(options.answer_prefix.unwrap_or_default());
        Ok(prompt.finish())
    }

    /// Whether a picture has no place and goes to the front.
    fn check_pictures(self, messages: &[ChatMessage], given: usize) -> Result<bool, RenderError> {
        let not_a_user =
            |message: &ChatMessage| message.role != Role::User && message.has_picture_parts();
        if let Some(index) = messages.iter().position(not_a_user) {
            return Err(RenderError::PictureNotFromUser {
                index,
                role: messages[index].role,
            });
        }
        let placed: usize = messages.iter().map(ChatMessage::num_pictures).sum();
        let unplaced = self.variant == Variant::Xc2d5 && (placed, given) == (0, 1);
        if placed == given || unplaced {
            Ok(unplaced)
        } else {
            Err(RenderError::PictureCount { placed, given })
        }
    }

    fn bos_placement(self, options: &RenderOptions<'_>) -> BosPlacement {
        match (options.bos, self.variant) {
            (BosRule::Once, _) | (BosRule::Reference, Variant::Xc2d5) => BosPlacement::Once,
            (BosRule::Reference, _) if options.num_pictures == 0 => BosPlacement::Twice,
            (BosRule::Reference, _) => BosPlacement::EveryText,
        }
    }

    /// A system message wins over the options, and an empty one leaves the block out.
    fn push_system<'a>(
        self,
        prompt: &mut PromptBuilder<'a>,
        own: Option<&'a ChatMessage>,
        otherwise: &'a SystemPrompt,
    ) {
        let texts: Vec<&str> = match (own, otherwise) {
            (Some(message), _) => message.texts().collect(),
            (None, SystemPrompt::Default) => self.default_system().into_iter().collect(),
            (None, SystemPrompt::None) => vec![],
            (None, SystemPrompt::Text(text)) => vec![text],
        };
        if texts.iter().all(|text| text.is_empty()) {
            return;
        }
        prompt.trusted(OPEN_SYSTEM);
        for text in texts {
            prompt.untrusted(text);
        }
        prompt.trusted(CLOSE);
    }
}

fn push_content<'a>(prompt: &mut PromptBuilder<'a>, message: &'a ChatMessage) {
    let placeholders_count = message.role == Role::User && !message.has_picture_parts();
    for part in &message.content {
        match part {
            ContentPart::Picture => {
                prompt.picture();
            }
            ContentPart::Text(text) if placeholders_count => push_placed(prompt, text),
            ContentPart::Text(text) => {
                prompt.untrusted(text);
            }
        }
    }
}

/// Adds text with a picture in place of every placeholder.
fn push_placed<'a>(prompt: &mut PromptBuilder<'a>, text: &'a str) {
    for (place, stretch) in text.split(PICTURE_PLACEHOLDER).enumerate() {
        if place > 0 {
            prompt.picture();
        }
        prompt.untrusted(stretch);
    }
}

/// Messages whose roles are in order.
struct Conversation<'a> {
    system: Option<&'a ChatMessage>,
    /// User and assistant in turn, the user first and last.
    turns: &'a [ChatMessage],
}

impl<'a> Conversation<'a> {
    fn of(messages: &'a [ChatMessage]) -> Result<Self, RenderError> {
        let Some(last) = messages.last() else {
            return Err(RenderError::Empty);
        };
        let system = messages
            .first()
            .filter(|message| message.role == Role::System);
        let offset = usize::from(system.is_some());
        let turns = &messages[offset..];
        for (turn, message) in turns.iter().enumerate() {
            let index = offset + turn;
            let wanted = if turn % 2 == 0 {
                Role::User
            } else {
                Role::Assistant
            };
            if message.role == Role::System {
                return Err(RenderError::SystemNotFirst { index });
            }
            if message.role != wanted {
                return Err(RenderError::WrongRole {
                    index,
                    wanted,
                    found: message.role,
                });
            }
        }
        if last.role != Role::User {
            return Err(RenderError::LastNotUser { found: last.role });
        }
        Ok(Self { system, turns })
    }
}

/// Why a conversation cannot be rendered. Messages are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    #[error("conversation is empty, wanted at least one message from user")]
    Empty,
    #[error("message {index} is from system, which only the first may be")]
    SystemNotFirst { index: usize },
    #[error(
        "message {index} is from {found}, wanted {wanted}: user and assistant take turns, user first"
    )]
    WrongRole {
        index: usize,
        wanted: Role,
        found: Role,
    },
    #[error("last message is from {found}, wanted user")]
    LastNotUser { found: Role },
    #[error("message {index} from {role} holds a picture, which only messages from user may")]
    PictureNotFromUser { index: usize, role: Role },
    #[error(
        "messages place {placed} pictures and {given} were sent: place each with a picture part or <ImageHere>"
    )]
    PictureCount { placed: usize, given: usize },
}
