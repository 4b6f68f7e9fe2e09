//! What happened to requests, as it travels.

use std::time::Duration;

use inkstone_engine::{BeamAnswer, DrawnToken, EndReason, TokenLogprob};
use inkstone_proto::worker::v1::{self as wire, request_event::Event};

use crate::group::leader::{CacheUpdate, LoadReport, OwnerEvent, Refusal, Told};

/// How busy the group is.
pub(super) fn load_to_wire(report: LoadReport) -> wire::LoadReport {
    let LoadReport {
        load,
        stats,
        progress,
        ..
    } = report;
    let millis = |age: Duration| u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
    wire::LoadReport {
        waiting: narrow(load.waiting),
        running: narrow(load.running),
        prefill_tokens: load.prefill_tokens as u64,
        blocks_used: narrow(load.blocks_used),
        blocks_cached: narrow(load.blocks_cached),
        blocks_total: narrow(load.blocks_total),
        steps: progress.steps,
        // A step that has just begun is one that runs.
        step_millis: progress.step_age.map_or(0, |age| millis(age).max(1)),
        rows_per_second: report.rows_per_second.unwrap_or(0.0) as f32,
        prompt_tokens: stats.prompt_tokens,
        cached_prompt_tokens: stats.cached_tokens,
        max_running: narrow(report.max_running),
    }
}

/// What changed in the group's cache.
pub(super) fn cache_to_wire(update: CacheUpdate) -> wire::CacheEvents {
    wire::CacheEvents {
        reset: update.is_reset,
        added: update.added,
        removed: update.removed,
    }
}

/// What happened to requests. Tokens that follow each other in one answer travel together.
pub(super) fn to_wire(told: Vec<Told>) -> Vec<wire::RequestEvent> {
    let mut events: Vec<wire::RequestEvent> = Vec::with_capacity(told.len());
    for Told { handle, event } in told {
        let event = event_to_wire(event);
        if let Event::Tokens(next) = &event
            && let Some(last) = events.last_mut().filter(|last| last.handle == handle)
            && let Some(Event::Tokens(tokens)) = &mut last.event
            && follows(tokens, next)
        {
            tokens.ids.extend(&next.ids);
            tokens.infos.extend(next.infos.iter().cloned());
            continue;
        }
        events.push(wire::RequestEvent {
            handle,
            event: Some(event),
        });
    }
    events
}

fn follows(tokens: &wire::Tokens, next: &wire::Tokens) -> bool {
    let end = tokens.first_index as usize + tokens.ids.len();
    tokens.branch == next.branch && end == next.first_index as usize
}

fn event_to_wire(event: OwnerEvent) -> Event {
    match event {
        OwnerEvent::Accepted => Event::Accepted(wire::Accepted {}),
        OwnerEvent::Refused { reason, message } => Event::Refused(wire::Refused {
            reason: refusal_to_wire(reason).into(),
            message,
        }),
        OwnerEvent::Started { cached_tokens } => Event::Started(wire::Started {
            cached_tokens: narrow(cached_tokens),
        }),
        OwnerEvent::PromptLogprobs { first, tokens } => {
            let none = wire::TokenInfo::default;
            let info = |token: Option<DrawnToken>| token.map_or_else(none, info_to_wire);
            Event::PromptLogprobs(wire::PromptLogprobs {
                first: narrow(first),
                tokens: tokens.into_iter().map(info).collect(),
            })
        }
        OwnerEvent::Token {
            branch,
            index,
            token,
        } => Event::Tokens(wire::Tokens {
            branch: narrow(branch),
            first_index: narrow(index),
            ids: vec![token.token_id],
            infos: match token.logprob {
                Some(_) => vec![info_to_wire(token)],
                None => Vec::new(),
            },
        }),
        OwnerEvent::Ended { branch, reason } => Event::Ended(wire::Ended {
            branch: narrow(branch),
            reason: end_to_wire(reason).into(),
        }),
        OwnerEvent::Beams(answers) => Event::Beams(wire::BeamAnswers {
            answers: answers.into_iter().map(answer_to_wire).collect(),
        }),
    }
}

fn info_to_wire(token: DrawnToken) -> wire::TokenInfo {
    let top = |top: TokenLogprob| wire::TokenLogprob {
        token_id: top.token_id,
        logprob: top.logprob,
    };
    wire::TokenInfo {
        token_id: token.token_id,
        logprob: token.logprob,
        top: token.top_logprobs.into_iter().map(top).collect(),
    }
}

fn answer_to_wire(answer: BeamAnswer) -> wire::BeamAnswer {
    wire::BeamAnswer {
        ids: answer.token_ids,
        score: answer.score,
        reason: end_to_wire(answer.reason).into(),
    }
}

fn end_to_wire(reason: EndReason) -> wire::EndReason {
    match reason {
        EndReason::Stop => wire::EndReason::Stop,
        EndReason::Length => wire::EndReason::Length,
    }
}

fn refusal_to_wire(reason: Refusal) -> wire::RefusalReason {
    match reason {
        Refusal::Invalid => wire::RefusalReason::Invalid,
        Refusal::Busy => wire::RefusalReason::Busy,
        Refusal::FeaturesMissing => wire::RefusalReason::FeaturesMissing,
        Refusal::NotServing => wire::RefusalReason::NotServing,
        Refusal::Epoch => wire::RefusalReason::Epoch,
        Refusal::Internal => wire::RefusalReason::Internal,
    }
}

/// Positions, indices and branches came in as 32 bits.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(handle: u64, branch: usize, index: usize) -> Told {
        Told {
            handle,
            event: OwnerEvent::Token {
                branch,
                index,
                token: DrawnToken::plain(index as u32),
            },
        }
    }

    #[test]
    fn tokens_that_follow_each_other_travel_together_and_others_do_not() {
        let told = vec![
            token(1, 0, 3),
            token(1, 0, 4),
            token(1, 1, 5),
            token(2, 1, 6),
            token(2, 1, 8),
        ];
        let tokens: Vec<_> = to_wire(told)
            .into_iter()
            .map(|event| match event.event {
                Some(Event::Tokens(tokens)) => {
                    (event.handle, tokens.branch, tokens.first_index, tokens.ids)
                }
                other => panic!("wanted tokens, found {other:?}"),
            })
            .collect();
        let wanted = [
            (1, 0, 3, vec![3, 4]),
            (1, 1, 5, vec![5]),
            (2, 1, 6, vec![6]),
            (2, 1, 8, vec![8]),
        ];
        assert_eq!(tokens, wanted);
    }
}
