//! Which block holds what, and which of the blocks that nobody uses was used last.

use std::collections::{BTreeMap, HashMap};

use inkstone_prefix::PrefixHash;

use crate::BlockId;

/// Changes that are kept for whoever follows them: more than a step makes, but in a cache of very small blocks.
const MAX_CHANGES: usize = 1 << 16;

/// A change of the prefix cache, by a block's short hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheChange {
    /// It can be found from now on.
    Added(u64),
    /// It cannot be found any more.
    Removed(u64),
}

/// What changed in the prefix cache since somebody asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheChanges {
    /// In order.
    pub changes: Vec<CacheChange>,
    /// There were more than are kept: only the whole tells
    /// ([`Scheduler::cached_hashes`](crate::Scheduler::cached_hashes)), with `changes` in it already.
    pub is_incomplete: bool,
}

/// Published blocks by their contents. A block may be found under several hashes: all of it, and up to the end of a picture inside.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    by_hash: HashMap<PrefixHash, BlockId>,
    /// By block; empty for a block that is not published.
    hashes: Vec<Vec<PrefixHash>>,
    /// Published blocks that nobody uses, the one to give up first in front.
    idle: BTreeMap<u64, BlockId>,
    /// By block: its key in `idle`.
    idle_since: Vec<Option<u64>>,
    clock: u64,
    changes: CacheChanges,
}

impl PrefixCache {
    pub(crate) fn new(num_blocks: usize) -> Self {
        Self {
            by_hash: HashMap::new(),
            hashes: vec![Vec::new(); num_blocks],
            idle: BTreeMap::new(),
            idle_since: vec![None; num_blocks],
            clock: 0,
            changes: CacheChanges::default(),
        }
    }

    /// The block that holds this.
    pub(crate) fn find(&self, hash: &PrefixHash) -> Option<BlockId> {
        self.by_hash.get(hash).copied()
    }

    /// Makes a block known by what it holds. When another block holds the same, that one stays the known one.
    pub(crate) fn publish(&mut self, hash: PrefixHash, block: BlockId) {
        self.by_hash.entry(hash).or_insert_with(|| {
            self.hashes[index(block)].push(hash);
            self.changes.note(CacheChange::Added(hash.short()));
            block
        });
    }

    /// Whether a block can be found.
    pub(crate) fn is_published(&self, block: BlockId) -> bool {
        !self.hashes[index(block)].is_empty()
    }

    /// Nobody uses the block any more: it is the last to be given up.
    pub(crate) fn rest(&mut self, block: BlockId) {
        self.clock += 1;
        self.idle.insert(self.clock, block);
        self.idle_since[index(block)] = Some(self.clock);
    }

    /// Somebody uses the block again.
    pub(crate) fn wake(&mut self, block: BlockId) {
        let since = self.idle_since[index(block)].take();
        self.idle
            .remove(&since.expect("a block without users that is not free rests"));
    }

    /// Forgets the block that rested longest, and gives it away.
    pub(crate) fn evict(&mut self) -> Option<BlockId> {
        let (_, block) = self.idle.pop_first()?;
        self.idle_since[index(block)] = None;
        for hash in self.hashes[index(block)].drain(..) {
            self.by_hash.remove(&hash);
            self.changes.note(CacheChange::Removed(hash.short()));
        }
        Some(block)
    }

    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> CacheChanges {
        std::mem::take(&mut self.changes)
    }

    /// All that can be found, by short hashes.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = u64> {
        self.by_hash.keys().map(PrefixHash::short)
    }

    /// Blocks that nobody uses.
    pub(crate) fn num_idle(&self) -> usize {
        self.idle.len()
    }

    /// Blocks that nobody uses.
    pub(crate) fn idle(&self) -> impl Iterator<Item = BlockId> {
        self.idle.values().copied()
    }

    /// Each hash leads to a block that knows of it. Panics otherwise: only a bug can do that.
    pub(crate) fn check_integrity(&self) {
        let known: usize = self.hashes.iter().map(Vec::len).sum();
        assert_eq!(known, self.by_hash.len(), "hashes without a block");
        for (hash, block) in &self.by_hash {
            assert!(self.hashes[index(*block)].contains(hash), "block {block}");
        }
        for (since, block) in &self.idle {
            assert_eq!(
                self.idle_since[index(*block)],
                Some(*since),
                "block {block}"
            );
            assert!(self.is_published(*block), "block {block} rests unpublished");
        }
    }
}

impl CacheChanges {
    fn note(&mut self, change: CacheChange) {
        if self.changes.len() >= MAX_CHANGES {
            self.changes.clear();
            self.is_incomplete = true;
        }
        self.changes.push(change);
    }
}

fn index(block: BlockId) -> usize {
    block.0 as usize
}
