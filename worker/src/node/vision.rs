//! The vision part of a node: encodes pictures while it is told to. The encoder stays in memory once it was loaded, with the features
//! that it holds.

use std::sync::Arc;

use inkstone_cluster::{Epoch, Phase};
use tokio::time::timeout;

use super::{Node, board::vision_loading};
use crate::{
    config::ModelSettings,
    picture_encoder::start_encoder,
    service::{health::Part, vision::VisionServer},
    vision::VisionWorker,
};

/// See the module's text.
pub(super) struct VisionPart {
    node: Node,
    server: VisionServer,
    worker: Option<Arc<VisionWorker>>,
}

impl VisionPart {
    pub(super) fn new(node: Node, server: VisionServer) -> Self {
        Self {
            node,
            server,
            worker: None,
        }
    }

    /// Runs until the process is told to stop and open calls have finished.
    pub(super) async fn run(mut self) {
        let mut serving: Option<Epoch> = None;
        let mut failed: Option<Epoch> = None;
        loop {
            let wanted = self.wanted();
            match (serving, wanted) {
                (Some(epoch), None) => {
                    self.finish(epoch).await;
                    serving = None;
                    continue;
                }
                // Another epoch of the same work: nothing that a caller could notice.
                (_, Some(epoch)) if serving != wanted && failed != wanted => {
                    match self.begin(epoch).await {
                        true => serving = wanted,
                        false => failed = wanted,
                    }
                    continue;
                }
                (None, None) => self.node.board.vision(None),
                _ => {}
            }
            if self.node.shutdown.is_cancelled() {
                return;
            }
            self.node.news().await;
        }
    }

    /// The assignment, while the process may take work.
    fn wanted(&mut self) -> Option<Epoch> {
        let state = self.node.state.borrow_and_update();
        let epoch = state.vision.get(&self.node.config.id).copied();
        epoch.filter(|_| !self.node.shutdown.is_cancelled())
    }

    /// Serves in this epoch. `false`: it cannot, which is reported, or the process is told to stop.
    async fn begin(&mut self, epoch: Epoch) -> bool {
        let worker = match &self.worker {
            Some(worker) => Arc::clone(worker),
            None => {
                let phase = Phase::Loading {
                    done_bytes: 0,
                    total_bytes: self.node.checkpoint.vision_bytes(),
                };
                self.node.board.vision(Some((epoch, phase)));
                let shutdown = self.node.shutdown.clone();
                let loaded = tokio::select! {
                    loaded = self.load() => loaded,
                    () = shutdown.cancelled() => return false,
                };
                match loaded {
                    Ok(worker) => self.worker.insert(worker).clone(),
                    Err(error) => {
                        self.node.board.vision_failed(epoch, format!("{error:#}"));
                        return false;
                    }
                }
            }
        };
        self.server.start(worker);
        self.node.health.set(Part::Vision, true).await;
        self.node.board.vision(Some((epoch, Phase::Ready)));
        tracing::info!(%epoch, "node is ready for pictures");
        true
    }

    async fn load(&self) -> anyhow::Result<Arc<VisionWorker>> {
        let config = &self.node.config;
        let model = ModelSettings {
            threads: config.vision_threads,
            ..config.model.clone()
        };
        let checkpoint = Arc::clone(&self.node.checkpoint);
        let hand_on = Arc::clone(&self.node.progress);
        let sink = self.node.board.progress(hand_on, vision_loading);
        start_encoder(&model, &config.vision, checkpoint, sink).await
    }

    async fn finish(&self, epoch: Epoch) {
        self.node.board.vision(Some((epoch, Phase::Draining)));
        self.node.health.set(Part::Vision, false).await;
        let grace = self.node.config.grace;
        if timeout(grace, self.server.drain()).await.is_err() {
            tracing::warn!(?grace, "calls were still open at the end of the grace time");
        }
        self.server.clear();
        self.node.board.vision(None);
        tracing::info!(%epoch, "the node encodes no more pictures");
    }
}
