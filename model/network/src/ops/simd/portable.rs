//! Lanes in plain Rust: a small array that the compiler keeps in whatever vector registers the target has by default.

use half::{bf16, f16};

use super::{Lanes, MAX_LANES};
use crate::tensor::Element;

const COUNT: usize = 8;

#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; COUNT]);

impl Lanes for Portable {
    const COUNT: usize = COUNT;
    const NUM_REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; COUNT])
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: promised by the caller; the type allows any address.
        Self(unsafe { from.cast::<[f32; COUNT]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above.
        Self(unsafe { from.cast::<[bf16; COUNT]>().read_unaligned() }.map(Element::to_f32))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as above.
        Self(unsafe { from.cast::<[f16; COUNT]>().read_unaligned() }.map(Element::to_f32))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; COUNT]>().write_unaligned(self.0) }
    }

    /// Two roundings: without hardware that fuses them, a fused product would be a library call.
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane] + a.0[lane] * b.0[lane]
        }))
    }

    #[inline(always)]
    unsafe fn store_transposed(rows: &[Self; MAX_LANES], to: *mut f32, stride: usize) {
        for lane in 0..COUNT {
            for (column, row) in rows[..COUNT].iter().enumerate() {
                // SAFETY: promised by the caller.
                unsafe { to.add(lane * stride + column).write(row.0[lane]) };
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
