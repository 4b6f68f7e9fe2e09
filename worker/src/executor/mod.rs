//! The seam between the step loop and what computes: sequences' contents go in once, plans go in step by step, drawn
//! tokens come out.

mod device;

use std::{fmt, sync::Arc};

use inkstone_engine::{SequenceId, StepOutput, StepPlan};
use inkstone_model::{clip::PictureFeatures, sampling::SamplingParams};
use thiserror::Error;

pub use device::{DeviceExecutor, PeerRank, local_ranks};

/// Runs plans. After an error the executor is dead: the group has to be made again.
pub trait Executor: Send {
    /// Takes the contents of a sequence, before the first plan that names it.
    fn admit(&mut self, setup: Arc<SequenceSetup>) -> Result<(), ExecutorError>;
    /// Runs one step.
    fn execute(&mut self, plan: Arc<StepPlan>) -> Result<StepOutput, ExecutorError>;
}

/// The contents of a sequence.
#[derive(Debug)]
pub struct SequenceSetup {
    /// Its name in plans.
    pub id: SequenceId,
    /// The prompt, in order.
    pub prompt: Vec<PromptPart>,
    /// How its tokens are chosen.
    pub sampling: SamplingParams,
}

/// A piece of a prompt.
#[derive(Clone, Debug)]
pub enum PromptPart {
    /// Token ids.
    Tokens(Vec<u32>),
    /// A picture.
    Picture(Arc<EncodedPicture>),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PictureDigest(pub [u8; 32]);

/// A step that failed.
#[derive(Debug, Error)]
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
    #[error("rank {rank} is gone")]
    RankGone {
        /// The rank.
        rank: usize,
    },
}

impl PromptPart {
    /// Positions it takes.
    pub fn num_tokens(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Picture(picture) => picture.features.num_tokens(),
        }
    }
}

impl SequenceSetup {
    /// Positions of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.iter().map(PromptPart::num_tokens).sum()
    }

    /// Whether there is a picture in the prompt.
    pub fn has_picture(&self) -> bool {
        self.prompt
            .iter()
            .any(|part| matches!(part, PromptPart::Picture(_)))
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
