//! Plans and sequences on the wire, between a leader and ranks in other processes. Checked once, here.

use std::sync::Arc;

use inkstone_engine::{BlockId, SequenceId, StepItem, StepPlan, Work};
use inkstone_model::{clip::PictureFeatures, sampling::SamplingParams, tensor::DType};
use inkstone_proto::worker::v1 as wire;
use thiserror::Error;
use wire::{admit_part, join_response::Message, step_item};

use super::rank::RankCommand;
use crate::executor::{EncodedPicture, PictureDigest, PromptPart, SequenceSetup};

/// A message that a rank must refuse.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanStreamError {
    /// A field is missing.
    #[error("a message from the leader has no {0}")]
    Missing(&'static str),
    /// Another life of the group.
    #[error("wanted a plan of epoch {wanted}, found {found}")]
    Epoch {
        /// Ours.
        wanted: u64,
        /// The plan's.
        found: u64,
    },
    /// The plan is not the one that was hashed.
    #[error("step {step} has hash {found:016x}, the leader computed {wanted:016x}")]
    Hash {
        /// The step.
        step: u64,
        /// The leader's.
        wanted: u64,
        /// Ours.
        found: u64,
    },
    /// Something in it cannot be used.
    #[error("a message from the leader cannot be read: {0}")]
    Invalid(String),
}

/// A command as the leader sends it.
pub fn to_wire(command: &RankCommand, epoch: u64) -> wire::JoinResponse {
    let message = match command {
        RankCommand::Admit(setup) => Message::Admit(admit_to_wire(setup)),
        RankCommand::Step(plan) => Message::Step(plan_to_wire(plan, epoch)),
    };
    wire::JoinResponse {
        message: Some(message),
    }
}

/// A command as a rank of `epoch` takes it.
pub fn from_wire(response: wire::JoinResponse, epoch: u64) -> Result<RankCommand, PlanStreamError> {
    match response
        .message
        .ok_or(PlanStreamError::Missing("message"))?
    {
        Message::Admit(admit) => Ok(RankCommand::Admit(Arc::new(admit_from_wire(admit)?))),
        Message::Step(plan) => Ok(RankCommand::Step(Arc::new(plan_from_wire(plan, epoch)?))),
        Message::Welcome(_) => Err(PlanStreamError::Invalid("a second welcome".to_owned())),
    }
}

/// Sampling parameters as they travel.
pub fn sampling_to_wire(params: &SamplingParams) -> wire::SamplingSettings {
    wire::SamplingSettings {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        repetition_penalty: params.repetition_penalty,
        seed: params.seed,
    }
}

/// Sampling parameters, checked.
pub fn sampling_from_wire(settings: &wire::SamplingSettings) -> Result<SamplingParams, String> {
    let params = SamplingParams {
        temperature: settings.temperature,
        top_k: settings.top_k,
        top_p: settings.top_p,
        repetition_penalty: settings.repetition_penalty,
        seed: settings.seed,
        num_logprobs: None,
    };
    params.validate().map_err(|error| error.to_string())?;
    Ok(params)
}

fn admit_to_wire(setup: &SequenceSetup) -> wire::AdmitSequence {
    let part = |part: &PromptPart| match part {
        PromptPart::Tokens(ids) => admit_part::Part::Tokens(wire::TokenSpan { ids: ids.clone() }),
        PromptPart::Picture(picture) => admit_part::Part::Picture(wire::AdmitPicture {
            digest: picture.digest.0.to_vec().into(),
            features: picture.features.to_bytes(DType::F32).into(),
        }),
    };
    wire::AdmitSequence {
        sequence_id: setup.id.0,
        prompt: setup
            .prompt
            .iter()
            .map(|p| wire::AdmitPart {
                part: Some(part(p)),
            })
            .collect(),
        sampling: Some(sampling_to_wire(&setup.sampling)),
    }
}

fn admit_from_wire(admit: wire::AdmitSequence) -> Result<SequenceSetup, PlanStreamError> {
    let part = |part: wire::AdmitPart| match part
        .part
        .ok_or(PlanStreamError::Missing("prompt part"))?
    {
        admit_part::Part::Tokens(span) => Ok(PromptPart::Tokens(span.ids)),
        admit_part::Part::Picture(picture) => Ok(PromptPart::Picture(Arc::new(EncodedPicture {
            digest: PictureDigest::try_from(&picture.digest[..])
                .map_err(PlanStreamError::Invalid)?,
            features: PictureFeatures::from_bytes(&picture.features)
                .map_err(|error| PlanStreamError::Invalid(error.to_string()))?,
        }))),
    };
    Ok(SequenceSetup {
        id: SequenceId(admit.sequence_id),
        prompt: admit
            .prompt
            .into_iter()
            .map(part)
            .collect::<Result<_, _>>()?,
        sampling: sampling_from_wire(&admit.sampling.ok_or(PlanStreamError::Missing("sampling"))?)
            .map_err(PlanStreamError::Invalid)?,
    })
}

fn plan_to_wire(plan: &StepPlan, epoch: u64) -> wire::StepPlan {
    wire::StepPlan {
        epoch,
        step: plan.step,
        hash: plan.content_hash(),
        items: plan.items.iter().map(item_to_wire).collect(),
        released: plan.released.iter().map(|id| id.0).collect(),
    }
}

fn plan_from_wire(plan: wire::StepPlan, epoch: u64) -> Result<StepPlan, PlanStreamError> {
    if plan.epoch != epoch {
        return Err(PlanStreamError::Epoch {
            wanted: epoch,
            found: plan.epoch,
        });
    }
    let wanted = plan.hash;
    let plan = StepPlan {
        step: plan.step,
        items: plan
            .items
            .into_iter()
            .map(item_from_wire)
            .collect::<Result<_, _>>()?,
        released: plan.released.into_iter().map(SequenceId).collect(),
    };
    let found = plan.content_hash();
    if found != wanted {
        return Err(PlanStreamError::Hash {
            step: plan.step,
            wanted,
            found,
        });
    }
    Ok(plan)
}

fn item_to_wire(item: &StepItem) -> wire::StepItem {
    // Positions are below num_blocks * 16, and block ids are u32.
    let narrow = |number: usize| u32::try_from(number).expect("positions fit in 32 bits");
    let work = match item.work {
        Work::Prefill {
            start,
            end,
            samples,
        } => step_item::Work::Prefill(wire::PrefillWork {
            start: narrow(start),
            end: narrow(end),
            samples,
        }),
        Work::Decode {
            token_id,
            position,
            token_index,
        } => step_item::Work::Decode(wire::DecodeWork {
            token_id,
            position: narrow(position),
            token_index: narrow(token_index),
        }),
    };
    wire::StepItem {
        sequence_id: item.sequence.0,
        work: Some(work),
        block_table: item.block_table.iter().map(|block| block.0).collect(),
    }
}

fn item_from_wire(item: wire::StepItem) -> Result<StepItem, PlanStreamError> {
    let work = match item.work.ok_or(PlanStreamError::Missing("work"))? {
        step_item::Work::Prefill(work) => Work::Prefill {
            start: work.start as usize,
            end: work.end as usize,
            samples: work.samples,
        },
        step_item::Work::Decode(work) => Work::Decode {
            token_id: work.token_id,
            position: work.position as usize,
            token_index: work.token_index as usize,
        },
    };
    Ok(StepItem {
        sequence: SequenceId(item.sequence_id),
        work,
        block_table: item.block_table.into_iter().map(BlockId).collect(),
    })
}

#[cfg(test)]
mod tests;
