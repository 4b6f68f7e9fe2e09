//! Tensors: a shape, a data type and shared storage on a device. Row-major and contiguous, always; a view can narrow the
//! rows of another tensor but never stride over it. Activations on the CPU are f32; weights stay as they were loaded.

mod aligned_bytes;
mod elements;

use std::{ops::Range, sync::Arc};

use thiserror::Error;

use self::elements::round_into;
pub use self::{
    aligned_bytes::AlignedBytes,
    elements::{CpuElements, CpuElementsMut, DType, Element},
};
use crate::{device::Device, ops::cuda::CudaBuffer};

/// What is wrong with the tensors given to an op or asked of a tensor.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TensorError {
    #[error("{what}: wanted shape {wanted}, found {found:?}")]
    Shape {
        what: &'static str,
        wanted: String,
        found: Vec<usize>,
    },
    #[error("{what}: wanted {wanted}, found {found:?}")]
    DType {
        what: &'static str,
        wanted: &'static str,
        found: DType,
    },
    #[error("{what}: rows {start}..{end} are out of range, the tensor has {num_rows}")]
    Rows {
        what: &'static str,
        start: usize,
        end: usize,
        num_rows: usize,
    },
    #[error("shape {shape:?} of {dtype:?} takes {wanted} bytes, found {found}")]
    Length {
        shape: Vec<usize>,
        dtype: DType,
        wanted: usize,
        found: usize,
    },
    #[error("{what}: the tensor's storage is shared and cannot be written in place; copy it first")]
    Shared { what: &'static str },
    #[error("{what}: {reason}")]
    Unsupported { what: &'static str, reason: String },
}

pub type Result<T, E = TensorError> = std::result::Result<T, E>;

/// A row-major contiguous tensor. Clones and row views share the storage.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    dtype: DType,
    device: Device,
    /// First element of this tensor in the storage; not zero for row views.
    offset: usize,
    storage: Arc<Storage>,
}

#[derive(Debug)]
enum Storage {
    Cpu(AlignedBytes),
    Cuda(CudaBuffer),
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Panics
    /// When the device has no memory left, as every allocation does.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Self {
        Self::try_zeros(device, dtype, shape).expect("memory for a tensor")
    }

    /// A tensor of zeros, or an error where a GPU has no room for it.
    pub fn try_zeros(on: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let num_bytes = shape.iter().product::<usize>() * dtype.num_bytes();
        let storage = match on {
            Device::Cpu(_) => Storage::Cpu(AlignedBytes::zeroed(num_bytes)),
            Device::Cuda(device) => Storage::Cuda(device.zeros(num_bytes)?),
        };
        Ok(Self::over(on, dtype, shape, storage))
    }

    /// A tensor that an op is about to write whole: on a GPU it holds whatever its memory held, since clearing it would cost a launch and
    /// a pass for nothing.
    pub(crate) fn unwritten(on: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let Device::Cuda(device) = on else {
            return Self::try_zeros(on, dtype, shape);
        };
        let num_bytes = shape.iter().product::<usize>() * dtype.num_bytes();
        let storage = Storage::Cuda(device.passing(num_bytes)?);
        Ok(Self::over(on, dtype, shape, storage))
    }

    /// An f32 tensor of the given values, in row-major order. The values are copied to aligned storage.
    pub fn from_f32(device: &Device, shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::from_bytes(
            device,
            DType::F32,
            shape,
            AlignedBytes::copy_of(bytemuck::cast_slice(values)),
        )
    }

    /// A tensor over bytes in the machine's order, as [`AlignedBytes`] hold them.
    pub fn from_bytes(
        on: &Device,
        dtype: DType,
        shape: &[usize],
        bytes: AlignedBytes,
    ) -> Result<Self> {
        let wanted = shape.iter().product::<usize>() * dtype.num_bytes();
        if wanted != bytes.len() {
            return Err(TensorError::Length {
                shape: shape.to_vec(),
                dtype,
                wanted,
                found: bytes.len(),
            });
        }
        let storage = match on {
            Device::Cpu(_) => Storage::Cpu(bytes),
            Device::Cuda(device) => Storage::Cuda(device.upload(bytes.as_slice())?),
        };
        Ok(Self::over(on, dtype, shape, storage))
    }

    /// A tensor whose bytes are made piece by piece: `fill` is given the first byte of each piece and the piece, which starts and ends
    /// at an element. On a GPU a piece travels while the next one is made; on the CPU there is one piece.
    pub fn from_pieces(
        on: &Device,
        dtype: DType,
        shape: &[usize],
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<Self> {
        let num_bytes = shape.iter().product::<usize>() * dtype.num_bytes();
        let storage = match on {
            Device::Cpu(_) => {
                let mut bytes = AlignedBytes::zeroed(num_bytes);
                fill(0, bytes.as_mut_slice());
                Storage::Cpu(bytes)
            }
            Device::Cuda(device) => Storage::Cuda(device.upload_pieces(num_bytes, fill)?),
        };
        Ok(Self::over(on, dtype, shape, storage))
    }

    fn over(device: &Device, dtype: DType, shape: &[usize], storage: Storage) -> Self {
        Self {
            shape: shape.to_vec(),
            dtype,
            device: device.clone(),
            offset: 0,
            storage: Arc::new(storage),
        }
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Elements in all.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements of the last dimension; 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows when all dimensions but the last are taken as one.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)]
            .iter()
            .product()
    }

    /// The same elements under another shape with as many elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.num_elements() {
            let wanted = format!("{shape:?} (as many elements)");
            return Err(TensorError::Shape {
                what: "reshape",
                wanted,
                found: self.shape.clone(),
            });
        }
        Ok(Self {
            shape: shape.to_vec(),
            ..self.clone()
        })
    }

    /// A view of entries `rows` of the first dimension. It shares the storage.
    pub fn narrow_rows(&self, rows: Range<usize>) -> Result<Self> {
        let num_rows = self.shape.first().copied().unwrap_or(0);
        if rows.start > rows.end || rows.end > num_rows {
            return Err(TensorError::Rows {
                what: "narrow_rows",
                start: rows.start,
                end: rows.end,
                num_rows,
            });
        }
        let row_len: usize = self.shape[1..].iter().product();
        let mut view = self.clone();
        view.shape[0] = rows.len();
        view.offset += rows.start * row_len;
        Ok(view)
    }

    /// Whether the elements lie in memory of the host, so that reading them copies nothing.
    pub fn is_on_host(&self) -> bool {
        matches!(&*self.storage, Storage::Cpu(_))
    }

    /// The elements of an f32 tensor on the CPU.
    pub fn as_f32(&self) -> Result<&[f32]> {
        self.as_slice("as_f32")
    }

    /// The elements of an f32 tensor on the CPU, to be written in place; the storage must not be shared.
    pub fn as_f32_mut(&mut self) -> Result<&mut [f32]> {
        self.check_dtype("as_f32_mut", DType::F32)?;
        let elements = self.offset..self.offset + self.num_elements();
        match Arc::get_mut(&mut self.storage) {
            None => Err(TensorError::Shared { what: "as_f32_mut" }),
            Some(Storage::Cpu(bytes)) => {
                Ok(&mut bytemuck::cast_slice_mut(bytes.as_mut_slice())[elements])
            }
            Some(Storage::Cuda(_)) => Err(elsewhere("as_f32_mut")),
        }
    }

    /// Lets `change` work on the elements as f32 on the host, wherever they are; the storage must not be shared. On the CPU the tensor
    /// must be of f32 and is changed in place; from a GPU it is fetched and taken back.
    pub fn change_f32<E: From<TensorError>>(
        &mut self,
        change: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Storage::Cpu(_) = &*self.storage {
            return change(self.as_f32_mut()?);
        }
        self.check_unshared("change_f32")?;
        let mut values = self.to_f32_vec()?;
        change(&mut values)?;
        let changed = Self::from_f32(&self.device, &self.shape, &values)?;
        *self = changed.to_dtype(self.dtype)?;
        Ok(())
    }

    /// The tensor in memory of the host, as f32: itself where it is that already.
    pub fn to_host_f32(&self) -> Result<Self> {
        match &*self.storage {
            Storage::Cpu(_) => self.to_dtype(DType::F32),
            Storage::Cuda(_) => Self::from_f32(&Device::cpu(1), &self.shape, &self.to_f32_vec()?),
        }
    }

    /// The memory of a tensor on a GPU, and the byte of it that the tensor starts at.
    pub(crate) fn cuda_buffer(&self, what: &'static str) -> Result<(&CudaBuffer, usize)> {
        match &*self.storage {
            Storage::Cuda(buffer) => Ok((buffer, self.offset * self.dtype.num_bytes())),
            Storage::Cpu(_) => Err(elsewhere(what)),
        }
    }

    /// Checks that nobody else holds the storage, so that it may be written.
    pub(crate) fn check_unshared(&mut self, what: &'static str) -> Result<()> {
        match Arc::get_mut(&mut self.storage) {
            Some(_) => Ok(()),
            None => Err(TensorError::Shared { what }),
        }
    }

    /// The elements of a tensor on the CPU, whatever their type.
    pub fn cpu_elements(&self) -> Result<CpuElements<'_>> {
        Ok(match self.dtype {
            DType::F32 => CpuElements::F32(self.as_slice("cpu_elements")?),
            DType::BF16 => CpuElements::BF16(self.as_slice("cpu_elements")?),
            DType::F16 => CpuElements::F16(self.as_slice("cpu_elements")?),
        })
    }

    /// The elements of a tensor on the CPU, to be written in place; the storage must not be shared.
    pub fn cpu_elements_mut(&mut self) -> Result<CpuElementsMut<'_>> {
        let elements = self.offset..self.offset + self.num_elements();
        let storage = Arc::get_mut(&mut self.storage).ok_or(TensorError::Shared {
            what: "cpu_elements_mut",
        })?;
        let Storage::Cpu(bytes) = storage else {
            return Err(elsewhere("cpu_elements_mut"));
        };
        let bytes = bytes.as_mut_slice();
        Ok(match self.dtype {
            DType::F32 => CpuElementsMut::F32(&mut bytemuck::cast_slice_mut(bytes)[elements]),
            DType::BF16 => CpuElementsMut::BF16(&mut bytemuck::cast_slice_mut(bytes)[elements]),
            DType::F16 => CpuElementsMut::F16(&mut bytemuck::cast_slice_mut(bytes)[elements]),
        })
    }

    /// All elements as f32, in a vector of their own.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        if let Storage::Cuda(buffer) = &*self.storage {
            return self.download(buffer)?.to_f32_vec();
        }
        Ok(match self.cpu_elements()? {
            CpuElements::F32(values) => values.to_vec(),
            CpuElements::BF16(values) => values.iter().map(|value| value.to_f32()).collect(),
            CpuElements::F16(values) => values.iter().map(|value| value.to_f32()).collect(),
        })
    }

    /// The tensor with its elements rounded (to nearest even) to another type; itself when they have that type already.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        if let Device::Cuda(device) = &self.device {
            let wide = match (self.dtype, dtype) {
                (DType::F32, _) | (_, DType::F32) => self.clone(),
                _ => self.to_dtype(DType::F32)?,
            };
            let mut converted = Self::unwritten(&self.device, dtype, &self.shape)?;
            device.convert(&wide, &mut converted)?;
            return Ok(converted);
        }
        let values = self.to_f32_vec()?;
        let mut bytes = AlignedBytes::zeroed(values.len() * dtype.num_bytes());
        round_into(&values, dtype, bytes.as_mut_slice());
        Self::from_bytes(&self.device, dtype, &self.shape, bytes)
    }

    /// A tensor with the same elements and storage of its own.
    pub fn deep_copy(&self) -> Result<Self> {
        let num_bytes = self.dtype.num_bytes();
        let start = self.offset * num_bytes;
        let bytes = match &*self.storage {
            Storage::Cpu(bytes) => bytes,
            Storage::Cuda(buffer) => {
                let copy = Self::unwritten(&self.device, self.dtype, &self.shape)?;
                let (to, _) = copy.cuda_buffer("deep_copy")?;
                if let Device::Cuda(device) = &self.device {
                    let len = self.num_elements() * num_bytes;
                    device.copy_bytes(buffer, start, to, 0, len)?;
                }
                return Ok(copy);
            }
        };
        let own = AlignedBytes::copy_of(
            &bytes.as_slice()[start..start + self.num_elements() * num_bytes],
        );
        Self::from_bytes(&self.device, self.dtype, &self.shape, own)
    }

    fn as_slice<T: Element>(&self, what: &'static str) -> Result<&[T]> {
        self.check_dtype(what, T::DTYPE)?;
        let elements = self.offset..self.offset + self.num_elements();
        match &*self.storage {
            Storage::Cpu(bytes) => Ok(&bytemuck::cast_slice(bytes.as_slice())[elements]),
            Storage::Cuda(_) => Err(elsewhere(what)),
        }
    }

    /// The same elements in memory of the host.
    fn download(&self, buffer: &CudaBuffer) -> Result<Self> {
        let size = self.dtype.num_bytes();
        let mut bytes = AlignedBytes::zeroed(self.num_elements() * size);
        if let Device::Cuda(device) = &self.device {
            device.download(buffer, self.offset * size, bytes.as_mut_slice())?;
        }
        Self::from_bytes(&Device::cpu(1), self.dtype, &self.shape, bytes)
    }

    fn check_dtype(&self, what: &'static str, wanted: DType) -> Result<()> {
        if self.dtype == wanted {
            return Ok(());
        }
        let wanted = match wanted {
            DType::F32 => "F32",
            DType::BF16 => "BF16",
            DType::F16 => "F16",
        };
        Err(TensorError::DType {
            what,
            wanted,
            found: self.dtype,
        })
    }
}

/// A tensor is not where an op of the CPU or of a GPU looks for it.
fn elsewhere(what: &'static str) -> TensorError {
    TensorError::Unsupported {
        what,
        reason: "the tensor lies on another device".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        Device::cpu(1)
    }

    #[test]
    fn narrowed_rows_are_a_view_of_the_same_elements() {
        let tensor = Tensor::from_f32(&device(), &[3, 2], &[0., 1., 2., 3., 4., 5.]).unwrap();
        let view = tensor.narrow_rows(1..3).unwrap().narrow_rows(1..2).unwrap();
        assert_eq!(
            (view.shape(), view.as_f32().unwrap()),
            (&[1, 2][..], &[4., 5.][..])
        );
        assert_eq!(view.deep_copy().unwrap().as_f32().unwrap(), [4., 5.]);
        assert!(matches!(
            tensor.narrow_rows(2..4),
            Err(TensorError::Rows { num_rows: 3, .. })
        ));
    }

    #[test]
    fn shared_storage_is_not_written() {
        let mut tensor = Tensor::zeros(&device(), DType::F32, &[2, 2]);
        let view = tensor.narrow_rows(0..1).unwrap();
        assert_eq!(
            tensor.as_f32_mut().unwrap_err(),
            TensorError::Shared { what: "as_f32_mut" }
        );
        drop(view);
        tensor.as_f32_mut().unwrap()[3] = 7.0;
        assert_eq!(tensor.as_f32().unwrap(), [0., 0., 0., 7.]);
    }

    #[test]
    fn wrong_length_and_wrong_type_are_errors() {
        let short = Tensor::from_f32(&device(), &[2, 2], &[1.0]);
        assert!(matches!(
            short,
            Err(TensorError::Length {
                wanted: 16,
                found: 4,
                ..
            })
        ));
        let half = Tensor::zeros(&device(), DType::BF16, &[2]);
        assert!(matches!(
            half.as_f32(),
            Err(TensorError::DType {
                found: DType::BF16,
                ..
            })
        ));
    }

    #[test]
    fn rounding_goes_to_nearest_even() {
        let tensor = Tensor::from_f32(&device(), &[2], &[1.0 + 1.0 / 256.0, -3.0]).unwrap();
        assert_eq!(
            tensor.to_dtype(DType::BF16).unwrap().to_f32_vec().unwrap(),
            [1.0, -3.0]
        );
        assert_eq!(
            tensor.to_dtype(DType::F16).unwrap().to_f32_vec().unwrap(),
            [1.0 + 1.0 / 256.0, -3.0]
        );
    }
}
