//! What a loaded model says about itself: everything a coordinator must know, and nothing of its weights.
//!
//! The checkpoint fills it in, the cluster carries it as JSON, the coordinator renders and admits by it.

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::picture_geometry::PictureGeometry;

/// The family member, told by a checkpoint's tensors and not by its name (spec section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// 2.0, one square picture: xcomposer2-7b (224 pixels), -vl-7b and -vl-1_8b (490 pixels).
    Xc2,
    /// xcomposer2-4khd-7b: tiles of 336 pixels.
    #[serde(rename = "xc2-4khd")]
    Xc2FourKhd,
    /// xcomposer2d5-7b: tiles of 560 pixels.
    #[serde(rename = "xc2d5")]
    Xc2d5,
}

impl Variant {
    /// Whether pictures are cut into tiles, with separators between their rows.
    pub fn is_hd(self) -> bool {
        match self {
            Self::Xc2 => false,
            Self::Xc2FourKhd | Self::Xc2d5 => true,
        }
    }

    /// The name used in JSON, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xc2 => "xc2",
            Self::Xc2FourKhd => "xc2-4khd",
            Self::Xc2d5 => "xc2d5",
        }
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What requests, routing and placement need to know of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelDescription {
    /// The name clients ask for.
    pub name: String,
    pub variant: Variant,
    pub config: ModelConfig,
    pub picture: PictureGeometry,
    pub partial_lora: PartialLoraDescription,
    /// Longest prompt in tokens, pictures included: the `max_length` of `config.json`.
    pub max_prompt_tokens: usize,
    /// Tokens that end an answer. Empty until somebody who holds the tokenizer fills it in.
    #[serde(default)]
    pub stop_token_ids: Vec<u32>,
    /// Bytes of all weights as stored in the checkpoint.
    pub weight_bytes: u64,
}

impl ModelDescription {
    /// Whether pictures are cut into tiles.
    pub fn is_hd(&self) -> bool {
        self.variant.is_hd()
    }

    /// Parses the JSON form and checks what it says, as it may come from another process.
    pub fn from_json(json: &str) -> Result<Self, DescriptionError> {
        let description: Self = serde_json::from_str(json)?;
        description.config.validate()?;
        description.picture.validate()?;
        Ok(description)
    }

    /// The JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a description has string keys and finite numbers only")
    }
}

/// Rank and scale of the low-rank branch on each of a layer's five linears (spec section 3).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PartialLoraDescription {
    pub wqkv: LowRank,
    pub wo: LowRank,
    pub w1: LowRank,
    pub w3: LowRank,
    pub w2: LowRank,
}

/// One low-rank branch: `scale * B (A x)` with `rank` rows in A.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LowRank {
    pub rank: usize,
    pub scale: f32,
}

/// Why the JSON of a description is refused.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    #[error("cannot parse the model description: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("model description is invalid: {0}")]
    Config(#[from] crate::config::ConfigError),
    #[error("model description is invalid: {0}")]
    Picture(#[from] crate::picture_geometry::GeometryError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VisionConfig;

    fn four_khd() -> ModelDescription {
        let config = ModelConfig {
            vocab_size: 92544,
            hidden_size: 4096,
            intermediate_size: 14336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            rms_norm_eps: 1e-5,
            rope_theta: 1e6,
            rope_scaling: None,
            max_position_embeddings: 32768,
            max_length: 16384,
            bos_token_id: 1,
            eos_token_id: 2,
            pad_token_id: 2,
            img_size: None,
            torch_dtype: Some("bfloat16".into()),
            hidden_act: Some("silu".into()),
            bias: false,
            tie_word_embeddings: false,
            model_type: None,
            architectures: vec![],
            vision_config: Some(VisionConfig::CLIP_VIT_L_14),
        };
        let plain = LowRank {
            rank: 256,
            scale: 1.0,
        };
        ModelDescription {
            name: "internlm-xcomposer2-4khd-7b".into(),
            variant: Variant::Xc2FourKhd,
            max_prompt_tokens: config.max_length,
            config,
            picture: PictureGeometry::four_khd(),
            partial_lora: PartialLoraDescription {
                wqkv: LowRank {
                    rank: 8,
                    scale: 2.0,
                },
                wo: plain,
                w1: plain,
                w3: plain,
                w2: plain,
            },
            stop_token_ids: vec![2, 92542],
            weight_bytes: 17_190_000_000,
        }
    }

    #[test]
    fn description_survives_json() {
        let description = four_khd();
        let json = description.to_json();
        assert!(json.contains(r#""variant":"xc2-4khd""#), "{json}");
        assert_eq!(ModelDescription::from_json(&json).unwrap(), description);
        assert!(description.is_hd());
    }

    #[test]
    fn description_with_an_impossible_config_is_refused() {
        let mut description = four_khd();
        description.config.num_key_value_heads = 0;
        let error = ModelDescription::from_json(&description.to_json())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("num_key_value_heads must be from 1"),
            "{error}"
        );
    }

    #[test]
    fn variant_names_are_the_same_in_json_and_in_text() {
        for variant in [Variant::Xc2, Variant::Xc2FourKhd, Variant::Xc2d5] {
            assert_eq!(serde_json::to_value(variant).unwrap(), variant.to_string());
        }
    }
}
