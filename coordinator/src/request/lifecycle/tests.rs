//! The rules by which a request goes from state to state.

use super::*;
use crate::worker_client::fake;

fn admitted(stops: &[&str]) -> Lifecycle {
    let tokenizer = fake::tokenizer();
    let answer = Answer::new(
        tokenizer.stream_decoder(),
        stops.iter().map(ToString::to_string).collect(),
        tokenizer.stop_token_ids().into(),
    );
    let (state, effects) = Lifecycle::admit(answer);
    assert!(matches!(effects[..], [Effect::Render]), "{effects:?}");
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

fn running(stops: &[&str]) -> Lifecycle {
    let (state, effects) = admitted(stops).apply(Event::Rendered(prompt()), "m");
    assert!(matches!(effects[..], [Effect::Generate(_)]), "{effects:?}");
    let (state, effects) = state.apply(Event::Accepted, "m");
    let started = matches!(effects[..], [Effect::Emit(ChatEvent::Started { .. })]);
    assert!(started, "{effects:?}");
    state
}

fn tokens(first_index: u32, text: &str) -> Event {
    Event::Generation(GenerationEvent::Tokens {
        first_index,
        ids: fake::encode(text),
    })
}

fn missing() -> Event {
    Event::FeaturesMissing(RequestError::DeadlineExceeded)
}

fn end(reason: EndReason) -> Event {
    Event::Generation(GenerationEvent::Ended(reason))
}

#[test]
fn an_answer_goes_from_started_by_deltas_to_finished() {
    let (state, effects) = running(&[]).apply(tokens(0, "hello"), "m");
    let [Effect::Emit(ChatEvent::Delta { text, .. })] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(text, "hello");
    let (state, effects) = state.apply(end(EndReason::Length), "m");
    let [
        Effect::Emit(ChatEvent::Finished {
            reason: FinishReason::Length,
            stop_string: None,
            usage,
        }),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!(usage.completion_tokens, fake::encode("hello").len() as u32);
    assert!(state.is_final());
}

#[test]
fn held_back_text_comes_before_the_end() {
    let (state, _) = running(&["lows"]).apply(tokens(0, "hello"), "m");
    let (_, effects) = state.apply(end(EndReason::Stop), "m");
    let [
        Effect::Emit(ChatEvent::Delta { text, token_ids }),
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
        let (mut state, _) = running(&[]).apply(last, "m");
        let name = state.name();
        for event in events() {
            let effects;
            (state, effects) = state.apply(event, "m");
            assert_eq!(state.name(), name);
            assert!(effects.is_empty(), "{effects:?}");
        }
    }
}

#[test]
fn pictures_are_put_again_once_and_the_client_is_not_told_twice() {
    let (state, effects) = running(&[]).apply(missing(), "m");
    assert!(matches!(effects[..], [Effect::Render]), "{effects:?}");
    let (state, _) = state.apply(Event::Rendered(prompt()), "m");
    let (state, effects) = state.apply(Event::Accepted, "m");
    assert!(effects.is_empty(), "{effects:?}");
    let (state, _) = state.apply(missing(), "m");
    assert_eq!(state.name(), "failed");
}

#[test]
fn after_the_first_token_nothing_is_tried_again() {
    let (state, _) = running(&[]).apply(tokens(0, "hello"), "m");
    let (state, _) = state.apply(missing(), "m");
    assert_eq!(state.name(), "failed");
}

#[test]
fn a_gap_or_a_repetition_in_the_tokens_is_a_fault() {
    for first_index in [1, 9] {
        let (state, _) = running(&[]).apply(tokens(first_index, "hello"), "m");
        let Lifecycle::Failed { error } = state else {
            panic!("{state:?}");
        };
        assert!(error.to_string().ends_with("wanted token 0"), "{error}");
    }
}

#[test]
fn an_event_out_of_turn_fails_the_request_and_nothing_else() {
    let (state, _) = admitted(&[]).apply(Event::Accepted, "m");
    let Lifecycle::Failed { error } = state else {
        panic!("{state:?}");
    };
    assert!(
        error.to_string().contains("came in state `admitted`"),
        "{error}"
    );
}
