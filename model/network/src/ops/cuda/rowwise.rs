//! Ops that go over rows or elements: each reads and writes what it must once.
#![expect(unsafe_code, reason = "kernels take addresses")]

use std::sync::Arc;

use super::{
    device::{CudaDevice, address, address_mut, check_dtype, kernel, launch, line},
    memory::CudaBuffer,
    words::Words,
};
use crate::{
    ops::{
        rotary::{QkvLayout, RotarySpan, frequencies},
        rows::RowRanges,
    },
    tensor::{DType, Result, Tensor, TensorError},
};

/// Threads of a block that goes over elements.
const THREADS: usize = 256;
/// Elements that a thread should at least have.
const PER_THREAD: usize = 8;

impl CudaDevice {
    /// Rounds or widens x to y's type: one of the two is f32.
    pub(crate) fn convert(&self, x: &Tensor, y: &mut Tensor) -> Result<()> {
        let count = x.num_elements();
        let name = match (x.dtype(), y.dtype()) {
            (from, DType::F32) => kernel("widen", from),
            (DType::F32, to) => kernel("narrow", to),
            (from, to) => {
                let reason = format!("{from:?} to {to:?}, go by way of F32");
                return Err(TensorError::Unsupported {
                    what: "convert",
                    reason,
                });
            }
        };
        launch!(
            self,
            name,
            self.over_elements(count),
            address(x)?,
            address_mut(y)?,
            count as u64
        )
    }

    pub(crate) fn add(&self, y: &mut Tensor, x: &Tensor) -> Result<()> {
        self.combine("add", y, x)
    }

    pub(crate) fn silu_mul(&self, gate: &mut Tensor, up: &Tensor) -> Result<()> {
        self.combine("silu_mul", gate, up)
    }

    fn combine(&self, name: &'static str, y: &mut Tensor, x: &Tensor) -> Result<()> {
        check_dtype(name, x, y.dtype())?;
        let count = y.num_elements();
        let grid = self.over_elements(count);
        launch!(
            self,
            kernel(name, y.dtype()),
            grid,
            address_mut(y)?,
            address(x)?,
            count as u64
        )
    }

    pub(crate) fn quick_gelu(&self, x: &mut Tensor) -> Result<()> {
        self.activate("quick_gelu", x)
    }

    pub(crate) fn gelu_erf(&self, x: &mut Tensor) -> Result<()> {
        self.activate("gelu_erf", x)
    }

    fn activate(&self, name: &str, x: &mut Tensor) -> Result<()> {
        let count = x.num_elements();
        launch!(
            self,
            kernel(name, x.dtype()),
            self.over_elements(count),
            address_mut(x)?,
            count as u64
        )
    }

    /// `hidden += delta` where there is one, then `y = norm(hidden) * weight`. Without a delta hidden is only read.
    pub(crate) fn rms_norm(
        &self,
        hidden: &mut Tensor,
        delta: Option<&Tensor>,
        weight: &Tensor,
        eps: f32,
        y: &mut Tensor,
    ) -> Result<()> {
        const WHAT: &str = "rms_norm";
        check_dtype(WHAT, weight, DType::F32)?;
        check_dtype(WHAT, y, hidden.dtype())?;
        let (name, grid, n) = (
            kernel("add_rms_norm", hidden.dtype()),
            over_rows(hidden),
            int(hidden.cols()),
        );
        let (hidden, delta) = match delta {
            None => (address(hidden)?, 0),
            Some(delta) => {
                check_dtype(WHAT, delta, hidden.dtype())?;
                (address_mut(hidden)?, address(delta)?)
            }
        };
        launch!(
            self,
            name,
            grid,
            hidden,
            delta,
            address(weight)?,
            address_mut(y)?,
            n,
            eps
        )
    }

    pub(crate) fn layer_norm(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        eps: f32,
        y: &mut Tensor,
    ) -> Result<()> {
        const WHAT: &str = "layer_norm";
        check_dtype(WHAT, weight, DType::F32)?;
        check_dtype(WHAT, bias, DType::F32)?;
        check_dtype(WHAT, y, x.dtype())?;
        let (name, n) = (kernel(WHAT, x.dtype()), int(x.cols()));
        launch!(
            self,
            name,
            over_rows(x),
            address(x)?,
            address(weight)?,
            address(bias)?,
            address_mut(y)?,
            n,
            eps
        )
    }

    /// The given rows of x, to the rows of y from `first_row` on.
    pub(crate) fn gather(
        &self,
        x: &Tensor,
        rows: &[u32],
        y: &mut Tensor,
        first_row: usize,
    ) -> Result<()> {
        check_dtype("gather", x, y.dtype())?;
        if rows.is_empty() {
            return Ok(());
        }
        let index = Words::upload(self, rows)?;
        let to = address_mut(y)? + (first_row * y.cols() * y.dtype().num_bytes()) as u64;
        self.gather_by(x, index.at(0), rows.len(), to)
    }

    /// The rows of x in the ranges, one below the other.
    pub(crate) fn gather_rows(&self, x: &Tensor, rows: &RowRanges, y: &mut Tensor) -> Result<()> {
        check_dtype("gather_rows", x, y.dtype())?;
        if rows.is_empty() {
            return Ok(());
        }
        let index = self.row_index(rows)?.address();
        self.gather_by(x, index, rows.num_rows(), address_mut(y)?)
    }

    /// The rows whose numbers lie at `index`, one below the other from `to` on.
    pub(super) fn gather_by(&self, x: &Tensor, index: u64, num_rows: usize, to: u64) -> Result<()> {
        launch!(
            self,
            kernel("gather", x.dtype()),
            line(num_rows, THREADS),
            address(x)?,
            index,
            to,
            int(x.cols())
        )
    }

    /// The numbers of these rows on the device, sent there once.
    pub(super) fn row_index<'a>(&self, rows: &'a RowRanges) -> Result<&'a CudaBuffer> {
        if rows.on_device.get().is_none() {
            let numbers = rows.as_slice().iter().cloned().flatten();
            let numbers: Vec<u32> = numbers.map(|row| row as u32).collect();
            // Whoever else came here sent the same.
            let _ = rows.on_device.set(Arc::new(self.upload_passing(&numbers)?));
        }
        let index = rows.on_device.get().expect("just set");
        if index.device() == self {
            return Ok(index);
        }
        let reason = format!("the rows' numbers are on {:?}", index.device());
        Err(TensorError::Unsupported {
            what: "row_index",
            reason,
        })
    }

    /// All rows of x, to the rows of y from `first_row` on.
    pub(crate) fn copy_rows(&self, x: &Tensor, y: &mut Tensor, first_row: usize) -> Result<()> {
        check_dtype("copy_rows", x, y.dtype())?;
        y.check_unshared("copy_rows")?;
        let size = x.dtype().num_bytes();
        let (from, from_start) = x.cuda_buffer("copy_rows")?;
        let (to, to_start) = y.cuda_buffer("copy_rows")?;
        let to_start = to_start + first_row * x.cols() * size;
        self.copy_bytes(from, from_start, to, to_start, x.num_elements() * size)
    }

    /// pixels `[num_squares, 3, side, side]` to patches `[_, 3 * patch * patch]`.
    pub(crate) fn unfold(&self, pixels: &Tensor, patch: usize, patches: &mut Tensor) -> Result<()> {
        check_dtype("unfold", pixels, patches.dtype())?;
        let (name, grid) = (kernel("unfold", pixels.dtype()), over_rows(patches));
        let grid = super::backend::Launch {
            block: THREADS,
            ..grid
        };
        launch!(
            self,
            name,
            grid,
            address(pixels)?,
            address_mut(patches)?,
            int(pixels.cols()),
            int(patch)
        )
    }

    pub(crate) fn place(
        &self,
        embedded: &Tensor,
        class: &Tensor,
        positions: &Tensor,
        rows: &mut Tensor,
    ) -> Result<()> {
        const WHAT: &str = "place";
        check_dtype(WHAT, embedded, rows.dtype())?;
        check_dtype(WHAT, class, DType::F32)?;
        check_dtype(WHAT, positions, DType::F32)?;
        let (name, grid) = (kernel(WHAT, rows.dtype()), line(rows.rows(), THREADS));
        let (per_square, n) = (int(positions.rows() - 1), int(rows.cols()));
        launch!(
            self,
            name,
            grid,
            address(embedded)?,
            address(class)?,
            address(positions)?,
            address_mut(rows)?,
            per_square,
            n
        )
    }

    /// Frequencies are made on the host, rounded as there; the angles of all rows on the device.
    pub(crate) fn rotary_angles(
        &self,
        spans: &[RotarySpan],
        head_dim: usize,
        cos: &mut Tensor,
        sin: &mut Tensor,
    ) -> Result<()> {
        if cos.rows() == 0 {
            return Ok(());
        }
        let mut words = Vec::new();
        RotaryRows::new(spans).put_into(head_dim, &mut words);
        self.rotary_angles_by(&Words::upload(self, &words)?, head_dim, cos, sin)
    }

    /// The same, of rows whose numbers lie at the beginning of `rows`.
    pub(super) fn rotary_angles_by(
        &self,
        rows: &Words,
        head_dim: usize,
        cos: &mut Tensor,
        sin: &mut Tensor,
    ) -> Result<()> {
        let num_rows = cos.rows();
        let grid = line(
            num_rows,
            (head_dim / 2).next_multiple_of(32).clamp(32, THREADS),
        );
        let half = int(head_dim / 2);
        launch!(
            self,
            "rotary_angles",
            grid,
            rows.at(0),
            rows.at(num_rows),
            rows.at(2 * num_rows),
            address_mut(cos)?,
            address_mut(sin)?,
            half
        )
    }

    pub(crate) fn rotate(
        &self,
        qkv: &mut Tensor,
        layout: &QkvLayout,
        cos: &Tensor,
        sin: &Tensor,
    ) -> Result<()> {
        let name = kernel("rotate", qkv.dtype());
        let grid = by_head(qkv.rows(), layout);
        launch!(
            self,
            name,
            grid,
            address_mut(qkv)?,
            address(cos)?,
            address(sin)?,
            int(layout.num_kv_heads),
            int(layout.group),
            int(layout.head_dim)
        )
    }

    /// Numbers that one op reads and nobody keeps.
    pub(super) fn upload_passing(&self, words: &[u32]) -> Result<CudaBuffer> {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let buffer = self.passing(bytes.len())?;
        // SAFETY: the buffer has as many bytes.
        unsafe { self.backend().copy_in(buffer.address(), bytes)? };
        Ok(buffer)
    }

    fn over_elements(&self, count: usize) -> super::backend::Launch {
        // A few rounds of blocks on every multiprocessor; more would only begin and end.
        let most = self.backend().num_multiprocessors() * 16;
        let num_blocks = count
            .div_ceil(THREADS * PER_THREAD)
            .clamp(usize::from(count > 0), most);
        line(num_blocks, THREADS)
    }
}

/// Rows with their positions and frequencies, as the kernel reads them.
pub(super) struct RotaryRows {
    /// A row's position, divided already, as bits.
    positions: Vec<u32>,
    /// A row's place in `bases`.
    base_of_row: Vec<u32>,
    /// Sequences nearly all have one base, whose frequencies are sent once.
    bases: Vec<f64>,
}

impl RotaryRows {
    pub(super) fn new(spans: &[RotarySpan]) -> Self {
        let mut rows = Self {
            positions: Vec::new(),
            base_of_row: Vec::new(),
            bases: Vec::new(),
        };
        for span in spans {
            let known = rows.bases.iter().position(|base| *base == span.base);
            let base = known.unwrap_or_else(|| {
                rows.bases.push(span.base);
                rows.bases.len() - 1
            });
            let positions = (0..span.num_rows).map(|row| span.start + row);
            rows.positions
                .extend(positions.map(|position| (position as f32 / span.divisor).to_bits()));
            rows.base_of_row.resize(rows.positions.len(), base as u32);
        }
        rows
    }

    /// Adds rows at position 0 up to `num_rows`.
    pub(super) fn pad(&mut self, num_rows: usize) {
        self.positions.resize(num_rows, 0);
        self.base_of_row.resize(num_rows, 0);
    }

    /// Positions, places of bases, frequencies `[num_bases, head_dim / 2]`.
    pub(super) fn put_into(&self, head_dim: usize, words: &mut Vec<u32>) {
        words.extend_from_slice(&self.positions);
        words.extend_from_slice(&self.base_of_row);
        for base in &self.bases {
            words.extend(frequencies(*base, head_dim).into_iter().map(f32::to_bits));
        }
    }
}

/// A block for each row of x, with threads for its width.
fn over_rows(x: &Tensor) -> super::backend::Launch {
    let threads = x
        .cols()
        .div_ceil(PER_THREAD)
        .next_multiple_of(32)
        .clamp(32, 1024);
    line(x.rows(), threads)
}

/// A block for each row and key and value head.
pub(super) fn by_head(num_rows: usize, layout: &QkvLayout) -> super::backend::Launch {
    super::backend::Launch {
        grid: [num_rows, layout.num_kv_heads, 1],
        block: THREADS,
        shared: 0,
    }
}

/// As kernels count.
pub(super) fn int(count: usize) -> i32 {
    i32::try_from(count).expect("sizes of tensors are far below two billion by dimension")
}
