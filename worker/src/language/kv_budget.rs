//! How many blocks the KV cache of a group has.

use inkstone_engine::BLOCK_TOKENS;
use inkstone_interface::config::ModelConfig;
use inkstone_model::{checkpoint::Shard, kv_cache::KvCache, tensor::DType};

/// The share of free memory that is the cache's, unless told otherwise: one in so many.
const MEMORY_SHARE: u64 = 4;
/// What the cache leaves free on a GPU beside the largest step: room for a vision encoder, and for what fragments waste.
const GPU_RESERVE: u64 = 2 << 30;
/// Blocks that the scheduler keeps account of at most, whatever a GPU has room for: small models on large GPUs.
const MAX_BLOCKS: usize = 1 << 20;
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
    /// Free bytes of each rank's GPU once its weights are there and the largest step has its memory; not set on the CPU.
    pub(super) free_on_gpu: Option<u64>,
}

impl KvBudget<'_> {
    /// Blocks for `tokens` positions; where none are given, for what fits the memory.
    pub(super) fn num_blocks(&self, tokens: Option<usize>, max_prompt_tokens: usize) -> usize {
        match tokens {
            Some(tokens) => tokens.div_ceil(BLOCK_TOKENS).max(1),
            None => match self.free_on_gpu {
                Some(free_bytes) => self.blocks_on_gpu(free_bytes),
                None => self.blocks_in(available_memory(), max_prompt_tokens),
            },
        }
    }

    /// Blocks in what is free on each rank's GPU.
    fn blocks_on_gpu(&self, free_bytes: u64) -> usize {
        let block_bytes = self.block_bytes() / self.ranks_here.max(1) as u64;
        let fits = free_bytes.saturating_sub(GPU_RESERVE) / block_bytes.max(1);
        usize::try_from(fits)
            .unwrap_or(usize::MAX)
            .clamp(1, MAX_BLOCKS)
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
            free_on_gpu: None,
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
    fn a_gpu_gives_its_cache_what_is_free_up_to_what_can_be_counted() {
        let config = Preset::Vl7b.config();
        let budget = |free_on_gpu| KvBudget {
            config: &config,
            world_size: 1,
            ranks_here: 1,
            dtype: DType::BF16,
            free_on_gpu: Some(free_on_gpu),
        };
        // 32 layers of 8 heads of 128, keys and values: 128 KiB a position.
        let block_bytes = (128 << 10) * BLOCK_TOKENS as u64;
        let free = GPU_RESERVE + 1000 * block_bytes;
        assert_eq!(budget(free).num_blocks(None, 4096), 1000);
        assert_eq!(budget(GPU_RESERVE / 2).num_blocks(None, 4096), 1);
        assert_eq!(budget(u64::MAX).num_blocks(None, 4096), MAX_BLOCKS);
        // Ranks of a process have a GPU each.
        let two = KvBudget {
            world_size: 2,
            ranks_here: 2,
            ..budget(free)
        };
        assert_eq!(two.num_blocks(None, 4096), 2000);
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
            free_on_gpu: None,
        };
        assert_eq!(budget.blocks_in(u64::MAX, 4096), 8 * 4096 / BLOCK_TOKENS);
        assert_eq!(budget.num_blocks(Some(17), 4096), 2);
    }
}
