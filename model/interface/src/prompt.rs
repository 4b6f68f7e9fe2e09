//! A prompt as the model takes it: token ids and picture slots in order (spec section 10.2).
//!
//! Text between two pictures is tokenised by itself, since no merge may cross a picture, and `<s>` goes where the
//! chosen rule wants it.

use crate::tokenizer::{TextSpan, Tokenizer};

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptPart {
    /// Ids of text; never empty.
    Tokens(Vec<u32>),
    /// The rows of picture `index`, counted from 0 in the order in which pictures stand in the prompt.
    Picture { index: usize },
}

/// A prompt ready for the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RenderedPrompt {
    pub parts: Vec<PromptPart>,
}

impl RenderedPrompt {
    /// Ids of text, `<s>` included.
    pub fn num_text_tokens(&self) -> usize {
        self.parts
            .iter()
            .map(|part| match part {
                PromptPart::Tokens(ids) => ids.len(),
                PromptPart::Picture { .. } => 0,
            })
            .sum()
    }

    pub fn num_pictures(&self) -> usize {
        self.parts
            .iter()
            .filter(|part| matches!(part, PromptPart::Picture { .. }))
            .count()
    }

    /// Positions the prompt takes, given how many each picture takes.
    ///
    /// # Panics
    /// Where `picture_tokens` has not one count for each picture: rendering checks their number.
    pub fn num_tokens(&self, picture_tokens: &[usize]) -> usize {
        assert_eq!(
            picture_tokens.len(),
            self.num_pictures(),
            "one token count is wanted for each picture"
        );
        self.num_text_tokens() + picture_tokens.iter().sum::<usize>()
    }
}

/// Where `<s>` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BosPlacement {
    /// Once at the start, before a picture even.
    Once,
    /// Twice at the start.
    Twice,
    /// Before every text that is not empty, so again after each picture.
    EveryText,
}

/// Puts a prompt together from text and pictures.
#[derive(Debug)]
pub struct PromptBuilder<'a> {
    tokenizer: &'a Tokenizer,
    bos: BosPlacement,
    /// Text since the last picture.
    spans: Vec<TextSpan<'a>>,
    parts: Vec<PromptPart>,
    num_pictures: usize,
}

impl<'a> PromptBuilder<'a> {
    pub fn new(tokenizer: &'a Tokenizer, bos: BosPlacement) -> Self {
        Self {
            tokenizer,
            bos,
            spans: Vec::new(),
            parts: Vec::new(),
            num_pictures: 0,
        }
    }

    /// Adds our own text, in which marks of turns count.
    pub fn trusted(&mut self, text: &'a str) -> &mut Self {
        self.spans.push(TextSpan::trusted(text));
        self
    }

    /// Adds text from outside.
    pub fn untrusted(&mut self, text: &'a str) -> &mut Self {
        self.spans.push(TextSpan::untrusted(text));
        self
    }

    /// Adds the next picture.
    pub fn picture(&mut self) -> &mut Self {
        self.close_text();
        self.parts.push(PromptPart::Picture {
            index: self.num_pictures,
        });
        self.num_pictures += 1;
        self
    }

    pub fn finish(mut self) -> RenderedPrompt {
        self.close_text();
        RenderedPrompt { parts: self.parts }
    }

    fn close_text(&mut self) {
        let text = self.tokenizer.encode_spans(&self.spans);
        self.spans.clear();
        let num_bos = match self.bos {
            BosPlacement::EveryText => usize::from(!text.is_empty()),
            BosPlacement::Once if self.parts.is_empty() => 1,
            BosPlacement::Twice if self.parts.is_empty() => 2,
            BosPlacement::Once | BosPlacement::Twice => 0,
        };
        let mut ids = vec![self.tokenizer.bos_id(); num_bos];
        ids.extend(text);
        if !ids.is_empty() {
            self.parts.push(PromptPart::Tokens(ids));
        }
    }
}
