//! What the model is asked: a user's turn of text and pictures, the system text before it and the words that the answer
//! begins with (spec section 1).
//!
//! All text of a turn is untrusted: marks of turns in an instruction or an article are plain text, and a picture is a piece of
//! its own, so a literal `<image>` is plain text too.

use inkstone_interface::{
    prompt::{BosPlacement, PromptBuilder, RenderedPrompt},
    tokenizer::Tokenizer,
};
use serde::{Deserialize, Serialize};

use crate::PictureId;

const OPEN_SYSTEM: &str = "[UNUSED_TOKEN_146]system\n";
const OPEN_USER: &str = "[UNUSED_TOKEN_146]user\n";
const OPEN_ASSISTANT: &str = "[UNUSED_TOKEN_146]assistant\n";
const CLOSE: &str = "[UNUSED_TOKEN_145]\n";

/// How a picture is written where a prompt is shown as text.
const PLACEHOLDER: &str = "<image>";

/// The system text of the demo's "With Meta" box. Unlike that of chats, it ends with a newline.
const RELEASE_SYSTEM: &str = "\
You are an AI assistant whose name is InternLM-XComposer (浦语·灵笔).
- InternLM-XComposer (浦语·灵笔) is a conversational language model that is developed by Shanghai AI Laboratory (上海人工智能实验室). It is designed to be helpful, honest, and harmless.
- InternLM-XComposer (浦语·灵笔) can understand and communicate fluently in the language chosen by the user such as English and 中文.
";

/// Which release's words are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// 2.0, and what is made like it.
    #[default]
    Xc2,
    /// 2.5, which is asked for captions by an example (spec section 8).
    Xc2d5,
}

/// The system text of every step, where a step brings none of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemText {
    /// No system block: as the model was trained to compose.
    #[default]
    None,
    /// The release's own.
    Release,
    /// This one, to the letter. An empty one leaves the block out.
    Text(String),
}

impl SystemText {
    /// What stands in the system block.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Release => Some(RELEASE_SYSTEM),
            Self::Text(text) => Some(text)
                .filter(|text| !text.is_empty())
                .map(|text| &**text),
        }
    }
}

/// A stretch of a user's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Never empty.
    Text(String),
    Picture(PictureId),
}

/// A question to the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompt {
    system: Option<String>,
    user: Vec<Piece>,
    answer_prefix: &'static str,
}

impl Prompt {
    /// A question without words yet. The answer goes on from `answer_prefix`.
    pub(crate) fn new(system: Option<&str>, answer_prefix: &'static str) -> Self {
        Self {
            system: system.map(str::to_owned),
            user: vec![],
            answer_prefix,
        }
    }

    /// Adds text to the user's turn.
    pub(crate) fn text(mut self, text: &str) -> Self {
        match self.user.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            Some(Piece::Picture(_)) | None => self.user.push(Piece::Text(text.to_owned())),
        }
        self
    }

    /// Adds a picture to the user's turn.
    pub(crate) fn picture(mut self, picture: &PictureId) -> Self {
        self.user.push(Piece::Picture(picture.clone()));
        self
    }

    /// What stands in the system block, where there is one.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// The user's turn. Texts do not follow each other.
    pub fn user(&self) -> &[Piece] {
        &self.user
    }

    /// How the answer begins; what the model says follows it.
    pub fn answer_prefix(&self) -> &'static str {
        self.answer_prefix
    }

    /// Its pictures in the order of their slots.
    pub fn pictures(&self) -> impl Iterator<Item = &PictureId> {
        self.user.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Picture(picture) => Some(picture),
        })
    }

    /// The prompt as ids and slots, which are numbered like [`pictures`](Self::pictures). `<s>` stands once, at the start.
    pub fn render(&self, tokenizer: &Tokenizer) -> RenderedPrompt {
        let mut prompt = PromptBuilder::new(tokenizer, BosPlacement::Once);
        if let Some(system) = &self.system {
            prompt.trusted(OPEN_SYSTEM).untrusted(system).trusted(CLOSE);
        }
        prompt.trusted(OPEN_USER);
        for piece in &self.user {
            match piece {
                Piece::Text(text) => prompt.untrusted(text),
                Piece::Picture(_) => prompt.picture(),
            };
        }
        prompt
            .trusted(CLOSE)
            .trusted(OPEN_ASSISTANT)
            .untrusted(self.answer_prefix);
        prompt.finish()
    }
}

/// As the demo writes it, with `<image>` for pictures.
impl std::fmt::Display for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(system) = &self.system {
            write!(f, "{OPEN_SYSTEM}{system}{CLOSE}")?;
        }
        f.write_str(OPEN_USER)?;
        for piece in &self.user {
            f.write_str(match piece {
                Piece::Text(text) => text,
                Piece::Picture(_) => PLACEHOLDER,
            })?;
        }
        write!(f, "{CLOSE}{OPEN_ASSISTANT}{}", self.answer_prefix)
    }
}
