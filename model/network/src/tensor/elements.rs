//! What tensors hold: types of elements, slices of them, and how they are widened and rounded.

use half::{bf16, f16};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    BF16,
    F16,
}

impl DType {
    /// Bytes of one element.
    pub fn num_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }
}

/// The elements of a CPU tensor, by their type.
#[derive(Clone, Copy, Debug)]
pub enum CpuElements<'a> {
    F32(&'a [f32]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
}

/// The elements of a CPU tensor, by their type, to be written.
#[derive(Debug)]
pub enum CpuElementsMut<'a> {
    F32(&'a mut [f32]),
    BF16(&'a mut [bf16]),
    F16(&'a mut [f16]),
}

/// A Rust type that a tensor can hold.
pub trait Element: bytemuck::Pod + Send + Sync {
    const DTYPE: DType;
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        // In plain integer and float steps, so that loops over it become vector code: shift exponent and fraction into
        // place, then scale by the difference of the two exponent biases, which is right for subnormal numbers too.
        const BIAS_DIFFERENCE: f32 = f32::from_bits((127 + 112) << 23);
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * BIAS_DIFFERENCE;
        // What had the largest exponent is infinite or not a number.
        let exponent = if bits & 0x7c00 == 0x7c00 {
            0x7f80_0000
        } else {
            0
        };
        f32::from_bits(magnitude.to_bits() | exponent | (bits & 0x8000) << 16)
    }
}

/// Rounds values to nearest even into bytes of that type.
pub(super) fn round_into(values: &[f32], dtype: DType, bytes: &mut [u8]) {
    match dtype {
        DType::F32 => bytes.copy_from_slice(bytemuck::cast_slice(values)),
        DType::BF16 => fill(bytemuck::cast_slice_mut(bytes), values, bf16::from_f32),
        DType::F16 => fill(bytemuck::cast_slice_mut(bytes), values, f16::from_f32),
    }
}

fn fill<T>(out: &mut [T], values: &[f32], round: impl Fn(f32) -> T) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = round(value);
    }
}
