//! Between the words of connections and those of the engine.

use inkstone_engine::{DrawFailure, EngineRequest, PromptSpan, RequestId, SubmitError};

use super::{
    clients::Owner,
    connection::{ConnectionId, OwnerEvent, Refusal, Submission},
};
use crate::executor::{PromptPart, RequestSetup};

/// What the engine, the ranks and the loop need to know of a request.
pub(super) fn parts_of(
    id: RequestId,
    connection: ConnectionId,
    submission: Submission,
) -> (EngineRequest, RequestSetup, Owner) {
    let span = |part: &PromptPart| match part {
        PromptPart::Tokens(ids) => PromptSpan::Tokens(ids.clone()),
        PromptPart::Picture { digest, num_tokens } => PromptSpan::Picture {
            digest: digest.0,
            num_tokens: *num_tokens,
        },
    };
    let request = EngineRequest {
        id,
        prompt: submission.prompt.iter().map(span).collect(),
        cache_salt: submission.cache_salt,
        decoding: submission.decoding,
        max_new_tokens: submission.max_new_tokens,
        stop_token_ids: submission.stop_token_ids.clone(),
        priority: submission.priority,
        prompt_logprobs: submission.prompt_logprobs,
        pictures_ready: submission.pictures.is_empty(),
        resumed: submission.resumed,
        first_in_line: submission.first_in_line,
    };
    let setup = RequestSetup {
        id,
        prompt: submission.prompt,
        sampling: submission.sampling,
        stop_token_ids: submission.stop_token_ids,
        resumed: resumed_of(&request),
    };
    let owner = Owner {
        connection,
        handle: submission.handle,
        answers_left: request.answers_to_tell(),
        pictures: submission.pictures,
        fetch: None,
    };
    (request, setup, owner)
}

/// By branch, what sequences begin with. Those that have ended have none.
fn resumed_of(request: &EngineRequest) -> Vec<Vec<u32>> {
    let goes_on = || request.resumed.iter().filter(|known| !known.has_ended);
    let last = goes_on().map(|known| known.branch).max();
    let mut drawn = vec![Vec::new(); last.map_or(0, |last| last + 1)];
    for known in goes_on() {
        drawn[known.branch].clone_from(&known.token_ids);
    }
    drawn
}

/// What a request's owner can do about not being taken.
pub(super) fn refusal_of(error: &SubmitError) -> Refusal {
    match error {
        SubmitError::QueueFull { .. } => Refusal::Busy,
        SubmitError::TooLong { .. }
        | SubmitError::TooManyTokens { .. }
        | SubmitError::TooManySequences { .. }
        | SubmitError::Invalid(_) => Refusal::Invalid,
    }
}

/// What a request's owner hears when nothing could be drawn.
pub(super) fn failure_of(reason: DrawFailure) -> OwnerEvent {
    match reason {
        DrawFailure::NotFinite => OwnerEvent::Refused {
            reason: Refusal::Internal,
            message: "the model's logits were not finite (NaN or infinite) for this request"
                .to_owned(),
        },
        DrawFailure::NothingAllowed(reason) => OwnerEvent::Refused {
            reason: Refusal::Invalid,
            message: format!("the request's constraint allows no token here: {reason}"),
        },
    }
}
