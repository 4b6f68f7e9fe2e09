//! Learns what the cluster serves: asks the members until a language group and a vision worker of the same model
//! answer, or the time for it is over.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep, timeout};

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

/// Waits at most `limit` for the members.
pub(crate) async fn learn_model(
    cluster: &ClusterView,
    limit: Duration,
) -> anyhow::Result<Arc<ServedModel>> {
    let mut language = Waiting::new("language group");
    let answer = timeout(limit, ask_groups(cluster, &mut language)).await;
    let answer = answer.map_err(|_| language.give_up(limit))?;
    let model = Arc::new(ServedModel::new(answer).context("the model's tokenizer is unusable")?);
    tracing::info!(
        model = model.description.name,
        variant = %model.description.variant,
        max_prompt_tokens = model.max_prompt_tokens,
        max_sequence_tokens = model.max_sequence_tokens,
        "model learnt"
    );
    let mut vision = Waiting::new("vision worker");
    let checked = timeout(limit, ask_vision_workers(cluster, &model, &mut vision)).await;
    checked.map_err(|_| vision.give_up(limit))??;
    Ok(model)
}

async fn ask_groups(cluster: &ClusterView, waiting: &mut Waiting) -> LanguageDescription {
    loop {
        for group in cluster.groups() {
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
        for worker in &workers {
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
