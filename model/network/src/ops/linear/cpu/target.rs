//! Where a product goes: rows of y, either set (with a bias) or added to (with a scale).

use std::marker::PhantomData;

use crate::ops::{parallel::SharedPointer, simd::Lanes};

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

    /// Writes one output.
    ///
    /// # Safety
    /// `row` and `col` are within the product, and no other thread writes this column meanwhile.
    #[inline(always)]
    pub(super) unsafe fn write(&self, row: usize, col: usize, product: f32) {
        // SAFETY: within y, as `new` checked; the caller has the column to itself.
        unsafe {
            let y = self.place(row, col);
            *y = match self.update {
                Update::Set { bias } => product + bias.map_or(0.0, |bias| *bias.get_unchecked(col)),
                Update::Add { scale } => *y + scale * product,
            };
        }
    }

    /// Adds one part of a sum to `V::COUNT` outputs side by side; `is_first` says that it is the first part.
    ///
    /// # Safety
    /// As for `write`, for `V::COUNT` columns from `col`; and as for [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn add_part<V: Lanes>(
        &self,
        row: usize,
        col: usize,
        part: V,
        is_first: bool,
    ) {
        // SAFETY: as for `write`.
        unsafe {
            let y = self.place(row, col);
            let one = V::splat(1.0);
            let sum = match self.update {
                Update::Set { bias: None } if is_first => part,
                Update::Set { bias: Some(bias) } if is_first => {
                    part.add_product(V::load_f32(bias.as_ptr().add(col)), one)
                }
                Update::Set { .. } => part.add_product(V::load_f32(y), one),
                Update::Add { scale } => V::load_f32(y).add_product(part, V::splat(scale)),
            };
            sum.store(y);
        }
    }

    /// As `add_part`, for the first `count` lanes.
    ///
    /// # Safety
    /// As for `add_part`, but for `count` columns.
    #[inline(always)]
    pub(super) unsafe fn add_first_lanes<V: Lanes>(
        &self,
        row: usize,
        col: usize,
        part: V,
        is_first: bool,
        count: usize,
    ) {
        let mut lanes = [0.0; crate::ops::simd::MAX_LANES];
        // SAFETY: as for `write`; no form has more lanes than `lanes`.
        unsafe {
            part.store(lanes.as_mut_ptr());
            for (lane, &part) in lanes[..count].iter().enumerate() {
                if is_first || matches!(self.update, Update::Add { .. }) {
                    self.write(row, col + lane, part);
                } else {
                    *self.place(row, col + lane) += part;
                }
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
