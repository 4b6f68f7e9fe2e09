//! The key-value cache of one rank: pages of 16 tokens, named by block. Which block belongs to which sequence is the scheduler's
//! business; here is the memory. Keys are stored after their rotation.

use std::sync::atomic::{AtomicU64, Ordering};

use inkstone_interface::config::ModelConfig;

use crate::{
    checkpoint::Shard,
    device::Device,
    ops::attention::copy_block,
    tensor::{DType, Result, Tensor},
};

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 16;

/// The pages of all layers.
pub struct KvCache {
    layers: Vec<KvPages>,
    id: CacheId,
}

/// Tells a cache from every other of this process, those that are gone included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheId(u64);

impl KvCache {
    /// Room for `num_blocks` blocks of a rank's share of the heads, in every layer. Memory is taken from the system page by page as
    /// blocks are first written.
    pub fn new(
        config: &ModelConfig,
        shard: Shard,
        num_blocks: usize,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let num_kv_heads = shard.key_value_heads(config).len();
        let pages = || KvPages::new(num_blocks, num_kv_heads, config.head_dim(), dtype, device);
        static NUM_CACHES: AtomicU64 = AtomicU64::new(0);
        Self {
            layers: (0..config.num_hidden_layers).map(|_| pages()).collect(),
            id: CacheId(NUM_CACHES.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Bytes that one block takes on this rank, over all layers.
    pub fn block_bytes(config: &ModelConfig, shard: Shard, dtype: DType) -> usize {
        let heads = shard.key_value_heads(config).len();
        let per_token = heads * (config.head_dim() + value_width(config.head_dim()));
        config.num_hidden_layers * BLOCK_TOKENS * per_token * dtype.num_bytes()
    }

    pub fn num_blocks(&self) -> usize {
        self.layers.first().map_or(0, KvPages::num_blocks)
    }

    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Copies a block to another, in every layer: a block that two sequences share is copied before one writes to it.
    pub fn copy_block(&mut self, from: u32, to: u32) -> Result<()> {
        self.layers
            .iter_mut()
            .try_for_each(|layer| copy_block(layer, from, to))
    }

    pub(crate) fn id(&self) -> CacheId {
        self.id
    }

    pub(crate) fn layer(&mut self, index: usize) -> &mut KvPages {
        &mut self.layers[index]
    }
}

/// The pages of one layer. Within a block each head has its keys side by side by dimension (`[head_dim, 16]`), so that a query
/// meets 16 keys with one vector, and its values row by row (`[16, value_width]`), padded to whole vectors.
pub struct KvPages {
    /// `[num_blocks, num_kv_heads, head_dim, 16]`
    pub(crate) keys: Tensor,
    /// `[num_blocks, num_kv_heads, 16, value_width]`
    pub(crate) values: Tensor,
    head_dim: usize,
}

impl KvPages {
    /// Pages of `num_blocks` blocks for one layer.
    pub fn new(
        num_blocks: usize,
        num_kv_heads: usize,
        head_dim: usize,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let keys = [num_blocks, num_kv_heads, head_dim, BLOCK_TOKENS];
        let values = [
            num_blocks,
            num_kv_heads,
            BLOCK_TOKENS,
            value_width(head_dim),
        ];
        Self {
            keys: Tensor::zeros(device, dtype, &keys),
            values: Tensor::zeros(device, dtype, &values),
            head_dim,
        }
    }

    pub fn num_blocks(&self) -> usize {
        self.keys.shape()[0]
    }

    pub fn num_kv_heads(&self) -> usize {
        self.keys.shape()[1]
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Elements from one value row to the next.
    pub(crate) fn value_width(&self) -> usize {
        self.values.cols()
    }
}

/// A value row's width with its padding.
fn value_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}
