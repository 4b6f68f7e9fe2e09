//! Plain loops compiled for the vector instructions that the machine has.

use pulp::{Arch, Simd, WithSimd};

/// Runs `work`, compiled once for each set of vector instructions, with the best that this machine has. `work` and
/// what it calls must be marked `#[inline(always)]`; what is not inlined stays plain code. Functions are to be called by
/// name: one that is handed to an iterator, as in `for_each(softmax)`, is called through a shim of the compiler's, which
/// is not inlined once its body is large. (So are closures given to [`Arch::dispatch`] itself, which is why this exists.)
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
