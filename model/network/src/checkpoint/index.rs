//! Which files of a model folder hold the weights, and the index of a sharded checkpoint: a JSON object whose
//! `weight_map` gives the file of each tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::CheckpointError;
use super::file::{StoredTensor, WeightFile};

/// Longest index that is read, in bytes. A release with 1904 tensors has about 200 kB.
const MAX_INDEX: u64 = 64 << 20;

/// What the folder holds, in order of preference: safetensors before torch files, one file before shards.
const FORMS: [Form; 4] = [
    Form::Single("model.safetensors"),
    Form::Indexed("model.safetensors.index.json"),
    Form::Single("pytorch_model.bin"),
    Form::Indexed("pytorch_model.bin.index.json"),
];

#[derive(Clone, Copy)]
enum Form {
    Single(&'static str),
    Indexed(&'static str),
}

/// The opened weight files and every tensor in them, by name, with the number of its file.
pub(crate) struct Weights {
    pub(crate) files: Vec<WeightFile>,
    pub(crate) tensors: BTreeMap<String, (usize, StoredTensor)>,
}

impl Weights {
    /// Opens the weights of `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        for form in FORMS {
            let (Form::Single(name) | Form::Indexed(name)) = form;
            if dir.join(name).is_file() {
                return match form {
                    Form::Single(name) => Self::open_files(dir, vec![name.to_owned()]),
                    Form::Indexed(name) => Self::open_indexed(dir, name),
                };
            }
        }
        Err(no_weights(dir))
    }

    fn open_indexed(dir: &Path, index_name: &str) -> Result<Self, CheckpointError> {
        let index = Index::read(dir, index_name)?;
        for (tensor, shard) in &index.weight_map {
            if !dir.join(shard).is_file() {
                return Err(CheckpointError::MissingShard {
                    index: index_name.to_owned(),
                    shard: shard.clone(),
                    tensor: tensor.clone(),
                });
            }
        }
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        let weights = Self::open_files(dir, shards.into_iter().cloned().collect())?;
        index.check(index_name, &weights)?;
        Ok(weights)
    }

    fn open_files(dir: &Path, names: Vec<String>) -> Result<Self, CheckpointError> {
        let mut files: Vec<WeightFile> = Vec::with_capacity(names.len());
        let mut tensors: BTreeMap<String, (usize, StoredTensor)> = BTreeMap::new();
        for name in names {
            let file = WeightFile::open(dir, &name)?;
            for tensor in file.tensors()? {
                if let Some((first, tensor)) =
                    tensors.insert(tensor.name.clone(), (files.len(), tensor))
                {
                    let first = files
                        .get(first)
                        .map_or(&file.name, |file| &file.name)
                        .clone();
                    return Err(CheckpointError::Duplicate {
                        tensor: tensor.name,
                        first,
                        second: file.name,
                    });
                }
            }
            files.push(file);
        }
        Ok(Self { files, tensors })
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn read(dir: &Path, name: &str) -> Result<Self, CheckpointError> {
        let path = dir.join(name);
        let corrupt = |reason: String| CheckpointError::CorruptIndex {
            file: name.to_owned(),
            reason,
        };
        let io = |source| CheckpointError::Io {
            path: path.clone(),
            source,
        };
        let size = std::fs::metadata(&path).map_err(io)?.len();
        if size > MAX_INDEX {
            return Err(corrupt(format!(
                "it has {size} bytes, the limit is {MAX_INDEX}"
            )));
        }
        let json = std::fs::read(&path).map_err(io)?;
        let index: Self =
            serde_json::from_slice(&json).map_err(|error| corrupt(error.to_string()))?;
        // A shard lies beside its index; a path elsewhere would let a download read other files.
        let is_plain = |shard: &String| !shard.is_empty() && !shard.contains(['/', '\\']);
        match index.weight_map.iter().find(|(_, shard)| !is_plain(shard)) {
            Some((tensor, shard)) => Err(corrupt(format!(
                "tensor {tensor} is in `{shard}`, which is no file name"
            ))),
            None => Ok(index),
        }
    }

    /// Checks that every tensor is where the index says, and that the index says it of every tensor.
    fn check(&self, index: &str, weights: &Weights) -> Result<(), CheckpointError> {
        let index = index.to_owned();
        for (tensor, wanted) in &self.weight_map {
            let found = weights
                .tensors
                .get(tensor)
                .map(|&(file, _)| &weights.files[file].name);
            let (tensor, wanted) = (tensor.clone(), wanted.clone());
            match found.cloned() {
                Some(found) if found == wanted => {}
                Some(found) => {
                    return Err(CheckpointError::WrongShard {
                        index,
                        tensor,
                        wanted,
                        found,
                    });
                }
                None => {
                    return Err(CheckpointError::AbsentFromShard {
                        index,
                        tensor,
                        wanted,
                    });
                }
            }
        }
        match weights
            .tensors
            .iter()
            .find(|(name, _)| !self.weight_map.contains_key(*name))
        {
            Some((tensor, &(file, _))) => Err(CheckpointError::AbsentFromIndex {
                index,
                tensor: tensor.clone(),
                file: weights.files[file].name.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// The folder has no weights under a known name; a quantised release has them under another.
fn no_weights(dir: &Path) -> CheckpointError {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let quantised = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.starts_with("gptq_model") && name.ends_with(".safetensors"));
    match quantised {
        Some(file) => CheckpointError::Quantised {
            file,
            tensor: "qweight".to_owned(),
        },
        None => CheckpointError::NoWeights {
            dir: dir.to_owned(),
        },
    }
}
