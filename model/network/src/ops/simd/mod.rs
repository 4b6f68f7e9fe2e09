//! Vector instructions, chosen when the program runs. A [`Kernel`] is written once over [`Lanes`], a handful of f32 held
//! in one register, and [`InstructionSet::run`] compiles and calls it for the set that the machine has.
#![expect(
    unsafe_code,
    reason = "vector instructions may run only where they were detected, and work on raw memory"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod detect;
mod portable;
#[cfg(test)]
mod tests;

use half::{bf16, f16};
use portable::Portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::transpose;
pub use detect::InstructionSet;

use crate::tensor::Element;

/// The most lanes that any form of [`Lanes`] has.
pub(crate) const MAX_LANES: usize = 16;

/// A register of `COUNT` f32 lanes, of one instruction set.
///
/// # Safety
/// Every method may be called only where the machine has the set, and from code that was compiled for it: in a
/// [`Kernel`], inlined throughout. Pointers must be good for `COUNT` elements; they need no alignment.
pub(crate) trait Lanes: Copy {
    const COUNT: usize;
    /// Registers that a kernel may hold sums in, about.
    const NUM_REGISTERS: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load_f32(from: *const f32) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a · b`
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// Stores `COUNT` rows as columns: lane `i` of `rows[j]` goes to `to[i * stride + j]`.
    unsafe fn store_transposed(rows: &[Self; MAX_LANES], to: *mut f32, stride: usize);
    /// Asks for a cache line to be brought near; the address may be anything.
    unsafe fn prefetch(address: *const u8);
}

/// A type that weights have in memory and that widens to f32 in a register.
pub(crate) trait Weight: Element {
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<V: Lanes>(from: *const Self) -> V;

    /// Loads the first `count < V::COUNT` lanes; the others are zero.
    ///
    /// # Safety
    /// As for [`Lanes`], and `from` need only be good for `count` elements.
    #[inline(always)]
    unsafe fn load_first<V: Lanes>(from: *const Self, count: usize) -> V {
        let mut padded = [Self::zeroed(); MAX_LANES];
        // SAFETY: `from` is good for `count` elements, and `count` is below the length of `padded`.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
            Self::load(padded.as_ptr())
        }
    }
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: promised by the caller.
        unsafe { V::load_f32(from) }
    }
}

impl Weight for bf16 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: promised by the caller.
        unsafe { V::load_bf16(from) }
    }
}

impl Weight for f16 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: promised by the caller.
        unsafe { V::load_f16(from) }
    }
}

/// Work that is written once for every instruction set. `run` and all that it calls must be `#[inline(always)]`, else it
/// is compiled without the set's instructions.
pub(crate) trait Kernel {
    type Output;

    /// # Safety
    /// The machine has the instruction set of `V`.
    unsafe fn run<V: Lanes>(self) -> Self::Output;
}

impl InstructionSet {
    /// [`Lanes::NUM_REGISTERS`] of this set.
    pub(crate) fn num_registers(self) -> usize {
        self.run(NumRegisters)
    }

    /// Runs a kernel with the instructions of this set, or the best below it that the machine has.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: no better set than the machine's is run.
        unsafe {
            match self.min(Self::best()) {
                Self::Portable => kernel.run::<Portable>(),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2::run(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 | Self::Amx => avx512::run(kernel),
                #[cfg(not(target_arch = "x86_64"))]
                _ => unreachable!("only the portable set is detected on this machine"),
            }
        }
    }
}

struct NumRegisters;

impl Kernel for NumRegisters {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) -> usize {
        V::NUM_REGISTERS
    }
}
