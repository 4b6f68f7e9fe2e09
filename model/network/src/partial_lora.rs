//! Partial LoRA: every linear of a decoder layer has a low-rank branch that acts on picture rows only (spec section 3),
//! `y = W x + scale · B (A x)`. The branch is computed for those rows alone, so it costs nothing in a batch without pictures and
//! nothing in decode steps, and it needs no exchange of its own between ranks (spec section 8).

use std::ops::Range;

use crate::{
    checkpoint::{CheckpointError, LinearKind},
    layers::WeightReader,
    ops::{
        embedding::gather_rows,
        linear::{linear, linear_acc},
        rows::RowRanges,
    },
    tensor::{Result, Tensor},
};

/// Which rows of a batch are pictures: ascending ranges that do not overlap.
#[derive(Clone, Debug, Default)]
pub struct PictureRows {
    rows: RowRanges,
}

impl PictureRows {
    /// Adds the rows that come next.
    pub fn push(&mut self, rows: Range<usize>) {
        self.rows.push(rows);
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The picture rows of x, one below the other; nothing where there are none. Copies only where they do not lie together.
    pub fn select(&self, x: &Tensor) -> Result<Option<Tensor>> {
        (!self.is_empty())
            .then(|| gather_rows(x, &self.rows))
            .transpose()
    }
}

/// The branch of one linear, as a rank holds it: A or B is split as the linear is, the other is whole.
pub struct PartialLora {
    /// `[rank, in]`
    a: Tensor,
    /// `[out, rank]`
    b: Tensor,
    scale: f32,
}

impl PartialLora {
    pub fn load(
        reader: &WeightReader<'_>,
        layer: usize,
        kind: LinearKind,
    ) -> Result<Self, CheckpointError> {
        let branches = reader.checkpoint().partial_lora();
        let branch = match kind {
            LinearKind::Wqkv => branches.wqkv,
            LinearKind::Wo => branches.wo,
            LinearKind::W1 => branches.w1,
            LinearKind::W3 => branches.w3,
            LinearKind::W2 => branches.w2,
        };
        Ok(Self {
            a: reader.weight(&weight_name(layer, kind, "Plora_A.weight"))?,
            b: reader.weight(&weight_name(layer, kind, "Plora_B.weight"))?,
            scale: branch.scale,
        })
    }

    /// Adds the branch to the picture rows of y. `picture_rows` are the same rows of the linear's input, if there are any. What lies
    /// between A and B stays f32.
    pub fn add_to(
        &self,
        y: &mut Tensor,
        pictures: &PictureRows,
        picture_rows: Option<&Tensor>,
    ) -> Result<()> {
        let Some(x) = picture_rows else {
            return Ok(());
        };
        let low = linear(x, &self.a, None)?;
        linear_acc(&low, &self.b, self.scale, y, &pictures.rows)
    }
}

/// The name of a tensor of a layer's linear.
pub(crate) fn weight_name(layer: usize, kind: LinearKind, tensor: &str) -> String {
    format!("model.layers.{layer}.{}.{tensor}", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{device::Device, goldens::Goldens};

    #[test]
    fn the_branch_is_the_reference_s_on_picture_rows_and_absent_elsewhere() {
        let Some(goldens) = Goldens::open("units") else {
            return;
        };
        let tensor = |name: &str| {
            let (shape, values) = goldens.f32(name);
            let shape = [
                shape[..shape.len() - 1].iter().product(),
                shape[shape.len() - 1],
            ];
            Tensor::from_f32(&Device::cpu(1), &shape, &values).unwrap()
        };
        let mut pictures = PictureRows::default();
        for (row, is_picture) in goldens.u8("plora.mask").into_iter().enumerate() {
            pictures.push(row..row + usize::from(is_picture));
        }
        let x = tensor("plora.x");
        for name in ["wqkv", "wo"] {
            let part = |part: &str| tensor(&format!("plora.{name}.{part}"));
            let branch = PartialLora {
                a: part("A"),
                b: part("B"),
                scale: 1.0,
            };
            let mut y = linear(&x, &part("weight"), None).unwrap();
            let picture_rows = pictures.select(&x).unwrap();
            branch
                .add_to(&mut y, &pictures, picture_rows.as_ref())
                .unwrap();
            goldens.assert_close(&format!("plora.{name}.y"), y.as_f32().unwrap());
        }
    }
}
