//! What a request costs: estimated at the door from its bytes and pictures, put right once its prompt is rendered, and paid for in
//! service units, in which a tenant's tokens of different kinds are added up.

use inkstone_composition::Piece;
use inkstone_interface::picture_geometry::PictureGeometry;

use crate::request::{
    AnswerPlan, ChatRequest, ComposedPrompt, Content, Message, MessagePart, PromptLayout,
};

/// Service units of a position of text in a prompt. The ratio to an answer's token is that of the paper, 1 to 2.
const PROMPT_UNITS: u64 = 4;
/// Of a picture's position: a quarter more than text, for the tower and the low-rank branches.
const PICTURE_UNITS: u64 = 5;
/// Of a token of an answer: it takes a row of a step of its own.
const OUTPUT_UNITS: u64 = 8;
/// Bytes of text that make a token, about: 4 of English, 2 to 3 of Chinese. Rather too few, so that the guess is rather too high.
const BYTES_PER_TOKEN: u64 = 3;
/// Tokens that the template puts around a message.
const TEMPLATE_TOKENS: u64 = 8;
/// Side of the picture that stands for all whose size is not known yet, in pixels.
const USUAL_SIDE: u32 = 1000;

/// Positions of a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PromptCost {
    /// Those of text.
    pub(crate) text_tokens: u64,
    /// Those of pictures.
    pub(crate) picture_tokens: u64,
}

/// What a request asks for, as far as it is known when it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestCost {
    /// A guess.
    pub(crate) prompt: PromptCost,
    /// Sequences that run side by side for it, at least 1.
    pub(crate) sequences: u32,
    /// Tokens of all its answers at most.
    pub(crate) max_output_tokens: u64,
    /// What it holds in memory while it waits.
    pub(crate) bytes: u64,
}

impl PromptCost {
    /// All positions.
    pub(crate) fn tokens(self) -> u64 {
        self.text_tokens.saturating_add(self.picture_tokens)
    }

    /// In service units.
    pub(crate) fn units(self) -> u64 {
        let text = self.text_tokens.saturating_mul(PROMPT_UNITS);
        text.saturating_add(self.picture_tokens.saturating_mul(PICTURE_UNITS))
    }
}

/// Tokens of an answer in service units.
pub(crate) fn output_units(tokens: u64) -> u64 {
    tokens.saturating_mul(OUTPUT_UNITS)
}

impl RequestCost {
    /// What `request` will cost a model that takes pictures so.
    pub(crate) fn estimate(request: &ChatRequest, pictures: &PictureGeometry) -> Self {
        let (prompt, bytes) = match &request.content {
            Content::Chat { messages, layout } => chat_cost(messages, layout, pictures),
            Content::Composition(composed) => composed_cost(composed),
        };
        let sequences = num_sequences(&request.answers).max(1);
        Self {
            prompt,
            sequences,
            max_output_tokens: u64::from(request.stop.max_tokens) * u64::from(sequences),
            bytes,
        }
    }
}

/// Of a conversation, and the bytes that it holds.
fn chat_cost(
    messages: &[Message],
    layout: &PromptLayout,
    pictures: &PictureGeometry,
) -> (PromptCost, u64) {
    let (mut text_bytes, mut picture_bytes, mut num_pictures) = (0u64, 0u64, 0usize);
    for part in messages.iter().flat_map(|message| &message.parts) {
        match part {
            MessagePart::Text(text) => text_bytes += text.len() as u64,
            MessagePart::Picture(data) => {
                picture_bytes += data.len() as u64;
                num_pictures += 1;
            }
        }
    }
    text_bytes += layout.answer_prefix.len() as u64;
    let hd_num = pictures.hd_num(layout.hd_num, num_pictures);
    let each = pictures.layout(USUAL_SIDE, USUAL_SIDE, hd_num);
    let each = each.map_or(pictures.patches_per_tile(), |layout| layout.num_tokens);
    let template = TEMPLATE_TOKENS * messages.len() as u64;
    let cost = PromptCost {
        text_tokens: text_bytes / BYTES_PER_TOKEN + template,
        picture_tokens: (each as u64).saturating_mul(num_pictures as u64),
    };
    (cost, text_bytes + picture_bytes)
}

/// Of a composition's question. How long its pictures are is known, and others keep them.
fn composed_cost(composed: &ComposedPrompt) -> (PromptCost, u64) {
    let prompt = &composed.prompt;
    let user = prompt.user().iter().map(|piece| match piece {
        Piece::Text(text) => text.len(),
        Piece::Picture(_) => 0,
    });
    let system = prompt.system().map_or(0, str::len);
    let text_bytes = (user.sum::<usize>() + system + prompt.answer_prefix().len()) as u64;
    let pictures = composed.pictures.iter();
    let cost = PromptCost {
        text_tokens: text_bytes / BYTES_PER_TOKEN + TEMPLATE_TOKENS,
        picture_tokens: pictures
            .map(|picture| u64::from(picture.num_tokens()))
            .sum(),
    };
    (cost, text_bytes)
}

/// Sequences that run side by side for these answers.
fn num_sequences(answers: &AnswerPlan) -> u32 {
    match answers {
        AnswerPlan::All { num_answers } => *num_answers,
        AnswerPlan::Best { num_drawn, .. } => *num_drawn,
        AnswerPlan::Beam(beam) => beam.width,
    }
}
