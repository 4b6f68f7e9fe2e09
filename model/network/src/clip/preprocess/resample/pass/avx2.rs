//! The row pass for x86 with AVX2: four rows at a time, two in the halves of one register, each half with the sums of a
//! pixel's channels. Two taps go into one multiplication of 16-bit numbers, so weights are cut into a low part of 14
//! bits and the rest; both sums are exact and join at the end.

use core::arch::x86_64::__m256i;

use pulp::NullaryFnOnce;
use pulp::x86::V3;

use super::super::taps::{PRECISION, Taps};
use super::{HALF, ROWS};

/// Bits of a weight's low part.
const LOW_BITS: u32 = 14;
/// Taps that one load of 16 bytes serves, and bytes from one load to the next.
const BLOCK_TAPS: usize = 4;
const BLOCK: usize = BLOCK_TAPS * 3;
/// Bytes beyond a row's end that its last load may reach: three taps of no weight and four bytes of no use.
const OVERRUN: usize = 3 * 3 + 4;

/// The weights of four taps: of the first two and of the last two, as pairs of 16-bit numbers.
struct Block {
    low: [i32; 2],
    high: [i32; 2],
}

pub(super) struct WideRowPass {
    simd: V3,
    /// For every output pixel the first byte of its source and where its blocks end.
    firsts: Vec<usize>,
    ends: Vec<usize>,
    blocks: Vec<Block>,
}

impl WideRowPass {
    /// Lays the weights out, if this machine has AVX2.
    pub(super) fn new(taps: &Taps) -> Option<Self> {
        let mut pass = Self {
            simd: V3::try_new()?,
            firsts: Vec::new(),
            ends: Vec::new(),
            blocks: Vec::new(),
        };
        for position in 0..taps.len() {
            let (first, weights) = taps.of(position);
            pass.firsts.push(first * 3);
            pass.blocks
                .extend(weights.chunks(BLOCK_TAPS).map(Block::new));
            pass.ends.push(pass.blocks.len());
        }
        Some(pass)
    }

    /// Makes `ROWS` rows of output and says so, or leaves it to others: fewer rows, or too near the end of the picture.
    pub(super) fn run(&self, source: &[u8], stride: usize, out: &mut [u8]) -> bool {
        let out_stride = self.firsts.len() * 3;
        if out.len() != ROWS * out_stride || source.len() < ROWS * stride + OVERRUN {
            return false;
        }
        let rows = std::array::from_fn(|row| &source[row * stride..][..stride + OVERRUN]);
        self.simd.vectorize(FourRows {
            pass: self,
            rows,
            out,
            out_stride,
        });
        true
    }
}

impl Block {
    fn new(weights: &[i32]) -> Self {
        let weight = |tap: usize| weights.get(tap).copied().unwrap_or(0);
        let low = |tap: usize| weight(tap) << (32 - LOW_BITS) >> (32 - LOW_BITS);
        let high = |tap: usize| (weight(tap) - low(tap)) >> LOW_BITS;
        let pair = |first: i32, second: i32| first & 0xffff | second << 16;
        Self {
            low: [pair(low(0), low(1)), pair(low(2), low(3))],
            high: [pair(high(0), high(1)), pair(high(2), high(3))],
        }
    }
}

struct FourRows<'a> {
    pass: &'a WideRowPass,
    rows: [&'a [u8]; ROWS],
    out: &'a mut [u8],
    out_stride: usize,
}

impl NullaryFnOnce for FourRows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut start = 0;
        for (position, (first, end)) in self.pass.firsts.iter().zip(&self.pass.ends).enumerate() {
            let sums = sums(
                self.pass.simd,
                &self.pass.blocks[start..*end],
                &self.rows,
                *first,
            );
            for (row, lanes) in sums.as_flattened().as_chunks::<4>().0.iter().enumerate() {
                let pixel = &mut self.out[row * self.out_stride + position * 3..][..3];
                for (byte, lane) in pixel.iter_mut().zip(lanes) {
                    *byte = *lane as u8;
                }
            }
            start = *end;
        }
    }
}

/// One output pixel of each row: red, green, blue and a lane of no meaning, from 0 to 255.
#[inline(always)]
fn sums(simd: V3, blocks: &[Block], rows: &[&[u8]; ROWS], first: usize) -> [[i32; 8]; ROWS / 2] {
    let V3 { avx, avx2, .. } = simd;
    let mut low = [avx._mm256_set1_epi32(HALF); ROWS / 2];
    let mut high = [avx._mm256_setzero_si256(); ROWS / 2];
    let [front, back] = [pulp::cast::<_, __m256i>(pair_up(0)), pulp::cast(pair_up(2))];
    for (index, block) in blocks.iter().enumerate() {
        let [low_front, low_back] = block.low.map(|weights| avx._mm256_set1_epi32(weights));
        let [high_front, high_back] = block.high.map(|weights| avx._mm256_set1_epi32(weights));
        for half in 0..ROWS / 2 {
            let load = |row: usize| {
                let bytes: &[u8; 16] = rows[row][first + index * BLOCK..]
                    .first_chunk()
                    .expect("rows have overrun");
                pulp::cast(*bytes)
            };
            let pixels = avx._mm256_set_m128i(load(2 * half + 1), load(2 * half));
            let front = avx2._mm256_shuffle_epi8(pixels, front);
            let back = avx2._mm256_shuffle_epi8(pixels, back);
            let add = |sum, weights_front, weights_back| {
                let products_front = avx2._mm256_madd_epi16(front, weights_front);
                let products_back = avx2._mm256_madd_epi16(back, weights_back);
                avx2._mm256_add_epi32(sum, avx2._mm256_add_epi32(products_front, products_back))
            };
            low[half] = add(low[half], low_front, low_back);
            high[half] = add(high[half], high_front, high_back);
        }
    }
    std::array::from_fn(|half| {
        let high = avx2._mm256_slli_epi32::<{ LOW_BITS.cast_signed() }>(high[half]);
        let sum = avx2._mm256_add_epi32(low[half], high);
        let whole = avx2._mm256_srai_epi32::<{ PRECISION.cast_signed() }>(sum);
        let not_below = avx2._mm256_max_epi32(whole, avx._mm256_setzero_si256());
        pulp::cast(avx2._mm256_min_epi32(not_below, avx._mm256_set1_epi32(255)))
    })
}

/// The shuffle that brings the channels of pixels `first` and `first + 1` side by side as 16-bit numbers, in both halves:
/// red and red, green and green, blue and blue, nothing.
const fn pair_up(first: i8) -> [i8; 32] {
    let mut indices = [-1; 32];
    let mut byte = 0;
    while byte < 32 {
        let (channel, second) = (byte % 16 / 4, byte % 4 / 2);
        if channel < 3 && byte % 2 == 0 {
            indices[byte] = (first + second as i8) * 3 + channel as i8;
        }
        byte += 1;
    }
    indices
}
