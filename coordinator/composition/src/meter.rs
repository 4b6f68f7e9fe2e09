//! How long prompts are, and how they are made to fit: by leaving out what matters least, never by cutting the end.

use inkstone_interface::tokenizer::Tokenizer;

use crate::{PictureId, Prompt};

/// Measures prompts for the model that will run them.
pub trait Meter {
    /// Positions for a prompt and its answer.
    fn context_tokens(&self) -> usize;
    /// Positions for a prompt, where that is less than the context without its answer.
    fn max_prompt_tokens(&self) -> usize {
        self.context_tokens()
    }
    /// Positions of a prompt.
    fn num_tokens(&self, prompt: &Prompt) -> usize;
}

/// Measures with the model's own tokenizer. `picture_tokens` tells how many positions a picture takes.
#[derive(Debug, Clone)]
pub struct TokenizerMeter<F> {
    pub tokenizer: Tokenizer,
    pub picture_tokens: F,
    pub context_tokens: usize,
}

impl<F: Fn(&PictureId) -> usize> Meter for TokenizerMeter<F> {
    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn num_tokens(&self, prompt: &Prompt) -> usize {
        let pictures: usize = prompt.pictures().map(&self.picture_tokens).sum();
        prompt.render(&self.tokenizer).num_text_tokens() + pictures
    }
}

/// A prompt that does not fit, however much is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("prompt has {num_tokens} tokens, limit is {limit}")]
pub struct TooLong {
    /// Of the prompt at its shortest.
    pub num_tokens: usize,
    pub limit: usize,
}

/// Room that an answer gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) wanted: usize,
    /// With less the question is not worth asking.
    pub(crate) least: usize,
}

impl Budget {
    pub(crate) fn exactly(tokens: usize) -> Self {
        Self {
            wanted: tokens,
            least: tokens,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Fitted {
    pub(crate) prompt: Prompt,
    pub(crate) max_new_tokens: usize,
    pub(crate) is_shortened: bool,
}

/// The longest of some wordings that fits. `wording(0)` is the whole question, later ones are shorter and shorter.
pub(crate) fn fit(
    meter: &dyn Meter,
    budget: Budget,
    num_wordings: usize,
    wording: impl Fn(usize) -> Prompt,
) -> Result<Fitted, TooLong> {
    let context = meter.context_tokens();
    let limit = context
        .saturating_sub(budget.least)
        .min(meter.max_prompt_tokens());
    let fitted = |prompt, num_tokens: usize, level| Fitted {
        prompt,
        max_new_tokens: budget.wanted.min(context - num_tokens),
        is_shortened: level > 0,
    };
    let measured = |level| {
        let prompt = wording(level);
        let num_tokens = meter.num_tokens(&prompt);
        (prompt, num_tokens)
    };
    let (whole, num_tokens) = measured(0);
    if num_tokens <= limit {
        return Ok(fitted(whole, num_tokens, 0));
    }
    let mut fits_at = num_wordings.saturating_sub(1);
    let (mut prompt, mut num_tokens) = measured(fits_at);
    if num_tokens > limit {
        return Err(TooLong { num_tokens, limit });
    }
    let mut too_long_at = 0;
    while fits_at - too_long_at > 1 {
        let middle = too_long_at.midpoint(fits_at);
        let (shorter, length) = measured(middle);
        if length <= limit {
            (prompt, num_tokens, fits_at) = (shorter, length, middle);
        } else {
            too_long_at = middle;
        }
    }
    Ok(fitted(prompt, num_tokens, fits_at))
}

/// The beginning of a text, with a sign where something is missing.
pub(crate) fn clip_end(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The end of a text, with a sign where something is missing.
pub(crate) fn clip_start(text: &str, max_chars: usize) -> String {
    match text.char_indices().rev().nth(max_chars) {
        Some((last_left_out, c)) => format!("…{}", &text[last_left_out + c.len_utf8()..]),
        None => text.to_owned(),
    }
}

/// How many characters of a paragraph are left where a prompt must be shortened: step by step, down to a glimpse.
pub(crate) const CLIPS: [usize; 12] = [800, 500, 300, 200, 150, 100, 70, 50, 35, 25, 15, 8];
