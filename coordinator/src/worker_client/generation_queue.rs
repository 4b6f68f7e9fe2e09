//! The queue between what a group says of one request and whoever reads it. The writer never waits: what the request can
//! say at all is bounded by its own size, and past some events that nobody took, tokens of an answer are joined. So a
//! request that is not read costs its neighbours nothing.

use std::{
    any::Any,
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::{Context, Poll, Waker},
};

use futures::Stream;

use super::{Decoding, Generation, GenerationEvent, PromptPiece, TokenBatch, WorkerError};
use crate::admission::Place;

/// Events kept apart for a reader that lags. 64: seconds of text at reading speed.
const KEPT_APART: usize = 64;
/// Tokens of a joined batch at most, so that what is made of it stays far below the 4 MiB that clients take in one message
/// unless told otherwise, log-probabilities included.
const MAX_JOINED_TOKENS: usize = 1024;

/// Makes the queue of this request.
pub(crate) fn generation_queue(generation: &Generation) -> (GenerationWriter, GenerationStream) {
    let shared = Arc::new(Shared(Mutex::new(State {
        is_accepted: false,
        waiting: VecDeque::new(),
        end: None,
        reader: None,
        room: Room::of(generation),
        place: generation.place.clone(),
    })));
    let stream = GenerationStream {
        shared: shared.clone(),
        kept: vec![],
    };
    (GenerationWriter(shared), stream)
}

/// The end that the group's words go into. Dropping it before the last word is a failure of the group.
pub(crate) struct GenerationWriter(Arc<Shared>);

/// The end that is read: what happens to the request, in order. The end of the stream before the last answer's is a
/// failure of the group. Dropping it ends the request.
pub(crate) struct GenerationStream {
    shared: Arc<Shared>,
    /// What lives as long as the stream.
    kept: Vec<Box<dyn Any + Send + Sync>>,
}

struct Shared(Mutex<State>);

struct State {
    is_accepted: bool,
    waiting: VecDeque<GenerationEvent>,
    /// Set once nothing follows what is waiting.
    end: Option<Result<(), WorkerError>>,
    /// Whom to wake; none while nobody waits.
    reader: Option<Waker>,
    room: Room,
    /// What is charged for tokens as they are drawn, whether they are read or not.
    place: Weak<Place>,
}

/// What the group may still say: the bound of the queue. What an earlier run said is not said again.
struct Room {
    /// Tokens of each branch.
    max_new_tokens: u32,
    branches: Vec<BranchRoom>,
    num_open: usize,
    beams: bool,
    prompt_positions: usize,
    is_started: bool,
}

struct BranchRoom {
    num_tokens: u32,
    is_open: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while locked")
    }
}

impl GenerationWriter {
    /// The group took the request on.
    pub(crate) fn accept(&self) {
        let mut state = self.0.lock();
        state.is_accepted = true;
        state.wake();
    }

    /// Adds what happened, and says whether anything may follow. What a group that keeps to the contract would not say is the
    /// request's end, with an error.
    pub(crate) fn push(&self, event: GenerationEvent) -> bool {
        let mut state = self.0.lock();
        if state.end.is_some() {
            return false;
        }
        if let Err(fault) = state.room.take(&event) {
            let message = format!("the leader broke the contract: {fault}");
            state.close(Err(WorkerError::Faulty(message)));
            return false;
        }
        if let Some(place) = state.place.upgrade() {
            place.drawn(num_tokens(&event));
        }
        if let Some(event) = state.join(event) {
            state.waiting.push_back(event);
        }
        if state.room.is_over() {
            if let Some(place) = state.place.upgrade() {
                place.all_drawn();
            }
            state.close(Ok(()));
            return false;
        }
        state.wake();
        true
    }

    /// Ends the request with an error, after what is waiting.
    pub(crate) fn fail(&self, error: WorkerError) {
        self.0.lock().close(Err(error));
    }

    /// Whether the stream is still there.
    #[cfg(test)]
    pub(crate) fn is_read(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Whether the request ended with an error.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.0.lock().end, Some(Err(_)))
    }
}

impl Drop for GenerationWriter {
    fn drop(&mut self) {
        self.fail(WorkerError::Unavailable(
            "the leader closed the stream before the end".into(),
        ));
    }
}

impl GenerationStream {
    /// Keeps this for as long as the stream lives.
    pub(crate) fn keep(&mut self, guard: impl Any + Send + Sync) {
        self.kept.push(Box::new(guard));
    }

    /// Waits for the group to take the request on.
    pub(crate) async fn accepted(&self) -> Result<(), WorkerError> {
        poll_fn(|context| {
            let mut state = self.shared.lock();
            match &state.end {
                _ if state.is_accepted => Poll::Ready(Ok(())),
                Some(Err(error)) => Poll::Ready(Err(error.clone())),
                Some(Ok(())) => Poll::Ready(Err(WorkerError::Faulty(
                    "the request ended before it was taken on".into(),
                ))),
                None => {
                    state.wait(context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether something waits to be read.
    pub(crate) fn has_waiting(&self) -> bool {
        let state = self.shared.lock();
        !state.waiting.is_empty() || state.end.is_some()
    }
}

impl Stream for GenerationStream {
    type Item = Result<GenerationEvent, WorkerError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        if let Some(event) = state.waiting.pop_front() {
            return Poll::Ready(Some(Ok(event)));
        }
        match &mut state.end {
            Some(end) => {
                // An error is told once; after it, and after a good end, the stream is over.
                let end = std::mem::replace(end, Ok(()));
                Poll::Ready(end.err().map(Err))
            }
            None => {
                state.wait(context);
                Poll::Pending
            }
        }
    }
}

impl State {
    /// Notes whom to wake. A reader asks again after each event, so that it is mostly noted already.
    fn wait(&mut self, context: &Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(context.waker()),
            None => self.reader = Some(context.waker().clone()),
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn close(&mut self, end: Result<(), WorkerError>) {
        if self.end.is_none() {
            self.end = Some(end);
            self.wake();
        }
    }

    /// Adds tokens to a batch that waits, when enough waits; otherwise gives the event back.
    fn join(&mut self, event: GenerationEvent) -> Option<GenerationEvent> {
        if self.waiting.len() < KEPT_APART {
            return Some(event);
        }
        let GenerationEvent::Tokens(batch) = event else {
            return Some(event);
        };
        // Events of one branch stay in order: only its last batch may grow, and none is behind it but of other branches.
        let last = self.waiting.iter_mut().rev().find_map(|event| match event {
            GenerationEvent::Tokens(last) if last.branch == batch.branch => Some(last),
            _ => None,
        });
        match last {
            Some(last) if last.ids.len() + batch.ids.len() <= MAX_JOINED_TOKENS => {
                last.ids.extend(batch.ids);
                last.infos.extend(batch.infos);
                None
            }
            _ => Some(GenerationEvent::Tokens(batch)),
        }
    }
}

/// Tokens that an event brings.
fn num_tokens(event: &GenerationEvent) -> usize {
    match event {
        GenerationEvent::Tokens(batch) => batch.ids.len(),
        GenerationEvent::Beams(answers) => answers.iter().map(|answer| answer.ids.len()).sum(),
        GenerationEvent::Started { .. }
        | GenerationEvent::PromptLogprobs { .. }
        | GenerationEvent::Ended { .. } => 0,
    }
}

impl Room {
    fn of(generation: &Generation) -> Self {
        let mut branches: Vec<_> = (0..generation.decoding.num_branches())
            .map(|_| BranchRoom {
                num_tokens: 0,
                is_open: true,
            })
            .collect();
        for resumed in &generation.resumed {
            if let Some(branch) = branches.get_mut(resumed.branch as usize) {
                branch.num_tokens = u32::try_from(resumed.ids.len()).unwrap_or(u32::MAX);
                branch.is_open = !resumed.ended;
            }
        }
        let positions = generation.prompt.iter().map(PromptPiece::num_tokens);
        Self {
            max_new_tokens: generation.max_new_tokens,
            num_open: branches.iter().filter(|branch| branch.is_open).count(),
            branches,
            beams: matches!(generation.decoding, Decoding::Beam(_)),
            prompt_positions: if generation.prompt_logprobs {
                positions.sum()
            } else {
                0
            },
            is_started: false,
        }
    }

    fn is_over(&self) -> bool {
        self.num_open == 0 && !self.beams
    }

    /// Counts an event, or says what is wrong with it.
    fn take(&mut self, event: &GenerationEvent) -> Result<(), String> {
        match event {
            GenerationEvent::Started { .. } if self.is_started => Err("it started twice".into()),
            GenerationEvent::Started { .. } => {
                self.is_started = true;
                Ok(())
            }
            GenerationEvent::PromptLogprobs { tokens, .. } => {
                let left = self.prompt_positions.checked_sub(tokens.len());
                self.prompt_positions = left.ok_or_else(|| {
                    format!(
                        "log-probabilities of {} prompt tokens came, at most {} were left",
                        tokens.len(),
                        self.prompt_positions
                    )
                })?;
                Ok(())
            }
            GenerationEvent::Tokens(batch) => self.take_tokens(batch),
            GenerationEvent::Ended { branch, .. } => {
                self.branch(*branch)?.is_open = false;
                self.num_open -= 1;
                Ok(())
            }
            GenerationEvent::Beams(_) if !self.beams => Err("beams came unasked".into()),
            GenerationEvent::Beams(_) => {
                self.beams = false;
                Ok(())
            }
        }
    }

    fn take_tokens(&mut self, batch: &TokenBatch) -> Result<(), String> {
        let limit = self.max_new_tokens;
        let branch = self.branch(batch.branch)?;
        if batch.first_index != branch.num_tokens {
            return Err(format!(
                "token {} came, wanted token {}",
                batch.first_index, branch.num_tokens
            ));
        }
        if !batch.infos.is_empty() && batch.infos.len() != batch.ids.len() {
            return Err(format!(
                "{} tokens came with log-probabilities of {}",
                batch.ids.len(),
                batch.infos.len()
            ));
        }
        let num_new = u32::try_from(batch.ids.len()).unwrap_or(u32::MAX);
        let num_tokens = branch.num_tokens.saturating_add(num_new);
        if num_tokens > limit {
            return Err(format!("{num_tokens} tokens came, the limit is {limit}"));
        }
        branch.num_tokens = num_tokens;
        Ok(())
    }

    /// A branch that goes on.
    fn branch(&mut self, branch: u32) -> Result<&mut BranchRoom, String> {
        let num_branches = self.branches.len();
        let found = self.branches.get_mut(branch as usize);
        let found = found.filter(|found| found.is_open);
        found.ok_or_else(|| format!("branch {branch} of {num_branches} is not running"))
    }
}

#[cfg(test)]
mod tests;
