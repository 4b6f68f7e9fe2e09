//! The one long call from this coordinator to a group's leader (`LanguageService.Connect`). Requests go out with a handle
//! each; what happened to all of them in a step comes back in one message and is dealt out to their queues. Dealing never
//! waits, so no request holds up another. When the call breaks, every request on it is told, and the next one
//! makes a new connection.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use futures::Stream;
use inkstone_proto::worker::v1::{
    self as wire, language_service_client::LanguageServiceClient, request_event::Event,
};
use tokio::task::AbortHandle;
use tonic::transport::Channel;

use super::{
    Generation, GenerationStream, WorkerError,
    generation_queue::{GenerationWriter, generation_queue},
    grpc::{event_from_wire, generation_to_wire, refusal_from_wire},
};

/// Requests that wait to be sent at most; more means that the leader does not read.
const MAX_UNSENT: usize = 4096;

/// A connection to a leader; the call is made by a task of its own, which ends with the last holder of the connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    dealing: AbortHandle,
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
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while locked")
    }
}

impl Connection {
    /// Begins to connect.
    pub(super) fn open(client: LanguageServiceClient<Channel>) -> Arc<Self> {
        let shared = Arc::new(Shared(Mutex::default()));
        let dealing = tokio::spawn(deal(client, shared.clone())).abort_handle();
        Arc::new(Self { shared, dealing })
    }

    /// Whether the call ended, so that no request can be sent any more.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.lock().broken.is_some()
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

    /// Hands out what one message says.
    fn deal(&mut self, response: wire::ConnectResponse) {
        for event in response.events {
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
                    queue.fail(refusal_from_wire(refused));
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

/// Makes the call and deals out what comes, until it breaks.
async fn deal(mut client: LanguageServiceClient<Channel>, shared: Arc<Shared>) {
    let outgoing = Outgoing(shared.clone());
    let error = match client.connect(outgoing).await {
        Ok(answer) => {
            let mut responses = answer.into_inner();
            loop {
                match responses.message().await {
                    Ok(Some(response)) => shared.lock().deal(response),
                    Ok(None) => {
                        let message = "the leader ended the call".to_owned();
                        break WorkerError::Unavailable(message);
                    }
                    Err(status) => break broken(status.into()),
                }
            }
        }
        Err(status) => broken(status.into()),
    };
    let queues = shared.lock().close(error.clone());
    if !queues.is_empty() {
        tracing::warn!(num_requests = queues.len(), %error, "the call to a leader broke");
    }
    for queue in queues.into_values() {
        queue.fail(error.clone());
    }
}

/// Whatever ended the call, to its requests the group is gone.
fn broken(error: WorkerError) -> WorkerError {
    match error {
        WorkerError::Unavailable(_) | WorkerError::Busy { .. } => error,
        other => WorkerError::Unavailable(other.to_string()),
    }
}
