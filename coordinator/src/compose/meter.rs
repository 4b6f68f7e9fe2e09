//! Measures questions for the served model.

use std::sync::Arc;

use inkstone_composition::{Meter, PictureId, Prompt};

use crate::model::ServedModel;

/// `picture_tokens` says how many positions a picture takes.
pub(super) struct ModelMeter<F> {
    pub(super) model: Arc<ServedModel>,
    pub(super) picture_tokens: F,
}

impl<F: Fn(&PictureId) -> usize> Meter for ModelMeter<F> {
    fn context_tokens(&self) -> usize {
        self.model.max_sequence_tokens
    }

    fn max_prompt_tokens(&self) -> usize {
        self.model.max_prompt_tokens
    }

    fn num_tokens(&self, prompt: &Prompt) -> usize {
        let pictures: usize = prompt.pictures().map(&self.picture_tokens).sum();
        prompt.render(&self.model.tokenizer).num_text_tokens() + pictures
    }
}
