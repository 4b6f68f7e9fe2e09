//! Mean and deviation of each random tensor. They are chosen so that the network stays in the range a trained one
//! works in, whatever its size: inputs of a linear leave it about as large as they came, the branches of a residual
//! stream add up to about its own size over all layers, and logits spread over a few units.

use inkstone_interface::config::ModelConfig;

use crate::checkpoint::{ExpectedTensor, LinearKind, Structure, TensorKind};

/// Spread of the logits. Large enough that the best token stands out, small enough that sampling has a choice.
const LOGIT_DEVIATION: f32 = 3.0;
/// How strong the low-rank branch is beside its linear. Not small: a picture must change what the model says.
const BRANCH_STRENGTH: f32 = 0.5;
/// Norm weights differ a little from one, and biases from zero, so that a mixed-up one shows.
const NORM_DEVIATION: f32 = 0.1;
const BIAS_DEVIATION: f32 = 0.1;
/// GELU lets a bit more than half of a unit normal input through.
const AFTER_GELU: f32 = 1.7;

/// Distribution of a tensor's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Distribution {
    pub(crate) mean: f32,
    pub(crate) deviation: f32,
}

impl Distribution {
    pub(crate) fn of(tensor: &ExpectedTensor, config: &ModelConfig, structure: &Structure) -> Self {
        let decoder_layers = config.num_hidden_layers;
        let around = |mean, deviation| Self { mean, deviation };
        // All dimensions after the first go into one output: also those of the patch convolution.
        let fan_in = tensor.shape.0.iter().skip(1).product::<usize>().max(1) as f32;
        let preserving = 1.0 / fan_in.sqrt();
        match tensor.kind {
            TensorKind::TokEmbeddings | TensorKind::Separator => around(0.0, 1.0),
            TensorKind::Norm => around(1.0, NORM_DEVIATION),
            TensorKind::Linear(linear) => {
                around(0.0, preserving * residual(linear, decoder_layers))
            }
            TensorKind::PloraA(_) => around(0.0, preserving),
            TensorKind::PloraB(linear) => {
                let strength =
                    BRANCH_STRENGTH / scale(linear, structure) * residual(linear, decoder_layers);
                around(0.0, preserving * strength)
            }
            TensorKind::Output => around(0.0, preserving * LOGIT_DEVIATION),
            TensorKind::Projector | TensorKind::Tower => {
                let (mean, deviation) =
                    vision(&tensor.name, preserving, config.vision().num_hidden_layers);
                around(mean, deviation)
            }
        }
    }
}

/// Factor for the linears that write to the residual stream, of which there are two in each layer.
fn residual(linear: LinearKind, layers: usize) -> f32 {
    match linear {
        LinearKind::Wqkv | LinearKind::W1 | LinearKind::W3 => 1.0,
        LinearKind::Wo | LinearKind::W2 => branch_of(layers),
    }
}

fn branch_of(layers: usize) -> f32 {
    1.0 / (2.0 * layers as f32).sqrt()
}

fn scale(linear: LinearKind, structure: &Structure) -> f32 {
    match linear {
        LinearKind::Wqkv => structure.partial_lora.wqkv.scale,
        LinearKind::Wo | LinearKind::W1 | LinearKind::W3 | LinearKind::W2 => 1.0,
    }
}

fn vision(name: &str, preserving: f32, layers: usize) -> (f32, f32) {
    if name.contains("norm") {
        return if name.ends_with(".weight") {
            (1.0, NORM_DEVIATION)
        } else {
            (0.0, BIAS_DEVIATION)
        };
    }
    let deviation = match name {
        _ if name.ends_with(".bias") => BIAS_DEVIATION,
        _ if name.ends_with("_embedding") || name.contains("position_embedding") => 1.0,
        _ if name.contains(".out_proj.") || name.contains(".fc2.") => {
            preserving * branch_of(layers)
        }
        "vision_proj.2.weight" => preserving * AFTER_GELU,
        _ => preserving,
    };
    (0.0, deviation)
}
