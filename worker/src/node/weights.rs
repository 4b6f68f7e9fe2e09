//! The shards that a node holds in memory. Those of the last life are kept, so that the next one that asks for them begins at once;
//! they make room as soon as another shard is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use inkstone_cluster::{Phase, Rank, ShardKey};
use inkstone_model::{checkpoint::Shard, internlm2::LanguageModel};
use tokio::task::JoinHandle;

use super::{Node, board::language_loading};
use crate::loading::load_rank;

type Load = JoinHandle<anyhow::Result<Arc<LanguageModel>>>;

/// See the module's text.
pub(super) struct Weights {
    node: Node,
    kept: BTreeMap<ShardKey, Arc<LanguageModel>>,
    /// On their way. Nobody can stop a load: one whose life is over is kept, should the next life ask for the same shard.
    loads: BTreeMap<ShardKey, Load>,
}

impl Weights {
    pub(super) fn new(node: Node) -> Self {
        Self {
            node,
            kept: BTreeMap::new(),
            loads: BTreeMap::new(),
        }
    }

    /// The shards of these ranks, in order: from memory, or loaded side by side. What was begun goes on when this is dropped.
    pub(super) async fn get(
        &mut self,
        ranks: Range<usize>,
        world_size: usize,
    ) -> anyhow::Result<Vec<Arc<LanguageModel>>> {
        let wanted: Vec<Shard> = ranks.map(|rank| Shard { rank, world_size }).collect();
        let keys: BTreeSet<ShardKey> = wanted.iter().copied().map(key).collect();
        if !keys.iter().all(|key| self.kept.contains_key(key)) {
            self.make_room(&keys).await;
            self.load(&wanted).await?;
        }
        let model = |shard: &Shard| self.kept.get(&key(*shard)).cloned();
        Ok(wanted.iter().filter_map(model).collect())
    }

    /// Memory may not hold both what was asked for before and what is asked for now.
    async fn make_room(&mut self, keys: &BTreeSet<ShardKey>) {
        let unwanted = self.loads.extract_if(.., |key, _| !keys.contains(key));
        for (_, load) in unwanted.collect::<Vec<_>>() {
            let _ = load.await;
        }
        self.kept.retain(|key, _| keys.contains(key));
        self.tell();
    }

    async fn load(&mut self, shards: &[Shard]) -> anyhow::Result<()> {
        let sink = self
            .node
            .board
            .progress(Arc::clone(&self.node.progress), language_loading);
        for (index, shard) in shards.iter().enumerate() {
            let key = key(*shard);
            if self.kept.contains_key(&key) || self.loads.contains_key(&key) {
                continue;
            }
            let (checkpoint, settings) = (
                Arc::clone(&self.node.checkpoint),
                self.node.config.model.clone(),
            );
            let (shard, sink) = (*shard, Arc::clone(&sink));
            let load = move || load_rank(&checkpoint, &settings, shard, index, &sink);
            self.loads.insert(key, tokio::task::spawn_blocking(load));
        }
        while let Some(mut entry) = self.loads.first_entry() {
            let loaded = entry.get_mut().await;
            let key = entry.remove_entry().0;
            self.kept.insert(key, loaded??);
        }
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        self.node.board.kept(self.kept.keys().copied().collect());
    }

    /// What there is to say before the first bytes are read.
    pub(super) fn beginning(&self, ranks: Range<usize>, world_size: usize) -> Phase {
        let bytes = ranks.map(|rank| {
            let shard = Shard { rank, world_size };
            // A width that does not fit the model is an error of the load.
            self.node.checkpoint.language_bytes(shard).unwrap_or(0)
        });
        Phase::Loading {
            done_bytes: 0,
            total_bytes: bytes.sum(),
        }
    }
}

fn key(shard: Shard) -> ShardKey {
    let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    ShardKey {
        rank: Rank(narrow(shard.rank)),
        world_size: narrow(shard.world_size),
    }
}
