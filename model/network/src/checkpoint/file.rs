//! One weight file, mapped into memory, and where its tensors lie in it. The two formats fill the same records, so
//! that nothing after this knows which of them a tensor came from.
#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe by nature: see the SAFETY comment"
)]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::{CheckpointError, Shape, StoredType, safetensors, torch_bin};

/// A weight file that stays mapped while its checkpoint is open.
pub(crate) struct WeightFile {
    /// File name without its folder, as messages print it.
    pub(crate) name: String,
    pub(crate) map: Mmap,
}

/// Where one tensor lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredTensor {
    pub(crate) name: String,
    pub(crate) stored: StoredType,
    pub(crate) shape: Shape,
    /// First byte of element 0, from the start of the file.
    pub(crate) offset: usize,
    /// Distance in elements between neighbours along each dimension. Every element lies inside the file.
    pub(crate) strides: Vec<usize>,
}

impl WeightFile {
    /// Maps the file `name` of `dir`.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Self, CheckpointError> {
        let path = dir.join(name);
        let io = |source| CheckpointError::Io {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is read only and private. Were another process to cut the file short while it is mapped,
        // the read would end this process with SIGBUS; weights are not edited in place while they are served.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self {
            name: name.to_owned(),
            map,
        })
    }

    /// The tensors that the file's header lists, each checked to lie inside the file.
    pub(crate) fn tensors(&self) -> Result<Vec<StoredTensor>, CheckpointError> {
        if self.name.ends_with(".safetensors") {
            safetensors::parse(&self.name, &self.map)
        } else {
            torch_bin::parse(&self.name, &self.map)
        }
    }
}

/// Row-major strides of `shape`, in elements. Wraps nowhere when the product of the shape fits.
pub(crate) fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for index in (1..shape.len()).rev() {
        strides[index - 1] = strides[index].saturating_mul(shape[index].max(1));
    }
    strides
}
