//! A group that serves, until it breaks or is ended: requests go to its leader, its health is told, its other ranks are watched.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::formation::Formed;
use crate::{
    group::{
        join::JoinDesk,
        leader::{GroupStatus, Leader, LeaderHandle},
        life::Breakage,
    },
    service::{
        health::{Health, Part},
        language::LanguageServer,
    },
};

/// How long the leader's loop and the ranks of this process get to end; those that hang in a computation are left behind.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long a loop that is told that the group broke may take to hear it.
const TELL_GRACE: Duration = Duration::from_secs(1);

/// See the module's text.
pub(crate) struct ServingGroup {
    leader: Leader,
    handle: LeaderHandle,
    server: LanguageServer,
    health: Health,
    desk: Option<JoinDesk>,
    step_deadline: Duration,
}

impl ServingGroup {
    /// Takes requests from now on. `desk` is where ranks of other processes joined.
    pub(crate) async fn begin(
        formed: Formed,
        server: LanguageServer,
        health: Health,
        desk: Option<JoinDesk>,
    ) -> Self {
        let handle = formed.leader.handle();
        server.start(formed.serving);
        health.set(Part::Language, true).await;
        Self {
            leader: formed.leader,
            handle,
            server,
            health,
            desk,
            step_deadline: formed.step_deadline,
        }
    }

    /// Waits until the group breaks; meanwhile its health follows its steps.
    pub(crate) async fn serve(&self) -> Breakage {
        tokio::select! {
            breakage = self.broken() => breakage,
            () = self.health.follow_steps(&self.handle, self.step_deadline) => unreachable!("it does not return"),
        }
    }

    /// Waits until the group breaks.
    pub(crate) async fn broken(&self) -> Breakage {
        let lost_rank = async {
            match &self.desk {
                Some(desk) => desk.failure().await,
                None => std::future::pending().await,
            }
        };
        let breakage = tokio::select! {
            breakage = stopped(&self.handle) => breakage,
            reason = lost_rank => {
                // A step that runs fails by itself; an idle loop has to be told.
                let _ = timeout(TELL_GRACE, self.handle.fail(reason.clone())).await;
                Breakage::new(reason)
            }
        };
        match &self.desk {
            Some(desk) => desk.suspects(breakage).await,
            // Nobody else has a part in it.
            None => Breakage::by([0], breakage.reason),
        }
    }

    /// Takes no new requests from now on.
    pub(crate) async fn drain(&self) {
        self.server.drain();
        self.health.set(Part::Language, false).await;
    }

    /// Waits until no request runs. Not bounded.
    pub(crate) async fn idle(&self) {
        let runs = || self.handle.load().running + self.handle.load().waiting > 0;
        while runs() && *self.handle.status().borrow() == GroupStatus::Serving {
            sleep(Duration::from_millis(20)).await;
        }
        // The last events are on their way to the readers.
        sleep(Duration::from_millis(100)).await;
    }

    /// Ends the group: requests that still run are refused, ranks of other processes are told. With the reason when it broke.
    pub(crate) async fn end(self, breakage: Option<&Breakage>) {
        self.server.clear();
        self.health.set(Part::Language, false).await;
        let runs = self.handle.load().running > 0;
        if let Some(desk) = self.desk.as_ref().filter(|_| breakage.is_some() || runs) {
            // The loop would wait for the step that they are in.
            desk.dismiss(breakage);
        }
        let leader = self.leader;
        drop(self.handle);
        let stop = tokio::task::spawn_blocking(move || leader.stop());
        if timeout(STOP_GRACE, stop).await.is_err() {
            tracing::error!("the leader's loop is left behind in a step");
        }
        if let Some(desk) = self.desk {
            desk.dismiss(breakage);
        }
    }
}

async fn stopped(handle: &LeaderHandle) -> Breakage {
    let mut status = handle.status();
    loop {
        match &*status.borrow_and_update() {
            GroupStatus::Serving => {}
            GroupStatus::Failed(breakage) => return breakage.clone(),
            GroupStatus::Stopped => return Breakage::new("it stopped"),
        }
        if status.changed().await.is_err() {
            return Breakage::new("its loop is gone");
        }
    }
}
