//! Learns what the cluster serves: asks the members until a language group and a vision worker of the same model
//! answer, or the time for it is over.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use inkstone_cluster::ClusterState;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    cluster_view::ClusterView,
    model::ServedModel,
    worker_client::{LanguageDescription, WorkerError},
};

/// Between the first two rounds of questions; doubled from round to round.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often the log says that nobody answers yet.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// How long a coordinator with a registry waits for a vision worker once a group answers: pictures are for later then.
const VISION_PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for the members.
pub(crate) enum Patience {
    /// So long for each kind, then the start has failed: the list is fixed, and what is not there is missing.
    AtMost(Duration),
    /// As long as it takes: they come and go, as this state says.
    Endless(watch::Receiver<Arc<ClusterState>>),
}

/// Waits for the members.
pub(crate) async fn learn_model(
    cluster: &ClusterView,
    patience: Patience,
) -> anyhow::Result<Arc<ServedModel>> {
    let mut language = Waiting::new("language group");
    let asking = ask_groups(cluster, &mut language);
    let answer = match &patience {
        Patience::AtMost(limit) => timeout(*limit, asking)
            .await
            .map_err(|_| language.give_up(*limit))?,
        Patience::Endless(_) => asking.await,
    };
    let model = Arc::new(ServedModel::new(answer).context("the model's tokenizer is unusable")?);
    tracing::info!(
        model = model.description.name,
        variant = %model.description.variant,
        max_prompt_tokens = model.max_prompt_tokens,
        max_sequence_tokens = model.max_sequence_tokens,
        "model learnt"
    );
    let mut vision = Waiting::new("vision worker");
    match patience {
        Patience::AtMost(limit) => {
            let checked = timeout(limit, ask_vision_workers(cluster, &model, &mut vision)).await;
            checked.map_err(|_| vision.give_up(limit))??;
        }
        Patience::Endless(state) => {
            let coming = vision_worker_comes(cluster, &model, state);
            if timeout(VISION_PATIENCE, coming).await.is_err() {
                tracing::warn!("no vision worker serves yet: text is answered, pictures are not");
            }
        }
    }
    Ok(model)
}

/// Returns when a vision worker serves the model, or none is wanted.
async fn vision_worker_comes(
    cluster: &ClusterView,
    model: &ServedModel,
    state: watch::Receiver<Arc<ClusterState>>,
) {
    loop {
        let deployment = state.borrow().deployment.clone();
        if deployment.is_none_or(|(deployment, _)| deployment.vision_replicas == 0) {
            return;
        }
        for worker in cluster.vision_workers().iter() {
            if worker.check(model).await.is_ok() {
                return;
            }
        }
        sleep(FIRST_PAUSE).await;
    }
}

async fn ask_groups(cluster: &ClusterView, waiting: &mut Waiting) -> LanguageDescription {
    loop {
        for group in cluster.groups().iter() {
            match group.describe().await {
                Ok(answer) => return answer,
                Err(error) => waiting.note(group.id.as_str(), error),
            }
        }
        waiting.pause().await;
    }
}

async fn ask_vision_workers(
    cluster: &ClusterView,
    model: &ServedModel,
    waiting: &mut Waiting,
) -> anyhow::Result<()> {
    loop {
        let workers = cluster.vision_workers();
        let mut num_other = 0;
        for worker in workers.iter() {
            match worker.check(model).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    num_other += usize::from(matches!(error, WorkerError::OtherModel { .. }));
                    waiting.note(worker.address.as_uri(), error);
                }
            }
        }
        // Waiting helps against absence, not against a wrong model.
        if num_other == workers.len() {
            bail!(waiting.last_error());
        }
        waiting.pause().await;
    }
}

/// Patience for one kind of member.
struct Waiting {
    kind: &'static str,
    begin: Instant,
    reported: Option<Instant>,
    pause: Duration,
    last_error: Option<String>,
}

impl Waiting {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            begin: Instant::now(),
            reported: None,
            pause: FIRST_PAUSE,
            last_error: None,
        }
    }

    fn note(&mut self, member: &str, error: WorkerError) {
        let due = self
            .reported
            .is_none_or(|reported| reported.elapsed() >= REPORT_EVERY);
        if due {
            let waited_seconds = self.begin.elapsed().as_secs();
            tracing::info!(kind = self.kind, member, %error, waited_seconds, "waiting for a member");
            self.reported = Some(Instant::now());
        }
        self.last_error = Some(format!("{member}: {error}"));
    }

    async fn pause(&mut self) {
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn last_error(&self) -> String {
        self.last_error
            .clone()
            .unwrap_or_else(|| "no answer".to_owned())
    }

    fn give_up(&self, limit: Duration) -> anyhow::Error {
        let (kind, seconds) = (self.kind, limit.as_secs_f32());
        anyhow::anyhow!(
            "no {kind} answered within {seconds} s: {}",
            self.last_error()
        )
    }
}
