//! A coordinator's connection to the leader's loop: what it asks goes in through the loop's queue of commands, what happens to
//! its requests comes back through an outbox of its own. The loop never waits for a reader: events of several steps that
//! nobody has read yet lie together, and a connection that lets too many lie is ended.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use inkstone_engine::{BeamAnswer, Decoding, DrawnToken, EndReason, Priority, Resumed};
use tokio::sync::{Notify, mpsc};

use super::{CacheUpdate, Command, LoadReport, PictureRef, cache_feed::CacheCursor, pulse::Pulse};
use crate::executor::{PromptPart, SequenceSampling};

/// Events that may lie unread: some seconds of a thousand streams.
const MAX_UNREAD_EVENTS: usize = 1 << 18;
/// Events that are read together at most, so that a message stays small.
const MAX_EVENTS_TOGETHER: usize = 1 << 13;

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionId(pub(super) u64);

/// A request as its owner hands it to the loop; checked, but for what only the engine knows.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The owner's name for it, unique within the connection.
    pub handle: u64,
    /// The prompt, in order.
    pub prompt: Vec<PromptPart>,
    /// Where its pictures are, each once.
    pub pictures: Vec<PictureRef>,
    /// How its tokens are chosen.
    pub sampling: SequenceSampling,
    /// Tokens that end an answer.
    pub stop_token_ids: Vec<u32>,
    /// Requests with different salts share no block.
    pub cache_salt: [u8; 32],
    /// What it makes.
    pub decoding: Decoding,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Who goes first.
    pub priority: Priority,
    /// Whether log-probabilities of the prompt's tokens are wanted.
    pub prompt_logprobs: bool,
    /// What an earlier run of it drew, elsewhere.
    pub resumed: Vec<Resumed>,
    /// In front of all that wait.
    pub first_in_line: bool,
}

/// Why a request was not taken, or cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Something in it is wrong.
    Invalid,
    /// The queue is full.
    Busy,
    /// The features of a picture are gone.
    FeaturesMissing,
    /// The group is loading, stopping or broken.
    NotServing,
    /// It is for another life of the group.
    Epoch,
    /// A fault of ours, in this request alone.
    Internal,
}

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The owner's name for the request.
    pub handle: u64,
    /// What happened.
    pub event: OwnerEvent,
}

/// What a request's owner hears.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnerEvent {
    /// It was taken on.
    Accepted,
    /// It was not taken on, or cannot go on. Nothing follows.
    Refused {
        /// What to do about it.
        reason: Refusal,
        /// For people.
        message: String,
    },
    /// It runs.
    Started {
        /// Positions of its prompt that were found in the cache.
        cached_tokens: usize,
    },
    /// Log-probabilities of prompt tokens.
    PromptLogprobs {
        /// Position of the first.
        first: usize,
        /// One for each position.
        tokens: Vec<Option<DrawnToken>>,
    },
    /// A token of an answer.
    Token {
        /// Which answer.
        branch: usize,
        /// 0 is the first after the prompt.
        index: usize,
        /// The token.
        token: DrawnToken,
    },
    /// An answer ended; after the last one's end nothing follows.
    Ended {
        /// Which answer.
        branch: usize,
        /// Why.
        reason: EndReason,
    },
    /// The answers of a beam search, best first. Nothing follows.
    Beams(Vec<BeamAnswer>),
}

/// The asking end of a connection; cheap to clone.
#[derive(Clone)]
pub struct Connection {
    pub(super) id: ConnectionId,
    pub(super) outbox: Arc<Outbox>,
    pub(super) commands: mpsc::Sender<Command>,
}

/// The hearing end. Dropping it ends the connection's requests within one step.
pub struct ConnectionEvents {
    pub(super) outbox: Arc<Outbox>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) pulse: Arc<Pulse>,
    /// What it was told of the cache.
    pub(super) cursor: CacheCursor,
}

/// Events on their way to one reader.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<OutboxState>,
    changed: Notify,
    is_abandoned: AtomicBool,
}

#[derive(Default)]
struct OutboxState {
    unread: Vec<Told>,
    /// Set once: nothing follows what is unread. With an error, when that is not as it should be.
    end: Option<Result<(), String>>,
}

impl Connection {
    /// Asks for a request to run. Whether it does comes as its first event.
    pub async fn submit(&self, submission: Submission) {
        let handle = submission.handle;
        let command = Command::Submit(self.id, Box::new(submission));
        if self.commands.send(command).await.is_err() {
            self.refuse(
                handle,
                Refusal::NotServing,
                "the language group is stopping".to_owned(),
            );
        }
    }

    /// Ends a request; nothing more is said of it, but for what was under way. Unknown handles are passed over.
    pub async fn cancel(&self, handle: u64) {
        // Where the loop is gone, so is the request.
        let _ = self.commands.send(Command::Cancel(self.id, handle)).await;
    }

    /// Tells the owner of a request that did not get as far as the loop.
    pub fn refuse(&self, handle: u64, reason: Refusal, message: String) {
        let event = OwnerEvent::Refused { reason, message };
        self.outbox.push(&mut vec![Told { handle, event }]);
    }

    /// Nothing more will be asked: the connection ends with its last request.
    pub async fn end_input(&self) {
        let _ = self.commands.send(Command::EndInput(self.id)).await;
    }
}

impl ConnectionEvents {
    /// All that happened since the last call; waits until something did. `None` after the end, an error when the end came
    /// before the connection's requests were over.
    pub async fn next(&mut self) -> Option<Result<Vec<Told>, String>> {
        loop {
            if let Some(next) = self.outbox.take() {
                return next;
            }
            self.outbox.changed.notified().await;
        }
    }

    /// How busy the group is now, and whether its steps go on: told without asking the loop, so also while it hangs.
    pub fn report(&self) -> LoadReport {
        self.pulse.report()
    }

    /// What changed in the group's cache since this was asked last, or a part of that; the first time, all that is in it.
    pub fn cache_update(&mut self) -> Option<CacheUpdate> {
        self.pulse.cache.read(&mut self.cursor)
    }
}

impl Drop for ConnectionEvents {
    fn drop(&mut self) {
        self.outbox.is_abandoned.store(true, Ordering::Release);
        // Where there is no room the loop is awake, and looks before its next step.
        let _ = self.commands.try_send(Command::Wake);
    }
}

impl Outbox {
    /// Puts events, in order, and leaves `events` empty. `false`: too many lie unread, and the connection has ended.
    pub(super) fn push(&self, events: &mut Vec<Told>) -> bool {
        let mut state = self.lock();
        if state.unread.len() + events.len() > MAX_UNREAD_EVENTS {
            let reason = format!("{MAX_UNREAD_EVENTS} events lie unread: the reader is too slow");
            state.end.get_or_insert(Err(reason));
        }
        let is_open = state.end.is_none();
        if is_open {
            state.unread.append(events);
        }
        drop(state);
        events.clear();
        self.changed.notify_one();
        is_open
    }

    /// Nothing follows.
    pub(super) fn end(&self, outcome: Result<(), String>) {
        self.lock().end.get_or_insert(outcome);
        self.changed.notify_one();
    }

    /// Whether nobody will read.
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    /// What [`ConnectionEvents::next`] answers; `None`: nothing yet.
    #[expect(clippy::option_option, reason = "nothing yet, and nothing ever again")]
    fn take(&self) -> Option<Option<Result<Vec<Told>, String>>> {
        let mut state = self.lock();
        if !state.unread.is_empty() {
            let rest = state.unread.len().min(MAX_EVENTS_TOGETHER);
            let rest = state.unread.split_off(rest);
            return Some(Some(Ok(std::mem::replace(&mut state.unread, rest))));
        }
        match state.end.clone()? {
            Ok(()) => Some(None),
            Err(reason) => {
                state.end = Some(Ok(()));
                Some(Some(Err(reason)))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        self.state
            .lock()
            .expect("no code panics while it holds the outbox")
    }
}
