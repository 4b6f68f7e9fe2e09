//! The leader's loop. One thread owns the scheduler and the executor; everything else talks to it through
//! [`LeaderHandle`]. While a step runs on the executor's threads the loop takes commands and prepares the next step, so that
//! between two steps there is only what depends on tokens, and who came at the last moment: apply, join, seal, start. What the step drew
//! is told after that, while the next one runs already.

mod cache_feed;
mod clients;
mod connection;
mod fetch;
mod measure;
mod pulse;
mod row_rate;
mod translate;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use inkstone_engine::{EngineLimits, Event, Load, RequestId, Scheduler, StepPlan};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use self::{
    cache_feed::CacheCursor,
    clients::Clients,
    connection::{ConnectionId, Outbox},
    fetch::Fetches,
    measure::Measure,
    pulse::Pulse,
    translate::{failure_of, parts_of},
};
pub use self::{
    cache_feed::CacheUpdate,
    connection::{Connection, ConnectionEvents, OwnerEvent, Refusal, Submission, Told},
    fetch::{FetchError, PictureRef, PictureSource},
    pulse::{LoadReport, Progress},
};
use super::life::Breakage;
use crate::executor::{EncodedPicture, Executor, ExecutorError};

/// Commands that may wait for the loop, and the most it takes between two steps: the ranks' queues have room for these.
const COMMAND_QUEUE: usize = 256;
/// How long commands are taken that came while a step ran, before the next one starts, and how many: the ranks wait meanwhile.
const LATE: Duration = Duration::from_micros(200);
const MAX_LATE: usize = 64;

/// Whether the group works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupStatus {
    /// It takes requests.
    Serving,
    /// It is broken for good.
    Failed(Breakage),
    /// It was told to stop.
    Stopped,
}

/// What the loop is told.
enum Command {
    Connect(ConnectionId, Arc<Outbox>),
    Submit(ConnectionId, Box<Submission>),
    Cancel(ConnectionId, u64),
    EndInput(ConnectionId),
    Pictures(RequestId, Result<Vec<Arc<EncodedPicture>>, FetchError>),
    Fail(String),
    Stop,
    /// Look around: a reader is gone.
    Wake,
}

/// The way to the loop; cheap to clone. The loop ends when the last handle and the last connection are gone.
#[derive(Clone)]
pub struct LeaderHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<GroupStatus>,
    pulse: Arc<Pulse>,
    next_connection: Arc<AtomicU64>,
}

/// The running loop.
pub struct Leader {
    handle: LeaderHandle,
    thread: JoinHandle<()>,
}

impl Leader {
    /// Starts the loop on a thread of its own. Pictures are fetched on the tokio runtime that this is called on.
    pub fn start(
        limits: EngineLimits,
        executor: Box<dyn Executor>,
        pictures: Box<dyn PictureSource>,
    ) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let (status, status_receiver) = watch::channel(GroupStatus::Serving);
        let pulse = Arc::new(Pulse::new(&limits));
        let state = Loop {
            scheduler: Scheduler::new(limits),
            executor,
            in_flight: None,
            clients: Clients::default(),
            next_request: 1,
            commands: receiver,
            fetches: Fetches {
                source: pictures,
                runtime: Handle::current(),
                commands: commands.downgrade(),
            },
            status,
            pulse: Arc::clone(&pulse),
            measure: Measure::default(),
            is_stopping: false,
        };
        let thread = thread::Builder::new()
            .name("leader".to_owned())
            .spawn(move || state.run())?;
        Ok(Self {
            handle: LeaderHandle {
                commands,
                status: status_receiver,
                pulse,
                next_connection: Arc::new(AtomicU64::new(1)),
            },
            thread,
        })
    }

    /// The way in.
    pub fn handle(&self) -> LeaderHandle {
        self.handle.clone()
    }

    /// Ends the loop, whoever is still connected, and waits for its end. Not to be called on a thread of the runtime.
    pub fn stop(self) {
        // Where it cannot be told it has ended.
        let _ = self.handle.commands.blocking_send(Command::Stop);
        drop(self.handle);
        if self.thread.join().is_err() {
            tracing::error!("the leader's loop panicked");
        }
    }
}

impl LeaderHandle {
    /// A new connection.
    pub async fn connect(&self) -> (Connection, ConnectionEvents) {
        let id = ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::default());
        let connection = Connection {
            id,
            outbox: Arc::clone(&outbox),
            commands: self.commands.clone(),
        };
        let events = ConnectionEvents {
            outbox: Arc::clone(&outbox),
            commands: self.commands.clone(),
            pulse: Arc::clone(&self.pulse),
            cursor: CacheCursor::default(),
        };
        let command = Command::Connect(id, Arc::clone(&outbox));
        if self.commands.send(command).await.is_err() {
            outbox.end(Err("the language group is stopping".to_owned()));
        }
        (connection, events)
    }

    /// The group cannot go on: tells its owners, and stops the loop.
    pub async fn fail(&self, reason: String) {
        let _ = self.commands.send(Command::Fail(reason)).await;
    }

    /// Follows whether the group works.
    pub fn status(&self) -> watch::Receiver<GroupStatus> {
        self.status.clone()
    }

    /// How busy the engine was after its last step.
    pub fn load(&self) -> Load {
        self.pulse.load()
    }

    /// Whether steps go on.
    pub fn progress(&self) -> Progress {
        self.pulse.report().progress
    }

    /// How long the step that runs has taken by now; none: no step runs.
    pub fn step_age(&self) -> Option<Duration> {
        self.progress().step_age
    }
}

struct Loop {
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    in_flight: Option<InFlight>,
    clients: Clients,
    next_request: u64,
    commands: mpsc::Receiver<Command>,
    fetches: Fetches,
    status: watch::Sender<GroupStatus>,
    pulse: Arc<Pulse>,
    measure: Measure,
    is_stopping: bool,
}

/// The step that the executor runs.
struct InFlight {
    plan: Arc<StepPlan>,
    since: Instant,
}

impl Loop {
    fn run(mut self) {
        let end = match self.turn_until_stopped() {
            Ok(()) => GroupStatus::Stopped,
            Err(breakage) => {
                tracing::error!(reason = %breakage, suspects = ?breakage.suspects, "the language group failed");
                GroupStatus::Failed(breakage)
            }
        };
        self.pulse.stop();
        let message = match &end {
            GroupStatus::Failed(breakage) => format!("the language group failed: {breakage}"),
            GroupStatus::Serving | GroupStatus::Stopped => "the language group stops".to_owned(),
        };
        self.clients.end_all(&message);
        // Who connected in the meantime is told too: nobody will take its command any more.
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Connect(_, outbox) = command {
                outbox.end(Err(message.clone()));
            }
        }
        self.status.send_replace(end);
    }

    fn turn_until_stopped(&mut self) -> Result<(), Breakage> {
        let mut is_idle = true;
        while self.take_commands(is_idle)? {
            let abandoned = self.clients.drop_abandoned();
            self.cancel_all(abandoned);
            is_idle = self.turn()?;
            self.report(is_idle);
            let left = self.clients.deliver();
            self.cancel_all(left);
        }
        Ok(())
    }

    /// Prepares the next step, waits for the one that runs, starts the next with who came meanwhile, and then tells what the one before
    /// drew. `true`: nothing ran and nothing can, before a command comes.
    fn turn(&mut self) -> Result<bool, Breakage> {
        let mut prepared = self.scheduler.prepare();
        let mut events = self.scheduler.take_events();
        let had_step = self.in_flight.is_some();
        if let Some(InFlight { plan, since }) = self.in_flight.take() {
            let output = self.execute(|executor| executor.finish())?;
            self.measure.step(&plan, since.elapsed());
            self.pulse.step_is_done(self.measure.rows_per_second());
            let drawn = self.scheduler.apply(&plan, &output);
            events.extend(drawn.map_err(|error| Breakage::by([0], error.to_string()))?);
            self.take_late_commands()?;
            self.scheduler.join(&mut prepared);
            events.extend(self.scheduler.take_events());
        }
        if let Some(plan) = self.scheduler.seal(prepared) {
            self.start(plan)?;
        }
        for event in events {
            self.take_event(event);
        }
        Ok(!had_step && self.in_flight.is_none())
    }

    fn start(&mut self, plan: StepPlan) -> Result<(), Breakage> {
        tracing::trace!(%plan, "running a step");
        let plan = Arc::new(plan);
        let since = Instant::now();
        self.execute(|executor| executor.start(Arc::clone(&plan)))?;
        self.pulse.step_begins(since);
        self.in_flight = Some(InFlight { plan, since });
        Ok(())
    }

    /// After an error the executor says who did not answer.
    fn execute<T>(
        &mut self,
        act: impl FnOnce(&mut dyn Executor) -> Result<T, ExecutorError>,
    ) -> Result<T, Breakage> {
        let executor = self.executor.as_mut();
        act(executor).map_err(|error| Breakage::by(executor.suspects(), error.to_string()))
    }

    /// Lets others know how it goes.
    fn report(&mut self, is_idle: bool) {
        let (load, stats) = (self.scheduler.load(), self.scheduler.stats());
        self.measure.load(load, stats);
        self.pulse.tell_load(load, stats);
        self.pulse.cache.write(&mut self.scheduler, is_idle);
    }

    /// Takes commands that wait; sleeps for one when there is nothing to run. `false`: the loop is to end.
    fn take_commands(&mut self, is_idle: bool) -> Result<bool, Breakage> {
        if is_idle {
            match self.commands.blocking_recv() {
                Some(command) => self.take(command)?,
                None => return Ok(false),
            }
        }
        for _ in 1..COMMAND_QUEUE {
            match self.commands.try_recv() {
                Ok(command) => self.take(command)?,
                Err(_) => break,
            }
        }
        Ok(!self.is_stopping)
    }

    /// Takes what came while a step ran, so that it need not wait for another one.
    fn take_late_commands(&mut self) -> Result<(), Breakage> {
        let since = Instant::now();
        for _ in 0..MAX_LATE {
            match self.commands.try_recv() {
                Ok(command) if since.elapsed() < LATE => self.take(command)?,
                // The last one is taken all the same: it cannot be put back.
                Ok(command) => return self.take(command),
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn take(&mut self, command: Command) -> Result<(), Breakage> {
        match command {
            Command::Connect(id, outbox) => self.clients.connect(id, outbox),
            Command::Submit(connection, submission) => self.submit(connection, *submission)?,
            Command::Cancel(connection, handle) => {
                if let Some(request) = self.clients.find(connection, handle) {
                    self.cancel(request);
                }
            }
            Command::EndInput(connection) => self.clients.end_input(connection),
            Command::Pictures(request, fetched) => self.take_pictures(request, fetched)?,
            Command::Fail(reason) => return Err(Breakage::new(reason)),
            Command::Stop => self.is_stopping = true,
            Command::Wake => {}
        }
        Ok(())
    }

    fn submit(&mut self, connection: ConnectionId, submission: Submission) -> Result<(), Breakage> {
        if !self.clients.is_connected(connection) {
            return Ok(());
        }
        let handle = submission.handle;
        if self.clients.find(connection, handle).is_some() {
            let message = format!("handle {handle} names a request that runs already");
            let invalid = Refusal::Invalid;
            self.clients.refuse(connection, handle, invalid, message);
            return Ok(());
        }
        let id = RequestId(self.next_request);
        let (request, setup, owner) = parts_of(id, connection, submission);
        if let Err(error) = self.scheduler.submit(request) {
            let reason = translate::refusal_of(&error);
            self.clients
                .refuse(connection, handle, reason, error.to_string());
            return Ok(());
        }
        self.next_request += 1;
        self.clients.accept(id, owner);
        self.execute(|executor| executor.admit(Arc::new(setup)))
    }

    fn take_pictures(
        &mut self,
        request: RequestId,
        fetched: Result<Vec<Arc<EncodedPicture>>, FetchError>,
    ) -> Result<(), Breakage> {
        if !self.clients.is_owned(request) {
            return Ok(());
        }
        match fetched {
            Ok(pictures) => {
                self.execute(|executor| executor.pictures(request, pictures))?;
                self.scheduler.pictures_ready(request);
            }
            Err(error) => {
                let reason = fetch::refusal_of(&error);
                let message = error.to_string();
                self.scheduler.cancel(request);
                self.clients
                    .tell_last(request, OwnerEvent::Refused { reason, message });
            }
        }
        Ok(())
    }

    fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request);
        self.clients.forget(request);
        metrics::counter!("inkstone_requests_cancelled_total").increment(1);
    }

    fn cancel_all(&mut self, requests: Vec<RequestId>) {
        requests
            .into_iter()
            .for_each(|request| self.cancel(request));
    }

    fn take_event(&mut self, event: Event) {
        let request = event.request();
        match event {
            Event::Started { cached_tokens, .. } => {
                self.clients
                    .tell(request, OwnerEvent::Started { cached_tokens });
            }
            Event::NeedsPictures { .. } => {
                if let Some(owner) = self.clients.owner(request) {
                    let pictures = owner.pictures.clone();
                    owner.fetch = Some(self.fetches.begin(request, pictures));
                }
            }
            Event::PromptLogprobs { first, tokens, .. } => {
                self.clients
                    .tell(request, OwnerEvent::PromptLogprobs { first, tokens });
            }
            Event::Token {
                branch,
                index,
                token,
                ..
            } => {
                self.measure.tokens(1);
                let event = OwnerEvent::Token {
                    branch,
                    index,
                    token,
                };
                self.clients.tell(request, event);
            }
            Event::Ended { branch, reason, .. } => {
                self.clients
                    .tell_answer_ended(request, OwnerEvent::Ended { branch, reason });
            }
            Event::Beams { answers, .. } => {
                let tokens = answers.iter().map(|answer| answer.token_ids.len());
                self.measure.tokens(tokens.sum());
                self.clients.tell_last(request, OwnerEvent::Beams(answers));
            }
            Event::Failed { reason, .. } => {
                metrics::counter!("inkstone_requests_failed_total").increment(1);
                self.clients.tell_last(request, failure_of(reason));
            }
        }
    }
}

#[cfg(test)]
mod tests;
