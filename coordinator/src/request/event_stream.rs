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
    ChatEvent, Receipt,
    answers::Answers,
    lifecycle::{Attempt, Effect, Event, Lifecycle, Loss, LossCause, MoveRule},
    render::ReadyPrompt,
};
use crate::{
    cluster_view::Placed,
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
    max_moves: u32,
) -> (Steering, EventStream) {
    let rule = MoveRule {
        max_moves,
        retry_after: failures.retry_after,
    };
    let (lifecycle, effect) = Lifecycle::admit(answers, rule);
    let mut state = State {
        lifecycle,
        model,
        failures,
        generation: None,
        has_tokens: false,
        lost: None,
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
    /// Put the pictures of this prompt again; they were lost.
    PutPictures(ReadyPrompt),
    /// Ask a language group to run this.
    Generate(Attempt),
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
    /// The group's words, while it runs the request, and which attempt it is. Dropped, they go nowhere, and the group is told to
    /// end it.
    generation: Option<(u32, GenerationStream)>,
    has_tokens: bool,
    /// Since when the request has been without a group, or with one that said nothing new yet.
    lost: Option<Instant>,
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
    pub(crate) fn run(&self, placed: Placed) {
        let mut state = self.0.lock();
        if let Some(attempt) = state.lifecycle.attempt() {
            state.generation = Some((attempt, placed.stream));
        }
        state.apply(Event::Accepted(Receipt {
            group: placed.group,
            epoch: placed.epoch,
            predicted_cached_tokens: placed.predicted_cached_tokens,
            cached_tokens: 0,
            num_moves: 0,
        }));
        state.wake();
    }

    /// No group took the request on, in all the time that there was.
    pub(crate) fn refuse(&self, error: WorkerError) {
        let mut state = self.0.lock();
        let event = match error {
            WorkerError::FeaturesMissing => state.event_of(error),
            error => Event::Failed(state.failures.error(error)),
        };
        state.apply(event);
        state.wake();
    }

    /// Since when the request has been without a group that says something; none: it was not running.
    pub(crate) fn lost_since(&self) -> Option<Instant> {
        self.0.lock().lost
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
            !state.waiting.is_empty() || generation.is_some_and(|(_, words)| words.has_waiting());
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
                Effect::Render => self.work = Some(Task::Render),
                Effect::Leave(cause) => {
                    // Nothing of it is heard any more, and it is told to end.
                    self.generation = None;
                    self.lost.get_or_insert_with(Instant::now);
                    self.meter.moved(cause);
                }
                Effect::PutPictures(prompt) => self.work = Some(Task::PutPictures(prompt)),
                Effect::Generate(attempt) => {
                    let ids = attempt.resumed.iter().map(|answer| answer.ids.len());
                    self.meter.replayed(ids.sum());
                    self.work = Some(Task::Generate(attempt));
                }
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

    /// Takes in what the group said in an attempt. Whether the task must know.
    fn hear(&mut self, attempt: u32, said: Option<Result<GenerationEvent, WorkerError>>) -> bool {
        let mut is_turn = false;
        let event = match said {
            Some(Ok(event)) => {
                is_turn = self.count(&event);
                Event::Generation(attempt, event)
            }
            Some(Err(error)) => self.event_of(error),
            None => self.event_of(WorkerError::Faulty(
                "the group's words ended before the answers".into(),
            )),
        };
        self.apply(event);
        is_turn || self.generation.is_none()
    }

    /// Measures what the group said. Whether they are the first tokens.
    fn count(&mut self, event: &GenerationEvent) -> bool {
        let goes_on = match event {
            GenerationEvent::Tokens(batch) => {
                // The queue lets no other branches through than were asked for.
                self.meter.tokens(batch.branch as usize, batch.ids.len());
                true
            }
            GenerationEvent::Beams(answers) => {
                let num_tokens = answers.iter().map(|answer| answer.ids.len());
                self.meter.whole_answers(num_tokens.sum());
                true
            }
            GenerationEvent::Ended { .. } => true,
            GenerationEvent::Started { .. } | GenerationEvent::PromptLogprobs { .. } => false,
        };
        if goes_on && let Some(lost) = self.lost.take() {
            self.meter.recovered(lost.elapsed());
        }
        let is_tokens = matches!(event, GenerationEvent::Tokens(_));
        is_tokens && !std::mem::replace(&mut self.has_tokens, true)
    }

    /// What a group's failure is to the request: a reason to go elsewhere, or the end.
    fn event_of(&self, error: WorkerError) -> Event {
        let cause = match &error {
            WorkerError::Unavailable(_) => LossCause::Connection,
            WorkerError::Silent(_) => LossCause::Silence,
            WorkerError::NotServing(_) => LossCause::NotServing,
            WorkerError::EpochMismatch(_) => LossCause::Epoch,
            WorkerError::Busy { .. } => LossCause::Busy,
            WorkerError::FeaturesMissing => LossCause::Features,
            WorkerError::OtherModel { .. }
            | WorkerError::Refused(_)
            | WorkerError::DeadlineExceeded
            | WorkerError::Faulty(_) => return Event::Failed(self.failures.error(error)),
        };
        match self.lifecycle.attempt() {
            Some(attempt) => Event::Lost(Loss {
                attempt,
                cause,
                message: error.to_string(),
            }),
            None => Event::Failed(self.failures.error(error)),
        }
    }
}

impl FailureContext {
    /// What a group's failure is to the client.
    fn error(&self, error: WorkerError) -> RequestError {
        match (error, self.unchecked_field) {
            (WorkerError::Refused(message), Some(field)) => RequestError::invalid(field, message),
            (error, _) => RequestError::from_language(error, self.retry_after),
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
                Some((attempt, words)) => {
                    words.poll_next_unpin(context).map(|said| (*attempt, said))
                }
                None => Poll::Pending,
            };
            let Poll::Ready((attempt, said)) = said else {
                match &state.reader {
                    Some(reader) if reader.will_wake(context.waker()) => {}
                    _ => state.reader = Some(context.waker().clone()),
                }
                return Poll::Pending;
            };
            if state.hear(attempt, said) {
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
