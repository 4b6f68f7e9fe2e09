//! Who refers to which block of the KV cache. A block is free, or referred to (by tables and reserves of requests), or cached:
//! published, and nobody refers to it.

use inkstone_prefix::PrefixHash;

use crate::{BLOCK_TOKENS, BlockId, CacheChanges, prefix_cache::PrefixCache, prompt::Prompt};

/// Reference counts and the free list.
#[derive(Debug)]
pub(crate) struct BlockManager {
    references: Vec<u32>,
    free: Vec<BlockId>,
    cache: PrefixCache,
    evictions: u64,
}

/// The beginning of a sequence, as found in the cache.
#[derive(Debug, Default)]
pub(crate) struct CachedPrefix {
    /// Whole blocks, from the first on: to be shared.
    pub(crate) blocks: Vec<BlockId>,
    /// A block whose beginning is what comes next: to be copied, for the sequence goes on differently inside it.
    pub(crate) partial: Option<BlockId>,
    /// Positions found.
    pub(crate) num_tokens: usize,
}

impl BlockManager {
    /// All blocks free.
    pub(crate) fn new(num_blocks: usize) -> Self {
        let count = u32::try_from(num_blocks).expect("limits are checked: fewer than 2^32 blocks");
        Self {
            references: vec![0; num_blocks],
            free: (0..count).rev().map(BlockId).collect(),
            cache: PrefixCache::new(num_blocks),
            evictions: 0,
        }
    }

    /// Blocks that hold `num_tokens` positions.
    pub(crate) fn blocks_for(num_tokens: usize) -> usize {
        num_tokens.div_ceil(BLOCK_TOKENS)
    }

    /// A block for new content, with one reference: a free one, else the cached one that rested longest.
    pub(crate) fn allocate(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let block = self.cache.evict()?;
                self.evictions += 1;
                block
            }
        };
        self.references[block.0 as usize] = 1;
        Some(block)
    }

    /// Adds a reference.
    pub(crate) fn share(&mut self, block: BlockId) {
        let references = &mut self.references[block.0 as usize];
        *references += 1;
        if *references == 1 {
            self.cache.wake(block);
        }
    }

    /// Drops a reference. The last one leaves the block cached, if it is published, or free.
    pub(crate) fn release(&mut self, block: BlockId) {
        let references = &mut self.references[block.0 as usize];
        *references = references.checked_sub(1).expect("a reference was held");
        if *references == 0 {
            if self.cache.is_published(block) {
                self.cache.rest(block);
            } else {
                self.free.push(block);
            }
        }
    }

    /// Notes that a block was of use, so that it is not the next to be given up.
    pub(crate) fn touch(&mut self, block: BlockId) {
        self.share(block);
        self.release(block);
    }

    /// Drops the references of a table. Its end first, so that of a cached prefix the end is given up before the beginning, without
    /// which it could not be found.
    pub(crate) fn release_table(&mut self, table: &mut Vec<BlockId>) {
        while let Some(block) = table.pop() {
            self.release(block);
        }
    }

    /// Whether more than one table refers to it.
    pub(crate) fn is_shared(&self, block: BlockId) -> bool {
        self.references[block.0 as usize] > 1
    }

    /// Makes a block known by what it holds.
    pub(crate) fn publish(&mut self, hash: PrefixHash, block: BlockId) {
        self.cache.publish(hash, block);
    }

    /// The longest beginning that is in the cache, at most `limit` positions. Takes no references yet.
    pub(crate) fn find_prefix(
        &self,
        prompt: &Prompt,
        grown: &[PrefixHash],
        limit: usize,
    ) -> CachedPrefix {
        let mut found = CachedPrefix::default();
        while found.num_tokens < limit {
            let number = found.blocks.len();
            let full = prompt
                .block_hash(number, grown)
                .and_then(|hash| self.cache.find(&hash));
            match full {
                Some(block) if found.num_tokens + BLOCK_TOKENS <= limit => {
                    found.blocks.push(block);
                    found.num_tokens += BLOCK_TOKENS;
                }
                Some(block) => {
                    found.partial = Some(block);
                    found.num_tokens = limit;
                }
                None => {
                    let inside = prompt.picture_ends(number).iter().rev();
                    let hit = inside
                        .filter(|(end, _)| *end <= limit)
                        .find_map(|(end, hash)| Some((*end, self.cache.find(hash)?)));
                    if let Some((end, block)) = hit {
                        found.partial = Some(block);
                        found.num_tokens = end;
                    }
                    break;
                }
            }
        }
        found
    }

    /// Blocks that [`Self::allocate`] could still give, once `found` is shared.
    pub(crate) fn available_beside(&self, found: &CachedPrefix) -> usize {
        let woken = |block: &&BlockId| self.references[block.0 as usize] == 0;
        self.available() - found.blocks.iter().filter(woken).count()
    }

    /// Blocks that [`Self::allocate`] could give: free and cached ones.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.cache.num_idle()
    }

    /// Published blocks that nobody refers to.
    pub(crate) fn num_cached(&self) -> usize {
        self.cache.num_idle()
    }

    /// What came into the cache and left it since the last call.
    pub(crate) fn take_cache_changes(&mut self) -> CacheChanges {
        self.cache.take_changes()
    }

    /// All that is in the cache, by short hashes.
    pub(crate) fn cached_hashes(&self) -> impl Iterator<Item = u64> {
        self.cache.hashes()
    }

    /// All blocks.
    pub(crate) fn num_blocks(&self) -> usize {
        self.references.len()
    }

    /// Cached blocks given up so far.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Every block is free, cached, or referred to as often as `held` names it. Panics otherwise: only a bug can do that.
    pub(crate) fn check_integrity(&self, held: impl Iterator<Item = BlockId>) {
        let mut references = vec![0; self.num_blocks()];
        held.for_each(|block| references[block.0 as usize] += 1);
        assert_eq!(references, self.references, "references do not add up");
        let mut homes: Vec<usize> = references
            .iter()
            .map(|count| usize::from(*count > 0))
            .collect();
        let unused = self.free.iter().copied().chain(self.cache.idle());
        unused.for_each(|block| homes[block.0 as usize] += 1);
        assert!(
            homes.iter().all(|count| *count == 1),
            "a block is lost or in two places"
        );
        let published_free = self
            .free
            .iter()
            .any(|block| self.cache.is_published(*block));
        assert!(!published_free, "a free block is published");
        self.cache.check_integrity();
    }
}
