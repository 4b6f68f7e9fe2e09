//! The shapes that can be synthesised: the published releases exactly, one of about a quarter of their size, and tiny
//! ones for tests.

use std::fmt;
use std::str::FromStr;

use inkstone_interface::config::{ModelConfig, RopeScaling, RopeScalingKind, VisionConfig};
use inkstone_interface::description::{LowRank, PartialLoraDescription, Variant};

use crate::checkpoint::Structure;

/// A model shape by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    Vl7b,
    Composition7b,
    FourKhd7b,
    TwoFive7b,
    Vl1_8b,
    /// Each layer a quarter of the 7B's, and a quarter of its layers.
    Quarter,
    Tiny,
    TinyFourKhd,
    TinyTwoFive,
}

impl Preset {
    pub const ALL: [Self; 9] = [
        Self::Vl7b,
        Self::Composition7b,
        Self::FourKhd7b,
        Self::TwoFive7b,
        Self::Vl1_8b,
        Self::Quarter,
        Self::Tiny,
        Self::TinyFourKhd,
        Self::TinyTwoFive,
    ];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vl7b => "vl-7b",
            Self::Composition7b => "7b",
            Self::FourKhd7b => "4khd-7b",
            Self::TwoFive7b => "2d5-7b",
            Self::Vl1_8b => "1.8b",
            Self::Quarter => "quarter",
            Self::Tiny => "tiny",
            Self::TinyFourKhd => "tiny-4khd",
            Self::TinyTwoFive => "tiny-2d5",
        }
    }

    pub fn variant(self) -> Variant {
        match self {
            Self::FourKhd7b | Self::TinyFourKhd => Variant::Xc2FourKhd,
            Self::TwoFive7b | Self::TinyTwoFive => Variant::Xc2d5,
            Self::Vl7b | Self::Composition7b | Self::Vl1_8b | Self::Quarter | Self::Tiny => {
                Variant::Xc2
            }
        }
    }

    /// Side of a picture or tile in pixels.
    pub fn side(self) -> u32 {
        match self {
            Self::Vl7b | Self::Vl1_8b | Self::Quarter => 490,
            Self::Composition7b | Self::Tiny => 224,
            Self::FourKhd7b | Self::TinyFourKhd => 336,
            Self::TwoFive7b | Self::TinyTwoFive => 560,
        }
    }

    pub fn config(self) -> ModelConfig {
        let sizes = self.sizes();
        let (max_position_embeddings, factor) = match self.variant() {
            Variant::Xc2 => (32768, Some(if self == Self::Vl1_8b { 2.0 } else { 1.0 })),
            Variant::Xc2FourKhd => (32768, None),
            Variant::Xc2d5 => (24576, Some(2.0)),
        };
        let is_hd = self.variant().is_hd();
        ModelConfig {
            vocab_size: sizes.vocab_size,
            hidden_size: sizes.hidden_size,
            intermediate_size: sizes.intermediate_size,
            num_hidden_layers: sizes.num_hidden_layers,
            num_attention_heads: sizes.num_attention_heads,
            num_key_value_heads: sizes.num_key_value_heads,
            rms_norm_eps: 1e-5,
            rope_theta: 1e6,
            rope_scaling: factor.map(|factor| RopeScaling {
                kind: RopeScalingKind::Dynamic,
                factor,
            }),
            max_position_embeddings,
            max_length: if is_hd { 16384 } else { 4096 },
            bos_token_id: 1,
            eos_token_id: 2,
            pad_token_id: 2,
            img_size: (!is_hd).then(|| self.side()),
            torch_dtype: None,
            hidden_act: Some("silu".to_owned()),
            bias: false,
            tie_word_embeddings: false,
            model_type: Some(
                if self.variant() == Variant::Xc2d5 {
                    "internlm2"
                } else {
                    "internlmxcomposer2"
                }
                .to_owned(),
            ),
            architectures: vec![self.architecture().to_owned()],
            vision_config: sizes.vision,
        }
    }

    /// What the checkpoint's tensors will tell besides the config.
    pub fn structure(self) -> Structure {
        let sizes = self.sizes();
        let plain = LowRank {
            rank: sizes.rank,
            scale: 1.0,
        };
        let wqkv = if self == Self::FourKhd7b {
            LowRank {
                rank: 8,
                scale: 2.0,
            }
        } else {
            plain
        };
        let patches = (self.side() / VisionConfig::CLIP_VIT_L_14.patch_size) as usize;
        Structure {
            is_hd: self.variant().is_hd(),
            position_rows: patches * patches + 1,
            partial_lora: PartialLoraDescription {
                wqkv,
                wo: plain,
                w1: plain,
                w3: plain,
                w2: plain,
            },
        }
    }

    /// The 4KHD release names the class of the bare language model, and leaves the right one to `auto_map`.
    fn architecture(self) -> &'static str {
        match self.variant() {
            Variant::Xc2FourKhd => "InternLM2ForCausalLM",
            Variant::Xc2 | Variant::Xc2d5 => "InternLMXComposer2ForCausalLM",
        }
    }

    fn sizes(self) -> Sizes {
        match self {
            Self::Vl7b | Self::Composition7b | Self::FourKhd7b | Self::TwoFive7b => Sizes::SEVEN_B,
            Self::Vl1_8b => Sizes::ONE_EIGHT_B,
            Self::Quarter => Sizes::QUARTER,
            Self::Tiny | Self::TinyFourKhd | Self::TinyTwoFive => Sizes::TINY,
        }
    }
}

struct Sizes {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    rank: usize,
    vision: Option<VisionConfig>,
}

impl Sizes {
    const SEVEN_B: Self = Self {
        vocab_size: 92544,
        hidden_size: 4096,
        intermediate_size: 14336,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        rank: 256,
        vision: None,
    };

    /// The rank of the published one is not known.
    const ONE_EIGHT_B: Self = Self {
        vocab_size: 92544,
        hidden_size: 2048,
        intermediate_size: 8192,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        num_key_value_heads: 8,
        rank: 256,
        vision: None,
    };

    const QUARTER: Self = Self {
        vocab_size: 23136,
        hidden_size: 2048,
        intermediate_size: 7168,
        num_hidden_layers: 8,
        num_attention_heads: 16,
        num_key_value_heads: 4,
        rank: 128,
        vision: Some(VisionConfig {
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            ..VisionConfig::CLIP_VIT_L_14
        }),
    };

    const TINY: Self = Self {
        vocab_size: 1024,
        hidden_size: 128,
        intermediate_size: 384,
        num_hidden_layers: 4,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        rank: 16,
        vision: Some(VisionConfig {
            hidden_size: 64,
            intermediate_size: 256,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            ..VisionConfig::CLIP_VIT_L_14
        }),
    };
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no preset of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no preset {found}; wanted one of {}", Preset::ALL.map(Preset::name).join(", "))]
pub struct UnknownPreset {
    pub found: String,
}

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, UnknownPreset> {
        let found = Self::ALL.into_iter().find(|preset| preset.name() == name);
        found.ok_or_else(|| UnknownPreset {
            found: name.to_owned(),
        })
    }
}
