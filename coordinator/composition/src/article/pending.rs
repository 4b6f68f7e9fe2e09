//! An edit by the model: opened with a question, filled while the answer streams, then applied, as it is or as the user
//! changed it, or cancelled. One is open at a time.

use serde::{Deserialize, Serialize};

use super::{Article, Edit, EditError, Revision, SegmentId, edit::check_text};
use crate::{
    Asked, Meter,
    generation::{StepSettings, derive_seed},
    steps::edit::{Operation, Question},
};

/// Tells the seeds of edits from those of other steps.
const SEED_STEP: u64 = 5;

/// What the model is asked to do to a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub segment: SegmentId,
    pub operation: Operation,
    /// Material, or the outline of what is inserted, which must not be empty.
    pub instruction: String,
}

/// An open edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingEdit {
    pub proposal: Proposal,
    /// The segment's text when it was opened.
    original: String,
    /// The answer so far.
    pub text: String,
}

impl Article {
    /// Opens an edit and says what to ask the model. The article does not change.
    pub fn propose(
        &mut self,
        revision: Revision,
        proposal: Proposal,
        meter: &dyn Meter,
    ) -> Result<Asked, EditError> {
        self.expect(revision)?;
        if let Some(open) = &self.pending {
            return Err(EditError::EditOpen(open.proposal.segment));
        }
        let at = self.find(proposal.segment)?;
        let instruction = proposal.instruction.trim();
        if proposal.operation.is_insertion() && instruction.is_empty() {
            return Err(EditError::EmptyOutline);
        }
        check_text(instruction)?;
        let text_at = |at: Option<usize>| {
            let segment = at.and_then(|at| self.segments.get(at));
            segment.map_or("", |segment| &segment.text)
        };
        let question = Question {
            operation: proposal.operation,
            text: text_at(Some(at)),
            before: text_at(at.checked_sub(1)),
            after: text_at(at.checked_add(1)),
            instruction: &proposal.instruction,
        };
        let request = &self.request;
        let settings = StepSettings {
            system: request.system.text(),
            release: request.release,
            sampling: request.later_sampling(),
            seed: derive_seed(request.seed, SEED_STEP, self.num_proposals),
        };
        let asked = question.ask(&settings, meter)?;
        let original = question.text.to_owned();
        self.num_proposals += 1;
        self.pending = Some(PendingEdit {
            proposal,
            original,
            text: String::new(),
        });
        Ok(asked)
    }

    /// A stretch of the model's answer.
    pub fn push_proposed(&mut self, text: &str) -> Result<(), EditError> {
        let pending = self.pending.as_mut().ok_or(EditError::NoEditOpen)?;
        let len = pending.text.len() + text.len();
        if len > super::MAX_SEGMENT_BYTES {
            return Err(EditError::TextTooLong(len));
        }
        pending.text.push_str(text);
        Ok(())
    }

    /// Makes the change: with the model's text, or with what the user made of it. An empty text deletes a segment that was
    /// to be changed, and inserts none. A refused one leaves the edit open.
    pub fn apply_proposed(
        &mut self,
        revision: Revision,
        text: Option<String>,
    ) -> Result<Revision, EditError> {
        let pending = self.pending.as_ref().ok_or(EditError::NoEditOpen)?;
        let Proposal {
            segment, operation, ..
        } = pending.proposal;
        let text = text.unwrap_or_else(|| pending.text.clone());
        let at = self.find(segment)?;
        let edit = match operation {
            Operation::Rewrite | Operation::Expand | Operation::Abbreviate => {
                Edit::SetText { segment, text }
            }
            Operation::InsertBefore => Edit::Insert { at, text },
            Operation::InsertAfter => Edit::Insert { at: at + 1, text },
        };
        let revision = self.edit(revision, edit)?;
        self.pending = None;
        Ok(revision)
    }

    /// Closes the open edit; the article stays as it is.
    pub fn cancel_proposed(&mut self) -> Result<(), EditError> {
        self.pending.take().map(drop).ok_or(EditError::NoEditOpen)
    }

    /// An edit of a text that is gone has nothing to be applied to.
    pub(super) fn drop_stale_pending(&mut self) {
        let is_current = |pending: &PendingEdit| {
            let mut segments = self.segments.iter();
            segments.any(|segment| {
                segment.id == pending.proposal.segment && segment.text == pending.original
            })
        };
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| !is_current(pending))
        {
            self.pending = None;
        }
    }
}
