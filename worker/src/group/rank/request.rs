//! A request as a rank keeps it: its prompt, and the pictures in it from features to rows.

use std::{collections::HashMap, ops::Range, sync::Arc};

use inkstone_engine::RequestId;
use inkstone_model::{
    internlm2::{Input, LanguageModel},
    tensor::Tensor,
};

use crate::{
    constraint::{Constraint, ConstraintVocabulary},
    executor::{EncodedPicture, PictureDigest, PromptPart, RequestSetup},
};

/// See the module's text.
pub(super) struct RankRequest {
    setup: Arc<RequestSetup>,
    prompt_tokens: usize,
    /// Kept until the request is over: a preempted prompt is computed again.
    features: HashMap<PictureDigest, Arc<EncodedPicture>>,
    /// Made when prefill reaches a picture, dropped when it is done.
    projected: HashMap<PictureDigest, Tensor>,
    /// Where an answer begins, or why none can.
    constraint: Option<Result<Constraint, String>>,
}

impl RankRequest {
    /// The leader compiled the constraint before, so that a form nobody can follow does not come here.
    pub(super) fn new(setup: Arc<RequestSetup>, vocabulary: &ConstraintVocabulary) -> Self {
        let form = setup.sampling.constraint.as_ref();
        Self {
            constraint: form.map(|form| vocabulary.compile(form)),
            prompt_tokens: setup.prompt_tokens(),
            features: HashMap::new(),
            projected: HashMap::new(),
            setup,
        }
    }

    pub(super) fn id(&self) -> RequestId {
        self.setup.id
    }

    pub(super) fn setup(&self) -> &RequestSetup {
        &self.setup
    }

    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub(super) fn constraint(&self) -> Option<Result<Constraint, String>> {
        self.constraint.clone()
    }

    pub(super) fn keep_pictures(&mut self, pictures: Vec<Arc<EncodedPicture>>) {
        self.features.extend(
            pictures
                .into_iter()
                .map(|picture| (picture.digest, picture)),
        );
    }

    /// Makes rows of the pictures that `positions` touch.
    pub(super) fn project(
        &mut self,
        positions: Range<usize>,
        model: &LanguageModel,
    ) -> Result<(), String> {
        if positions.start >= self.prompt_tokens {
            return Ok(());
        }
        let setup = Arc::clone(&self.setup);
        for (part, _) in parts_in(&setup.prompt, positions) {
            let PromptPart::Picture { digest, .. } = &setup.prompt[part] else {
                continue;
            };
            if self.projected.contains_key(digest) {
                continue;
            }
            let picture = self.features.get(digest).ok_or_else(|| {
                format!(
                    "request {} runs picture {digest}, whose features were not sent",
                    setup.id
                )
            })?;
            let rows = model
                .project(&picture.features)
                .map_err(|error| error.to_string())?;
            self.projected.insert(*digest, rows);
        }
        Ok(())
    }

    pub(super) fn drop_projected(&mut self) {
        self.projected.clear();
    }

    /// What the forward takes for `positions` of the prompt.
    pub(super) fn inputs(&self, positions: Range<usize>) -> Result<Vec<Input<'_>>, String> {
        let part = |(part, rows): (usize, Range<usize>)| match &self.setup.prompt[part] {
            PromptPart::Tokens(ids) => Ok(Input::Tokens(&ids[rows])),
            PromptPart::Picture { digest, .. } => {
                let projected = self.projected.get(digest);
                projected
                    .map(|projected| Input::Picture { projected, rows })
                    .ok_or_else(|| format!("picture {digest} was not projected"))
            }
        };
        parts_in(&self.setup.prompt, positions)
            .into_iter()
            .map(part)
            .collect()
    }

    /// The prompt's token that the row at `position` predicts; `None` where the prompt ends, or at a picture.
    pub(super) fn predicted(&self, position: usize) -> Option<u32> {
        self.token_at(position)?;
        self.token_at(position + 1)
    }

    fn token_at(&self, position: usize) -> Option<u32> {
        let mut first = 0;
        for part in &self.setup.prompt {
            let len = part.num_tokens();
            if position < first + len {
                return match part {
                    PromptPart::Tokens(ids) => Some(ids[position - first]),
                    PromptPart::Picture { .. } => None,
                };
            }
            first += len;
        }
        None
    }
}

/// The parts of a prompt that `positions` touch, each with its own rows among them.
pub(super) fn parts_in(
    prompt: &[PromptPart],
    positions: Range<usize>,
) -> Vec<(usize, Range<usize>)> {
    let mut first = 0;
    let mut touched = Vec::new();
    for (part, content) in prompt.iter().enumerate() {
        let len = content.num_tokens();
        let start = positions.start.clamp(first, first + len) - first;
        let end = positions.end.clamp(first, first + len) - first;
        if start < end {
            touched.push((part, start..end));
        }
        first += len;
    }
    touched
}
