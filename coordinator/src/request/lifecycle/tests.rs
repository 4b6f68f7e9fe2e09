//! The rules by which a request goes from state to state.

use super::*;
use crate::{
    request::{AnswerEnd, AnswerPlan, Delta, detokenise::Answer},
    worker_client::{EndReason, TokenBatch, fake},
};

fn admitted(stops: &[&str]) -> Lifecycle {
    let tokenizer = fake::tokenizer();
    let answer = Answer::new(
        tokenizer.stream_decoder(),
        stops.iter().map(ToString::to_string).collect(),
        tokenizer.stop_token_ids().into(),
    );
    let answers = Answers::new(AnswerPlan::All { num_answers: 1 }, false, answer);
    let (state, effect) = Lifecycle::admit(answers);
    assert!(matches!(effect, Effect::Render), "{effect:?}");
    state
}

fn prompt() -> ReadyPrompt {
    ReadyPrompt {
        pieces: vec![],
        size: PromptSize {
            prompt_tokens: 7,
            picture_tokens: 4,
        },
        max_new_tokens: 10,
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
    let effects = apply(&mut state, Event::Accepted);
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

fn started(cached_tokens: u32) -> Event {
    Event::Generation(GenerationEvent::Started { cached_tokens })
}

fn tokens(first_index: u32, text: &str) -> Event {
    Event::Generation(GenerationEvent::Tokens(TokenBatch {
        branch: 0,
        first_index,
        ids: fake::encode(text),
        infos: vec![],
    }))
}

fn missing() -> Event {
    Event::FeaturesMissing(RequestError::DeadlineExceeded)
}

fn end(reason: EndReason) -> Event {
    Event::Generation(GenerationEvent::Ended { branch: 0, reason })
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
        }),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
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
            Event::Accepted,
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
fn pictures_are_put_again_once_and_the_client_is_not_told_twice() {
    let mut state = running(&[]);
    let effects = apply(&mut state, missing());
    assert!(matches!(effects[..], [Effect::Render]), "{effects:?}");
    apply(&mut state, Event::Rendered(prompt()));
    apply(&mut state, Event::Accepted);
    let effects = apply(&mut state, started(0));
    assert!(effects.is_empty(), "{effects:?}");
    apply(&mut state, missing());
    assert_eq!(state.name(), "failed");
}

#[test]
fn log_probabilities_of_the_prompt_are_told_once_over_two_attempts() {
    let info = |position: u32| TokenInfo {
        token_id: position,
        logprob: Some(-1.0),
        top: vec![],
    };
    let logprobs = |first: u32, end: u32| {
        Event::Generation(GenerationEvent::PromptLogprobs {
            first,
            tokens: (first..end).map(info).collect(),
        })
    };
    let told = |effects: Vec<Effect>| -> Vec<u32> {
        let tokens = effects.into_iter().flat_map(|effect| match effect {
            Effect::Emit(ChatEvent::PromptLogprobs { first, tokens }) => {
                assert_eq!(tokens[0].token_id, first);
                tokens
            }
            other => panic!("{other:?}"),
        });
        tokens.map(|token| token.token_id).collect()
    };
    let mut state = running(&[]);
    assert_eq!(told(apply(&mut state, logprobs(0, 2))), [0, 1]);
    apply(&mut state, missing());
    apply(&mut state, Event::Rendered(prompt()));
    apply(&mut state, Event::Accepted);
    apply(&mut state, started(0));
    assert_eq!(told(apply(&mut state, logprobs(0, 1))), [0; 0]);
    assert_eq!(told(apply(&mut state, logprobs(1, 4))), [2, 3]);
    // Many come in several events.
    let all = told(apply(&mut state, logprobs(4, 3000)));
    assert_eq!(all, (4..3000).collect::<Vec<_>>());
    // A gap is a fault.
    apply(&mut state, logprobs(3001, 3002));
    assert_eq!(state.name(), "failed");
}

#[test]
fn after_the_first_token_nothing_is_tried_again() {
    let mut state = running(&[]);
    apply(&mut state, tokens(0, "hello"));
    apply(&mut state, missing());
    assert_eq!(state.name(), "failed");
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
    apply(&mut state, Event::Accepted);
    let Lifecycle::Failed { error } = state else {
        panic!("{state:?}");
    };
    assert!(
        error.to_string().contains("came in state `admitted`"),
        "{error}"
    );
}
