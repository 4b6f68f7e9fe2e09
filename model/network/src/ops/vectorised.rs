//! Plain loops compiled for the vector instructions that the machine has.

use pulp::{Arch, Simd, WithSimd};

/// Runs `work`, compiled once for each set of vector instructions, with the best that this machine has. `work` and
/// what it calls must be marked `#[inline(always)]`; what is not inlined stays plain code.
///
/// A closure given to [`Arch::dispatch`] itself is called through a shim of the compiler's, which a large body is not
/// inlined into; so this calls the body directly.
#[inline(always)]
pub(crate) fn vectorised<R>(work: impl FnMut() -> R) -> R {
    Arch::new().dispatch(Body(work))
}

struct Body<F>(F);

impl<R, F: FnMut() -> R> WithSimd for Body<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}
