//! The seam between the step loop and what computes: requests' contents go in once, plans go in step by step, drawn
//! tokens come out.

mod device;
mod simulated;

use std::{fmt, sync::Arc, time::Duration};

use inkstone_engine::{RequestId, StepOutput, StepPlan};
use inkstone_model::{clip::PictureFeatures, sampling::SamplingParams};
use thiserror::Error;

pub(crate) use device::RANK_QUEUE;
pub use device::{DeviceExecutor, LocalRank, PeerRank, RankFailures, RankReports};
pub use simulated::{
    Accelerator, Clock, CostModel, SimulatedExecutor, SimulatedSettings, StepWork,
};

use crate::constraint::ConstraintForm;

/// Runs plans. After an error the executor is dead: the group has to be made again.
pub trait Executor: Send {
    /// Takes the contents of a request, before the first plan that names it.
    fn admit(&mut self, setup: Arc<RequestSetup>) -> Result<(), ExecutorError>;
    /// Takes the features of a request's pictures, before the first plan that computes their rows. They are never sent for a
    /// request whose pictures are all in the cache.
    fn pictures(
        &mut self,
        request: RequestId,
        pictures: Vec<Arc<EncodedPicture>>,
    ) -> Result<(), ExecutorError>;
    /// Begins a step without waiting for it. One step at a time: the one before must be finished.
    fn start(&mut self, plan: Arc<StepPlan>) -> Result<(), ExecutorError>;
    /// Waits for the step that was started; past the step deadline it is an error.
    fn finish(&mut self) -> Result<StepOutput, ExecutorError>;
    /// After an error: ranks that did not answer, as far as it can be told.
    fn suspects(&self) -> Vec<usize> {
        Vec::new()
    }
}

/// The contents of a request.
#[derive(Clone, Debug)]
pub struct RequestSetup {
    /// Its name in plans.
    pub id: RequestId,
    /// The prompt, in order.
    pub prompt: Vec<PromptPart>,
    /// How its tokens are chosen.
    pub sampling: SequenceSampling,
    /// Tokens that end an answer: not drawn before `sampling.min_new_tokens`.
    pub stop_token_ids: Vec<u32>,
    /// By branch, what an earlier run of the request drew for it: a sequence that starts as a branch begins with the prompt and
    /// this. Branches past the end drew nothing.
    pub resumed: Vec<Vec<u32>>,
}

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptPart {
    /// Token ids.
    Tokens(Vec<u32>),
    /// A picture; its features come apart ([`Executor::pictures`]), if they are needed at all.
    Picture {
        /// Its name.
        digest: PictureDigest,
        /// Positions it takes.
        num_tokens: usize,
    },
}

/// How the tokens of a request's sequences are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SequenceSampling {
    /// The numbers.
    pub params: SamplingParams,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Stop tokens are not drawn before so many tokens were.
    pub min_new_tokens: usize,
    /// The form that an answer's text must have.
    pub constraint: Option<ConstraintForm>,
}

/// A picture as the vision worker leaves it: before the projector.
#[derive(Debug)]
pub struct EncodedPicture {
    /// Its name.
    pub digest: PictureDigest,
    /// Its features.
    pub features: PictureFeatures,
}

impl EncodedPicture {
    /// Memory it takes.
    pub fn num_bytes(&self) -> usize {
        std::mem::size_of_val(self.features.data())
    }
}

/// BLAKE3 over an encoded picture and the way it is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PictureDigest(pub [u8; 32]);

/// A step that failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ExecutorError {
    /// The network could not compute.
    #[error("rank {rank} failed in step {step}: {reason}")]
    Rank {
        /// The rank.
        rank: usize,
        /// The step.
        step: u64,
        /// Its error.
        reason: String,
    },
    /// A rank does not take commands any more.
    #[error("rank {rank} is gone: {reason}")]
    RankGone {
        /// The rank.
        rank: usize,
        /// What is known of its end.
        reason: String,
    },
    /// A step hangs.
    #[error(
        "step {step} was not done after {deadline:?}: no answer of ranks {missing:?}; the group has to be made again"
    )]
    Deadline {
        /// The step.
        step: u64,
        /// How long it might take.
        deadline: Duration,
        /// Ranks that rank 0 waited for; itself when it waited for none.
        missing: Vec<usize>,
    },
    /// The leader asked for something out of order.
    #[error("the executor was asked to {asked}, but {found}")]
    OutOfOrder {
        /// What it was asked to do.
        asked: &'static str,
        /// Why it cannot.
        found: String,
    },
}

impl PromptPart {
    /// Positions it takes.
    pub fn num_tokens(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Picture { num_tokens, .. } => *num_tokens,
        }
    }
}

impl RequestSetup {
    /// Positions of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.iter().map(PromptPart::num_tokens).sum()
    }

    /// What an earlier run drew for a branch.
    pub fn resumed(&self, branch: usize) -> &[u32] {
        self.resumed.get(branch).map_or(&[], Vec::as_slice)
    }

    /// Whether there is a picture in the prompt.
    pub fn has_picture(&self) -> bool {
        self.prompt
            .iter()
            .any(|part| matches!(part, PromptPart::Picture { .. }))
    }
}

impl TryFrom<&[u8]> for PictureDigest {
    type Error = String;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| format!("a picture digest has 32 bytes, found {}", bytes.len()))
    }
}

impl fmt::Display for PictureDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
