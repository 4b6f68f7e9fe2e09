//! How many blocks the KV cache of a group has.

use inkstone_engine::BLOCK_TOKENS;
use inkstone_interface::config::ModelConfig;
use inkstone_model::{checkpoint::Shard, kv_cache::KvCache, tensor::DType};

/// The share of free memory that is the cache's, unless told otherwise: one in so many.
const MEMORY_SHARE: u64 = 4;
/// A cache holds at most so many of the longest prompts unless told otherwise.
const MAX_PROMPTS: usize = 8;

/// What a block costs, and whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct KvBudget<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) world_size: usize,
    /// Ranks that share this process's memory.
    pub(super) ranks_here: usize,
    /// Of the cache's elements.
    pub(super) dtype: DType,
}

impl KvBudget<'_> {
    /// Blocks for `tokens` positions; where none are given, for what fits the memory.
    pub(super) fn num_blocks(&self, tokens: Option<usize>, max_prompt_tokens: usize) -> usize {
        match tokens {
            Some(tokens) => tokens.div_ceil(BLOCK_TOKENS).max(1),
            None => self.blocks_in(available_memory(), max_prompt_tokens),
        }
    }

    /// Blocks in a share of `free_bytes`.
    fn blocks_in(&self, free_bytes: u64, max_prompt_tokens: usize) -> usize {
        let wanted = max_prompt_tokens.saturating_mul(MAX_PROMPTS);
        let fits = free_bytes / MEMORY_SHARE / self.block_bytes().max(1);
        usize::try_from(fits)
            .unwrap_or(usize::MAX)
            .clamp(1, wanted.div_ceil(BLOCK_TOKENS).max(1))
    }

    /// Bytes of a block on all ranks of this process.
    fn block_bytes(&self) -> u64 {
        let shard = Shard {
            rank: 0,
            world_size: self.world_size,
        };
        (KvCache::block_bytes(self.config, shard, self.dtype) * self.ranks_here) as u64
    }

    /// Says what was chosen.
    pub(super) fn tell(&self, num_blocks: usize) {
        tracing::info!(
            num_blocks,
            kv_tokens = num_blocks * BLOCK_TOKENS,
            bytes = num_blocks as u64 * self.block_bytes(),
            dtype = ?self.dtype,
            ranks_here = self.ranks_here,
            "the budget of the KV cache"
        );
    }
}

/// Bytes of free memory, as the kernel counts them; 4 GiB where it does not say.
fn available_memory() -> u64 {
    let kilobytes = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find(|line| line.starts_with("MemAvailable:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
    kilobytes.map_or(4 << 30, |kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use inkstone_model::synthesize::Preset;

    use super::*;

    fn blocks(dtype: DType, ranks_here: usize, free_bytes: u64) -> usize {
        let config = Preset::Tiny.config();
        let budget = KvBudget {
            config: &config,
            world_size: 2,
            ranks_here,
            dtype,
        };
        budget.blocks_in(free_bytes, 1 << 30)
    }

    #[test]
    fn a_budget_counts_the_elements_real_size_and_all_ranks_of_the_process() {
        let free = 64 << 30;
        let one = blocks(DType::F32, 1, free);
        assert!(blocks(DType::BF16, 1, free).abs_diff(2 * one) <= 1);
        assert!(blocks(DType::F32, 2, free).abs_diff(one / 2) <= 1);
        assert!(blocks(DType::F32, 1, free / 2).abs_diff(one / 2) <= 1);
    }

    #[test]
    fn a_cache_has_a_block_at_least_and_a_few_prompts_at_most() {
        assert_eq!(blocks(DType::F32, 2, 0), 1);
        let config = Preset::Tiny.config();
        let budget = KvBudget {
            config: &config,
            world_size: 1,
            ranks_here: 1,
            dtype: DType::BF16,
        };
        assert_eq!(budget.blocks_in(u64::MAX, 4096), 8 * 4096 / BLOCK_TOKENS);
        assert_eq!(budget.num_blocks(Some(17), 4096), 2);
    }
}
