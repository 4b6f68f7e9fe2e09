//! What stands in for CUDA where it was not built: types without values. Their methods can be named and never run.

#![expect(
    unused_variables,
    clippy::needless_pass_by_ref_mut,
    reason = "nobody can call these"
)]

use crate::{
    device::DeviceError,
    kv_cache::KvPages,
    ops::{
        attention::AttentionPlan,
        best_logits::BestLogits,
        decode_graphs::DecodeRows,
        rotary::{QkvLayout, RotaryAngles, RotarySpan},
        rows::RowRanges,
    },
    tensor::{Result, Tensor, TensorError},
};

/// No GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaDevice {}

/// No memory of a GPU.
#[derive(Debug)]
pub enum CudaBuffer {}

/// No plan on a GPU.
#[derive(Debug)]
pub enum UploadedPlan {}

/// No recorded steps.
pub enum DecodeGraphs {}

/// Nothing that they read.
pub enum DecodeInputs {}

impl DecodeGraphs {
    pub(crate) fn record<E: From<TensorError>>(
        &mut self,
        num_rows: usize,
        forward: &mut dyn FnMut(&DecodeInputs) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        match *self {}
    }

    pub(crate) fn replay(&self, rows: &DecodeRows<'_>) -> Result<Option<Tensor>> {
        match *self {}
    }
}

impl DecodeInputs {
    pub(crate) fn plan(&self) -> &AttentionPlan {
        match *self {}
    }

    pub(crate) fn embed(&self, table: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    pub(crate) fn angles(&self) -> Result<RotaryAngles> {
        match *self {}
    }
}

impl CudaDevice {
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        Err(DeviceError::NotBuilt)
    }
}

macro_rules! never {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty;)*) => {
        impl CudaDevice {
            $(
                pub(crate) fn $name(&self, $($argument: $type),*) -> $result {
                    match *self {}
                }
            )*
        }
    };
}

never! {
    fn zeros(num_bytes: usize) -> Result<CudaBuffer>;
    fn passing(num_bytes: usize) -> Result<CudaBuffer>;
    fn upload(bytes: &[u8]) -> Result<CudaBuffer>;
    fn upload_pieces(num_bytes: usize, fill: &mut dyn FnMut(usize, &mut [u8])) -> Result<CudaBuffer>;
    fn download(buffer: &CudaBuffer, start: usize, bytes: &mut [u8]) -> Result<()>;
    fn copy_bytes(from: &CudaBuffer, from_start: usize, to: &CudaBuffer, to_start: usize, len: usize) -> Result<()>;
    fn memory() -> Result<(usize, usize)>;
    fn held_bytes() -> usize;
    fn decode_graphs(layout: QkvLayout, num_blocks: usize, most_rows: usize) -> Result<DecodeGraphs>;
    fn synchronize() -> Result<()>;
    fn convert(x: &Tensor, y: &mut Tensor) -> Result<()>;
    fn add(y: &mut Tensor, x: &Tensor) -> Result<()>;
    fn silu_mul(gate: &mut Tensor, up: &Tensor) -> Result<()>;
    fn quick_gelu(x: &mut Tensor) -> Result<()>;
    fn gelu_erf(x: &mut Tensor) -> Result<()>;
    fn rms_norm(hidden: &mut Tensor, delta: Option<&Tensor>, weight: &Tensor, eps: f32, y: &mut Tensor) -> Result<()>;
    fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32, y: &mut Tensor) -> Result<()>;
    fn gather(x: &Tensor, rows: &[u32], y: &mut Tensor, first_row: usize) -> Result<()>;
    fn gather_rows(x: &Tensor, rows: &RowRanges, y: &mut Tensor) -> Result<()>;
    fn copy_rows(x: &Tensor, y: &mut Tensor, first_row: usize) -> Result<()>;
    fn unfold(pixels: &Tensor, patch: usize, patches: &mut Tensor) -> Result<()>;
    fn place(embedded: &Tensor, class: &Tensor, positions: &Tensor, rows: &mut Tensor) -> Result<()>;
    fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &mut Tensor) -> Result<()>;
    fn linear_acc(x: &Tensor, w: &Tensor, scale: f32, y: &mut Tensor, rows: &RowRanges) -> Result<()>;
    fn rotary_angles(spans: &[RotarySpan], head_dim: usize, cos: &mut Tensor, sin: &mut Tensor) -> Result<()>;
    fn rotate(qkv: &mut Tensor, layout: &QkvLayout, cos: &Tensor, sin: &Tensor) -> Result<()>;
    fn write_pages(qkv: &Tensor, layout: &QkvLayout, plan: &AttentionPlan, pages: &mut KvPages) -> Result<()>;
    fn rotate_and_write_pages(qkv: &mut Tensor, layout: &QkvLayout, angles: (&Tensor, &Tensor), plan: &AttentionPlan, pages: &mut KvPages) -> Result<()>;
    fn attention(qkv: &Tensor, layout: &QkvLayout, plan: &AttentionPlan, pages: &KvPages, out: &mut Tensor) -> Result<()>;
    fn full_attention(qkv: &Tensor, len: usize, num_heads: usize, out: &mut Tensor) -> Result<()>;
    fn best_logits(logits: &Tensor, count: usize) -> Result<Vec<BestLogits>>;
    fn copy_block(pages: &mut KvPages, from: usize, to: usize) -> Result<()>;
}
