//! A life of a language group as its leader: with all ranks in this process, or with ranks of other nodes that join.

use futures::FutureExt;
use inkstone_cluster::Phase;

use super::{
    assignment::{Fate, LanguageTask, Ranks},
    language::{End, LanguagePart},
};
use crate::{
    group::{
        join::{GroupTerms, JoinDesk},
        life::Breakage,
    },
    language::{
        formation::{Formation, Formed, Meeting, Rendezvous},
        serving::ServingGroup,
    },
    loading::dtype_name,
};

impl LanguagePart {
    /// Forms the group, serves it, and ends it, whatever comes first.
    pub(super) async fn lead(&mut self, task: &LanguageTask) -> End {
        let desk = self.desk(task);
        if let Some(desk) = &desk {
            // Ranks may come before this one is ready for them.
            self.group.open(desk.clone());
        }
        let mut fate = self.fate(task);
        let formed = tokio::select! {
            formed = Box::pin(self.form(task, desk.as_ref())) => Some(formed),
            // There is nothing yet that could finish.
            _ = fate.turns() => None,
        };
        let end = match formed {
            Some(Ok(formed)) => {
                let (server, health) = (self.server.clone(), self.node.health.clone());
                let group = ServingGroup::begin(formed, server, health, desk.clone()).await;
                self.serve(task, group).await
            }
            Some(Err(breakage)) => {
                let end = self.broke(task, &breakage);
                if let Some(desk) = &desk {
                    desk.dismiss(Some(&breakage));
                }
                end
            }
            None => {
                if let Some(desk) = &desk {
                    desk.dismiss(None);
                }
                End::Over
            }
        };
        self.group.close();
        end
    }

    fn desk(&self, task: &LanguageTask) -> Option<JoinDesk> {
        let terms = || GroupTerms {
            life: Some(task.life.clone()),
            world_size: task.world_size,
            checkpoint_fingerprint: self.fingerprint,
            dtype: dtype_name(&self.node.config.model),
            silence: self.node.config.group.deadlines.silence,
        };
        match &task.ranks {
            Ranks::Leader { .. } => Some(JoinDesk::new(terms())),
            Ranks::Whole | Ranks::Follower { .. } | Ranks::Unfit(_) => None,
        }
    }

    async fn form(
        &mut self,
        task: &LanguageTask,
        desk: Option<&JoinDesk>,
    ) -> Result<Formed, Breakage> {
        let (models, files) = self.load(task).await?;
        let config = &self.node.config;
        let meeting = match desk {
            None => Meeting::InProcess,
            Some(desk) => Meeting::Joining {
                desk,
                rendezvous: self
                    .rendezvous()
                    .map_err(|error| Breakage::by([0], error))?,
                nccl_ids: Some(self.nccl_ids(task)),
                patience: self.patience(task).boxed(),
            },
        };
        let formation = Formation {
            life: task.life.clone(),
            world_size: task.world_size,
            settings: &config.group,
            checkpoint: &self.node.checkpoint,
            files: &files,
        };
        formation.form(models, meeting).await
    }

    /// A port of its own on all addresses, and what the others call this machine.
    fn rendezvous(&self) -> Result<Rendezvous, String> {
        let own = self.node.config.address.as_uri();
        let host = own.trim_start_matches("http://").rsplit_once(':');
        let host = host.map_or("", |(host, _)| host);
        let any = if host.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let listener = std::net::TcpListener::bind(any);
        let listener = listener.map_err(|error| format!("cannot listen for ranks: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        Ok(Rendezvous {
            listener,
            address: format!("{host}:{}", address.port()),
        })
    }

    async fn serve(&self, task: &LanguageTask, group: ServingGroup) -> End {
        let board = &self.node.board;
        board.language(&task.life, Phase::Ready);
        tracing::info!(life = %task.life, rank = 0, "node is ready for its language group");
        let mut fate = self.fate(task);
        let turn = tokio::select! {
            breakage = group.serve() => Err(breakage),
            fate = fate.turns() => Ok(fate),
        };
        let breakage = match turn {
            Err(breakage) => Some(breakage),
            Ok(Fate::Finishes) => {
                board.language(&task.life, Phase::Draining);
                group.drain().await;
                tracing::info!(life = %task.life, "the group finishes what runs");
                tokio::select! {
                    () = group.idle() => None,
                    breakage = group.broken() => Some(breakage),
                    () = fate.is_over() => None,
                    () = tokio::time::sleep(self.node.config.grace) => {
                        tracing::warn!(life = %task.life, "requests were still running at the end of the grace time");
                        None
                    }
                }
            }
            Ok(Fate::GoesOn | Fate::IsOver) => None,
        };
        // Whoever places must hear of it before the ranks are gone.
        let end = match &breakage {
            Some(breakage) => self.broke(task, breakage),
            None => End::Over,
        };
        group.end(breakage.as_ref()).await;
        end
    }
}
