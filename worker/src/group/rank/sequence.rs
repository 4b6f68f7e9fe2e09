//! A sequence as a rank keeps it: what was drawn for it, and what that means for the next draw.

use std::ops::Range;

use inkstone_engine::{RequestId, StepItem};
use inkstone_model::{
    internlm2::{BatchSequence, Input, LogitsRows},
    sampling::TokenMask,
};

use super::request::RankRequest;
use crate::{constraint::Constraint, executor::PromptPart};

/// See the module's text. A fork is a clone.
#[derive(Clone)]
pub(super) struct RankSequence {
    request: RequestId,
    prompt_tokens: usize,
    drawn: Vec<u32>,
    /// Distinct ids that the repetition penalty counts (spec/model.md section 10.3), rising.
    seen: Vec<u32>,
    /// Ids that were drawn, rising, with the times they were.
    generated: Vec<(u32, u32)>,
    /// How far the answer got in the form it must have, or why it cannot go on.
    constraint: Option<Result<Constraint, String>>,
}

impl RankSequence {
    /// A sequence that has the request's prompt, and what an earlier run drew for its branch: as if it had drawn that itself.
    pub(super) fn start(request: &RankRequest, branch: usize, bos_token_id: u32) -> Self {
        let setup = request.setup();
        let seen = if setup.has_picture() {
            // The reference gives such prompts as embeddings: all it has seen is one BOS.
            vec![bos_token_id]
        } else {
            let ids = setup.prompt.iter().flat_map(|part| match part {
                PromptPart::Tokens(ids) => ids.as_slice(),
                PromptPart::Picture { .. } => &[],
            });
            let mut seen: Vec<u32> = ids.copied().collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        let mut sequence = Self {
            request: setup.id,
            prompt_tokens: request.prompt_tokens(),
            drawn: Vec::new(),
            seen,
            generated: Vec::new(),
            constraint: request.constraint(),
        };
        let drawn = setup.resumed(branch).iter();
        drawn.for_each(|token_id| sequence.append(*token_id));
        sequence
    }

    pub(super) fn request(&self) -> RequestId {
        self.request
    }

    pub(super) fn seen(&self) -> &[u32] {
        &self.seen
    }

    pub(super) fn generated(&self) -> &[(u32, u32)] {
        &self.generated
    }

    /// Adds the token that was drawn last.
    pub(super) fn append(&mut self, token_id: u32) {
        self.drawn.push(token_id);
        if let Err(at) = self.seen.binary_search(&token_id) {
            self.seen.insert(at, token_id);
        }
        match self
            .generated
            .binary_search_by_key(&token_id, |(id, _)| *id)
        {
            Ok(at) => self.generated[at].1 += 1,
            Err(at) => self.generated.insert(at, (token_id, 1)),
        }
        if let Some(Ok(constraint)) = &mut self.constraint
            && let Err(reason) = constraint.accept(token_id)
        {
            self.constraint = Some(Err(reason));
        }
    }

    /// The tokens that its constraint allows next; `None` without one.
    pub(super) fn allowed(&mut self) -> Option<Result<TokenMask, String>> {
        match self.constraint.as_mut()? {
            Ok(constraint) => Some(constraint.allowed()),
            Err(reason) => Some(Err(reason.clone())),
        }
    }

    /// Finds out whether a plan speaks of the same tokens.
    pub(super) fn check(&self, item: &StepItem) -> Result<(), String> {
        let len = self.prompt_tokens + self.drawn.len();
        let is_complete = item.end == len;
        let fits = item.start < item.end && item.end <= len;
        if fits && (is_complete || (item.draw.is_none() && item.appended.is_none())) {
            return Ok(());
        }
        Err(format!(
            "the item `{item}` does not fit a sequence of {len} tokens"
        ))
    }

    /// Its part of a step's forward.
    pub(super) fn rows<'a>(
        &'a self,
        item: &StepItem,
        request: &'a RankRequest,
        block_table: &'a [u32],
    ) -> Result<BatchSequence<'a>, String> {
        let Range { start, end } = item.positions();
        let prompt = start.min(self.prompt_tokens)..end.min(self.prompt_tokens);
        let mut inputs = request.inputs(prompt)?;
        let past_prompt = |position: usize| position.saturating_sub(self.prompt_tokens);
        let drawn = &self.drawn[past_prompt(start)..past_prompt(end)];
        if !drawn.is_empty() {
            inputs.push(Input::Tokens(drawn));
        }
        Ok(BatchSequence {
            start,
            inputs,
            block_table,
            rope_length: self.prompt_tokens,
            logits: if item.prompt_logprobs {
                LogitsRows::All
            } else if item.draw.is_some() {
                LogitsRows::Last
            } else {
                LogitsRows::None
            },
        })
    }
}
