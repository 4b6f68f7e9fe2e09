//! The leader's loop: take commands, plan, execute, apply, emit. One thread owns the scheduler and the executor; everything
//! else talks to it through [`LeaderHandle`].

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use inkstone_engine::{
    EndReason, EngineLimits, Event, Load, Scheduler, SequenceId, SequenceRequest, SubmitError,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::executor::{Executor, SequenceSetup};

/// Commands that may wait for the loop; it empties the queue between steps.
const COMMAND_QUEUE: usize = 256;

/// What a sequence's owner hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SequenceEvent {
    /// The token number `index` was drawn.
    Token {
        /// 0 is the first after the prompt.
        index: usize,
        /// The token.
        token_id: u32,
    },
    /// The sequence ended. Nothing follows.
    Ended(EndReason),
    /// Its logits were not finite. Nothing follows.
    NotFinite,
    /// The group broke. Nothing follows.
    GroupFailed(String),
}

/// Whether the group works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupStatus {
    /// It takes sequences.
    Serving,
    /// It is broken for good.
    Failed(String),
    /// It was told to stop.
    Stopped,
}

/// A sequence that was not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RefusedError {
    /// By the engine's limits.
    #[error(transparent)]
    Limits(#[from] SubmitError),
    /// The group is broken or stopping.
    #[error("the language group does not take work: {0}")]
    NotServing(String),
}

enum Command {
    Submit {
        setup: Arc<SequenceSetup>,
        request: SequenceRequest,
        events: mpsc::Sender<SequenceEvent>,
        answer: oneshot::Sender<Result<(), RefusedError>>,
    },
}

/// The way to the loop; cheap to clone. The loop ends when the last handle is gone.
#[derive(Clone)]
pub struct LeaderHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<GroupStatus>,
    load: watch::Receiver<Load>,
    next_sequence: Arc<AtomicU64>,
}

/// The running loop.
pub struct Leader {
    handle: LeaderHandle,
    thread: JoinHandle<()>,
}

impl Leader {
    /// Starts the loop on a thread of its own.
    pub fn start(limits: EngineLimits, executor: Box<dyn Executor>) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let (status, status_receiver) = watch::channel(GroupStatus::Serving);
        let (load, load_receiver) = watch::channel(Load::default());
        let state = Loop {
            scheduler: Scheduler::new(limits),
            executor,
            owners: HashMap::new(),
            commands: receiver,
            status,
            load,
        };
        let thread = thread::Builder::new()
            .name("leader".to_owned())
            .spawn(move || state.run())?;
        Ok(Self {
            handle: LeaderHandle {
                commands,
                status: status_receiver,
                load: load_receiver,
                next_sequence: Arc::new(AtomicU64::new(1)),
            },
            thread,
        })
    }

    /// The way in.
    pub fn handle(&self) -> LeaderHandle {
        self.handle.clone()
    }

    /// Waits for the loop to end; every other handle must be gone or going.
    pub fn stop(self) {
        drop(self.handle);
        if self.thread.join().is_err() {
            tracing::error!("the leader's loop panicked");
        }
    }
}

impl LeaderHandle {
    /// A name for a new sequence.
    pub fn new_sequence_id(&self) -> SequenceId {
        SequenceId(self.next_sequence.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a sequence to the engine. Its events come on the receiver; dropping the receiver cancels the sequence within
    /// one step and frees its blocks.
    pub async fn submit(
        &self,
        setup: SequenceSetup,
        max_new_tokens: usize,
        stop_token_ids: Vec<u32>,
    ) -> Result<mpsc::Receiver<SequenceEvent>, RefusedError> {
        // Room for all it can ever say: the loop never waits for a slow reader, and the queue is bounded all the same.
        let (events, receiver) = mpsc::channel(max_new_tokens.saturating_add(2));
        let (answer, answered) = oneshot::channel();
        let command = Command::Submit {
            request: SequenceRequest {
                id: setup.id,
                prompt_tokens: setup.prompt_tokens(),
                max_new_tokens,
                stop_token_ids,
            },
            setup: Arc::new(setup),
            events,
            answer,
        };
        if self.commands.send(command).await.is_err() {
            return Err(self.not_serving());
        }
        answered.await.unwrap_or_else(|_| Err(self.not_serving()))?;
        Ok(receiver)
    }

    /// Follows whether the group works.
    pub fn status(&self) -> watch::Receiver<GroupStatus> {
        self.status.clone()
    }

    /// How busy the engine was after its last step.
    pub fn load(&self) -> Load {
        *self.load.borrow()
    }

    fn not_serving(&self) -> RefusedError {
        RefusedError::NotServing(match &*self.status.borrow() {
            GroupStatus::Failed(reason) => reason.clone(),
            GroupStatus::Serving | GroupStatus::Stopped => "it is stopping".to_owned(),
        })
    }
}

struct Loop {
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    owners: HashMap<SequenceId, mpsc::Sender<SequenceEvent>>,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<GroupStatus>,
    load: watch::Sender<Load>,
}

impl Loop {
    fn run(mut self) {
        let mut idle = true;
        let end = loop {
            if !self.take_commands(idle) {
                break GroupStatus::Stopped;
            }
            self.cancel_abandoned();
            match self.step() {
                Ok(ran) => idle = !ran,
                Err(reason) => {
                    tracing::error!(%reason, "the language group failed");
                    break GroupStatus::Failed(reason);
                }
            }
            self.load.send_replace(self.scheduler.load());
        };
        if let GroupStatus::Failed(reason) = &end {
            for (_, owner) in self.owners.drain() {
                let _ = owner.try_send(SequenceEvent::GroupFailed(reason.clone()));
            }
        }
        self.status.send_replace(end);
    }

    /// Takes all commands that wait; sleeps for one when the engine is idle. `false`: nobody can send any more.
    fn take_commands(&mut self, idle: bool) -> bool {
        if idle {
            match self.commands.blocking_recv() {
                Some(command) => self.take(command),
                None => return false,
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
        true
    }

    fn take(&mut self, command: Command) {
        let Command::Submit {
            setup,
            request,
            events,
            answer,
        } = command;
        let id = request.id;
        let taken = self
            .scheduler
            .submit(request)
            .map_err(RefusedError::from)
            .and_then(|()| {
                self.executor
                    .admit(setup)
                    .map_err(|error| RefusedError::NotServing(error.to_string()))
            });
        if taken.is_ok() {
            self.owners.insert(id, events);
        } else {
            self.scheduler.cancel(id);
        }
        // A caller that went away meanwhile shows as an abandoned sequence.
        let _ = answer.send(taken);
    }

    fn cancel_abandoned(&mut self) {
        let scheduler = &mut self.scheduler;
        self.owners.retain(|id, owner| {
            let abandoned = owner.is_closed();
            if abandoned {
                scheduler.cancel(*id);
                metrics::counter!("inkstone_sequences_cancelled_total").increment(1);
            }
            !abandoned
        });
    }

    /// Runs one step; `false` when there was nothing to run.
    fn step(&mut self) -> Result<bool, String> {
        let Some(plan) = self.scheduler.plan() else {
            return Ok(false);
        };
        let plan = Arc::new(plan);
        tracing::trace!(%plan, "running a step");
        let started = Instant::now();
        let output = self
            .executor
            .execute(Arc::clone(&plan))
            .map_err(|error| error.to_string())?;
        metrics::histogram!("inkstone_step_seconds").record(started.elapsed().as_secs_f64());
        let events = self
            .scheduler
            .apply(&plan, &output)
            .map_err(|error| error.to_string())?;
        for event in events {
            self.emit(event);
        }
        Ok(true)
    }

    fn emit(&mut self, event: Event) {
        let (id, event) = match event {
            Event::Token {
                sequence,
                index,
                token_id,
            } => (sequence, SequenceEvent::Token { index, token_id }),
            Event::Ended { sequence, reason } => (sequence, SequenceEvent::Ended(reason)),
            Event::NotFinite { sequence } => {
                metrics::counter!("inkstone_sequences_not_finite_total").increment(1);
                (sequence, SequenceEvent::NotFinite)
            }
        };
        let last = !matches!(event, SequenceEvent::Token { .. });
        if let Some(owner) = self.owners.get(&id) {
            // The channel has room for all a sequence can say; a closed one is cancelled before the next step.
            let _ = owner.try_send(event);
        }
        if last {
            self.owners.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests;
