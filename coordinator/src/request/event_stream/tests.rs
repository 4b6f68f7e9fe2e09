//! What the two ends of a request see of each other.

use futures::{FutureExt, StreamExt};
use inkstone_cluster::{Epoch, GroupId};

use super::*;
use crate::{
    request::{AnswerPlan, Delta, PromptSize, detokenise::Answer},
    worker_client::{
        Decoding, EndReason, Generation, Priority, TokenBatch, fake,
        generation_queue::{GenerationWriter, generation_queue},
    },
};

fn generation() -> Generation {
    Generation {
        request_id: "r".into(),
        epoch: Epoch(1),
        prompt: [].into(),
        sampling: fake::greedy(),
        decoding: Decoding::Sample { branches: 1 },
        max_new_tokens: 1000,
        stop_token_ids: vec![],
        priority: Priority::Interactive,
        cache_salt: bytes::Bytes::new(),
        prompt_logprobs: false,
        place: std::sync::Weak::new(),
        resumed: vec![],
        first_in_line: false,
    }
}

/// A request that a group runs.
fn running() -> (Steering, EventStream, GenerationWriter) {
    let tokenizer = fake::tokenizer();
    let blank = Answer::new(tokenizer.stream_decoder(), vec![], [].into());
    let answers = Answers::new(AnswerPlan::All { num_answers: 1 }, false, blank);
    let failures = FailureContext {
        retry_after: Duration::from_secs(1),
        unchecked_field: None,
    };
    let (steering, events) = event_stream("m".into(), answers, failures, 2);
    assert!(matches!(steering.take_work(), Some(Task::Render)));
    steering.apply(Event::Rendered(ReadyPrompt {
        pieces: [].into(),
        size: PromptSize {
            prompt_tokens: 1,
            picture_tokens: 0,
        },
        max_new_tokens: 1000,
    }));
    assert!(matches!(steering.take_work(), Some(Task::Generate(_))));
    let (writer, words) = generation_queue(&generation());
    writer.accept();
    writer.push(GenerationEvent::Started { cached_tokens: 0 });
    steering.run(placed(words));
    (steering, events, writer)
}

fn placed(stream: GenerationStream) -> Placed {
    Placed {
        stream,
        group: GroupId::new("g"),
        epoch: Epoch(1),
        predicted_cached_tokens: 0,
    }
}

fn tokens(first_index: u32, text: &str) -> GenerationEvent {
    GenerationEvent::Tokens(TokenBatch {
        branch: 0,
        first_index,
        ids: fake::encode(text),
        infos: vec![],
    })
}

#[tokio::test]
async fn a_reader_that_keeps_up_sees_every_token_on_its_own() {
    let (steering, mut events, writer) = running();
    let started = events.next().await.unwrap().unwrap();
    assert!(matches!(started, (0, ChatEvent::Started { .. })));
    let num = fake::encode("hello").len() as u32;
    for index in 0..5 {
        writer.push(tokens(index * num, "hello"));
        let (seq, event) = events.next().await.unwrap().unwrap();
        assert_eq!(seq, u64::from(index) + 1);
        let ChatEvent::Delta(Delta { text, .. }) = event else {
            panic!("{event:?}");
        };
        assert_eq!(text, "hello");
    }
    assert!(!steering.is_over());
    writer.push(GenerationEvent::Ended {
        branch: 0,
        reason: EndReason::Stop,
    });
    let (_, last) = events.next().await.unwrap().unwrap();
    assert!(matches!(last, ChatEvent::Finished { .. }), "{last:?}");
    assert_eq!(events.next().await, None);
    steering.turn().await;
    assert!(steering.is_over());
}

#[tokio::test]
async fn the_task_is_told_of_the_first_tokens() {
    let (steering, mut events, writer) = running();
    events.next().await.unwrap().unwrap();
    assert_eq!(steering.turn().now_or_never(), None);
    writer.push(tokens(0, "hello"));
    events.next().await.unwrap().unwrap();
    assert_eq!(steering.turn().now_or_never(), Some(()));
    assert!(steering.has_tokens());
}

#[tokio::test]
async fn an_error_comes_after_what_was_waiting_and_ends_the_stream() {
    let (steering, events, _writer) = running();
    let reading = tokio::spawn(events.collect::<Vec<_>>());
    tokio::task::yield_now().await;
    steering.apply(Event::Failed(RequestError::DeadlineExceeded));
    let events = reading.await.unwrap();
    let [Ok((0, ChatEvent::Started { .. })), Err(error)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(*error, RequestError::DeadlineExceeded);
}

#[tokio::test]
async fn a_task_that_vanishes_is_an_error_to_the_reader() {
    let (steering, mut events, _writer) = running();
    drop(steering);
    let error = events.next().await.unwrap().unwrap_err();
    assert!(matches!(error, RequestError::Internal(_)), "{error:?}");
}

#[tokio::test]
async fn a_request_that_is_over_lets_go_of_the_group() {
    let (steering, events, writer) = running();
    steering.apply(Event::ClientGone);
    drop(events);
    assert!(steering.is_over());
    let alive = writer.is_read();
    assert!(!alive, "the group's words go nowhere");
}

#[tokio::test]
async fn the_task_sees_that_the_reader_went_away() {
    let (steering, events, _writer) = running();
    assert_eq!(steering.reader_gone().now_or_never(), None);
    drop(events);
    assert_eq!(steering.reader_gone().now_or_never(), Some(()));
}

#[tokio::test]
async fn a_stall_is_something_to_read_of_which_nothing_is_read() {
    let limit = Duration::from_millis(400);
    let (steering, mut events, writer) = running();
    events.next().await.unwrap().unwrap();
    let idle = tokio::time::timeout(limit * 3, steering.reader_stalled(limit)).await;
    assert!(idle.is_err(), "there was nothing to read");

    let begin = Instant::now();
    writer.push(tokens(0, "hello"));
    let stalled = steering.reader_stalled(limit);
    tokio::pin!(stalled);
    let early = tokio::time::timeout(limit / 2, &mut stalled).await;
    assert!(early.is_err(), "half of the time is left");
    events.next().await.unwrap().unwrap();
    writer.push(tokens(fake::encode("hello").len() as u32, "hello"));
    stalled.await;
    let elapsed = begin.elapsed();
    assert!(
        elapsed >= limit * 3 / 2,
        "{elapsed:?}: reading starts the wait anew"
    );
}

#[tokio::test]
async fn an_attempt_that_was_given_up_is_dropped_at_once_and_the_next_goes_on_after_it() {
    let (steering, mut events, writer) = running();
    events.next().await.unwrap().unwrap();
    let num = fake::encode("hello").len() as u32;
    writer.push(tokens(0, "hello"));
    writer.fail(WorkerError::Silent("it hangs".into()));
    events.next().await.unwrap().unwrap();
    assert_eq!(steering.turn().now_or_never(), Some(()));
    assert_eq!(
        events.next().now_or_never(),
        None,
        "the client is told nothing"
    );
    assert!(!writer.is_read(), "what it still says goes nowhere");
    assert!(steering.lost_since().is_some());
    let Some(Task::Generate(attempt)) = steering.take_work() else {
        panic!("another group is sought");
    };
    assert!(attempt.is_move);
    assert_eq!(attempt.resumed[0].ids, fake::encode("hello"));

    let asked = Generation {
        resumed: attempt.resumed,
        ..generation()
    };
    let (writer, words) = generation_queue(&asked);
    steering.run(placed(words));
    writer.push(GenerationEvent::Started { cached_tokens: 0 });
    writer.push(tokens(num, " world"));
    let (seq, event) = events.next().await.unwrap().unwrap();
    assert_eq!(seq, 2);
    let ChatEvent::Delta(Delta { text, .. }) = event else {
        panic!("{event:?}");
    };
    assert_eq!(text, " world");
    assert_eq!(steering.lost_since(), None);
}
