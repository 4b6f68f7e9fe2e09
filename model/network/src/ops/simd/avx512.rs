//! Lanes in the 512-bit registers of AVX-512.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Lanes, MAX_LANES};

#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: promised by the caller.
    unsafe { kernel.run::<Avx512>() }
}

impl Lanes for Avx512 {
    const COUNT: usize = 16;
    const NUM_REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller promises the instruction set; here and in all methods below also the pointers.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn store_transposed(rows: &[Self; MAX_LANES], to: *mut f32, stride: usize) {
        // SAFETY: as above.
        unsafe {
            let columns = transpose(&rows.map(|row| _mm512_castps_si512(row.0)));
            for (lane, column) in columns.into_iter().enumerate() {
                _mm512_storeu_ps(to.add(lane * stride), _mm512_castsi512_ps(column));
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
}

/// Rows of sixteen 32-bit values to columns.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
pub(crate) unsafe fn transpose(rows: &[__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: promised by the caller.
    unsafe {
        // Within each 128-bit quarter: quads[4 * g + c] holds lane c of the quarter of rows 4g..4g + 4.
        let mut quads = [_mm512_setzero_si512(); 16];
        for g in 0..4 {
            let [a, b, c, d] = [
                rows[4 * g],
                rows[4 * g + 1],
                rows[4 * g + 2],
                rows[4 * g + 3],
            ];
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            quads[4 * g] = _mm512_unpacklo_epi64(ab_low, cd_low);
            quads[4 * g + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
            quads[4 * g + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
            quads[4 * g + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
        }
        // Then the quarters themselves: lane 4q + c of all rows is quarter q of the four quads c.
        let mut columns = [_mm512_setzero_si512(); 16];
        for c in 0..4 {
            let [a, b, d, e] = [quads[c], quads[4 + c], quads[8 + c], quads[12 + c]];
            let (ab_02, ab_13) = (
                _mm512_shuffle_i32x4::<0x88>(a, b),
                _mm512_shuffle_i32x4::<0xdd>(a, b),
            );
            let (de_02, de_13) = (
                _mm512_shuffle_i32x4::<0x88>(d, e),
                _mm512_shuffle_i32x4::<0xdd>(d, e),
            );
            columns[c] = _mm512_shuffle_i32x4::<0x88>(ab_02, de_02);
            columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(ab_13, de_13);
            columns[8 + c] = _mm512_shuffle_i32x4::<0xdd>(ab_02, de_02);
            columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(ab_13, de_13);
        }
        columns
    }
}
