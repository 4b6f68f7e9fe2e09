//! The language part of a node: one life of a group after another. How a life goes as its leader or as another rank is in `leader`
//! and `follower`.

use std::sync::Arc;

use inkstone_cluster::{ClusterState, NodeId, Phase};
use inkstone_model::{collectives::NcclIds, internlm2::LanguageModel};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Node,
    assignment::{Fate, LanguageTask, Ranks},
    nccl_ids::RegistryNcclIds,
    weights::Weights,
};
use crate::{
    config::ExecutorSettings,
    group::life::{Breakage, GroupLife},
    loading::{LanguageFiles, fingerprint},
    service::{group::GroupServer, language::LanguageServer},
};

/// See the module's text.
pub(super) struct LanguagePart {
    pub(super) node: Node,
    pub(super) server: LanguageServer,
    pub(super) group: GroupServer,
    pub(super) weights: Weights,
    pub(super) fingerprint: [u8; 32],
    /// Read once, with the first life.
    files: Option<LanguageFiles>,
}

/// How a life ended.
pub(super) enum End {
    /// It was taken away, or is to begin anew.
    Over,
    /// It broke; that was reported.
    Broke,
}

/// Follows what becomes of a life.
pub(super) struct FateWatch {
    task: LanguageTask,
    node: NodeId,
    state: watch::Receiver<Arc<ClusterState>>,
    shutdown: CancellationToken,
}

impl LanguagePart {
    pub(super) fn new(node: Node, server: LanguageServer, group: GroupServer) -> Self {
        Self {
            weights: Weights::new(node.clone()),
            fingerprint: fingerprint(&node.checkpoint),
            files: None,
            node,
            server,
            group,
        }
    }

    /// Runs until the process is told to stop and what ran then has finished.
    pub(super) async fn run(mut self) {
        // A life is lived once: after its end, and while the registry still names it, the node waits for another one.
        let mut lived: Option<GroupLife> = None;
        while !self.node.shutdown.is_cancelled() {
            let state = Arc::clone(&self.node.state.borrow_and_update());
            let task = LanguageTask::of(&state, self.node.id());
            match task {
                Some(task) if lived.as_ref() != Some(&task.life) => {
                    match Box::pin(self.live(&task)).await {
                        // Somebody has to begin another.
                        End::Over if self.is_still_wanted(&task) => {
                            let why = "this life ended because one of its ranks leaves";
                            self.broke(&task, &Breakage::new(why));
                        }
                        End::Over => self.node.board.language_idle(),
                        End::Broke => {}
                    }
                    lived = Some(task.life);
                    continue;
                }
                Some(_) => {}
                None => self.node.board.language_idle(),
            }
            self.node.news().await;
        }
    }

    async fn live(&mut self, task: &LanguageTask) -> End {
        tracing::info!(life = %task.life, ranks = ?task.own_ranks(), "a life of a language group begins");
        self.server.load();
        let end = match &task.ranks {
            Ranks::Unfit(reason) => self.broke(task, &Breakage::new(reason.clone())),
            Ranks::Whole if task.world_size > self.node.config.devices as usize => {
                let devices = self.node.config.devices;
                let what = format!("{} ranks do not fit {devices} devices", task.world_size);
                self.broke(task, &Breakage::new(what))
            }
            Ranks::Whole | Ranks::Leader { .. } => self.lead(task).await,
            Ranks::Follower { rank, leader } => self.follow(task, *rank, leader).await,
        };
        self.server.clear();
        tracing::info!(life = %task.life, "this life of the language group is over");
        end
    }

    fn is_still_wanted(&self, task: &LanguageTask) -> bool {
        let now = LanguageTask::of(&self.node.state.borrow(), self.node.id());
        !self.node.shutdown.is_cancelled() && now.is_some_and(|now| now.life == task.life)
    }

    /// Reports that a life broke.
    pub(super) fn broke(&self, task: &LanguageTask, breakage: &Breakage) -> End {
        self.node.board.language_failed(&task.life, breakage);
        End::Broke
    }

    /// The weights of this node's ranks; a simulated group has none. A node that cannot load is its own suspect.
    pub(super) async fn load(
        &mut self,
        task: &LanguageTask,
    ) -> Result<(Vec<Arc<LanguageModel>>, LanguageFiles), Breakage> {
        let own = task.own_ranks();
        let broken = |error: anyhow::Error| Breakage::by(task.own_ranks(), format!("{error:#}"));
        let beginning = self.weights.beginning(own.clone(), task.world_size);
        self.node.board.language(&task.life, beginning);
        let files = match &self.files {
            Some(files) => files.clone(),
            None => {
                let (model, checkpoint) = (&self.node.config.model, &self.node.checkpoint);
                let files = LanguageFiles::read(model, checkpoint)
                    .await
                    .map_err(broken)?;
                self.files.insert(files).clone()
            }
        };
        let models = match self.node.config.group.executor {
            ExecutorSettings::Device => {
                let loaded = self.weights.get(own, task.world_size).await;
                loaded.map_err(broken)?
            }
            ExecutorSettings::Simulated { .. } => Vec::new(),
        };
        self.node.board.language(&task.life, Phase::Joining);
        Ok((models, files))
    }

    pub(super) fn fate(&self, task: &LanguageTask) -> FateWatch {
        FateWatch {
            task: task.clone(),
            node: self.node.id().clone(),
            state: self.node.state.clone(),
            shutdown: self.node.shutdown.clone(),
        }
    }

    /// Where the ranks of a life find NCCL's id.
    pub(super) fn nccl_ids(&self, task: &LanguageTask) -> Arc<dyn NcclIds> {
        let registry = Arc::clone(&self.node.registry);
        Arc::new(RegistryNcclIds::new(registry, task.life.clone()))
    }

    /// Ends once the others of a life took too long to join: so long after the last of them was seen to load its weights.
    pub(super) fn patience(&self, task: &LanguageTask) -> impl Future<Output = ()> + use<> {
        let (task, mut state) = (task.clone(), self.node.state.clone());
        let limit = self.node.config.group.deadlines.join;
        async move {
            let mut since = Instant::now();
            loop {
                if task.others_load(&state.borrow_and_update()) {
                    since = Instant::now();
                }
                tokio::select! {
                    () = sleep_until(since + limit) => return,
                    changed = state.changed() => if changed.is_err() {
                        return sleep_until(since + limit).await;
                    },
                }
            }
        }
    }
}

impl FateWatch {
    fn goes_on(&mut self) -> bool {
        self.now() == Fate::GoesOn
    }

    fn now(&mut self) -> Fate {
        let is_stopping = self.shutdown.is_cancelled();
        let state = self.state.borrow_and_update();
        self.task.fate(&state, &self.node, is_stopping)
    }

    /// Waits until the life does not just go on.
    pub(super) async fn turns(&mut self) -> Fate {
        while self.goes_on() {
            self.news().await;
        }
        self.now()
    }

    /// Waits until the life is over, whatever runs.
    pub(super) async fn is_over(&mut self) {
        while self.now() != Fate::IsOver {
            self.news().await;
        }
    }

    async fn news(&mut self) {
        let is_stopping = self.shutdown.is_cancelled();
        let (state, shutdown) = (&mut self.state, &self.shutdown);
        let changed = async {
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let stops = async {
            match is_stopping {
                true => std::future::pending().await,
                false => shutdown.cancelled().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = stops => {}
        }
    }
}
