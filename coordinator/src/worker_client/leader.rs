//! Keeps the call to a group's leader open, whether or not there are requests: the group's load and what is in its cache are heard on
//! it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{task::AbortHandle, time::sleep};
use tonic::transport::Endpoint;

use super::{Pulse, connection::Connection, grpc::language_client};

/// Between a call that broke and the next one, doubled while calls break before anything was heard.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A leader, and the call to it, made anew by a task when it breaks. The task ends with this.
pub(super) struct Leader {
    calls: Arc<Calls>,
    keeping: AbortHandle,
}

struct Calls {
    endpoint: Endpoint,
    silence: Duration,
    pulse: Arc<Pulse>,
    current: Mutex<Option<Arc<Connection>>>,
}

impl Leader {
    /// Begins to connect. A leader with requests that says nothing for `silence` counts as lost.
    pub(super) fn new(endpoint: Endpoint, silence: Duration) -> Self {
        let calls = Arc::new(Calls {
            endpoint,
            silence,
            pulse: Arc::default(),
            current: Mutex::default(),
        });
        let keeping = tokio::spawn(keep(calls.clone())).abort_handle();
        Self { calls, keeping }
    }

    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.calls.pulse
    }

    /// The call, made anew when there is none or the last one broke.
    pub(super) fn connection(&self) -> Arc<Connection> {
        self.calls.connection()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl Calls {
    fn connection(&self) -> Arc<Connection> {
        let mut current = self.current.lock().expect("no panic while locked");
        match &*current {
            Some(connection) if !connection.is_broken() => connection.clone(),
            _ => {
                let client = language_client(&self.endpoint);
                let connection = Connection::open(client, &self.pulse, self.silence);
                current.insert(connection).clone()
            }
        }
    }
}

/// Keeps a call open.
async fn keep(calls: Arc<Calls>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let connection = calls.connection();
        let was_heard = connection.ended().await;
        drop(connection);
        sleep(pause).await;
        pause = if was_heard {
            FIRST_PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
    }
}
