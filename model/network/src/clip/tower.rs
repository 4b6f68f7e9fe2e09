//! The CLIP vision transformer (spec section 4.1): pre-norm layers with biases and quick GELU. The output is the last
//! layer's; the norm that CLIP puts after it is not applied, nor loaded.

mod load;

use crate::{
    ops::{
        activation::quick_gelu, elementwise::add_assign, full_attention::full_attention,
        linear::linear, norm::layer_norm, patch_embedding::patch_embedding,
    },
    tensor::{DType, Result, Tensor},
};

/// Weights of the tower, named as in the checkpoint.
pub(super) struct Tower {
    /// `[width, 3 * patch * patch]`
    patch_embedding: Tensor,
    /// `[width]`
    class_embedding: Tensor,
    /// `[1 + patches, width]`
    position_embedding: Tensor,
    pre_layrnorm: LayerNorm,
    layers: Vec<Layer>,
    num_heads: usize,
}

struct Layer {
    layer_norm1: LayerNorm,
    /// `q_proj`, `k_proj` and `v_proj`, one below the other.
    qkv_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Tower {
    /// Rows that the tower makes of one square, the class row included.
    pub(super) fn rows_per_square(&self) -> usize {
        self.position_embedding.rows()
    }

    /// The type of its large weights.
    pub(super) fn dtype(&self) -> DType {
        self.patch_embedding.dtype()
    }

    pub(super) fn width(&self) -> usize {
        self.position_embedding.cols()
    }

    /// Encodes squares `[num_squares, 3, side, side]` to `[num_squares * rows_per_square, width]`, the class row of each
    /// square first. `observe` sees the rows after `pre_layrnorm` and after each layer.
    pub(super) fn forward(
        &self,
        squares: &Tensor,
        observe: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor> {
        let embedded = patch_embedding(
            squares,
            &self.patch_embedding,
            &self.class_embedding,
            &self.position_embedding,
        )?;
        let mut hidden = self.pre_layrnorm.forward(&embedded)?;
        observe(&hidden);
        for layer in &self.layers {
            layer.forward(&mut hidden, self.rows_per_square(), self.num_heads)?;
            observe(&hidden);
        }
        Ok(hidden)
    }
}

impl Layer {
    fn forward(&self, hidden: &mut Tensor, rows_per_square: usize, num_heads: usize) -> Result<()> {
        let qkv = self.qkv_proj.forward(&self.layer_norm1.forward(hidden)?)?;
        let attended = full_attention(&qkv, rows_per_square, num_heads)?;
        add_assign(hidden, &self.out_proj.forward(&attended)?)?;
        let mut inner = self.fc1.forward(&self.layer_norm2.forward(hidden)?)?;
        quick_gelu(&mut inner)?;
        add_assign(hidden, &self.fc2.forward(&inner)?)
    }
}

impl LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, Some(&self.bias))
    }
}
