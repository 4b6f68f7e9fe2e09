//! Where a product goes: rows of y, either set (with a bias) or added to (with a scale).

use std::marker::PhantomData;

use crate::ops::{
    parallel::SharedPointer,
    simd::{Lanes, MAX_LANES},
};

/// What happens to the outputs.
#[derive(Clone, Copy)]
pub(super) enum Update<'a> {
    /// `y = product + bias`
    Set { bias: Option<&'a [f32]> },
    /// `y += scale · product`
    Add { scale: f32 },
}

/// The rows of y that a product goes to. Tasks write to it from several threads, each to columns of its own.
pub(super) struct Target<'a> {
    y: SharedPointer<f32>,
    num_cols: usize,
    /// Row of y for each row of the product; `None` when they are the same.
    rows: Option<&'a [usize]>,
    update: Update<'a>,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> Target<'a> {
    /// Rows of y have `num_cols` elements; the product has `num_rows` rows, and `rows` names one of y for each.
    pub(super) fn new(
        y: &'a mut [f32],
        num_cols: usize,
        num_rows: usize,
        rows: Option<&'a [usize]>,
        update: Update<'a>,
    ) -> Self {
        let end = rows.map_or(num_rows, |rows| {
            rows.iter().max().map_or(0, |&last| last + 1)
        });
        assert!(end * num_cols <= y.len(), "row {end} ends within y");
        assert!(
            rows.is_none_or(|rows| rows.len() == num_rows),
            "every row has a place in y"
        );
        if let Update::Set { bias: Some(bias) } = update {
            assert_eq!(bias.len(), num_cols, "one bias for each column");
        }
        Self {
            y: SharedPointer(y.as_mut_ptr()),
            num_cols,
            rows,
            update,
            borrow: PhantomData,
        }
    }

    /// Adds one part of a sum to `count` outputs side by side, which are the first lanes; `is_first` says that it is the first
    /// part. An output gets the same bits whichever lane it is in.
    ///
    /// # Safety
    /// As for [`Lanes`]; the row and the columns are within the product, `count` is 1 to `V::COUNT`, and no other thread
    /// writes these columns meanwhile.
    #[inline(always)]
    pub(super) unsafe fn add<V: Lanes>(
        &self,
        row: usize,
        col: usize,
        part: V,
        is_first: bool,
        count: usize,
    ) {
        let bias = match self.update {
            Update::Set { bias: Some(bias) } if is_first => Some(bias.as_ptr().wrapping_add(col)),
            Update::Set { .. } | Update::Add { .. } => None,
        };
        // SAFETY: within y and the bias, as `new` checked; the caller has the columns to itself. No form has more lanes than
        // the copies.
        unsafe {
            let y = self.place(row, col);
            if count == V::COUNT {
                return self.sum(y, bias, part, is_first).store(y);
            }
            let (mut lanes, mut biases) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            lanes.as_mut_ptr().copy_from_nonoverlapping(y, count);
            let bias = bias.map(|bias| {
                biases.as_mut_ptr().copy_from_nonoverlapping(bias, count);
                biases.as_ptr()
            });
            let sum = self.sum(lanes.as_ptr(), bias, part, is_first);
            sum.store(lanes.as_mut_ptr());
            y.copy_from_nonoverlapping(lanes.as_ptr(), count);
        }
    }

    /// What stands at `y` after a part.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn sum<V: Lanes>(
        &self,
        y: *const f32,
        bias: Option<*const f32>,
        part: V,
        is_first: bool,
    ) -> V {
        // SAFETY: promised by the caller.
        unsafe {
            let one = V::splat(1.0);
            match (self.update, bias) {
                (Update::Set { .. }, Some(bias)) => part.add_product(V::load_f32(bias), one),
                (Update::Set { .. }, None) if is_first => part,
                (Update::Set { .. }, None) => part.add_product(V::load_f32(y), one),
                (Update::Add { scale }, _) => V::load_f32(y).add_product(part, V::splat(scale)),
            }
        }
    }

    /// # Safety
    /// `row` and `col` are within the product.
    #[inline(always)]
    unsafe fn place(&self, row: usize, col: usize) -> *mut f32 {
        // SAFETY: promised by the caller, and `new` checked the rows.
        unsafe {
            let row = self.rows.map_or(row, |rows| *rows.get_unchecked(row));
            self.y.get().add(row * self.num_cols + col)
        }
    }
}
