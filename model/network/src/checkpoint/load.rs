//! Reading a tensor, or the part of it that a rank holds, into memory of its own: only the wanted bytes are touched,
//! converted on the way where asked, in parallel.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::convert::convert;
use super::file::StoredTensor;
use super::{Checkpoint, CheckpointError, Slice, StoredType};
use crate::device::Device;
use crate::tensor::{AlignedBytes, DType, Tensor};

/// Elements between two progress reports inside one tensor.
const ELEMENTS_PER_REPORT: usize = 32 << 20;
/// Elements that one thread converts at a time.
const ELEMENTS_PER_TASK: usize = 256 << 10;

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress<'a> {
    pub bytes_done: u64,
    /// What the load will read in all; see [`Reader::expecting`].
    pub bytes_total: u64,
    /// The tensor being read.
    pub tensor: &'a str,
}

/// A tensor read from a checkpoint: row-major, contiguous.
#[derive(Debug)]
pub struct LoadedTensor {
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub bytes: AlignedBytes,
}

/// Reads tensors of a checkpoint, counts the bytes read and reports them.
pub struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    progress: &'a dyn Fn(LoadProgress<'_>),
    bytes_read: Cell<u64>,
    bytes_total: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, progress: &'a dyn Fn(LoadProgress<'_>)) -> Self {
        let bytes_total = checkpoint.description().weight_bytes;
        Self {
            checkpoint,
            progress,
            bytes_read: Cell::new(0),
            bytes_total,
        }
    }

    /// Says how many bytes the load will read in all, for the progress reports. Without it they count towards the
    /// whole checkpoint.
    pub fn expecting(mut self, bytes_total: u64) -> Self {
        self.bytes_total = bytes_total;
        self
    }

    /// Bytes of the file that were asked for so far, as stored.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    /// Reads `slice` of the tensor `name` as `dtype`, or as it is stored.
    ///
    /// Fails where there is no such tensor, the slice does not lie inside it, or it does not hold F32, BF16 or F16.
    pub fn read(
        &self,
        name: &str,
        slice: Slice,
        dtype: Option<DType>,
    ) -> Result<LoadedTensor, CheckpointError> {
        let (file, tensor) = self.checkpoint.find(name)?;
        let from = weight_type(&file.name, tensor)?;
        let view = View::new(tensor, &slice)?;
        let to = dtype.unwrap_or(from);
        let num_elements: usize = view.shape.iter().product();
        let mut bytes = AlignedBytes::zeroed(num_elements * to.num_bytes());
        let blocks = bytes
            .as_mut_slice()
            .chunks_mut(ELEMENTS_PER_REPORT * to.num_bytes());
        for (index, block) in blocks.enumerate() {
            view.copy(&file.map, from, block, to, index * ELEMENTS_PER_REPORT);
            self.report(name, block.len() / to.num_bytes() * from.num_bytes());
        }
        Ok(LoadedTensor {
            shape: view.shape,
            dtype: to,
            bytes,
        })
    }

    /// As [`Self::read`], to a tensor on a device: to a GPU piece by piece, without a copy of the whole in between.
    pub fn read_to(
        &self,
        name: &str,
        slice: Slice,
        dtype: Option<DType>,
        device: &Device,
    ) -> Result<Tensor, CheckpointError> {
        let (file, tensor) = self.checkpoint.find(name)?;
        let from = weight_type(&file.name, tensor)?;
        let view = View::new(tensor, &slice)?;
        let to = dtype.unwrap_or(from);
        let mut fill = |start: usize, piece: &mut [u8]| {
            let blocks = piece.chunks_mut(ELEMENTS_PER_REPORT * to.num_bytes());
            for (index, block) in blocks.enumerate() {
                let first = start / to.num_bytes() + index * ELEMENTS_PER_REPORT;
                view.copy(&file.map, from, block, to, first);
                self.report(name, block.len() / to.num_bytes() * from.num_bytes());
            }
        };
        Ok(Tensor::from_pieces(device, to, &view.shape, &mut fill)?)
    }

    fn report(&self, tensor: &str, bytes: usize) {
        self.bytes_read.set(self.bytes_read.get() + bytes as u64);
        (self.progress)(LoadProgress {
            bytes_done: self.bytes_read.get(),
            bytes_total: self.bytes_total,
            tensor,
        });
    }
}

/// The type of a weight, or an error that names the tensor.
pub(super) fn weight_type(file: &str, tensor: &StoredTensor) -> Result<DType, CheckpointError> {
    match tensor.stored {
        StoredType::F32 => Ok(DType::F32),
        StoredType::BF16 => Ok(DType::BF16),
        StoredType::F16 => Ok(DType::F16),
        other => Err(CheckpointError::WrongType {
            file: file.to_owned(),
            tensor: tensor.name.clone(),
            found: other.to_string(),
        }),
    }
}

/// A part of a stored tensor, as runs of elements that lie side by side in the file.
struct View {
    shape: Vec<usize>,
    /// First byte of the part in the file.
    start: usize,
    /// Elements of one run.
    run: usize,
    /// Dimensions and strides over the runs, outermost first.
    outer: Vec<(usize, usize)>,
}

impl View {
    fn new(tensor: &StoredTensor, slice: &Slice) -> Result<Self, CheckpointError> {
        let mut shape = tensor.shape.0.clone();
        let mut start = tensor.offset;
        if let Some((dimension, range)) = cut(tensor, slice)? {
            start += range.start * tensor.strides[dimension] * tensor.stored.size();
            shape[dimension] = range.len();
        }
        let mut run = 1;
        let mut outer: Vec<(usize, usize)> = shape
            .iter()
            .copied()
            .zip(tensor.strides.iter().copied())
            .collect();
        while let Some(&(dim, stride)) = outer.last()
            && (dim == 1 || stride == run)
        {
            run *= dim;
            outer.pop();
        }
        Ok(Self {
            shape,
            start,
            run,
            outer,
        })
    }

    /// Fills `target` with the elements of the part from `first` on.
    fn copy(&self, file: &[u8], from: DType, target: &mut [u8], to: DType, first: usize) {
        let task_bytes = ELEMENTS_PER_TASK * to.num_bytes();
        target
            .par_chunks_mut(task_bytes)
            .enumerate()
            .for_each(|(index, target)| {
                self.copy_task(file, from, target, to, first + index * ELEMENTS_PER_TASK);
            });
    }

    fn copy_task(
        &self,
        file: &[u8],
        from: DType,
        mut target: &mut [u8],
        to: DType,
        mut element: usize,
    ) {
        while !target.is_empty() {
            let (index, inside) = (element / self.run, element % self.run);
            let count = (self.run - inside).min(target.len() / to.num_bytes());
            let start = self.start + (self.run_offset(index) + inside) * from.num_bytes();
            let (now, later) = target.split_at_mut(count * to.num_bytes());
            convert(
                &file[start..start + count * from.num_bytes()],
                from,
                now,
                to,
            );
            target = later;
            element += count;
        }
    }

    /// Distance in elements of a run from the part's first element.
    fn run_offset(&self, mut index: usize) -> usize {
        let mut offset = 0;
        for &(dim, stride) in self.outer.iter().rev() {
            offset += index % dim * stride;
            index /= dim;
        }
        offset
    }
}

/// The dimension that a slice cuts and the range of it that stays.
fn cut(
    tensor: &StoredTensor,
    slice: &Slice,
) -> Result<Option<(usize, Range<usize>)>, CheckpointError> {
    let dims = &tensor.shape.0;
    let (dimension, range, what, allowed) = match slice {
        Slice::Whole => return Ok(None),
        Slice::Rows(range) => (0, range, "rows", !dims.is_empty()),
        Slice::Columns(range) => (1, range, "columns", dims.len() == 2),
    };
    if allowed && range.start <= range.end && range.end <= dims[dimension] {
        return Ok(Some((dimension, range.clone())));
    }
    let asked = format!("{what} {}..{}", range.start, range.end);
    Err(CheckpointError::BadSlice {
        tensor: tensor.name.clone(),
        found: tensor.shape.clone(),
        asked,
    })
}

/// Reads a located tensor without its checkpoint, as [`Reader::read`] would.
#[cfg(test)]
pub(super) fn read_for_test(file: &[u8], tensor: &StoredTensor) {
    let (Ok(dtype), Ok(view)) = (weight_type("f", tensor), View::new(tensor, &Slice::Whole)) else {
        return;
    };
    let num_elements: usize = view.shape.iter().product();
    let mut bytes = vec![0; num_elements * 4];
    view.copy(file, dtype, &mut bytes, DType::F32, 0);
}
