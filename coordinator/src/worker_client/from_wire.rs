//! What a leader says, as it comes off the wire.

use std::time::Duration;

use inkstone_proto::worker::v1 as wire;

use super::{BeamAnswer, EndReason, GenerationEvent, TokenBatch, TokenInfo, WorkerError};
use crate::{cluster_load::LoadReport, routing::CacheChange};

/// What happened to a request that was taken on.
pub(super) fn event_from_wire(
    event: wire::request_event::Event,
) -> Result<GenerationEvent, WorkerError> {
    use wire::request_event::Event;
    match event {
        Event::Started(started) => Ok(GenerationEvent::Started {
            cached_tokens: started.cached_tokens,
        }),
        Event::PromptLogprobs(logprobs) => Ok(GenerationEvent::PromptLogprobs {
            first: logprobs.first,
            tokens: infos_from_wire(logprobs.tokens),
        }),
        Event::Tokens(tokens) => Ok(GenerationEvent::Tokens(TokenBatch {
            branch: tokens.branch,
            first_index: tokens.first_index,
            ids: tokens.ids,
            infos: infos_from_wire(tokens.infos),
        })),
        Event::Ended(ended) => Ok(GenerationEvent::Ended {
            branch: ended.branch,
            reason: reason_from_wire(ended.reason())?,
        }),
        Event::Beams(beams) => {
            let answers = beams.answers.into_iter().map(|answer| {
                Ok::<_, WorkerError>(BeamAnswer {
                    score: answer.score,
                    reason: reason_from_wire(answer.reason())?,
                    ids: answer.ids,
                })
            });
            Ok(GenerationEvent::Beams(answers.collect::<Result<_, _>>()?))
        }
        Event::Accepted(_) | Event::Refused(_) => Err(WorkerError::Faulty(
            "the leader answered a request twice".into(),
        )),
    }
}

fn infos_from_wire(infos: Vec<wire::TokenInfo>) -> Vec<TokenInfo> {
    let infos = infos.into_iter().map(|info| TokenInfo {
        token_id: info.token_id,
        logprob: info.logprob,
        top: info
            .top
            .iter()
            .map(|top| (top.token_id, top.logprob))
            .collect(),
    });
    infos.collect()
}

fn reason_from_wire(reason: wire::EndReason) -> Result<EndReason, WorkerError> {
    match reason {
        wire::EndReason::Stop => Ok(EndReason::Stop),
        wire::EndReason::Length => Ok(EndReason::Length),
        wire::EndReason::Unspecified => Err(WorkerError::Faulty(
            "an answer ended without a reason".into(),
        )),
    }
}

/// Why a leader does not run a request, or not on.
pub(super) fn refusal_from_wire(refused: wire::Refused) -> WorkerError {
    let reason = refused.reason();
    let message = refused.message;
    match reason {
        wire::RefusalReason::Invalid => WorkerError::Refused(message),
        wire::RefusalReason::Busy => WorkerError::Busy {
            message,
            retry_after: None,
        },
        wire::RefusalReason::FeaturesMissing => WorkerError::FeaturesMissing,
        wire::RefusalReason::NotServing => WorkerError::NotServing(message),
        wire::RefusalReason::Epoch => WorkerError::EpochMismatch(message),
        wire::RefusalReason::Internal | wire::RefusalReason::Unspecified => {
            WorkerError::Faulty(message)
        }
    }
}

/// How busy a group is.
pub(super) fn load_from_wire(load: &wire::LoadReport) -> LoadReport {
    LoadReport {
        waiting: load.waiting,
        running: load.running,
        max_running: load.max_running,
        prefill_tokens: load.prefill_tokens,
        blocks_used: load.blocks_used,
        blocks_cached: load.blocks_cached,
        blocks_total: load.blocks_total,
        steps: load.steps,
        step: Duration::from_millis(load.step_millis.into()),
        // Whatever it says, the arithmetic of routing goes on.
        rows_per_second: if load.rows_per_second.is_finite() {
            load.rows_per_second.max(0.0)
        } else {
            0.0
        },
        prompt_tokens: load.prompt_tokens,
        cached_prompt_tokens: load.cached_prompt_tokens,
    }
}

/// What changed in a group's cache.
pub(super) fn cache_from_wire(cache: wire::CacheEvents) -> CacheChange {
    CacheChange {
        reset: cache.reset,
        added: cache.added,
        removed: cache.removed,
    }
}
