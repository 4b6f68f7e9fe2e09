//! The layout of a block in memory: writing rows to it, and finding a head's keys and values in it.

use half::{bf16, f16};

use crate::{
    device::CpuDevice,
    kv_cache::{BLOCK_TOKENS, KvPages},
    ops::{
        attention::plan::{AttentionPlan, BlockWrite},
        rotary::QkvLayout,
        simd::Weight,
    },
    tensor::{CpuElementsMut, Result},
};

/// A type that the cache can hold.
pub(in crate::ops::attention) trait CacheElement: Weight {
    fn round(value: f32) -> Self;
    /// The elements themselves where no widening is needed.
    fn as_f32(elements: &[Self]) -> Option<&[f32]>;
}

impl CacheElement for f32 {
    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn as_f32(elements: &[Self]) -> Option<&[f32]> {
        Some(elements)
    }
}

impl CacheElement for bf16 {
    #[inline(always)]
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[inline(always)]
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

impl CacheElement for f16 {
    #[inline(always)]
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[inline(always)]
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

/// The pages of one key and value head.
pub(super) struct HeadPages<'a, T> {
    keys: &'a [T],
    values: &'a [T],
    /// Elements of a block, of all heads and of one.
    key_lens: (usize, usize),
    value_lens: (usize, usize),
    head: usize,
    pub(super) value_width: usize,
}

impl<'a, T: CacheElement> HeadPages<'a, T> {
    pub(super) fn new(
        keys: &'a [T],
        values: &'a [T],
        layout: &QkvLayout,
        value_width: usize,
        head: usize,
    ) -> Self {
        let key_len = layout.head_dim * BLOCK_TOKENS;
        let value_len = BLOCK_TOKENS * value_width;
        Self {
            keys,
            values,
            key_lens: (layout.num_kv_heads * key_len, key_len),
            value_lens: (layout.num_kv_heads * value_len, value_len),
            head,
            value_width,
        }
    }

    /// `[head_dim, 16]`
    #[inline(always)]
    pub(super) fn keys(&self, block: u32) -> &'a [T] {
        let (block_len, len) = self.key_lens;
        &self.keys[block as usize * block_len + self.head * len..][..len]
    }

    /// `[16, value_width]`
    #[inline(always)]
    pub(super) fn values(&self, block: u32) -> &'a [T] {
        let (block_len, len) = self.value_lens;
        &self.values[block as usize * block_len + self.head * len..][..len]
    }
}

pub(in crate::ops::attention) fn write_pages(
    device: &CpuDevice,
    qkv: &[f32],
    layout: &QkvLayout,
    plan: &AttentionPlan,
    pages: &mut KvPages,
) -> Result<()> {
    let rows = NewRows {
        device,
        qkv,
        layout,
        plan,
        value_width: pages.value_width(),
    };
    let keys = pages.keys.cpu_elements_mut()?;
    match (keys, pages.values.cpu_elements_mut()?) {
        (CpuElementsMut::F32(keys), CpuElementsMut::F32(values)) => rows.write(keys, values),
        (CpuElementsMut::BF16(keys), CpuElementsMut::BF16(values)) => rows.write(keys, values),
        (CpuElementsMut::F16(keys), CpuElementsMut::F16(values)) => rows.write(keys, values),
        _ => unreachable!("keys and values are made with one type"),
    }
    Ok(())
}

/// The rows of a batch that go to the pages.
struct NewRows<'a> {
    device: &'a CpuDevice,
    qkv: &'a [f32],
    layout: &'a QkvLayout,
    plan: &'a AttentionPlan,
    value_width: usize,
}

/// A block that rows go to.
struct Target<'a, T> {
    write: BlockWrite,
    keys: &'a mut [T],
    values: &'a mut [T],
}

/// Elements that one task writes, about.
const ELEMENTS: usize = 32 << 10;

impl NewRows<'_> {
    fn write<T: CacheElement>(&self, keys: &mut [T], values: &mut [T]) {
        let num_rows = self.plan.num_rows().max(1);
        let mut targets = self.targets(keys, values);
        let rows_per_task = ELEMENTS / (2 * self.layout.num_kv_heads * self.layout.head_dim);
        let per_task = (rows_per_task * targets.len() / num_rows).max(1);
        self.device
            .parallel_chunks_mut(&mut targets, per_task, |_, targets| {
                targets.iter_mut().for_each(|target| self.fill(target));
            });
    }

    /// The blocks to be written, each borrowed for itself. The plan has them in rising order and none twice.
    fn targets<'a, T>(&self, mut keys: &'a mut [T], mut values: &'a mut [T]) -> Vec<Target<'a, T>> {
        let key_len = self.layout.num_kv_heads * self.layout.head_dim * BLOCK_TOKENS;
        let value_len = self.layout.num_kv_heads * BLOCK_TOKENS * self.value_width;
        let mut targets = Vec::with_capacity(self.plan.writes.len());
        let mut next_block = 0;
        for &write in &self.plan.writes {
            let num_skipped = write.block as usize - next_block;
            let (own_keys, later_keys) = keys[num_skipped * key_len..].split_at_mut(key_len);
            let (own_values, later_values) =
                values[num_skipped * value_len..].split_at_mut(value_len);
            (keys, values) = (later_keys, later_values);
            next_block = write.block as usize + 1;
            targets.push(Target {
                write,
                keys: own_keys,
                values: own_values,
            });
        }
        targets
    }

    fn fill<T: CacheElement>(&self, target: &mut Target<'_, T>) {
        let QkvLayout { head_dim, .. } = *self.layout;
        let width = self.layout.width();
        for offset in 0..target.write.num_rows {
            let row = &self.qkv[(target.write.first_row + offset) * width..][..width];
            let slot = target.write.slot + offset;
            for (head, group) in row.chunks_exact(self.layout.group_width()).enumerate() {
                let (key, value) = group[self.layout.group * head_dim..].split_at(head_dim);
                let keys = &mut target.keys[head * head_dim * BLOCK_TOKENS..];
                for (place, key) in keys[slot..].iter_mut().step_by(BLOCK_TOKENS).zip(key) {
                    *place = T::round(*key);
                }
                let start = (head * BLOCK_TOKENS + slot) * self.value_width;
                let values = &mut target.values[start..][..head_dim];
                for (place, value) in values.iter_mut().zip(value) {
                    *place = T::round(*value);
                }
            }
        }
    }
}

pub(in crate::ops::attention) fn copy_block(
    pages: &mut KvPages,
    from: usize,
    to: usize,
) -> Result<()> {
    let num_blocks = pages.num_blocks();
    for tensor in [&mut pages.keys, &mut pages.values] {
        let len = tensor.num_elements() / num_blocks;
        let elements = from * len..(from + 1) * len;
        match tensor.cpu_elements_mut()? {
            CpuElementsMut::F32(data) => data.copy_within(elements, to * len),
            CpuElementsMut::BF16(data) => data.copy_within(elements, to * len),
            CpuElementsMut::F16(data) => data.copy_within(elements, to * len),
        }
    }
    Ok(())
}
