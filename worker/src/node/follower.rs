//! A life of a language group as a rank other than its leader.

use inkstone_cluster::{NodeId, Phase};
use tokio::{sync::oneshot, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::{
    assignment::{Fate, LanguageTask},
    language::{End, LanguagePart},
};
use crate::{
    group::{joined::Joined, life::Breakage},
    loading::dtype_name,
    rank_process::{RankSeat, endpoint},
};

impl LanguagePart {
    /// Loads, joins the leader, and follows it until it ends the group, or the life is over, or something breaks.
    pub(super) async fn follow(
        &mut self,
        task: &LanguageTask,
        rank: usize,
        leader: &NodeId,
    ) -> End {
        let mut fate = self.fate(task);
        let loaded = tokio::select! {
            loaded = self.load(task) => loaded,
            // There is nothing yet that the others need.
            _ = fate.turns() => return End::Over,
        };
        let (models, files) = match loaded {
            Ok(loaded) => loaded,
            Err(breakage) => return self.broke(task, &breakage),
        };
        let Some(model) = models.into_iter().next() else {
            let reason = "simulated ranks all run in one process: offer a device for each";
            return self.broke(task, &Breakage::new(reason));
        };
        let seat = RankSeat {
            life: Some(task.life.clone()),
            rank,
            world_size: task.world_size,
            fingerprint: self.fingerprint,
            dtype: dtype_name(&self.node.config.model),
            deadlines: self.node.config.group.deadlines,
            nccl_ids: Some(self.nccl_ids(task)),
        };
        let joined = tokio::select! {
            joined = self.join(task, &seat, leader) => joined,
            _ = fate.turns() => return End::Over,
        };
        let joined = match joined {
            Ok(joined) => joined,
            Err(breakage) => return self.broke(task, &breakage),
        };
        let stop = CancellationToken::new();
        let (first_step, stepped) = oneshot::channel();
        let following = seat.follow(joined, (model, files.vocabulary), stop.clone(), first_step);
        self.stay(task, Box::pin(following), stepped, &stop).await
    }

    async fn join(
        &self,
        task: &LanguageTask,
        seat: &RankSeat,
        leader: &NodeId,
    ) -> Result<Joined, Breakage> {
        let patience = self.patience(task);
        tokio::pin!(patience);
        let endpoint = tokio::select! {
            endpoint = self.leader_endpoint(leader) => endpoint?,
            () = &mut patience => return Err(Breakage::by([0], "the leader's node is not there")),
        };
        seat.join(&endpoint, patience).await
    }

    /// Where the leader's node answers, once it is known.
    async fn leader_endpoint(&self, leader: &NodeId) -> Result<Endpoint, Breakage> {
        let mut state = self.node.state.clone();
        let known = state
            .wait_for(|state| state.nodes.contains_key(leader))
            .await;
        let record = known
            .ok()
            .and_then(|state| state.nodes.get(leader).cloned());
        let Some(record) = record else {
            // The registry is gone, and with it whoever could name the leader.
            return std::future::pending().await;
        };
        endpoint(record.address.as_uri()).map_err(|error| Breakage::by([0], format!("{error:#}")))
    }

    async fn stay(
        &self,
        task: &LanguageTask,
        mut following: impl Future<Output = Result<(), Breakage>> + Unpin,
        mut stepped: oneshot::Receiver<()>,
        stop: &CancellationToken,
    ) -> End {
        let mut fate = self.fate(task);
        let mut is_ready = false;
        let followed = loop {
            tokio::select! {
                followed = &mut following => break followed,
                Ok(()) = &mut stepped, if !is_ready => {
                    is_ready = true;
                    self.node.board.language(&task.life, Phase::Ready);
                    tracing::info!(life = %task.life, "node is ready for its language group");
                }
                turn = fate.turns() => {
                    if turn == Fate::Finishes {
                        self.node.board.language(&task.life, Phase::Draining);
                        // The leader finishes requests with this rank, and then ends the group.
                        tokio::select! {
                            followed = &mut following => break followed,
                            () = fate.is_over() => {}
                            () = sleep(self.node.config.grace) => {}
                        }
                    }
                    stop.cancel();
                    let _ = following.await;
                    return End::Over;
                }
            }
        };
        match followed {
            Err(breakage) => self.broke(task, &breakage),
            Ok(()) => End::Over,
        }
    }
}
