//! Causal attention over a paged key-value cache, for a ragged batch: every sequence brings some new rows (a chunk of its
//! prompt, or one token) and attends to all its positions so far, through its block table. Query heads share key and value
//! heads in groups. Rows are written to the pages first, after their rotation; then they attend.

mod copy;
mod cpu;
mod plan;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use copy::copy_block;
pub use plan::{AttentionPlan, PlanError, SequenceRows};

use crate::{
    device::Device,
    kv_cache::KvPages,
    ops::rotary::{QkvLayout, RotaryAngles},
    tensor::{Result, Tensor, TensorError},
};

/// Writes the keys and values of all rows of qkv `[num_rows, layout.width()]` f32 to their places in the pages.
pub fn write_pages(
    qkv: &Tensor,
    layout: &QkvLayout,
    plan: &AttentionPlan,
    pages: &mut KvPages,
) -> Result<()> {
    check("write_pages", qkv, layout, plan, pages)?;
    match qkv.device() {
        Device::Cpu(device) => cpu::write_pages(device, qkv.as_f32()?, layout, plan, pages),
        Device::Cuda(device) => device.write_pages(qkv, layout, plan, pages),
    }
}

/// Rotates queries and keys of qkv in place and writes keys and values to the pages: [`RotaryAngles::rotate`] and then
/// [`write_pages`], in one pass where a device gains by that.
pub fn rotate_and_write_pages(
    qkv: &mut Tensor,
    layout: &QkvLayout,
    angles: &RotaryAngles,
    plan: &AttentionPlan,
    pages: &mut KvPages,
) -> Result<()> {
    let Device::Cuda(device) = qkv.device().clone() else {
        angles.rotate(qkv, layout)?;
        return write_pages(qkv, layout, plan, pages);
    };
    check("rotate_and_write_pages", qkv, layout, plan, pages)?;
    angles.check(qkv, layout)?;
    device.rotate_and_write_pages(qkv, layout, angles.tables(), plan, pages)
}

/// Attends from all rows of qkv `[num_rows, layout.width()]` f32 to the pages, which hold the keys and values of these rows
/// already. Scores are scaled by one over the root of the head's width. Gives `[num_rows, layout.output_width()]` f32.
///
/// A row's result depends on its query and its sequence's pages alone, to the bit: not on the other rows of the batch, the chunk
/// it came in, the number of threads or the order of the blocks.
pub fn attention(
    qkv: &Tensor,
    layout: &QkvLayout,
    plan: &AttentionPlan,
    pages: &KvPages,
) -> Result<Tensor> {
    check("attention", qkv, layout, plan, pages)?;
    let shape = [qkv.rows(), layout.output_width()];
    let mut out = Tensor::unwritten(qkv.device(), qkv.dtype(), &shape)?;
    match qkv.device() {
        Device::Cpu(device) => {
            cpu::attention(
                device,
                qkv.as_f32()?,
                layout,
                plan,
                pages,
                out.as_f32_mut()?,
            )?;
        }
        Device::Cuda(device) => device.attention(qkv, layout, plan, pages, &mut out)?,
    }
    Ok(out)
}

fn check(
    what: &'static str,
    qkv: &Tensor,
    layout: &QkvLayout,
    plan: &AttentionPlan,
    pages: &KvPages,
) -> Result<()> {
    layout.check(what, qkv, plan.num_rows())?;
    let wanted = (layout.num_kv_heads, layout.head_dim);
    let found = (pages.num_kv_heads(), pages.head_dim());
    if wanted != found || plan.num_blocks() > pages.num_blocks() {
        let reason = format!(
            "pages have {} blocks with {} heads of {}, wanted {} with {} of {}",
            pages.num_blocks(),
            found.0,
            found.1,
            plan.num_blocks(),
            wanted.0,
            wanted.1
        );
        return Err(TensorError::Unsupported { what, reason });
    }
    Ok(())
}
