//! Lanes in the 256-bit registers of AVX2, with FMA and F16C.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Lanes, MAX_LANES};

#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

/// # Safety
/// The machine has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: promised by the caller.
    unsafe { kernel.run::<Avx2>() }
}

impl Lanes for Avx2 {
    const COUNT: usize = 8;
    const NUM_REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller promises the instruction set; here and in all methods below also the pointers.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above.
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn store_transposed(rows: &[Self; MAX_LANES], to: *mut f32, stride: usize) {
        // SAFETY: as above.
        unsafe {
            let pair_low = |i: usize| _mm256_unpacklo_ps(rows[i].0, rows[i + 1].0);
            let pair_high = |i: usize| _mm256_unpackhi_ps(rows[i].0, rows[i + 1].0);
            // quads[c] holds, in each 128-bit half, lane c (and c + 4) of four rows.
            let quads = |i: usize| {
                let (a, b) = (
                    _mm256_castps_pd(pair_low(i)),
                    _mm256_castps_pd(pair_low(i + 2)),
                );
                let (c, d) = (
                    _mm256_castps_pd(pair_high(i)),
                    _mm256_castps_pd(pair_high(i + 2)),
                );
                [
                    _mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)),
                    _mm256_castpd_ps(_mm256_unpacklo_pd(c, d)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)),
                ]
            };
            let (low, high) = (quads(0), quads(4));
            for lane in 0..4 {
                let first = _mm256_permute2f128_ps::<0x20>(low[lane], high[lane]);
                let second = _mm256_permute2f128_ps::<0x31>(low[lane], high[lane]);
                _mm256_storeu_ps(to.add(lane * stride), first);
                _mm256_storeu_ps(to.add((lane + 4) * stride), second);
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
}
