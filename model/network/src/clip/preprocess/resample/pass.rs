//! The inner loops of resampling: plain loops over fixed-size blocks, compiled once for every vector width that the
//! machine may have.

use pulp::Arch;

use super::taps::{PRECISION, Taps};

/// Source pixels that the row pass takes at a time; a row given to it must be readable so far past its end.
pub(super) const BLOCK_TAPS: usize = 8;
/// Bytes of such a block: the channels stay interleaved, so a byte's channel is its index modulo three.
const BLOCK: usize = BLOCK_TAPS * 3;
/// Bytes that the column pass sums at a time.
const COLUMNS: usize = 32;

/// Weights laid out for the row pass: each three times, for the three channels, and zeros up to a whole block.
pub(super) struct RowPass {
    arch: Arch,
    firsts: Vec<usize>,
    bounds: Vec<usize>,
    blocks: Vec<[i32; BLOCK]>,
}

impl RowPass {
    pub(super) fn new(taps: &Taps) -> Self {
        let mut pass = Self {
            arch: Arch::new(),
            firsts: Vec::new(),
            bounds: vec![0],
            blocks: Vec::new(),
        };
        for position in 0..taps.len() {
            let (first, weights) = taps.of(position);
            pass.firsts.push(first * 3);
            pass.blocks.extend(weights.chunks(BLOCK_TAPS).map(spread));
            pass.bounds.push(pass.blocks.len());
        }
        pass
    }

    /// Makes one row of output. `row` holds the source row and at least `BLOCK_TAPS` more pixels of any content.
    pub(super) fn run(&self, row: &[u8], out: &mut [u8]) {
        self.arch.dispatch(
            #[inline(always)]
            || self.run_in_place(row, out),
        );
    }

    #[inline(always)]
    fn run_in_place(&self, row: &[u8], out: &mut [u8]) {
        for (position, pixel) in out.chunks_exact_mut(3).enumerate() {
            let (row, _) = row[self.firsts[position]..].as_chunks::<BLOCK>();
            let mut sums = [0_i32; BLOCK];
            for (weights, samples) in self.blocks[self.bounds[position]..self.bounds[position + 1]]
                .iter()
                .zip(row)
            {
                for lane in 0..BLOCK {
                    sums[lane] += weights[lane] * i32::from(samples[lane]);
                }
            }
            pixel.copy_from_slice(&fold(&sums));
        }
    }
}

fn spread(weights: &[i32]) -> [i32; BLOCK] {
    std::array::from_fn(|byte| weights.get(byte / 3).copied().unwrap_or(0))
}

/// Adds up the lanes of each channel.
#[inline(always)]
fn fold(sums: &[i32; BLOCK]) -> [u8; 3] {
    let half: [i32; BLOCK / 2] = std::array::from_fn(|lane| sums[lane] + sums[lane + BLOCK / 2]);
    std::array::from_fn(|c| to_byte(half[c] + half[c + 3] + half[c + 6] + half[c + 9]))
}

/// Makes one row of output from the rows that `rows` starts with, one a weight, each as long as `out`.
pub(super) fn column_pass(rows: &[u8], weights: &[i32], out: &mut [u8]) {
    Arch::new().dispatch(
        #[inline(always)]
        || column_pass_in_place(rows, weights, out),
    );
}

#[inline(always)]
fn column_pass_in_place(rows: &[u8], weights: &[i32], out: &mut [u8]) {
    let stride = out.len();
    let (blocks, rest) = out.as_chunks_mut::<COLUMNS>();
    let rest_start = blocks.len() * COLUMNS;
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut sums = [0_i32; COLUMNS];
        for (weight, row) in weights.iter().zip(rows.chunks_exact(stride)) {
            let samples: &[u8; COLUMNS] = row[index * COLUMNS..]
                .first_chunk()
                .expect("a block lies within the row");
            for lane in 0..COLUMNS {
                sums[lane] += weight * i32::from(samples[lane]);
            }
        }
        *block = sums.map(to_byte);
    }
    for (offset, byte) in rest.iter_mut().enumerate() {
        let samples = rows
            .chunks_exact(stride)
            .map(|row| i32::from(row[rest_start + offset]));
        *byte = to_byte(weights.iter().zip(samples).map(|(w, s)| w * s).sum());
    }
}

/// Rounds a sum to the nearest byte.
#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}
