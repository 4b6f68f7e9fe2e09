//! Who is connected to the loop, and whose each request is.

use std::{collections::HashMap, sync::Arc};

use inkstone_engine::RequestId;
use tokio::task::AbortHandle;

use super::{
    connection::{ConnectionId, Outbox, OwnerEvent, Refusal, Told},
    fetch::PictureRef,
};

/// See the module's text.
#[derive(Default)]
pub(super) struct Clients {
    connections: HashMap<ConnectionId, Client>,
    owners: HashMap<RequestId, Owner>,
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
pub(super) struct Owner {
    pub(super) connection: ConnectionId,
    pub(super) handle: u64,
    pub(super) answers_left: usize,
    pub(super) pictures: Vec<PictureRef>,
    /// The fetch of its pictures, ended with the request.
    pub(super) fetch: Option<AbortHandle>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(fetch) = &self.fetch {
            fetch.abort();
        }
    }
}

impl Clients {
    pub(super) fn connect(&mut self, id: ConnectionId, outbox: Arc<Outbox>) {
        let client = Client {
            outbox,
            handles: HashMap::new(),
            input_ended: false,
            to_tell: Vec::new(),
        };
        self.connections.insert(id, client);
    }

    pub(super) fn is_connected(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    pub(super) fn end_input(&mut self, id: ConnectionId) {
        if let Some(client) = self.connections.get_mut(&id) {
            client.input_ended = true;
        }
    }

    /// The request that a connection means.
    pub(super) fn find(&self, connection: ConnectionId, handle: u64) -> Option<RequestId> {
        self.connections
            .get(&connection)?
            .handles
            .get(&handle)
            .copied()
    }

    /// Whether somebody waits for a request.
    pub(super) fn is_owned(&self, request: RequestId) -> bool {
        self.owners.contains_key(&request)
    }

    pub(super) fn owner(&mut self, request: RequestId) -> Option<&mut Owner> {
        self.owners.get_mut(&request)
    }

    /// A request is taken on.
    pub(super) fn accept(&mut self, request: RequestId, owner: Owner) {
        if let Some(client) = self.connections.get_mut(&owner.connection) {
            client.handles.insert(owner.handle, request);
            client.tell(owner.handle, OwnerEvent::Accepted);
        }
        self.owners.insert(request, owner);
    }

    /// A request is not taken on.
    pub(super) fn refuse(
        &mut self,
        connection: ConnectionId,
        handle: u64,
        reason: Refusal,
        message: String,
    ) {
        if let Some(client) = self.connections.get_mut(&connection) {
            client.tell(handle, OwnerEvent::Refused { reason, message });
        }
    }

    pub(super) fn tell(&mut self, request: RequestId, event: OwnerEvent) {
        if let Some(owner) = self.owners.get(&request)
            && let Some(client) = self.connections.get_mut(&owner.connection)
        {
            client.tell(owner.handle, event);
        }
    }

    /// Tells the end of an answer, and with the last one that of the request.
    pub(super) fn tell_answer_ended(&mut self, request: RequestId, event: OwnerEvent) {
        let Some(owner) = self.owners.get_mut(&request) else {
            return;
        };
        owner.answers_left = owner.answers_left.saturating_sub(1);
        match owner.answers_left {
            0 => self.tell_last(request, event),
            _ => self.tell(request, event),
        }
    }

    /// Tells the end of a request.
    pub(super) fn tell_last(&mut self, request: RequestId, event: OwnerEvent) {
        self.tell(request, event);
        self.forget(request);
    }

    /// Nobody waits for a request any more.
    pub(super) fn forget(&mut self, request: RequestId) {
        if let Some(owner) = self.owners.remove(&request)
            && let Some(client) = self.connections.get_mut(&owner.connection)
        {
            client.handles.remove(&owner.handle);
        }
    }

    /// Forgets connections that nobody reads; the requests that they leave.
    pub(super) fn drop_abandoned(&mut self) -> Vec<RequestId> {
        let clients = self.connections.iter();
        let abandoned = clients.filter(|(_, client)| client.outbox.is_abandoned());
        let abandoned: Vec<_> = abandoned.map(|(id, _)| *id).collect();
        self.disconnect(&abandoned)
    }

    /// Hands each connection what there is to tell, in one piece, and lets go of those that are over; the requests that they leave.
    pub(super) fn deliver(&mut self) -> Vec<RequestId> {
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
        self.disconnect(&over)
    }

    /// Nobody is left waiting.
    pub(super) fn end_all(&mut self, message: &str) {
        for client in self.connections.values_mut() {
            let handles: Vec<_> = client.handles.drain().map(|(handle, _)| handle).collect();
            for handle in handles {
                let refused = OwnerEvent::Refused {
                    reason: Refusal::NotServing,
                    message: message.to_owned(),
                };
                client.tell(handle, refused);
            }
            client.outbox.push(&mut client.to_tell);
            client.outbox.end(Err(message.to_owned()));
        }
    }

    fn disconnect(&mut self, connections: &[ConnectionId]) -> Vec<RequestId> {
        let gone = connections
            .iter()
            .filter_map(|id| self.connections.remove(id));
        gone.flat_map(|client| client.handles.into_values())
            .collect()
    }
}

impl Client {
    fn tell(&mut self, handle: u64, event: OwnerEvent) {
        self.to_tell.push(Told { handle, event });
    }
}
