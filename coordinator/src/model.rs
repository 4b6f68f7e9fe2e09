//! The model that the cluster serves, as learnt from the first language group that answered.

use std::sync::Arc;

use inkstone_interface::{
    description::ModelDescription,
    tokenizer::{Tokenizer, TokenizerError},
};

use crate::{error::RequestError, worker_client::LanguageDescription};

/// What requests need of the model.
pub(crate) struct ServedModel {
    pub(crate) description: ModelDescription,
    pub(crate) tokenizer: Tokenizer,
    /// Ids that end an answer.
    pub(crate) stop_token_ids: Arc<[u32]>,
    /// Longest prompt, pictures included; leaves room for one token of answer.
    pub(crate) max_prompt_tokens: usize,
    /// Longest sequence, prompt and answer.
    pub(crate) max_sequence_tokens: usize,
}

impl ServedModel {
    /// Reads the tokenizer and settles the limits.
    pub(crate) fn new(answer: LanguageDescription) -> Result<Self, TokenizerError> {
        let tokenizer = Tokenizer::from_model_bytes(&answer.tokenizer_model)?
            .with_added_tokens(&answer.added_tokens)?;
        let max_prompt_tokens = answer
            .model
            .max_prompt_tokens
            .min(answer.max_sequence_tokens.saturating_sub(1));
        Ok(Self {
            stop_token_ids: tokenizer.stop_token_ids().into(),
            tokenizer,
            max_prompt_tokens,
            max_sequence_tokens: answer.max_sequence_tokens,
            description: answer.model,
        })
    }

    /// Whether another worker's description is of this model.
    pub(crate) fn is(&self, other: &ModelDescription) -> bool {
        // The stop tokens are filled in by whoever holds the tokenizer, and not every worker does.
        let without_stops = |description: &ModelDescription| ModelDescription {
            stop_token_ids: vec![],
            ..description.clone()
        };
        without_stops(&self.description) == without_stops(other)
    }

    /// Accepts the model's own name, and none.
    pub(crate) fn check_name(&self, wanted: &str) -> Result<(), RequestError> {
        if wanted.is_empty() || wanted == self.description.name {
            return Ok(());
        }
        Err(RequestError::ModelNotFound {
            wanted: wanted.to_owned(),
            served: self.description.name.clone(),
        })
    }
}
