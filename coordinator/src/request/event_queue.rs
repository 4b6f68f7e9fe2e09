//! The queue of events between a request's task and the connection that sends them. The task never waits: when the
//! reader lags, deltas are merged into large ones, so that what piles up is the bare answer, which is bounded by its
//! number of tokens. The task can see that nobody reads.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::Stream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ChatEvent;
use crate::error::RequestError;

/// Text of a merged delta at most: far below the 4 MiB that clients take in one message unless told otherwise.
const MAX_MERGED_BYTES: usize = 64 * 1024;

/// Makes a queue that holds this many events before it merges deltas.
pub(crate) fn event_queue(capacity: usize) -> (EventSender, EventReceiver) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            waiting: VecDeque::new(),
            end: None,
            reader: None,
            next_seq: 0,
            last_progress: Instant::now(),
        }),
        capacity,
        reader_gone: CancellationToken::new(),
    });
    (EventSender(shared.clone()), EventReceiver(shared))
}

/// The task's end. Dropping it without a last word is a fault that the reader is told of.
pub(crate) struct EventSender(Arc<Shared>);

/// The connection's end: the events with their numbers, then the end or an error.
pub(crate) struct EventReceiver(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    capacity: usize,
    reader_gone: CancellationToken,
}

struct State {
    waiting: VecDeque<ChatEvent>,
    /// Set once nothing follows what is waiting.
    end: Option<Result<(), RequestError>>,
    reader: Option<Waker>,
    next_seq: u64,
    /// When the reader last took an event, or the queue became full.
    last_progress: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }
}

impl State {
    fn close(&mut self, end: Result<(), RequestError>) {
        if self.end.is_none() {
            self.end = Some(end);
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl EventSender {
    /// Adds an event, or merges a delta into the last one when the queue is full and the sum is not too large.
    /// `Finished` closes the queue.
    pub(crate) fn push(&self, event: ChatEvent) {
        let mut state = self.0.lock();
        let full = state.waiting.len() >= self.0.capacity;
        let last_word = matches!(event, ChatEvent::Finished { .. });
        match (event, state.waiting.back_mut()) {
            (
                ChatEvent::Delta { text, token_ids },
                Some(ChatEvent::Delta {
                    text: last_text,
                    token_ids: last_ids,
                }),
            ) if full && last_text.len() + text.len() <= MAX_MERGED_BYTES => {
                last_text.push_str(&text);
                last_ids.extend(token_ids);
            }
            (event, _) => {
                state.waiting.push_back(event);
                if state.waiting.len() == self.0.capacity {
                    state.last_progress = Instant::now();
                }
            }
        }
        if last_word {
            state.close(Ok(()));
        }
        state.wake();
    }

    /// Ends the answer with an error, after what is waiting.
    pub(crate) fn fail(&self, error: RequestError) {
        self.0.lock().close(Err(error));
    }

    /// Returns when the reader went away.
    pub(crate) async fn reader_gone(&self) {
        self.0.reader_gone.cancelled().await;
    }

    /// Returns when the queue was full and nothing was taken for this long.
    pub(crate) async fn reader_stalled(&self, limit: Duration) {
        loop {
            let due = self.stall_due(limit);
            if due.is_some_and(|due| due <= Instant::now()) {
                return;
            }
            sleep_until(due.unwrap_or_else(|| Instant::now() + limit)).await;
        }
    }

    /// When the stall is complete, if the queue is full now.
    fn stall_due(&self, limit: Duration) -> Option<Instant> {
        let state = self.0.lock();
        let full = state.waiting.len() >= self.0.capacity;
        full.then(|| state.last_progress + limit)
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        let fault = RequestError::Internal("the request's task ended without a result".into());
        self.0.lock().close(Err(fault));
    }
}

impl Stream for EventReceiver {
    type Item = Result<(u64, ChatEvent), RequestError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock();
        if let Some(event) = state.waiting.pop_front() {
            state.last_progress = Instant::now();
            let seq = state.next_seq;
            state.next_seq += 1;
            return Poll::Ready(Some(Ok((seq, event))));
        }
        match &mut state.end {
            Some(end) => {
                // An error is told once; after it, and after a good end, the stream is over.
                let end = std::mem::replace(end, Ok(()));
                Poll::Ready(end.err().map(Err))
            }
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        self.0.reader_gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::request::{FinishReason, PromptSize, Usage};

    fn delta(text: &str) -> ChatEvent {
        ChatEvent::Delta {
            text: text.into(),
            token_ids: vec![text.len() as u32],
        }
    }

    fn finished() -> ChatEvent {
        let prompt = PromptSize {
            prompt_tokens: 1,
            picture_tokens: 0,
        };
        ChatEvent::Finished {
            reason: FinishReason::Stop,
            stop_string: None,
            usage: Usage {
                prompt,
                completion_tokens: 1,
            },
        }
    }

    #[tokio::test]
    async fn a_reader_that_keeps_up_sees_every_event_on_its_own() {
        let (sender, mut receiver) = event_queue(2);
        for seq in 0..5 {
            sender.push(delta("a"));
            assert_eq!(receiver.next().await, Some(Ok((seq, delta("a")))));
        }
        sender.push(finished());
        assert_eq!(receiver.next().await, Some(Ok((5, finished()))));
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn deltas_merge_when_the_queue_is_full_and_none_is_lost() {
        let (sender, receiver) = event_queue(2);
        for text in ["a", "b", "c", "dd"] {
            sender.push(delta(text));
        }
        sender.push(finished());
        let merged = ChatEvent::Delta {
            text: "bcdd".into(),
            token_ids: vec![1, 1, 2],
        };
        let events: Vec<_> = receiver.collect().await;
        assert_eq!(
            events,
            [Ok((0, delta("a"))), Ok((1, merged)), Ok((2, finished()))]
        );
    }

    #[tokio::test]
    async fn a_merged_delta_stays_small_enough_for_every_client() {
        let (sender, receiver) = event_queue(1);
        let text = "x".repeat(MAX_MERGED_BYTES / 2 - 1);
        for _ in 0..5 {
            sender.push(delta(&text));
        }
        sender.push(finished());
        let events: Vec<_> = receiver.collect().await;
        let sizes = events.iter().map(|event| match event {
            Ok((_, ChatEvent::Delta { text, .. })) => text.len(),
            _ => 0,
        });
        let sizes: Vec<_> = sizes.collect();
        assert_eq!(sizes, [text.len() * 2, text.len() * 2, text.len(), 0]);
    }

    #[tokio::test]
    async fn an_error_comes_after_what_was_waiting_and_ends_the_stream() {
        let (sender, receiver) = event_queue(2);
        sender.push(delta("a"));
        sender.fail(RequestError::DeadlineExceeded);
        let events: Vec<_> = receiver.collect().await;
        assert_eq!(
            events,
            [Ok((0, delta("a"))), Err(RequestError::DeadlineExceeded)]
        );
    }

    #[tokio::test]
    async fn a_task_that_vanishes_is_an_error_to_the_reader() {
        let (sender, mut receiver) = event_queue(2);
        drop(sender);
        let error = receiver.next().await.unwrap().unwrap_err();
        assert!(matches!(error, RequestError::Internal(_)), "{error:?}");
    }

    #[tokio::test]
    async fn the_task_sees_that_the_reader_went_away() {
        let (sender, receiver) = event_queue(2);
        assert_eq!(sender.reader_gone().now_or_never(), None);
        drop(receiver);
        assert_eq!(sender.reader_gone().now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn a_stall_is_a_full_queue_of_which_nothing_is_taken() {
        let limit = Duration::from_millis(200);
        let (sender, mut receiver) = event_queue(2);
        sender.push(delta("a"));
        let not_full = tokio::time::timeout(limit * 2, sender.reader_stalled(limit)).await;
        assert!(not_full.is_err(), "one event does not fill the queue");

        let begin = Instant::now();
        sender.push(delta("b"));
        tokio::time::sleep(limit / 2).await;
        receiver.next().await.unwrap().unwrap();
        sender.push(delta("c"));
        sender.reader_stalled(limit).await;
        let elapsed = begin.elapsed();
        assert!(
            elapsed >= limit * 3 / 2,
            "{elapsed:?}: reading starts the wait anew"
        );
    }
}
