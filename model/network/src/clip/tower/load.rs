//! Reads the tower from a checkpoint: large weights as asked, everything that is small in f32.

use inkstone_interface::config::VisionConfig;

use super::{Layer, LayerNorm, Linear, Tower};
use crate::{
    checkpoint::{Reader, Slice},
    clip::VisionError,
    load_options::LoadOptions,
    tensor::{AlignedBytes, DType, Tensor},
};

const TOWER: &str = "vit.vision_tower.vision_model";

impl Tower {
    pub(in crate::clip) fn load(
        config: &VisionConfig,
        reader: &Reader<'_>,
        options: &LoadOptions,
    ) -> Result<Self, VisionError> {
        let source = Source {
            reader,
            options,
            eps: config.layer_norm_eps,
        };
        let embeddings = format!("{TOWER}.embeddings");
        let patches = source.weight(&format!("{embeddings}.patch_embedding.weight"))?;
        let patch_len = patches.shape()[1..].iter().product();
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(&format!("{TOWER}.encoder.layers.{index}"), &source));
        Ok(Self {
            patch_embedding: patches.reshape(&[config.hidden_size, patch_len])?,
            class_embedding: source.small(&format!("{embeddings}.class_embedding"))?,
            position_embedding: source.small(&format!("{embeddings}.position_embedding.weight"))?,
            pre_layrnorm: LayerNorm::load(&format!("{TOWER}.pre_layrnorm"), &source)?,
            layers: layers.collect::<Result<_, _>>()?,
            num_heads: config.num_attention_heads,
        })
    }
}

impl Layer {
    fn load(prefix: &str, source: &Source<'_>) -> Result<Self, VisionError> {
        let attention = format!("{prefix}.self_attn");
        Ok(Self {
            layer_norm1: LayerNorm::load(&format!("{prefix}.layer_norm1"), source)?,
            qkv_proj: Linear::load_stacked(
                ["q", "k", "v"].map(|part| format!("{attention}.{part}_proj")),
                source,
            )?,
            out_proj: Linear::load(&format!("{attention}.out_proj"), source)?,
            layer_norm2: LayerNorm::load(&format!("{prefix}.layer_norm2"), source)?,
            fc1: Linear::load(&format!("{prefix}.mlp.fc1"), source)?,
            fc2: Linear::load(&format!("{prefix}.mlp.fc2"), source)?,
        })
    }
}

impl LayerNorm {
    fn load(prefix: &str, source: &Source<'_>) -> Result<Self, VisionError> {
        Ok(Self {
            weight: source.small(&format!("{prefix}.weight"))?,
            bias: source.small(&format!("{prefix}.bias"))?,
            eps: source.eps,
        })
    }
}

impl Linear {
    fn load(prefix: &str, source: &Source<'_>) -> Result<Self, VisionError> {
        let weight = source.weight(&format!("{prefix}.weight"))?;
        let dtype = source.bias_dtype(&weight);
        Ok(Self {
            bias: source.read(&format!("{prefix}.bias"), Some(dtype))?,
            weight,
        })
    }

    /// Linears of the same input as one, the outputs of the first first.
    fn load_stacked(prefixes: [String; 3], source: &Source<'_>) -> Result<Self, VisionError> {
        let weights = prefixes.each_ref().map(|prefix| format!("{prefix}.weight"));
        let weight = source.stacked(&weights, source.options.dtype)?;
        let biases = prefixes.map(|prefix| format!("{prefix}.bias"));
        let dtype = source.bias_dtype(&weight);
        Ok(Self {
            bias: source.stacked(&biases, Some(dtype))?,
            weight,
        })
    }
}

/// Where weights come from and how they are wanted.
struct Source<'a> {
    reader: &'a Reader<'a>,
    options: &'a LoadOptions,
    /// Of every norm.
    eps: f64,
}

impl Source<'_> {
    fn weight(&self, name: &str) -> Result<Tensor, VisionError> {
        self.read(name, self.options.dtype)
    }

    fn small(&self, name: &str) -> Result<Tensor, VisionError> {
        self.read(name, Some(DType::F32))
    }

    /// The type of the bias of a linear: that of its results.
    fn bias_dtype(&self, weight: &Tensor) -> DType {
        self.options.device.activation_dtype(weight.dtype())
    }

    fn read(&self, name: &str, dtype: Option<DType>) -> Result<Tensor, VisionError> {
        let device = &self.options.device;
        Ok(self.reader.read_to(name, Slice::Whole, dtype, device)?)
    }

    /// Tensors one below the other, all of the type of the first where none is asked for.
    fn stacked(&self, names: &[String], mut dtype: Option<DType>) -> Result<Tensor, VisionError> {
        let mut parts = Vec::new();
        for name in names {
            let part = self.reader.read(name, Slice::Whole, dtype)?;
            dtype = Some(part.dtype);
            parts.push(part);
        }
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(|part| part.shape[0]).sum();
        let bytes: Vec<&[u8]> = parts.iter().map(|part| part.bytes.as_slice()).collect();
        let bytes = AlignedBytes::copy_of(&bytes.concat());
        Ok(Tensor::from_bytes(
            &self.options.device,
            parts[0].dtype,
            &shape,
            bytes,
        )?)
    }
}
