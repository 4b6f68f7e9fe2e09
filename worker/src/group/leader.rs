//! The leader's loop. One thread owns the scheduler and the executor; everything else talks to it through
//! [`LeaderHandle`]. While a step runs on the executor's threads the loop takes commands and prepares the next step, so that
//! between two steps there is only what depends on tokens: apply, seal, start. What the step drew is told after that,
//! while the next one runs already.

mod connection;
mod measure;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use inkstone_engine::{
    Decoding, DrawFailure, EngineLimits, EngineRequest, Event, Load, PromptSpan, RequestId,
    Scheduler, StepPlan, SubmitError,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::AbortHandle,
};

pub use self::connection::{Connection, ConnectionEvents, OwnerEvent, Refusal, Submission, Told};
use self::{
    connection::{ConnectionId, Outbox},
    measure::Measure,
};
use crate::executor::{EncodedPicture, Executor, PromptPart, RequestSetup};
pub use crate::feature_fetcher::{FetchError, PictureRef};

/// Commands that may wait for the loop, and the most it takes between two steps: the ranks' queues have room for these.
const COMMAND_QUEUE: usize = 256;

/// Whether the group works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupStatus {
    /// It takes requests.
    Serving,
    /// It is broken for good.
    Failed(String),
    /// It was told to stop.
    Stopped,
}

/// Gets features of pictures, off the loop's thread. It must come to an end by itself.
pub trait PictureSource: Send {
    /// All of `pictures`, in any order.
    fn fetch(
        &self,
        pictures: Vec<PictureRef>,
    ) -> BoxFuture<'static, Result<Vec<Arc<EncodedPicture>>, FetchError>>;
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
    load: watch::Receiver<Load>,
    step_since: watch::Receiver<Option<Instant>>,
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
        let (load, load_receiver) = watch::channel(Load::default());
        let (step_since, step_since_receiver) = watch::channel(None);
        let state = Loop {
            scheduler: Scheduler::new(limits),
            executor,
            in_flight: None,
            connections: HashMap::new(),
            requests: HashMap::new(),
            next_request: 1,
            commands: receiver,
            commands_sender: commands.downgrade(),
            pictures,
            runtime: Handle::current(),
            status,
            load,
            step_since,
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
                load: load_receiver,
                step_since: step_since_receiver,
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
        *self.load.borrow()
    }

    /// How long the step that runs has taken by now; none: no step runs.
    pub fn step_age(&self) -> Option<Duration> {
        self.step_since.borrow().map(|since| since.elapsed())
    }
}

struct Loop {
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    in_flight: Option<InFlight>,
    connections: HashMap<ConnectionId, Client>,
    requests: HashMap<RequestId, Owner>,
    next_request: u64,
    commands: mpsc::Receiver<Command>,
    /// For features that arrive; it does not keep the loop alive.
    commands_sender: mpsc::WeakSender<Command>,
    pictures: Box<dyn PictureSource>,
    runtime: Handle,
    status: watch::Sender<GroupStatus>,
    load: watch::Sender<Load>,
    step_since: watch::Sender<Option<Instant>>,
    measure: Measure,
    is_stopping: bool,
}

/// The step that the executor runs.
struct InFlight {
    plan: Arc<StepPlan>,
    since: Instant,
}

/// A connection, as the loop sees it.
struct Client {
    outbox: Arc<Outbox>,
    handles: HashMap<u64, RequestId>,
    input_ended: bool,
    /// What to tell it at the end of this turn, in one message.
    to_tell: Vec<Told>,
}

/// Who waits for a request.
struct Owner {
    connection: ConnectionId,
    handle: u64,
    answers_left: usize,
    pictures: Vec<PictureRef>,
    /// The fetch of its pictures, ended with the request.
    fetch: Option<AbortHandle>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(fetch) = &self.fetch {
            fetch.abort();
        }
    }
}

impl Loop {
    fn run(mut self) {
        let end = match self.turn_until_stopped() {
            Ok(()) => GroupStatus::Stopped,
            Err(reason) => {
                tracing::error!(%reason, "the language group failed");
                GroupStatus::Failed(reason)
            }
        };
        self.tell_all_of_the_end(&end);
        self.status.send_replace(end);
    }

    fn turn_until_stopped(&mut self) -> Result<(), String> {
        let mut is_idle = true;
        while self.take_commands(is_idle)? {
            self.cancel_abandoned();
            is_idle = self.turn()?;
            self.deliver();
            let (load, stats) = (self.scheduler.load(), self.scheduler.stats());
            self.measure.load(load, stats);
            self.load.send_replace(load);
        }
        Ok(())
    }

    /// Prepares the next step, waits for the one that runs, starts the next, and then tells what the one before drew. `true`: nothing
    /// ran and nothing can, before a command comes.
    fn turn(&mut self) -> Result<bool, String> {
        let prepared = self.scheduler.prepare();
        let mut events = self.scheduler.take_events();
        let had_step = self.in_flight.is_some();
        if let Some(InFlight { plan, since }) = self.in_flight.take() {
            let output = self.executor.finish().map_err(|error| error.to_string())?;
            self.step_since.send_replace(None);
            self.measure.step(&plan, since.elapsed());
            let drawn = self.scheduler.apply(&plan, &output);
            events.extend(drawn.map_err(|error| error.to_string())?);
        }
        if let Some(plan) = self.scheduler.seal(prepared) {
            self.start(plan)?;
        }
        for event in events {
            self.take_event(event);
        }
        Ok(!had_step && self.in_flight.is_none())
    }

    fn start(&mut self, plan: StepPlan) -> Result<(), String> {
        tracing::trace!(%plan, "running a step");
        let plan = Arc::new(plan);
        let since = Instant::now();
        self.executor
            .start(Arc::clone(&plan))
            .map_err(|error| error.to_string())?;
        self.step_since.send_replace(Some(since));
        self.in_flight = Some(InFlight { plan, since });
        Ok(())
    }

    /// Takes commands that wait; sleeps for one when there is nothing to run. `false`: the loop is to end.
    fn take_commands(&mut self, is_idle: bool) -> Result<bool, String> {
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

    fn take(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Connect(id, outbox) => {
                self.connections.insert(id, Client::new(outbox));
            }
            Command::Submit(connection, submission) => self.submit(connection, *submission)?,
            Command::Cancel(connection, handle) => {
                let client = self.connections.get(&connection);
                let request = client.and_then(|client| client.handles.get(&handle));
                if let Some(request) = request.copied() {
                    self.cancel(request);
                }
            }
            Command::EndInput(connection) => {
                if let Some(client) = self.connections.get_mut(&connection) {
                    client.input_ended = true;
                }
            }
            Command::Pictures(request, fetched) => self.take_pictures(request, fetched)?,
            Command::Fail(reason) => return Err(reason),
            Command::Stop => self.is_stopping = true,
            Command::Wake => {}
        }
        Ok(())
    }

    fn submit(&mut self, connection: ConnectionId, submission: Submission) -> Result<(), String> {
        let id = RequestId(self.next_request);
        let Some(client) = self.connections.get_mut(&connection) else {
            return Ok(());
        };
        let handle = submission.handle;
        let Entry::Vacant(free) = client.handles.entry(handle) else {
            client.refuse(
                handle,
                Refusal::Invalid,
                format!("handle {handle} names a request that runs already"),
            );
            return Ok(());
        };
        let (request, setup, owner) = parts_of(id, connection, submission);
        if let Err(error) = self.scheduler.submit(request) {
            client.refuse(handle, refusal_of(&error), error.to_string());
            return Ok(());
        }
        free.insert(id);
        client.tell(handle, OwnerEvent::Accepted);
        self.next_request += 1;
        self.requests.insert(id, owner);
        self.executor
            .admit(Arc::new(setup))
            .map_err(|error| error.to_string())
    }

    fn take_pictures(
        &mut self,
        request: RequestId,
        fetched: Result<Vec<Arc<EncodedPicture>>, FetchError>,
    ) -> Result<(), String> {
        if !self.requests.contains_key(&request) {
            return Ok(());
        }
        match fetched {
            Ok(pictures) => {
                self.executor
                    .pictures(request, pictures)
                    .map_err(|error| error.to_string())?;
                self.scheduler.pictures_ready(request);
            }
            Err(error) => {
                let reason = match error {
                    // Either way another vision worker can encode the picture again.
                    FetchError::Missing { .. } | FetchError::Unavailable { .. } => {
                        Refusal::FeaturesMissing
                    }
                    FetchError::WrongSize { .. } => Refusal::Invalid,
                };
                let message = error.to_string();
                self.scheduler.cancel(request);
                self.tell_last(request, OwnerEvent::Refused { reason, message });
            }
        }
        Ok(())
    }

    fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request);
        if let Some(owner) = self.requests.remove(&request)
            && let Some(client) = self.connections.get_mut(&owner.connection)
        {
            client.handles.remove(&owner.handle);
        }
        metrics::counter!("inkstone_requests_cancelled_total").increment(1);
    }

    fn cancel_abandoned(&mut self) {
        let clients = self.connections.iter();
        let abandoned: Vec<_> = clients
            .filter(|(_, client)| client.outbox.is_abandoned())
            .map(|(id, _)| *id)
            .collect();
        abandoned.into_iter().for_each(|id| self.disconnect(id));
    }

    /// Forgets a connection and ends its requests.
    fn disconnect(&mut self, id: ConnectionId) {
        if let Some(client) = self.connections.remove(&id) {
            for request in client.handles.into_values() {
                self.cancel(request);
            }
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Started {
                request,
                cached_tokens,
            } => self.tell(request, OwnerEvent::Started { cached_tokens }),
            Event::NeedsPictures { request } => self.fetch_pictures(request),
            Event::PromptLogprobs {
                request,
                first,
                tokens,
            } => self.tell(request, OwnerEvent::PromptLogprobs { first, tokens }),
            Event::Token {
                request,
                branch,
                index,
                token,
            } => {
                self.measure.tokens(1);
                let event = OwnerEvent::Token {
                    branch,
                    index,
                    token,
                };
                self.tell(request, event);
            }
            Event::Ended {
                request,
                branch,
                reason,
            } => {
                let event = OwnerEvent::Ended { branch, reason };
                let Some(owner) = self.requests.get_mut(&request) else {
                    return;
                };
                owner.answers_left -= 1;
                match owner.answers_left {
                    0 => self.tell_last(request, event),
                    _ => self.tell(request, event),
                }
            }
            Event::Beams { request, answers } => {
                let tokens = answers.iter().map(|answer| answer.token_ids.len());
                self.measure.tokens(tokens.sum());
                self.tell_last(request, OwnerEvent::Beams(answers));
            }
            Event::Failed { request, reason } => {
                metrics::counter!("inkstone_requests_failed_total").increment(1);
                self.tell_last(request, failure_of(reason));
            }
        }
    }

    fn fetch_pictures(&mut self, request: RequestId) {
        let Some(owner) = self.requests.get_mut(&request) else {
            return;
        };
        let fetch = self.pictures.fetch(owner.pictures.clone());
        let commands = self.commands_sender.clone();
        let task = self.runtime.spawn(async move {
            let fetched = fetch.await;
            if let Some(commands) = commands.upgrade() {
                // Where the loop is gone nobody waits for pictures.
                let _ = commands.send(Command::Pictures(request, fetched)).await;
            }
        });
        owner.fetch = Some(task.abort_handle());
    }

    fn tell(&mut self, request: RequestId, event: OwnerEvent) {
        if let Some(owner) = self.requests.get(&request)
            && let Some(client) = self.connections.get_mut(&owner.connection)
        {
            client.tell(owner.handle, event);
        }
    }

    /// Tells the end of a request.
    fn tell_last(&mut self, request: RequestId, event: OwnerEvent) {
        self.tell(request, event);
        if let Some(owner) = self.requests.remove(&request)
            && let Some(client) = self.connections.get_mut(&owner.connection)
        {
            client.handles.remove(&owner.handle);
        }
    }

    /// Hands each connection what there is to tell, in one piece, and lets go of those that are over.
    fn deliver(&mut self) {
        let mut over = Vec::new();
        for (id, client) in &mut self.connections {
            let keeps_up = client.to_tell.is_empty() || client.outbox.push(&mut client.to_tell);
            let is_done = client.input_ended && client.handles.is_empty();
            if !keeps_up {
                tracing::warn!(
                    connection = id.0,
                    "a coordinator does not read: disconnected"
                );
                metrics::counter!("inkstone_slow_connections_total").increment(1);
            }
            if is_done {
                client.outbox.end(Ok(()));
            }
            if is_done || !keeps_up {
                over.push(*id);
            }
        }
        over.into_iter().for_each(|id| self.disconnect(id));
    }

    /// Nobody is left waiting.
    fn tell_all_of_the_end(&mut self, end: &GroupStatus) {
        let message = match end {
            GroupStatus::Failed(reason) => format!("the language group failed: {reason}"),
            GroupStatus::Serving | GroupStatus::Stopped => "the language group stops".to_owned(),
        };
        for client in self.connections.values_mut() {
            let handles: Vec<_> = client.handles.drain().map(|(handle, _)| handle).collect();
            for handle in handles {
                client.refuse(handle, Refusal::NotServing, message.clone());
            }
            client.outbox.push(&mut client.to_tell);
            client.outbox.end(Err(message.clone()));
        }
    }
}

impl Client {
    fn new(outbox: Arc<Outbox>) -> Self {
        Self {
            outbox,
            handles: HashMap::new(),
            input_ended: false,
            to_tell: Vec::new(),
        }
    }

    fn tell(&mut self, handle: u64, event: OwnerEvent) {
        self.to_tell.push(Told { handle, event });
    }

    fn refuse(&mut self, handle: u64, reason: Refusal, message: String) {
        self.tell(handle, OwnerEvent::Refused { reason, message });
    }
}

/// What the engine, the ranks and the loop need to know of a request.
fn parts_of(
    id: RequestId,
    connection: ConnectionId,
    submission: Submission,
) -> (EngineRequest, RequestSetup, Owner) {
    let span = |part: &PromptPart| match part {
        PromptPart::Tokens(ids) => PromptSpan::Tokens(ids.clone()),
        PromptPart::Picture { digest, num_tokens } => PromptSpan::Picture {
            digest: digest.0,
            num_tokens: *num_tokens,
        },
    };
    let request = EngineRequest {
        id,
        prompt: submission.prompt.iter().map(span).collect(),
        cache_salt: submission.cache_salt,
        decoding: submission.decoding,
        max_new_tokens: submission.max_new_tokens,
        stop_token_ids: submission.stop_token_ids.clone(),
        priority: submission.priority,
        prompt_logprobs: submission.prompt_logprobs,
        pictures_ready: submission.pictures.is_empty(),
    };
    let setup = RequestSetup {
        id,
        prompt: submission.prompt,
        sampling: submission.sampling,
        stop_token_ids: submission.stop_token_ids,
    };
    let owner = Owner {
        connection,
        handle: submission.handle,
        answers_left: match submission.decoding {
            Decoding::Sample { branches } => branches,
            Decoding::Beam(_) => 1,
        },
        pictures: submission.pictures,
        fetch: None,
    };
    (request, setup, owner)
}

fn refusal_of(error: &SubmitError) -> Refusal {
    match error {
        SubmitError::QueueFull { .. } => Refusal::Busy,
        SubmitError::TooLong { .. }
        | SubmitError::TooManyTokens { .. }
        | SubmitError::TooManySequences { .. }
        | SubmitError::Invalid(_) => Refusal::Invalid,
    }
}

fn failure_of(reason: DrawFailure) -> OwnerEvent {
    match reason {
        DrawFailure::NotFinite => OwnerEvent::Refused {
            reason: Refusal::Internal,
            message: "the model's logits were not finite (NaN or infinite) for this request"
                .to_owned(),
        },
        DrawFailure::NothingAllowed(reason) => OwnerEvent::Refused {
            reason: Refusal::Invalid,
            message: format!("the request's constraint allows no token here: {reason}"),
        },
    }
}

#[cfg(test)]
mod tests;
