//! The two passes of resampling: sums of bytes times fixed-point weights. The column pass is a loop that compilers
//! vectorise; in the row pass an output pixel has few source pixels, three bytes each, which they do not, so x86 has a
//! form written out. Both give the same bytes.

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::taps::{PRECISION, Taps};
use crate::ops::vectorised::vectorised;

/// Rows that the row pass takes together.
pub(super) const ROWS: usize = 4;
/// Half of the last place that is kept, so that what is cut off rounds.
const HALF: i32 = 1 << (PRECISION - 1);

/// Resizes rows.
pub(super) struct RowPass<'a> {
    taps: &'a Taps,
    #[cfg(target_arch = "x86_64")]
    wide: Option<avx2::WideRowPass>,
}

impl<'a> RowPass<'a> {
    pub(super) fn new(taps: &'a Taps) -> Self {
        Self {
            taps,
            #[cfg(target_arch = "x86_64")]
            wide: avx2::WideRowPass::new(taps),
        }
    }

    /// Makes up to `ROWS` rows of output. `source` starts with their source rows, `stride` bytes each, and goes on to the
    /// end of the picture.
    pub(super) fn run(&self, source: &[u8], stride: usize, out: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = &self.wide
            && wide.run(source, stride, out)
        {
            return;
        }
        let rows = source.chunks_exact(stride);
        for (row, out) in rows.zip(out.chunks_exact_mut(self.taps.len() * 3)) {
            self.run_row(row, out);
        }
    }

    fn run_row(&self, row: &[u8], out: &mut [u8]) {
        let (pixels, _) = row.as_chunks::<3>();
        for (position, out) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (first, weights) = self.taps.of(position);
            let mut sums = [HALF; 3];
            for (weight, pixel) in weights.iter().zip(&pixels[first..]) {
                for channel in 0..3 {
                    sums[channel] += weight * i32::from(pixel[channel]);
                }
            }
            *out = sums.map(to_byte);
        }
    }
}

/// Makes one row of output from the rows that `rows` starts with, one a weight, each as long as `out`. `sums` is scratch
/// of that length.
pub(super) fn column_pass(rows: &[u8], weights: &[i32], sums: &mut [i32], out: &mut [u8]) {
    vectorised(
        #[inline(always)]
        || {
            sums.fill(HALF);
            for (weight, row) in weights.iter().zip(rows.chunks_exact(out.len())) {
                for (sum, byte) in sums.iter_mut().zip(row) {
                    *sum += weight * i32::from(*byte);
                }
            }
            for (byte, sum) in out.iter_mut().zip(sums.iter()) {
                *byte = to_byte(*sum);
            }
        },
    );
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}
