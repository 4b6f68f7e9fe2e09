//! Memory that a thread keeps from one call to the next, since fresh pages for packed operands would cost more than the
//! packing itself.

use std::{cell::RefCell, thread::LocalKey};

use crate::tensor::AlignedBytes;

/// A buffer of one thread; grows to the largest length asked for.
pub(super) type Scratch = RefCell<AlignedBytes>;

pub(super) fn new_scratch() -> Scratch {
    RefCell::new(AlignedBytes::zeroed(0))
}

/// Calls `work` with the first `len` elements of the calling thread's buffer. They hold what was left there last time.
pub(super) fn with_scratch<T: bytemuck::Pod, R>(
    scratch: &'static LocalKey<Scratch>,
    len: usize,
    work: impl FnOnce(&mut [T]) -> R,
) -> R {
    scratch.with_borrow_mut(|bytes| {
        let num_bytes = len * size_of::<T>();
        if bytes.len() < num_bytes {
            *bytes = AlignedBytes::zeroed(num_bytes);
        }
        work(&mut bytemuck::cast_slice_mut(bytes.as_mut_slice())[..len])
    })
}
