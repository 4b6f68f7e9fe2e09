//! `config.json` by the official keys (spec sections 1 and 2).
//!
//! The class defaults of the official configuration are not the model's values, so nothing is filled in here: a key
//! the network needs and the file lacks is an error. Sizes are bounded, so that later arithmetic cannot overflow.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The name of the file that [`ModelConfig::read`] looks for.
pub const CONFIG_FILE: &str = "config.json";

/// Prompt limit in tokens where `max_length` is absent: the value of the 2.0 releases.
const DEFAULT_MAX_LENGTH: usize = 4096;

const REQUIRED_KEYS: [&str; 14] = [
    "bias",
    "bos_token_id",
    "eos_token_id",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

/// The part of `config.json` that serving needs. Fields keep the official names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    #[serde(default)]
    pub rope_scaling: Option<RopeScaling>,
    pub max_position_embeddings: usize,
    /// Longest prompt in tokens, pictures included.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    pub bos_token_id: u32,
    pub eos_token_id: u32,
    pub pad_token_id: u32,
    /// Side of the square picture in pixels; only the single-scale releases say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub img_size: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch_dtype: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_act: Option<String>,
    pub bias: bool,
    pub tie_word_embeddings: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Sizes of the vision tower. The releases leave them out: then [`VisionConfig::CLIP_VIT_L_14`] holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision_config: Option<VisionConfig>,
}

fn default_max_length() -> usize {
    DEFAULT_MAX_LENGTH
}

/// How rotary frequencies change with length (spec section 2). Absent means plain rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RopeScaling {
    #[serde(rename = "type", alias = "rope_type")]
    pub kind: RopeScalingKind,
    pub factor: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeScalingKind {
    /// The base grows once a prompt is longer than `max_position_embeddings`.
    Dynamic,
    /// Positions are divided by the factor.
    Linear,
}

/// Sizes of the CLIP vision tower (spec section 4.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Side in pixels that the tower was made for; what a checkpoint takes is told by its position table.
    pub image_size: u32,
    pub patch_size: u32,
    pub layer_norm_eps: f64,
}

impl VisionConfig {
    /// The tower of every release, which the official code keeps as constants.
    pub const CLIP_VIT_L_14: Self = Self {
        hidden_size: 1024,
        intermediate_size: 4096,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        image_size: 336,
        patch_size: 14,
        layer_norm_eps: 1e-5,
    };

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self::CLIP_VIT_L_14
    }
}

impl ModelConfig {
    /// Longest prompt whose rotary base is `rope_theta`: the base of a longer one follows from its own length. `None`: all have the
    /// same base. Cached keys of two prompts are alike only where their bases are.
    pub fn rope_base_fixed_up_to(&self) -> Option<usize> {
        match self.rope_scaling?.kind {
            RopeScalingKind::Dynamic => Some(self.max_position_embeddings),
            RopeScalingKind::Linear => None,
        }
    }

    /// Reads and checks the `config.json` in `dir`.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join(CONFIG_FILE);
        match std::fs::read_to_string(&path) {
            Ok(json) => Self::parse(&json, &path),
            Err(source) => Err(ConfigError::Read { file: path, source }),
        }
    }

    /// Parses and checks the text of a `config.json`.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        Self::parse(json, Path::new(CONFIG_FILE))
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Query heads that share one key and value head.
    pub fn num_query_groups(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Sizes of the vision tower: the file's, or those of CLIP ViT-L/14.
    pub fn vision(&self) -> VisionConfig {
        self.vision_config.clone().unwrap_or_default()
    }

    /// Checks a config that did not come through [`ModelConfig::from_json`], such as one received from a peer.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check(Path::new(CONFIG_FILE))
    }

    fn parse(json: &str, file: &Path) -> Result<Self, ConfigError> {
        let syntax = |source| ConfigError::Syntax {
            file: file.to_owned(),
            source,
        };
        let value: serde_json::Value = serde_json::from_str(json).map_err(syntax)?;
        let missing: Vec<_> = REQUIRED_KEYS
            .into_iter()
            .filter(|key| value.get(key).is_none_or(|found| found.is_null()))
            .collect();
        if !missing.is_empty() {
            return Err(ConfigError::MissingKeys {
                file: file.to_owned(),
                keys: missing.join(", "),
            });
        }
        check_rope_scaling_type(&value, file)?;
        let config: Self = serde_json::from_str(json).map_err(syntax)?;
        config.check(file)?;
        Ok(config)
    }

    fn check(&self, file: &Path) -> Result<(), ConfigError> {
        let check = Check { file };
        check.size("vocab_size", self.vocab_size, 1 << 22)?;
        check.size("hidden_size", self.hidden_size, 1 << 17)?;
        check.size("intermediate_size", self.intermediate_size, 1 << 20)?;
        check.size("num_hidden_layers", self.num_hidden_layers, 1 << 10)?;
        check.size("num_attention_heads", self.num_attention_heads, 1 << 10)?;
        check.size("num_key_value_heads", self.num_key_value_heads, 1 << 10)?;
        check.size(
            "max_position_embeddings",
            self.max_position_embeddings,
            1 << 24,
        )?;
        check.size("max_length", self.max_length, 1 << 24)?;
        if let Some(img_size) = self.img_size {
            check.size("img_size", img_size as usize, 1 << 13)?;
        }
        check.heads(
            "num_attention_heads",
            self.hidden_size,
            self.num_attention_heads,
        )?;
        check.divides(
            "num_attention_heads",
            self.num_attention_heads,
            "num_key_value_heads",
            self.num_key_value_heads,
        )?;
        check.even(
            "head size (hidden_size / num_attention_heads)",
            self.head_dim(),
        )?;
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        check.at_least_one("rope_theta", self.rope_theta)?;
        if let Some(scaling) = self.rope_scaling {
            check.at_least_one("rope_scaling.factor", scaling.factor)?;
        }
        check.token("bos_token_id", self.bos_token_id, self.vocab_size)?;
        check.token("eos_token_id", self.eos_token_id, self.vocab_size)?;
        check.token("pad_token_id", self.pad_token_id, self.vocab_size)?;
        check.supported("bias", &self.bias.to_string(), "false")?;
        check.supported(
            "tie_word_embeddings",
            &self.tie_word_embeddings.to_string(),
            "false",
        )?;
        if let Some(activation) = &self.hidden_act {
            check.supported("hidden_act", activation, "silu")?;
        }
        self.vision_config
            .as_ref()
            .map_or(Ok(()), |vision| vision.check(&check))
    }
}

impl VisionConfig {
    fn check(&self, check: &Check<'_>) -> Result<(), ConfigError> {
        check.size("vision_config.hidden_size", self.hidden_size, 1 << 16)?;
        check.size(
            "vision_config.intermediate_size",
            self.intermediate_size,
            1 << 18,
        )?;
        check.size(
            "vision_config.num_hidden_layers",
            self.num_hidden_layers,
            1 << 10,
        )?;
        check.size(
            "vision_config.num_attention_heads",
            self.num_attention_heads,
            1 << 10,
        )?;
        check.size(
            "vision_config.image_size",
            self.image_size as usize,
            1 << 13,
        )?;
        check.size(
            "vision_config.patch_size",
            self.patch_size as usize,
            1 << 10,
        )?;
        check.heads(
            "vision_config.num_attention_heads",
            self.hidden_size,
            self.num_attention_heads,
        )?;
        check.epsilon("vision_config.layer_norm_eps", self.layer_norm_eps)
    }
}

/// Tells an unknown scaling type apart from a malformed file: the model would run with wrong positions.
fn check_rope_scaling_type(config: &serde_json::Value, file: &Path) -> Result<(), ConfigError> {
    let Some(scaling) = config
        .get("rope_scaling")
        .filter(|scaling| !scaling.is_null())
    else {
        return Ok(());
    };
    let found = scaling.get("type").or_else(|| scaling.get("rope_type"));
    match found.and_then(|kind| kind.as_str()) {
        Some("dynamic" | "linear") => Ok(()),
        Some(other) => Err(ConfigError::Unsupported {
            file: file.to_owned(),
            key: "rope_scaling.type",
            found: other.to_owned(),
            wanted: "dynamic, linear or rope_scaling null",
        }),
        None => Err(ConfigError::MissingKeys {
            file: file.to_owned(),
            keys: "rope_scaling.type".to_owned(),
        }),
    }
}

/// The checks, each giving an error that names the file and the key.
struct Check<'a> {
    file: &'a Path,
}

impl Check<'_> {
    fn invalid(&self, reason: String) -> ConfigError {
        ConfigError::Invalid {
            file: self.file.to_owned(),
            reason,
        }
    }

    fn size(&self, key: &str, found: usize, max: usize) -> Result<(), ConfigError> {
        if (1..=max).contains(&found) {
            return Ok(());
        }
        Err(self.invalid(format!("{key} must be from 1 to {max}, found {found}")))
    }

    fn heads(&self, key: &str, hidden_size: usize, num_heads: usize) -> Result<(), ConfigError> {
        self.divides("hidden_size", hidden_size, key, num_heads)
    }

    fn divides(&self, key: &str, found: usize, by_key: &str, by: usize) -> Result<(), ConfigError> {
        if found.is_multiple_of(by) {
            return Ok(());
        }
        Err(self.invalid(format!("{by_key} {by} must divide {key} {found}")))
    }

    fn even(&self, what: &str, found: usize) -> Result<(), ConfigError> {
        if found.is_multiple_of(2) {
            return Ok(());
        }
        Err(self.invalid(format!(
            "{what} must be even for the rotary embedding, found {found}"
        )))
    }

    fn epsilon(&self, key: &str, found: f64) -> Result<(), ConfigError> {
        if found > 0.0 && found < 1.0 {
            return Ok(());
        }
        Err(self.invalid(format!("{key} must be between 0 and 1, found {found}")))
    }

    fn at_least_one(&self, key: &str, found: f64) -> Result<(), ConfigError> {
        if found.is_finite() && found >= 1.0 {
            return Ok(());
        }
        Err(self.invalid(format!(
            "{key} must be finite and at least 1, found {found}"
        )))
    }

    fn token(&self, key: &str, found: u32, vocab_size: usize) -> Result<(), ConfigError> {
        if (found as usize) < vocab_size {
            return Ok(());
        }
        Err(self.invalid(format!(
            "{key} must be below vocab_size {vocab_size}, found {found}"
        )))
    }

    fn supported(
        &self,
        key: &'static str,
        found: &str,
        wanted: &'static str,
    ) -> Result<(), ConfigError> {
        if found == wanted {
            return Ok(());
        }
        Err(ConfigError::Unsupported {
            file: self.file.to_owned(),
            key,
            found: found.to_owned(),
            wanted,
        })
    }
}

/// Why a `config.json` cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", file.display())]
    Read {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot parse {}: {source}", file.display())]
    Syntax {
        file: PathBuf,
        source: serde_json::Error,
    },
    #[error("{} lacks required keys: {keys}", file.display())]
    MissingKeys { file: PathBuf, keys: String },
    #[error("{}: {key} {found} is not supported, wanted {wanted}", file.display())]
    Unsupported {
        file: PathBuf,
        key: &'static str,
        found: String,
        wanted: &'static str,
    },
    #[error("{}: {reason}", file.display())]
    Invalid { file: PathBuf, reason: String },
}
