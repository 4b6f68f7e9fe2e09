//! The best logits of each row, found on the device.
#![expect(unsafe_code, reason = "kernels take addresses")]

use super::{
    device::{CudaDevice, address, launch, line},
    rowwise::int,
};
use crate::{
    ops::best_logits::BestLogits,
    tensor::{Result, Tensor},
};

/// Threads of a block, which looks at one row; also of the kernel, whose bound is one of its threads' maxima.
const THREADS: usize = 1024;
/// What is kept of a row, for each of the `count` that are wanted: more than `count` logits may reach the bound.
const ROOM: usize = 4;
/// Numbers that are told of a row beside its best logits.
const STATS: usize = 4;

impl CudaDevice {
    /// See [`best_logits`](crate::ops::best_logits::best_logits); `count` is at most [`THREADS`].
    pub(crate) fn best_logits(&self, logits: &Tensor, count: usize) -> Result<Vec<BestLogits>> {
        let (rows, columns) = (logits.rows(), logits.cols());
        let count = count.min(THREADS);
        let capacity = (ROOM * count).min(columns);
        let row_len = STATS + 2 * capacity;
        // Of all rows first what is told of them, then what was found: one way back for both.
        let told = self.passing(rows * row_len * size_of::<u32>())?;
        let found = told.address() + (rows * STATS * size_of::<u32>()) as u64;
        launch!(
            self,
            "candidates",
            line(rows, THREADS),
            address(logits)?,
            told.address(),
            found,
            int(columns),
            int(count),
            int(capacity)
        )?;
        let mut words = vec![0_u32; rows * row_len];
        self.download(&told, 0, bytemuck::cast_slice_mut(&mut words))?;
        let (stats, found) = words.split_at(rows * STATS);
        let found = found.chunks_exact((2 * capacity).max(1));
        let rows = stats.as_chunks::<STATS>().0.iter().zip(found);
        Ok(rows.map(|(stats, found)| read_row(stats, found)).collect())
    }
}

/// What the kernel wrote of a row (see `candidates.cu`).
fn read_row(
    &[num_not_finite, num_found, largest, sum]: &[u32; STATS],
    found: &[u32],
) -> BestLogits {
    let found = found.as_chunks::<2>().0;
    let kept = match (num_found as usize) <= found.len() {
        true => &found[..num_found as usize],
        false => &[],
    };
    // Threads come in no order.
    let mut kept = kept.to_vec();
    kept.sort_unstable_by_key(|[column, _]| *column);
    BestLogits {
        num_not_finite: num_not_finite as usize,
        log_sum_exp: f32::from_bits(largest) + f32::from_bits(sum).ln(),
        columns: kept.iter().map(|[column, _]| *column).collect(),
        logits: kept
            .iter()
            .map(|[_, logit]| f32::from_bits(*logit))
            .collect(),
    }
}
