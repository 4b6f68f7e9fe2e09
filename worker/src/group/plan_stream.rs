//! Plans and requests on the wire, between a leader and ranks in other processes. Checked once, here.

use std::sync::Arc;

use inkstone_engine::{
    BlockCopy, BlockId, Draw, DrawKind, Fork, RequestId, SequenceId, Start, StepItem, StepPlan,
};
use inkstone_model::{clip::PictureFeatures, sampling::SamplingParams, tensor::DType};
use inkstone_proto::worker::v1 as wire;
use thiserror::Error;
use wire::{admit_part, constraint::Form, join_response::Message, step_item};

use super::rank::RankCommand;
use crate::{
    constraint::ConstraintForm,
    executor::{EncodedPicture, PictureDigest, PromptPart, RequestSetup, SequenceSampling},
};

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
        RankCommand::Pictures { request, pictures } => Message::Pictures(wire::AdmitPictures {
            request: request.0,
            pictures: pictures.iter().map(|p| picture_to_wire(p)).collect(),
        }),
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
        Message::Pictures(admit) => Ok(RankCommand::Pictures {
            request: RequestId(admit.request),
            pictures: all(admit.pictures, picture_from_wire)?,
        }),
        Message::Step(plan) => Ok(RankCommand::Step(Arc::new(plan_from_wire(plan, epoch)?))),
        Message::Welcome(_) => Err(PlanStreamError::Invalid("a second welcome".to_owned())),
        Message::Ended(_) | Message::Alive(_) => {
            Err(PlanStreamError::Invalid("it is no command".to_owned()))
        }
    }
}

/// How tokens are chosen, as it travels.
pub fn sampling_to_wire(sampling: &SequenceSampling) -> wire::SamplingSettings {
    let params = &sampling.params;
    let bias = |&(token_id, bias): &(u32, f32)| wire::LogitBias { token_id, bias };
    wire::SamplingSettings {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        repetition_penalty: params.repetition_penalty,
        seed: params.seed,
        min_p: params.min_p,
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        logit_bias: sampling.logit_bias.iter().map(bias).collect(),
        min_new_tokens: u32::try_from(sampling.min_new_tokens).unwrap_or(u32::MAX),
        num_logprobs: params.num_logprobs,
        constraint: sampling.constraint.as_ref().map(constraint_to_wire),
    }
}

/// How tokens are chosen, its numbers checked. Whether a constraint can be followed shows when it is compiled.
pub fn sampling_from_wire(settings: wire::SamplingSettings) -> Result<SequenceSampling, String> {
    let params = SamplingParams {
        temperature: settings.temperature,
        top_k: settings.top_k,
        top_p: settings.top_p,
        min_p: settings.min_p,
        repetition_penalty: settings.repetition_penalty,
        presence_penalty: settings.presence_penalty,
        frequency_penalty: settings.frequency_penalty,
        seed: settings.seed,
        num_logprobs: settings.num_logprobs,
    };
    params.validate().map_err(|error| error.to_string())?;
    let biases = settings.logit_bias.iter();
    let logit_bias: Vec<_> = biases.map(|bias| (bias.token_id, bias.bias)).collect();
    if let Some((token_id, bias)) = logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
        return Err(format!(
            "the logit bias of token {token_id} must be finite, found {bias}"
        ));
    }
    Ok(SequenceSampling {
        params,
        logit_bias,
        min_new_tokens: settings.min_new_tokens as usize,
        constraint: settings.constraint.map(constraint_from_wire).transpose()?,
    })
}

fn constraint_to_wire(form: &ConstraintForm) -> wire::Constraint {
    let form = match form {
        ConstraintForm::Choices(choices) => Form::Choices(wire::ChoiceList {
            choices: choices.clone(),
        }),
        ConstraintForm::JsonSchema(schema) => Form::JsonSchema(schema.clone()),
        ConstraintForm::Regex(regex) => Form::Regex(regex.clone()),
    };
    wire::Constraint { form: Some(form) }
}

fn constraint_from_wire(constraint: wire::Constraint) -> Result<ConstraintForm, String> {
    match constraint.form {
        Some(Form::Choices(list)) => Ok(ConstraintForm::Choices(list.choices)),
        Some(Form::JsonSchema(schema)) => Ok(ConstraintForm::JsonSchema(schema)),
        Some(Form::Regex(regex)) => Ok(ConstraintForm::Regex(regex)),
        None => Err("a constraint names no form".to_owned()),
    }
}

fn admit_to_wire(setup: &RequestSetup) -> wire::AdmitRequest {
    let part = |part: &PromptPart| wire::AdmitPart {
        part: Some(match part {
            PromptPart::Tokens(ids) => admit_part::Part::Tokens(span(ids)),
            PromptPart::Picture { digest, num_tokens } => {
                admit_part::Part::Picture(wire::AdmitPicture {
                    digest: digest.0.to_vec().into(),
                    num_tokens: narrow(*num_tokens),
                })
            }
        }),
    };
    wire::AdmitRequest {
        request: setup.id.0,
        prompt: setup.prompt.iter().map(part).collect(),
        sampling: Some(sampling_to_wire(&setup.sampling)),
        stop_token_ids: setup.stop_token_ids.clone(),
        resumed: setup.resumed.iter().map(|ids| span(ids)).collect(),
    }
}

fn admit_from_wire(admit: wire::AdmitRequest) -> Result<RequestSetup, PlanStreamError> {
    let part =
        |part: wire::AdmitPart| match part.part.ok_or(PlanStreamError::Missing("prompt part"))? {
            admit_part::Part::Tokens(span) => Ok(PromptPart::Tokens(span.ids)),
            admit_part::Part::Picture(picture) => Ok(PromptPart::Picture {
                digest: digest(&picture.digest)?,
                num_tokens: picture.num_tokens as usize,
            }),
        };
    let sampling = admit.sampling.ok_or(PlanStreamError::Missing("sampling"))?;
    Ok(RequestSetup {
        id: RequestId(admit.request),
        prompt: all(admit.prompt, part)?,
        sampling: sampling_from_wire(sampling).map_err(PlanStreamError::Invalid)?,
        stop_token_ids: admit.stop_token_ids,
        resumed: admit.resumed.into_iter().map(|span| span.ids).collect(),
    })
}

fn span(ids: &[u32]) -> wire::TokenSpan {
    wire::TokenSpan { ids: ids.to_vec() }
}

fn picture_to_wire(picture: &EncodedPicture) -> wire::PictureFeatures {
    wire::PictureFeatures {
        digest: picture.digest.0.to_vec().into(),
        features: picture.features.to_bytes(DType::F32).into(),
    }
}

fn picture_from_wire(
    picture: wire::PictureFeatures,
) -> Result<Arc<EncodedPicture>, PlanStreamError> {
    Ok(Arc::new(EncodedPicture {
        digest: digest(&picture.digest)?,
        features: PictureFeatures::from_bytes(&picture.features)
            .map_err(|error| PlanStreamError::Invalid(error.to_string()))?,
    }))
}

fn digest(bytes: &[u8]) -> Result<PictureDigest, PlanStreamError> {
    PictureDigest::try_from(bytes).map_err(PlanStreamError::Invalid)
}

fn plan_to_wire(plan: &StepPlan, epoch: u64) -> wire::StepPlan {
    let start = |start: &Start| wire::SequenceStart {
        request: start.request.0,
        sequence: start.sequence.0,
        branch: narrow(start.branch),
    };
    let fork = |fork: &Fork| wire::SequenceFork {
        parent: fork.parent.0,
        child: fork.child.0,
        branch: narrow(fork.branch),
    };
    wire::StepPlan {
        epoch,
        step: plan.step,
        hash: plan.content_hash(),
        released: plan.released.iter().map(|id| id.0).collect(),
        retired: plan.retired.iter().map(|id| id.0).collect(),
        started: plan.started.iter().map(start).collect(),
        forks: plan.forks.iter().map(fork).collect(),
        copies: plan
            .copies
            .iter()
            .flat_map(|copy| [copy.from.0, copy.to.0])
            .collect(),
        items: plan.items.iter().map(item_to_wire).collect(),
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
    let start = |start: wire::SequenceStart| Start {
        request: RequestId(start.request),
        sequence: SequenceId(start.sequence),
        branch: start.branch as usize,
    };
    let fork = |fork: wire::SequenceFork| Fork {
        parent: SequenceId(fork.parent),
        child: SequenceId(fork.child),
        branch: fork.branch as usize,
    };
    let copy = |pair: &[u32; 2]| BlockCopy {
        from: BlockId(pair[0]),
        to: BlockId(pair[1]),
    };
    let (pairs, rest) = plan.copies.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(PlanStreamError::Invalid("half a block copy".to_owned()));
    }
    let plan = StepPlan {
        step: plan.step,
        released: plan.released.into_iter().map(SequenceId).collect(),
        retired: plan.retired.into_iter().map(RequestId).collect(),
        started: plan.started.into_iter().map(start).collect(),
        forks: plan.forks.into_iter().map(fork).collect(),
        copies: pairs.iter().map(copy).collect(),
        items: plan.items.into_iter().map(item_from_wire).collect(),
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
    let draw = |draw: Draw| match draw.kind {
        DrawKind::Tokens {
            first_branch,
            branches,
        } => step_item::Draw::Tokens(wire::DrawTokens {
            token_index: narrow(draw.token_index),
            first_branch: narrow(first_branch),
            branches: narrow(branches),
        }),
        DrawKind::Candidates { count } => step_item::Draw::Candidates(wire::DrawCandidates {
            token_index: narrow(draw.token_index),
            count: narrow(count),
        }),
    };
    wire::StepItem {
        sequence_id: item.sequence.0,
        appended: item.appended,
        start: narrow(item.start),
        end: narrow(item.end),
        prompt_logprobs: item.prompt_logprobs,
        draw: item.draw.map(draw),
        block_table: item.block_table.iter().map(|block| block.0).collect(),
    }
}

fn item_from_wire(item: wire::StepItem) -> StepItem {
    let draw = |draw| match draw {
        step_item::Draw::Tokens(tokens) => Draw {
            token_index: tokens.token_index as usize,
            kind: DrawKind::Tokens {
                first_branch: tokens.first_branch as usize,
                branches: tokens.branches as usize,
            },
        },
        step_item::Draw::Candidates(candidates) => Draw {
            token_index: candidates.token_index as usize,
            kind: DrawKind::Candidates {
                count: candidates.count as usize,
            },
        },
    };
    StepItem {
        sequence: SequenceId(item.sequence_id),
        appended: item.appended,
        start: item.start as usize,
        end: item.end as usize,
        draw: item.draw.map(draw),
        prompt_logprobs: item.prompt_logprobs,
        block_table: item.block_table.into_iter().map(BlockId).collect(),
    }
}

/// Positions are below num_blocks * 16, and block ids are u32; branches and candidates are checked when a request comes in.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("positions fit in 32 bits")
}

fn all<A, B>(
    items: Vec<A>,
    one: impl Fn(A) -> Result<B, PlanStreamError>,
) -> Result<Vec<B>, PlanStreamError> {
    items.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests;
