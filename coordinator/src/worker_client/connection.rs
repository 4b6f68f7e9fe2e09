//! The one long call from this coordinator to a group's leader (`LanguageService.Connect`). Requests go out with a handle
//! each; what happened to all of them in a step comes back in one message and is dealt out to their queues. Dealing never
//! waits, so no request holds up another. When the call breaks, or the leader falls silent while it has requests, every request on it
//! is told.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::Stream;
use inkstone_proto::worker::v1::{
    self as wire, language_service_client::LanguageServiceClient, request_event::Event,
};
use tokio::{
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    Generation, GenerationStream, Pulse, WorkerError,
    from_wire::{cache_from_wire, event_from_wire, load_from_wire, refusal_from_wire},
    generation_queue::{GenerationWriter, generation_queue},
    to_wire::generation_to_wire,
};

/// Requests that wait to be sent at most; more means that the leader does not read.
const MAX_UNSENT: usize = 4096;
/// How often in the time after which it counts as lost a silent leader is looked at. Looks are counted, not time: when this process
/// itself was held up, what came meanwhile is read before the next look.
const LOOKS: u32 = 8;
/// Looks after which a silent leader without requests is called anew.
const IDLE_LOOKS: u32 = 3 * LOOKS;
/// A call to a leader; it is made by a task of its own, which ends with the last holder of the connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    dealing: AbortHandle,
    /// Cancelled once the call ended.
    ended: CancellationToken,
}

struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    /// Where what is said of a request goes; one that is not here is over, or nobody waits for it.
    queues: HashMap<u64, GenerationWriter>,
    next_handle: u64,
    /// What was not sent yet. Past [`MAX_UNSENT`] no request is added; of cancels there are never more than of requests
    /// that were sent.
    unsent: VecDeque<wire::ConnectRequest>,
    sender: Option<Waker>,
    /// Why the call ended.
    broken: Option<WorkerError>,
    /// Whether anything came since the last look.
    is_heard: bool,
    /// Whether anything ever came.
    was_heard: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while locked")
    }
}

impl Connection {
    /// Begins to connect.
    pub(super) fn open(
        client: LanguageServiceClient<Channel>,
        pulse: &Arc<Pulse>,
        silence: Duration,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared(Mutex::default()));
        let ended = CancellationToken::new();
        let call = Call {
            shared: shared.clone(),
            pulse: pulse.clone(),
            silence,
            ended: ended.clone(),
        };
        let dealing = tokio::spawn(call.make(client)).abort_handle();
        Arc::new(Self {
            shared,
            dealing,
            ended,
        })
    }

    /// Whether the call ended, so that no request can be sent any more.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.lock().broken.is_some()
    }

    /// Returns when the call ended: whether anything was ever heard on it.
    pub(super) async fn ended(&self) -> bool {
        self.ended.cancelled().await;
        self.shared.lock().was_heard
    }

    /// Sends a request; what is said of it comes out of the stream. Dropping the stream before its end cancels it.
    pub(super) fn submit(
        self: &Arc<Self>,
        generation: Generation,
    ) -> Result<GenerationStream, WorkerError> {
        let (writer, mut stream) = generation_queue(&generation);
        let request = generation_to_wire(generation);
        let mut state = self.shared.lock();
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        if state.unsent.len() >= MAX_UNSENT {
            return Err(WorkerError::Busy {
                message: format!("{MAX_UNSENT} requests wait to be sent to the leader"),
                retry_after: None,
            });
        }
        let handle = state.next_handle;
        state.next_handle += 1;
        state.queues.insert(handle, writer);
        let submit = wire::Submit {
            handle,
            request: Some(request),
        };
        state.send(wire::connect_request::Message::Submit(submit));
        drop(state);
        stream.keep(CancelOnDrop {
            connection: self.clone(),
            handle,
        });
        Ok(stream)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.dealing.abort();
        // The transport holds what goes out until it ends by itself.
        let gone = "nobody holds the connection any more".to_owned();
        drop(self.shared.lock().close(WorkerError::Unavailable(gone)));
    }
}

/// Cancels a request that is not over.
struct CancelOnDrop {
    connection: Arc<Connection>,
    handle: u64,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let mut state = self.connection.shared.lock();
        // The writer is dropped after the lock is released: its reader is woken then.
        let writer = state.queues.remove(&self.handle);
        if writer.is_some() {
            state.cancel(self.handle);
        }
        drop(state);
    }
}

impl State {
    fn send(&mut self, message: wire::connect_request::Message) {
        self.unsent.push_back(wire::ConnectRequest {
            message: Some(message),
        });
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    /// Tells the leader that nobody waits for a request, unless it never heard of it.
    fn cancel(&mut self, handle: u64) {
        use wire::connect_request::Message;
        let is_its_submit = |request: &wire::ConnectRequest| matches!(&request.message, Some(Message::Submit(submit)) if submit.handle == handle);
        // It is the newest ones that are not sent yet.
        match self.unsent.iter().rposition(is_its_submit) {
            Some(place) => drop(self.unsent.remove(place)),
            None => self.send(Message::Cancel(wire::Cancel { handle })),
        }
    }

    /// Ends what goes out, and gives the requests that are not over.
    fn close(&mut self, error: WorkerError) -> HashMap<u64, GenerationWriter> {
        self.broken = Some(error);
        self.unsent.clear();
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
        std::mem::take(&mut self.queues)
    }

    /// Hands out what one message says of requests. Whether the group said that it does not serve.
    fn deal(&mut self, events: Vec<wire::RequestEvent>) -> bool {
        let mut serves = true;
        for event in events {
            // Of a request that was cancelled some events may still be on their way.
            let Some(queue) = self.queues.get(&event.handle) else {
                continue;
            };
            let goes_on = match event.event {
                Some(Event::Accepted(wire::Accepted {})) => {
                    queue.accept();
                    true
                }
                Some(Event::Refused(refused)) => {
                    let why = refusal_from_wire(refused);
                    serves &= !matches!(why, WorkerError::NotServing(_));
                    queue.fail(why);
                    self.queues.remove(&event.handle);
                    continue;
                }
                Some(said) => match event_from_wire(said) {
                    Ok(said) => queue.push(said),
                    Err(fault) => {
                        queue.fail(fault);
                        false
                    }
                },
                None => {
                    let fault = "an event without content".to_owned();
                    queue.fail(WorkerError::Faulty(fault));
                    false
                }
            };
            if !goes_on {
                let queue = self.queues.remove(&event.handle);
                // The leader goes on only where it broke the contract.
                if queue.is_some_and(|queue| queue.has_failed()) {
                    self.cancel(event.handle);
                }
            }
        }
        serves
    }
}

/// What goes to the leader.
struct Outgoing(Arc<Shared>);

impl Stream for Outgoing {
    type Item = wire::ConnectRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock();
        match state.unsent.pop_front() {
            Some(request) => Poll::Ready(Some(request)),
            None if state.broken.is_some() => Poll::Ready(None),
            None => {
                state.sender = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What the task of a call holds.
struct Call {
    shared: Arc<Shared>,
    pulse: Arc<Pulse>,
    silence: Duration,
    ended: CancellationToken,
}

impl Call {
    /// Makes the call and deals out what comes, until it breaks.
    async fn make(self, client: LanguageServiceClient<Channel>) {
        let error = tokio::select! {
            biased;
            error = self.listen(client) => error,
            error = self.silent() => error,
        };
        let queues = self.shared.lock().close(error.clone());
        if !queues.is_empty() {
            tracing::warn!(num_requests = queues.len(), %error, "the call to a leader broke");
        }
        // Before its requests are told: they look for another group at once.
        self.pulse.failed();
        for queue in queues.into_values() {
            queue.fail(error.clone());
        }
        self.ended.cancel();
    }

    async fn listen(&self, mut client: LanguageServiceClient<Channel>) -> WorkerError {
        let outgoing = Outgoing(self.shared.clone());
        let mut responses = match client.connect(outgoing).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return broken(status.into()),
        };
        loop {
            match responses.message().await {
                Ok(Some(response)) => self.hear(response),
                Ok(None) => {
                    return WorkerError::Unavailable("the leader ended the call".to_owned());
                }
                Err(status) => return broken(status.into()),
            }
        }
    }

    fn hear(&self, response: wire::ConnectResponse) {
        if let Some(load) = &response.load {
            self.pulse.load(load_from_wire(load));
        }
        if let Some(cache) = response.cache {
            self.pulse.cache(&cache_from_wire(cache));
        }
        let mut state = self.shared.lock();
        state.is_heard = true;
        state.was_heard = true;
        let serves = state.deal(response.events);
        drop(state);
        if !serves {
            self.pulse.failed();
        }
    }

    /// Returns when the leader said nothing for too long while it had requests, or for much too long while it had none: the
    /// connection may be dead without knowing it.
    async fn silent(&self) -> WorkerError {
        let look = self.silence / LOOKS;
        let mut looks = interval_at(Instant::now() + look, look);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut num_silent, mut num_idle) = (0, 0);
        while num_silent < LOOKS && num_idle < IDLE_LOOKS {
            looks.tick().await;
            let mut state = self.shared.lock();
            let is_heard = std::mem::take(&mut state.is_heard);
            (num_silent, num_idle) = match state.queues.is_empty() {
                _ if is_heard => (0, 0),
                true => (0, num_idle + 1),
                false => (num_silent + 1, 0),
            };
        }
        let seconds = self.silence.as_secs_f32();
        WorkerError::Silent(format!("the leader said nothing for {seconds} s"))
    }
}

/// Whatever ended the call, to its requests the group is gone.
fn broken(error: WorkerError) -> WorkerError {
    match error {
        WorkerError::Unavailable(_) | WorkerError::Busy { .. } => error,
        other => WorkerError::Unavailable(other.to_string()),
    }
}
