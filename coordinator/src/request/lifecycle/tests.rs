//! The rules by which a request goes from state to state.

use inkstone_cluster::{Epoch, GroupId};
use proptest::prelude::*;

use super::*;
use crate::{
    request::{AnswerEnd, AnswerPlan, Delta, PromptSize, detokenise::Answer},
    worker_client::{TokenBatch, fake},
};

mod moves;

const RULE: MoveRule = MoveRule {
    max_moves: 3,
    retry_after: Duration::from_secs(1),
};

fn admitted(stops: &[&str]) -> Lifecycle {
    admitted_for(AnswerPlan::All { num_answers: 1 }, stops)
}

fn admitted_for(plan: AnswerPlan, stops: &[&str]) -> Lifecycle {
    let tokenizer = fake::tokenizer();
    let answer = Answer::new(
        tokenizer.stream_decoder(),
        stops.iter().map(ToString::to_string).collect(),
        tokenizer.stop_token_ids().into(),
    );
    let answers = Answers::new(plan, false, answer);
    let (state, effect) = Lifecycle::admit(answers, RULE);
    assert!(matches!(effect, Effect::Render), "{effect:?}");
    state
}

fn prompt() -> ReadyPrompt {
    ReadyPrompt {
        pieces: [].into(),
        size: PromptSize {
            prompt_tokens: 7,
            picture_tokens: 4,
        },
        max_new_tokens: 100,
    }
}

/// Applies an event and gives what is to be done.
fn apply(state: &mut Lifecycle, event: Event) -> Vec<Effect> {
    let mut effects = vec![];
    state.apply(event, "m", &mut effects);
    effects
}

fn accepted(stops: &[&str]) -> Lifecycle {
    let mut state = admitted(stops);
    let effects = apply(&mut state, Event::Rendered(prompt()));
    assert!(matches!(effects[..], [Effect::Generate(_)]), "{effects:?}");
    let effects = apply(&mut state, accept());
    assert!(effects.is_empty(), "{effects:?}");
    state
}

fn running(stops: &[&str]) -> Lifecycle {
    let mut state = accepted(stops);
    let effects = apply(&mut state, started(3));
    let [
        Effect::Emit(ChatEvent::Started {
            cached_tokens: 3, ..
        }),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    state
}

fn accept() -> Event {
    Event::Accepted(Receipt {
        group: GroupId::new("g"),
        epoch: Epoch(5),
        predicted_cached_tokens: 2,
        cached_tokens: 0,
        num_moves: 0,
    })
}

fn started(cached_tokens: u32) -> Event {
    Event::Generation(0, GenerationEvent::Started { cached_tokens })
}

fn tokens(first_index: u32, text: &str) -> Event {
    let batch = TokenBatch {
        branch: 0,
        first_index,
        ids: fake::encode(text),
        infos: vec![],
    };
    Event::Generation(0, GenerationEvent::Tokens(batch))
}

fn lost(attempt: u32, cause: LossCause) -> Event {
    Event::Lost(Loss {
        attempt,
        cause,
        message: "gone".into(),
    })
}

fn missing() -> Event {
    lost(0, LossCause::Features)
}

fn end(reason: EndReason) -> Event {
    Event::Generation(0, GenerationEvent::Ended { branch: 0, reason })
}

#[test]
fn an_answer_goes_from_started_by_deltas_to_finished() {
    let mut state = running(&[]);
    let effects = apply(&mut state, tokens(0, "hello"));
    let [Effect::Emit(ChatEvent::Delta(Delta { text, .. }))] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(text, "hello");
    let effects = apply(&mut state, end(EndReason::Length));
    let [
        Effect::Emit(ChatEvent::Finished {
            end:
                AnswerEnd {
                    reason: FinishReason::Length,
                    stop_string: None,
                },
            usage,
            receipt,
        }),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!((receipt.cached_tokens, receipt.num_moves), (3, 0));
    assert_eq!(usage.completion_tokens, fake::encode("hello").len() as u32);
    assert_eq!(usage.cached_tokens, 3);
    assert!(state.is_final());
}

#[test]
fn held_back_text_comes_before_the_end() {
    let mut state = running(&["lows"]);
    apply(&mut state, tokens(0, "hello"));
    let effects = apply(&mut state, end(EndReason::Stop));
    let [
        Effect::Emit(ChatEvent::Delta(Delta {
            text, token_ids, ..
        })),
        Effect::Emit(ChatEvent::Finished { .. }),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!((text.as_str(), token_ids.len()), ("lo", 0));
}

#[test]
fn a_final_state_is_reached_once() {
    let events = || {
        [
            Event::Rendered(prompt()),
            accept(),
            missing(),
            started(0),
            tokens(0, "hello"),
            end(EndReason::Stop),
            Event::ClientGone,
            Event::Failed(RequestError::DeadlineExceeded),
        ]
    };
    let last_events = || {
        [
            end(EndReason::Stop),
            Event::ClientGone,
            Event::Failed(RequestError::DeadlineExceeded),
        ]
    };
    for last in last_events() {
        let mut state = running(&[]);
        apply(&mut state, last);
        let name = state.name();
        assert!(state.is_final(), "{name}");
        for event in events() {
            let effects = apply(&mut state, event);
            assert_eq!(state.name(), name);
            assert!(effects.is_empty(), "{effects:?}");
        }
    }
}

#[test]
fn a_group_that_does_not_say_that_it_started_is_taken_at_its_first_word() {
    let mut state = accepted(&[]);
    let effects = apply(&mut state, tokens(0, "hello"));
    let [
        Effect::Emit(ChatEvent::Started {
            cached_tokens: 0, ..
        }),
        Effect::Emit(ChatEvent::Delta(_)),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
}

#[test]
fn an_event_out_of_turn_fails_the_request_and_nothing_else() {
    let mut state = admitted(&[]);
    apply(&mut state, accept());
    let Lifecycle::Failed { error } = state else {
        panic!("{state:?}");
    };
    assert!(
        error.to_string().contains("came in state `admitted`"),
        "{error}"
    );
}
