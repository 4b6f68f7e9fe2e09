//! Brings plans about: stands for election, and while elected looks at what the registry holds, plans, and writes. Everything is decided
//! anew from what is seen, so it may end and begin anywhere, and what another placer did half is simply gone on with.

use std::{sync::Arc, time::Duration};

use inkstone_cluster::{
    Candidacy, ClusterState, CoordinatorRecord, Fence, Registry, RegistryError, Revision,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{Loads, Memory, Moment, Plan, Policy, plan};
use crate::config::{PlacementSettings, Wanted};

/// Changes that are written at once; a registry takes some more.
const MAX_CHANGES: usize = 100;
/// Between looks while time alone may change the plan.
const TICK: Duration = Duration::from_millis(100);
/// Between looks while all is as wanted and nothing happens.
const IDLE: Duration = Duration::from_secs(5);
/// How long our own write may take to be seen; then we look all the same.
const ECHO: Duration = Duration::from_secs(5);
/// Before a registry that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// A coordinator's part in placing, from its candidacy to its resignation.
pub(crate) struct Placing {
    candidacy: Arc<dyn Candidacy>,
    /// Its end ends the tasks.
    stop: DropGuard,
    tasks: TaskTracker,
}

impl Placing {
    /// Stands for election, says what is wanted, and places while elected. `loads` tells how busy the groups are.
    pub(crate) fn start(
        registry: Arc<dyn Registry>,
        settings: PlacementSettings,
        coordinator: CoordinatorRecord,
        loads: impl Fn() -> Loads + Send + Sync + 'static,
    ) -> Self {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let candidacy = registry.campaign(coordinator);
        let placer = Placer {
            registry: registry.clone(),
            policy: settings.policy,
            loads: Box::new(loads),
            fence: candidacy.fence(),
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(placer.run()));
        let telling = tell_wanted(registry, settings.wanted);
        tasks.spawn(stop.clone().run_until_cancelled_owned(telling));
        tasks.close();
        Self {
            candidacy,
            stop: stop.drop_guard(),
            tasks,
        }
    }

    /// Leaves the registry, so that another is elected at once.
    pub(crate) async fn resign(self) {
        drop(self.stop);
        self.tasks.wait().await;
        self.candidacy.resign().await;
    }
}

struct Placer {
    registry: Arc<dyn Registry>,
    policy: Policy,
    loads: Box<dyn Fn() -> Loads + Send + Sync>,
    fence: watch::Receiver<Option<Fence>>,
}

/// What happened to a plan.
enum Outcome {
    /// There was nothing to do.
    Settled,
    /// It was written at this revision.
    Written(Revision),
    /// It was not written; look again after this time, or when something changed.
    Again(Duration),
}

impl Placer {
    async fn run(mut self) {
        let begin = Instant::now();
        let mut memory = Memory::default();
        let mut told = Told::default();
        let mut state = self.registry.state();
        let mut connected = self.registry.is_connected();
        loop {
            let fence = *self.fence.borrow_and_update();
            let Some(fence) = fence else {
                told = Told::default();
                match self.fence.changed().await {
                    Ok(()) => continue,
                    // The candidacy is gone.
                    Err(_) => return,
                }
            };
            told.elected(fence);
            let seen = state.borrow_and_update().clone();
            let is_connected = *connected.borrow_and_update();
            let (plan, pause) = self.look(&mut memory, &seen, begin.elapsed());
            let outcome = match (is_connected, pause) {
                (true, None) => self.write(fence, &plan).await,
                (true, Some(pause)) => Outcome::Again(pause),
                // Nothing can be written, and what is seen is old.
                (false, _) => Outcome::Again(IDLE),
            };
            let has_more_to_tell = told.plan(&plan, &outcome);
            let pause = match outcome {
                Outcome::Settled if has_more_to_tell => TICK,
                Outcome::Settled if plan.waits => TICK,
                Outcome::Settled => self.idle(&seen),
                Outcome::Again(pause) => pause,
                Outcome::Written(revision) => {
                    // Planning on what was seen before would do the same again.
                    let echo = state.wait_for(|state| state.revision >= revision);
                    let _ = timeout(ECHO, echo).await;
                    // Whatever plans may come one after the other, a registry is not flooded with them.
                    TICK
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                changed = self.fence.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                changed = connected.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The plan, and how long to wait with it.
    fn look(
        &self,
        memory: &mut Memory,
        seen: &ClusterState,
        now: Moment,
    ) -> (Plan, Option<Duration>) {
        memory.observe(seen, &self.policy, now);
        let plan = plan(seen, memory, &self.policy, &(self.loads)(), now);
        let is_gathering = memory.is_gathering(&self.policy, now) && !plan.steps.is_empty();
        (plan, is_gathering.then_some(TICK))
    }

    async fn write(&self, fence: Fence, plan: &Plan) -> Outcome {
        let changes = plan.steps.iter().map(|step| step.change.clone());
        let changes: Vec<_> = changes.take(MAX_CHANGES).collect();
        if changes.is_empty() {
            return Outcome::Settled;
        }
        match self.registry.assign(fence, changes).await {
            Ok(revision) => Outcome::Written(revision),
            Err(RegistryError::Conflict(reason)) => {
                tracing::debug!(reason, "placement was overtaken");
                Outcome::Again(TICK)
            }
            Err(RegistryError::Fenced) => {
                tracing::info!("placement refused: another coordinator places");
                Outcome::Again(PAUSE)
            }
            Err(error @ RegistryError::Unavailable(_)) => {
                tracing::warn!(%error, "placement could not be written");
                Outcome::Again(PAUSE)
            }
            Err(error @ (RegistryError::Unreadable(_) | RegistryError::Settings(_))) => {
                tracing::error!(%error, "placement cannot be written");
                Outcome::Again(IDLE)
            }
        }
    }

    /// How long nothing has to be looked at, unless something changes.
    fn idle(&self, seen: &ClusterState) -> Duration {
        let assigned = seen.groups.values().flat_map(|(group, _)| &group.ranks);
        let mut assigned = assigned.chain(seen.vision.keys());
        // A missing node counts as lost in a moment.
        match assigned.any(|node| !seen.nodes.contains_key(node)) {
            true => TICK,
            false => IDLE,
        }
    }
}

/// What the log knows already.
#[derive(Default)]
struct Told {
    fence: Option<Fence>,
    shortfalls: Vec<String>,
    /// Others that there are now, and since when.
    coming: Option<(Vec<String>, Instant)>,
}

/// What is missing for so short a time, as at a start, is nothing to speak of.
const SHORT: Duration = Duration::from_secs(2);

impl Told {
    fn elected(&mut self, fence: Fence) {
        if self.fence.replace(fence) != Some(fence) {
            tracing::info!(fence = fence.0.0, "this coordinator places");
        }
    }

    /// Whether there is something that is told when it lasts.
    fn plan(&mut self, plan: &Plan, outcome: &Outcome) -> bool {
        if let Outcome::Written(revision) = outcome {
            let plan = plan.to_string().replace('\n', "; ");
            tracing::info!(plan, revision = revision.0, "placement applied");
        }
        if plan.shortfalls.is_empty() || self.shortfalls == plan.shortfalls {
            self.shortfalls.clone_from(&plan.shortfalls);
            self.coming = None;
            return false;
        }
        let is_known = |(known, _): &(Vec<String>, Instant)| *known == plan.shortfalls;
        let (_, since) = match self.coming.take().filter(is_known) {
            Some(coming) => self.coming.insert(coming),
            None => self
                .coming
                .insert((plan.shortfalls.clone(), Instant::now())),
        };
        if since.elapsed() < SHORT {
            return true;
        }
        for shortfall in &plan.shortfalls {
            tracing::warn!(shortfall, "not all that is wanted can be had");
        }
        self.shortfalls.clone_from(&plan.shortfalls);
        self.coming = None;
        false
    }
}

/// Writes what this coordinator says is wanted, as soon as the registry answers.
async fn tell_wanted(registry: Arc<dyn Registry>, wanted: Wanted) {
    let (deployment, expected) = match &wanted {
        Wanted::AsItIs => return,
        Wanted::AtFirst(deployment) => (deployment, Some(Revision(0))),
        Wanted::Replace(deployment) => (deployment, None),
    };
    let mut connected = registry.is_connected();
    loop {
        if connected.wait_for(|connected| *connected).await.is_err() {
            return;
        }
        match registry.set_deployment(deployment, expected).await {
            Ok(revision) => {
                tracing::info!(?deployment, revision = revision.0, "deployment written");
                return;
            }
            Err(RegistryError::Conflict(_)) => {
                tracing::info!("a deployment is wanted already, it stays as it is");
                return;
            }
            Err(error @ (RegistryError::Unavailable(_) | RegistryError::Fenced)) => {
                tracing::warn!(%error, "the deployment could not be written yet");
                sleep(PAUSE).await;
            }
            Err(error @ (RegistryError::Unreadable(_) | RegistryError::Settings(_))) => {
                tracing::error!(%error, "the deployment cannot be written");
                return;
            }
        }
    }
}
