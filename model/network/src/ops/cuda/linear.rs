//! Linear layers: few rows by our own kernel, which reads each weight once and is bound by that; many by cuBLASLt.
#![expect(unsafe_code, reason = "products take addresses")]

use super::{
    backend::Product,
    device::{CudaDevice, address, address_mut, check_dtype, kernel, launch, line},
    rowwise::int,
};
use crate::{
    ops::rows::RowRanges,
    tensor::{DType, Result, Tensor},
};

/// Rows up to which our own kernel takes a product.
const MOST_FEW_ROWS: usize = 4;
/// Columns that a block of it makes.
const COLUMNS_PER_BLOCK: usize = 8;

impl CudaDevice {
    /// `y = x · wᵀ (+ bias)`: x and w of one type; y of theirs or f32, and bias of y's.
    pub(crate) fn linear(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        y: &mut Tensor,
    ) -> Result<()> {
        const WHAT: &str = "linear";
        check_dtype(WHAT, x, w.dtype())?;
        if y.dtype() != DType::F32 {
            check_dtype(WHAT, y, x.dtype())?;
        }
        if let Some(bias) = bias {
            check_dtype(WHAT, bias, y.dtype())?;
        }
        if bias.is_none() && self.has_few_rows(x, w)? {
            return self.few_rows(x, w, y);
        }
        let product = Product {
            x: address(x)?,
            w: address(w)?,
            y: address_mut(y)?,
            bias: bias.map(address).transpose()?,
            rows: x.rows(),
            columns: w.rows(),
            depth: w.cols(),
            dtype: x.dtype(),
            out_dtype: y.dtype(),
            scale: 1.0,
            adds_to_y: false,
        };
        // SAFETY: shapes were checked by the op, types above.
        unsafe { self.backend().multiply(&product) }
    }

    fn has_few_rows(&self, x: &Tensor, w: &Tensor) -> Result<bool> {
        let is_aligned =
            (address(x)? | address(w)?).is_multiple_of(16) && w.cols().is_multiple_of(8);
        Ok((1..=MOST_FEW_ROWS).contains(&x.rows()) && x.dtype() != DType::F32 && is_aligned)
    }

    fn few_rows(&self, x: &Tensor, w: &Tensor, y: &mut Tensor) -> Result<()> {
        let form = if y.dtype() == DType::F32 {
            "few_rows_wide"
        } else {
            "few_rows"
        };
        let name = kernel(&format!("{form}_{}", x.rows()), x.dtype());
        let (columns, depth) = (int(w.rows()), int(w.cols()));
        let grid = line(w.rows().div_ceil(COLUMNS_PER_BLOCK), 32 * COLUMNS_PER_BLOCK);
        launch!(
            self,
            name,
            grid,
            address(x)?,
            address(w)?,
            address_mut(y)?,
            columns,
            depth
        )
    }

    /// `y[rows] += scale · x · wᵀ`. Rows that lie together are added to by the product itself; others by index, after one product over
    /// all of them.
    pub(crate) fn linear_acc(
        &self,
        x: &Tensor,
        w: &Tensor,
        scale: f32,
        y: &mut Tensor,
        rows: &RowRanges,
    ) -> Result<()> {
        const WHAT: &str = "linear_acc";
        check_dtype(WHAT, x, w.dtype())?;
        check_dtype(WHAT, y, w.dtype())?;
        let mut product = Product {
            x: address(x)?,
            w: address(w)?,
            y: 0,
            bias: None,
            rows: x.rows(),
            columns: w.rows(),
            depth: w.cols(),
            dtype: x.dtype(),
            out_dtype: y.dtype(),
            scale,
            adds_to_y: true,
        };
        let row_bytes = y.cols() * y.dtype().num_bytes();
        let to = address_mut(y)?;
        if let [range] = rows.as_slice() {
            product.y = to + (range.start * row_bytes) as u64;
            // SAFETY: the op checked that the range lies in y and is as long as x.
            return unsafe { self.backend().multiply(&product) };
        }
        if rows.is_empty() {
            return Ok(());
        }
        let part = self.passing(rows.num_rows() * row_bytes)?;
        product = Product {
            y: part.address(),
            scale: 1.0,
            adds_to_y: false,
            ..product
        };
        // SAFETY: the part has the product's size.
        unsafe { self.backend().multiply(&product)? };
        let index = self.row_index(rows)?;
        let (name, grid) = (kernel("scatter_add", y.dtype()), line(rows.num_rows(), 256));
        launch!(
            self,
            name,
            grid,
            part.address(),
            index.address(),
            to,
            int(y.cols()),
            scale
        )
    }
}
