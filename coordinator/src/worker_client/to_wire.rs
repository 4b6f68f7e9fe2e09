//! What a leader is asked for, as it goes over the wire.

use inkstone_proto::worker::v1 as wire;

use super::{Constraint, Decoding, Generation, Priority, PromptPiece, Resumed, Sampling};

pub(super) fn generation_to_wire(generation: Generation) -> wire::GenerateRequest {
    let (branches, beam) = match generation.decoding {
        Decoding::Sample { branches } => (branches, None),
        Decoding::Beam(beam) => {
            let beam = wire::BeamSettings {
                width: beam.width,
                num_answers: beam.num_answers,
                length_penalty: beam.length_penalty,
                early_stopping: beam.early_stopping,
            };
            (0, Some(beam))
        }
    };
    wire::GenerateRequest {
        request_id: generation.request_id,
        epoch: generation.epoch.0,
        prompt: generation.prompt.iter().map(piece_to_wire).collect(),
        sampling: Some(sampling_to_wire(generation.sampling)),
        max_new_tokens: generation.max_new_tokens,
        stop_token_ids: generation.stop_token_ids,
        branches,
        beam,
        priority: match generation.priority {
            Priority::Interactive => wire::Priority::Interactive.into(),
            Priority::Batch => wire::Priority::Batch.into(),
        },
        cache_salt: generation.cache_salt,
        prompt_logprobs: generation.prompt_logprobs,
        resumed: generation
            .resumed
            .into_iter()
            .map(resumed_to_wire)
            .collect(),
        first_in_line: generation.first_in_line,
    }
}

fn sampling_to_wire(sampling: Sampling) -> wire::SamplingSettings {
    let bias = sampling.logit_bias.into_iter();
    wire::SamplingSettings {
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        repetition_penalty: sampling.repetition_penalty,
        seed: sampling.seed,
        min_p: sampling.min_p,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias: bias
            .map(|(token_id, bias)| wire::LogitBias { token_id, bias })
            .collect(),
        min_new_tokens: sampling.min_new_tokens,
        num_logprobs: sampling.num_logprobs,
        constraint: sampling.constraint.map(constraint_to_wire),
    }
}

fn constraint_to_wire(constraint: Constraint) -> wire::Constraint {
    use wire::constraint::Form;
    let form = match constraint {
        Constraint::Choices(choices) => Form::Choices(wire::ChoiceList { choices }),
        Constraint::JsonSchema(schema) => Form::JsonSchema(schema),
        Constraint::Regex(regex) => Form::Regex(regex),
    };
    wire::Constraint { form: Some(form) }
}

fn piece_to_wire(piece: &PromptPiece) -> wire::PromptPart {
    use wire::prompt_part::Part;
    let part = match piece {
        PromptPiece::Tokens(ids) => Part::Tokens(wire::TokenSpan { ids: ids.clone() }),
        PromptPiece::Picture(picture) => Part::Picture(wire::PictureRef {
            digest: picture.digest.0.clone(),
            num_tokens: picture.num_tokens,
            vision_address: picture.worker.clone().into(),
        }),
    };
    wire::PromptPart { part: Some(part) }
}

fn resumed_to_wire(resumed: Resumed) -> wire::ResumedAnswer {
    wire::ResumedAnswer {
        branch: resumed.branch,
        ids: resumed.ids,
        ended: resumed.ended,
    }
}
