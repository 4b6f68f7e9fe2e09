//! The files of a model folder besides its weights, and the folder's appearance all at once.

use std::fs;
use std::path::{Path, PathBuf};

use inkstone_interface::description::Variant;
use serde_json::{Value, json};

use super::vocabulary::tokenizer_model;
use super::{Preset, SynthesizeError};
use crate::tensor::DType;

const CONFIGURATION: &str = "configuration_internlm_xcomposer2.InternLMXcomposer2Config";
const MODELING: &str = "modeling_internlm_xcomposer2.InternLMXComposer2ForCausalLM";

/// A folder beside the wanted one that becomes it, or goes away.
pub(crate) struct Staging {
    out: PathBuf,
    dir: PathBuf,
}

impl Staging {
    /// Makes the staging folder of `out`, which must be absent or an empty folder.
    pub(crate) fn new(out: &Path) -> Result<Self, SynthesizeError> {
        let out = std::path::absolute(out).map_err(|source| SynthesizeError::Io {
            path: out.to_owned(),
            source,
        })?;
        match fs::read_dir(&out).map(|mut entries| entries.next().is_some()) {
            Ok(false) => {}
            Ok(true) => return Err(SynthesizeError::NotEmpty { out }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(SynthesizeError::Io { path: out, source }),
        }
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let dir = out.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|source| SynthesizeError::Io {
            path: dir.clone(),
            source,
        })?;
        Ok(Self { out, dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives the folder its name. Fails when something has come to be there meanwhile.
    pub(crate) fn publish(self) -> Result<(), SynthesizeError> {
        fs::rename(&self.dir, &self.out).map_err(|source| SynthesizeError::Io {
            path: self.out.clone(),
            source,
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Absent after `publish`; and where it cannot be removed there is no one to tell.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Writes the config, the generation config and the tokenizer.
pub(crate) fn write_small_files(
    dir: &Path,
    preset: Preset,
    dtype: DType,
) -> Result<(), SynthesizeError> {
    write_json(dir, "config.json", &config(preset, dtype))?;
    write_json(dir, "generation_config.json", &generation_config(preset))?;
    write_json(dir, "tokenizer_config.json", &tokenizer_config())?;
    if preset.variant() != Variant::Xc2 {
        write_json(
            dir,
            "added_tokens.json",
            &added_tokens(preset.config().vocab_size),
        )?;
    }
    write(
        dir,
        "tokenizer.model",
        &tokenizer_model(preset.config().vocab_size)?,
    )
}

fn write_json(dir: &Path, name: &str, value: &Value) -> Result<(), SynthesizeError> {
    write(dir, name, format!("{value:#}\n").as_bytes())
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), SynthesizeError> {
    let path = dir.join(name);
    fs::write(&path, bytes).map_err(|source| SynthesizeError::Io { path, source })
}

/// The config with the keys that the published ones have and the network does not read.
fn config(preset: Preset, dtype: DType) -> Value {
    let mut config = json!(preset.config());
    config["auto_map"] = json!({
        "AutoConfig": CONFIGURATION, "AutoModel": MODELING, "AutoModelForCausalLM": MODELING
    });
    config["initializer_range"] = json!(0.02);
    config["torch_dtype"] = json!(match dtype {
        DType::F32 => "float32",
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
    });
    config["use_cache"] = json!(false);
    if let Some(vision) = config.get_mut("vision_config") {
        vision["hidden_act"] = json!("quick_gelu");
        vision["image_size"] = json!(preset.side());
    }
    config
}

fn generation_config(preset: Preset) -> Value {
    let config = preset.config();
    json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "max_length": config.max_length,
        "use_cache": false,
    })
}

fn tokenizer_config() -> Value {
    json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": false,
        "eos_token": "</s>",
        "pad_token": "</s>",
        "tokenizer_class": "InternLMXComposer2Tokenizer",
        "unk_token": "<unk>",
    })
}

/// The names that 4KHD and 2.5 give the last six pieces (spec 9.2).
fn added_tokens(vocab_size: usize) -> Value {
    let names = [
        "plugin",
        "interpreter",
        "action_end",
        "action_start",
        "im_end",
        "im_start",
    ];
    let first = vocab_size - names.len();
    let named = names
        .iter()
        .enumerate()
        .map(|(index, name)| (format!("<|{name}|>"), json!(first + index)));
    Value::Object(named.collect())
}
