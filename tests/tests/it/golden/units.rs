//! Single operations with their weights: resized position tables, linears with Partial LoRA, RMS norm, attention, the
//! feed-forward block, activations.

use std::path::Path;

use anyhow::{Context, Result};
use inkstone_model::{
    clip::resize_position_table,
    device::Device,
    kv_cache::{BLOCK_TOKENS, KvPages},
    ops::{
        activation::{gelu_erf, quick_gelu, silu_mul},
        attention::{AttentionPlan, SequenceRows, attention, write_pages},
        embedding::gather_rows,
        linear::{linear, linear_acc},
        norm::rms_norm,
        rotary::{QkvLayout, RotaryAngles, RotarySpan},
        rows::RowRanges,
    },
    tensor::{DType, Tensor},
};

use super::{
    compare::close,
    folder::{Folder, name_of},
    report::Report,
};

/// What attention, norm and feed-forward take as their input, and its picture rows.
const INPUT: &str = "plora.x";
const MASK: &str = "plora.mask";

pub(super) fn run(report: &mut Report, path: &Path) {
    let name = name_of(path);
    let Some(folder) = report.prepare(&name, "reading", || Folder::open(path)) else {
        return;
    };
    let units = Units {
        folder: &folder,
        device: Device::cpu(2),
    };
    let tables = folder.stems("").into_iter().filter_map(|name| {
        let side = name.strip_prefix("pos.")?.parse().ok()?;
        Some((name, side))
    });
    for (table, side) in tables {
        report.case(&name, &table, || units.check_position_table(&table, side));
    }
    for stem in folder.stems(".A") {
        let y = format!("{stem}.y");
        if folder.has(&y) {
            report.case(&name, &y, || {
                close(
                    &folder,
                    &y,
                    units.partial_lora(&units.tensor(INPUT)?, &stem)?.as_f32()?,
                )
            });
        }
    }
    for activation in folder.stems("") {
        if let Some(kind) = activation.strip_prefix("act.").filter(|kind| *kind != "x") {
            report.case(&name, &activation, || {
                units.check_activation(&activation, kind)
            });
        }
    }
    type Check<'a> = fn(&Units<'a>) -> Result<()>;
    let whole: [(&str, Check<'_>); 3] = [
        ("norm.y", Units::check_norm),
        ("mlp.y", Units::check_mlp),
        ("attention.y", Units::check_attention),
    ];
    for (case, check) in whole {
        if folder.has(case) {
            report.case(&name, case, || check(&units));
        }
    }
    report.end_folder(&folder);
}

struct Units<'a> {
    folder: &'a Folder,
    device: Device,
}

impl Units<'_> {
    /// A golden tensor with all dimensions but the last taken as one.
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let golden = self.folder.f32(name)?;
        let shape = match golden.shape[..] {
            [n] => vec![n],
            _ => vec![golden.values.len() / golden.cols(), golden.cols()],
        };
        Ok(Tensor::from_f32(&self.device, &shape, &golden.values)?)
    }

    fn picture_rows(&self) -> Result<RowRanges> {
        let mask = self.folder.u8(MASK)?.values;
        let rows = mask.iter().enumerate().filter(|(_, bit)| **bit != 0);
        let rows: Vec<_> = rows.map(|(row, _)| row..row + 1).collect();
        Ok(rows.into())
    }

    /// `STEM.weight`, and on picture rows `STEM.A` and `STEM.B`.
    fn partial_lora(&self, x: &Tensor, stem: &str) -> Result<Tensor> {
        let weight = |what: &str| self.tensor(&format!("{stem}.{what}"));
        let rows = self.picture_rows()?;
        let mut y = linear(x, &weight("weight")?, None)?;
        let low = linear(&gather_rows(x, &rows)?, &weight("A")?, None)?;
        linear_acc(&low, &weight("B")?, 1.0, &mut y, &rows)?;
        Ok(y)
    }

    fn check_position_table(&self, name: &str, side: usize) -> Result<()> {
        let base = self.folder.f32("pos.base")?;
        let from = (base.shape[0] - 1).isqrt();
        let found = resize_position_table(&base.values, base.cols(), from, side);
        close(self.folder, name, &found)
    }

    fn check_activation(&self, name: &str, kind: &str) -> Result<()> {
        let mut x = self.tensor("act.x")?;
        match kind {
            "quick_gelu" => quick_gelu(&mut x)?,
            "gelu" => gelu_erf(&mut x)?,
            "silu" => {
                let ones = vec![1.0; x.num_elements()];
                silu_mul(
                    &mut x,
                    &Tensor::from_f32(&self.device, &[ones.len()], &ones)?,
                )?;
            }
            other => anyhow::bail!("the activation {other} is unknown here"),
        }
        close(self.folder, name, x.as_f32()?)
    }

    fn check_norm(&self) -> Result<()> {
        let eps = self.folder.spec("eps")?;
        let y = rms_norm(&self.tensor(INPUT)?, &self.tensor("norm.weight")?, eps)?;
        close(self.folder, "norm.y", y.as_f32()?)
    }

    fn check_mlp(&self) -> Result<()> {
        let x = self.tensor(INPUT)?;
        let mut inner = self.partial_lora(&x, "mlp.w1")?;
        silu_mul(&mut inner, &self.partial_lora(&x, "mlp.w3")?)?;
        let y = self.partial_lora(&inner, "mlp.w2")?;
        close(self.folder, "mlp.y", y.as_f32()?)
    }

    /// Each sequence of the batch in pages of its own.
    fn check_attention(&self) -> Result<()> {
        let shape = self.folder.f32(INPUT)?.shape;
        let [num_sequences, length, width] = shape[..] else {
            anyhow::bail!("{INPUT} is {shape:?}, wanted sequences of rows");
        };
        let (heads, kv_heads) = (
            self.folder.spec("heads")? as usize,
            self.folder.spec("kv")? as usize,
        );
        let layout = QkvLayout {
            num_kv_heads: kv_heads,
            group: heads / kv_heads,
            head_dim: width / heads,
        };
        let span = RotarySpan {
            num_rows: length,
            start: 0,
            base: self.folder.spec("theta")?,
            divisor: 1.0,
        };
        let angles = RotaryAngles::new(&self.device, layout.head_dim, &vec![span; num_sequences])?;
        let mut qkv = self.partial_lora(&self.tensor(INPUT)?, "plora.wqkv")?;
        angles.rotate(&mut qkv, &layout)?;
        self.check_heads("attention.q", &qkv, &layout, length)?;
        self.check_heads("attention.k", &qkv, &layout, length)?;

        // Sequences take their blocks from the last to the first.
        let per_sequence = length.div_ceil(BLOCK_TOKENS);
        let num_blocks = num_sequences * per_sequence;
        let blocks: Vec<u32> = (0..num_blocks as u32).rev().collect();
        let rows = blocks.chunks_exact(per_sequence).map(|table| SequenceRows {
            start: 0,
            num_rows: length,
            block_table: table,
        });
        let plan = AttentionPlan::new(&rows.collect::<Vec<_>>(), num_blocks)?;
        let mut pages = KvPages::new(
            num_blocks,
            kv_heads,
            layout.head_dim,
            DType::F32,
            &self.device,
        );
        write_pages(&qkv, &layout, &plan, &mut pages)?;
        let attended = attention(&qkv, &layout, &plan, &pages)?;
        let y = self.partial_lora(&attended, "plora.wo")?;
        close(self.folder, "attention.y", y.as_f32()?)
    }

    /// The query or key heads of the fused projection after their rotation, `[sequences, heads, length, head_dim]`.
    fn check_heads(
        &self,
        name: &str,
        qkv: &Tensor,
        layout: &QkvLayout,
        length: usize,
    ) -> Result<()> {
        if !self.folder.has(name) {
            return Ok(());
        }
        let is_query = name.ends_with('q');
        let columns: Vec<usize> = (0..layout.num_kv_heads)
            .flat_map(|kv_head| {
                let first = kv_head * layout.group_width();
                let heads = if is_query {
                    0..layout.group
                } else {
                    layout.group..layout.group + 1
                };
                heads.map(move |head| first + head * layout.head_dim)
            })
            .collect();
        let rows: Vec<&[f32]> = qkv.as_f32()?.chunks_exact(layout.width()).collect();
        let sequences = rows.chunks_exact(length);
        let found: Vec<f32> = sequences
            .flat_map(|rows| {
                let head = |column: &usize| {
                    let column = *column;
                    rows.iter()
                        .flat_map(move |row| &row[column..column + layout.head_dim])
                };
                columns.iter().flat_map(head).copied().collect::<Vec<_>>()
            })
            .collect();
        close(self.folder, name, &found).context("after the rotation")
    }
}
