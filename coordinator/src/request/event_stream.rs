//! What a request's task and the connection that sends its events share: the request's state. The connection reads the
//! group's words itself and turns them into events on the way, so that a token costs one wakeup; the task
//! does what takes long, and watches. When nothing is read, words pile up in the generation's own queue, which is bounded and
//! joins them, and the task sees that nobody reads.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{Stream, StreamExt};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    ChatEvent,
    answers::Answers,
    lifecycle::{Effect, Event, Lifecycle},
    render::ReadyPrompt,
};
use crate::{
    error::RequestError,
    telemetry::RequestMeter,
    worker_client::{GenerationEvent, GenerationStream, WorkerError},
};

/// How often in its time a stall is looked for.
const LOOKS: u32 = 8;

/// What is needed to say to a client why a group does not answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailureContext {
    /// What the client is told where nothing better is known.
    pub(crate) retry_after: Duration,
    /// The field that a group most likely means when it refuses what we checked: one that only it can judge.
    pub(crate) unchecked_field: Option<&'static str>,
}

/// Makes the two ends for a new request.
pub(crate) fn event_stream(
    model: String,
    answers: Answers,
    failures: FailureContext,
) -> (Steering, EventStream) {
    let (lifecycle, effect) = Lifecycle::admit(answers);
    let mut state = State {
        lifecycle,
        model,
        failures,
        generation: None,
        has_tokens: false,
        effects: vec![],
        work: None,
        waiting: VecDeque::new(),
        end: None,
        reader: None,
        next_seq: 0,
        num_reads: 0,
        meter: RequestMeter::start(),
    };
    state.effects.push(effect);
    state.perform();
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        turn: Notify::new(),
        reader_gone: CancellationToken::new(),
    });
    (Steering(shared.clone()), EventStream(shared))
}

/// The task's end. Dropping it before the request is over is a fault that the reader is told of.
pub(crate) struct Steering(Arc<Shared>);

/// The connection's end: the events with their numbers, then the end or an error.
pub(crate) struct EventStream(Arc<Shared>);

/// What the task has to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// Render the prompt and put the pictures.
    Render,
    /// Ask a language group to run this.
    Generate(ReadyPrompt),
}

struct Shared {
    state: Mutex<State>,
    /// Told when the reader made a turn that the task must know of.
    turn: Notify,
    reader_gone: CancellationToken,
}

struct State {
    lifecycle: Lifecycle,
    model: String,
    failures: FailureContext,
    /// The group's words, while it runs the request.
    generation: Option<GenerationStream>,
    has_tokens: bool,
    /// Kept for its memory; empty between calls.
    effects: Vec<Effect>,
    /// For the task.
    work: Option<Task>,
    /// For the reader.
    waiting: VecDeque<ChatEvent>,
    /// Set once nothing follows what is waiting.
    end: Option<Result<(), RequestError>>,
    reader: Option<Waker>,
    next_seq: u64,
    /// Counts the reader's calls.
    num_reads: u64,
    meter: RequestMeter,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }
}

impl Steering {
    /// What is to be done next, once.
    pub(crate) fn take_work(&self) -> Option<Task> {
        self.0.lock().work.take()
    }

    /// Takes in what came of the task's work, or what ends the request.
    pub(crate) fn apply(&self, event: Event) {
        let mut state = self.0.lock();
        state.apply(event);
        state.wake();
    }

    /// A group took the request on.
    pub(crate) fn run(&self, generation: GenerationStream) {
        let mut state = self.0.lock();
        state.generation = Some(generation);
        state.apply(Event::Accepted);
        state.wake();
    }

    /// No group took the request on.
    pub(crate) fn refuse(&self, error: WorkerError) {
        let event = self.0.lock().failures.event(error);
        self.apply(event);
    }

    /// Returns after the reader ended the request, got its first tokens, or found that there is work.
    pub(crate) async fn turn(&self) {
        self.0.turn.notified().await;
    }

    /// Whether tokens came, so that the request's pictures are not needed again.
    pub(crate) fn has_tokens(&self) -> bool {
        self.0.lock().has_tokens
    }

    /// Whether the request is over.
    pub(crate) fn is_over(&self) -> bool {
        self.0.lock().lifecycle.is_final()
    }

    /// Measures the request, which is over.
    pub(crate) fn measure(&self) {
        let state = self.0.lock();
        state.meter.end(&state.lifecycle);
    }

    /// Returns when the reader went away.
    pub(crate) async fn reader_gone(&self) {
        self.0.reader_gone.cancelled().await;
    }

    /// Returns when there was something to read for this long, or an eighth longer, and nothing was read.
    pub(crate) async fn reader_stalled(&self, limit: Duration) {
        let mut unread: Option<(u64, Instant)> = None;
        loop {
            sleep(limit / LOOKS).await;
            unread = match (self.unread_since(), unread) {
                (None, _) => None,
                (Some(now), Some((before, since))) if now == before => {
                    if since.elapsed() >= limit {
                        return;
                    }
                    unread
                }
                (Some(now), _) => Some((now, Instant::now())),
            };
        }
    }

    /// How often was read before what waits now, if something does.
    fn unread_since(&self) -> Option<u64> {
        let state = self.0.lock();
        let generation = state.generation.as_ref();
        let is_waiting =
            !state.waiting.is_empty() || generation.is_some_and(GenerationStream::has_waiting);
        is_waiting.then_some(state.num_reads)
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let fault = RequestError::Internal("the request's task ended without a result".into());
        state.apply(Event::Failed(fault));
        state.wake();
    }
}

impl State {
    fn apply(&mut self, event: Event) {
        self.lifecycle.apply(event, &self.model, &mut self.effects);
        self.perform();
    }

    /// Does what the effects say, as far as it is for us to do.
    fn perform(&mut self) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Emit(event) => {
                    if let ChatEvent::Started { prompt, .. } = &event {
                        self.meter.prompt(*prompt);
                    }
                    self.waiting.push_back(event);
                }
                Effect::Fail(error) => self.end = Some(Err(error)),
                Effect::Render => {
                    self.generation = None;
                    self.work = Some(Task::Render);
                }
                Effect::Generate(prompt) => self.work = Some(Task::Generate(prompt)),
            }
        }
        if self.lifecycle.is_final() {
            // Ends what still runs in the group.
            self.generation = None;
            self.end.get_or_insert(Ok(()));
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Takes in what the group said. Whether the task must know.
    fn hear(&mut self, said: Option<Result<GenerationEvent, WorkerError>>) -> bool {
        let mut is_turn = false;
        let event = match said {
            Some(Ok(event)) => {
                if let GenerationEvent::Tokens(batch) = &event {
                    // The queue lets no other branches through than were asked for.
                    self.meter.tokens(batch.branch as usize, batch.ids.len());
                    is_turn = !std::mem::replace(&mut self.has_tokens, true);
                }
                if let GenerationEvent::Beams(answers) = &event {
                    let num_tokens = answers.iter().map(|answer| answer.ids.len());
                    self.meter.whole_answers(num_tokens.sum());
                }
                Event::Generation(event)
            }
            Some(Err(error)) => self.failures.event(error),
            None => self.failures.event(WorkerError::Faulty(
                "the group's words ended before the answers".into(),
            )),
        };
        self.apply(event);
        is_turn || self.generation.is_none()
    }
}

impl FailureContext {
    /// What a group's failure is to the request.
    fn event(&self, error: WorkerError) -> Event {
        let is_features = error == WorkerError::FeaturesMissing;
        let error = match (error, self.unchecked_field) {
            (WorkerError::Refused(message), Some(field)) => RequestError::invalid(field, message),
            (error, _) => RequestError::from_language(error, self.retry_after),
        };
        match is_features {
            true => Event::FeaturesMissing(error),
            false => Event::Failed(error),
        }
    }
}

impl Stream for EventStream {
    type Item = Result<(u64, ChatEvent), RequestError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        state.num_reads += 1;
        loop {
            if let Some(event) = state.waiting.pop_front() {
                let seq = state.next_seq;
                state.next_seq += 1;
                return Poll::Ready(Some(Ok((seq, event))));
            }
            if let Some(end) = &mut state.end {
                // An error is told once; after it, and after a good end, the stream is over.
                let end = std::mem::replace(end, Ok(()));
                return Poll::Ready(end.err().map(Err));
            }
            let said = match &mut state.generation {
                Some(generation) => generation.poll_next_unpin(context),
                None => Poll::Pending,
            };
            let Poll::Ready(said) = said else {
                match &state.reader {
                    Some(reader) if reader.will_wake(context.waker()) => {}
                    _ => state.reader = Some(context.waker().clone()),
                }
                return Poll::Pending;
            };
            if state.hear(said) {
                self.0.turn.notify_one();
            }
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.0.reader_gone.cancel();
    }
}

#[cfg(test)]
mod tests;
