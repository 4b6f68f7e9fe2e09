//! Checkpoints as they are published: a folder with `config.json` and weights as safetensors or torch files, whole or
//! in shards. Opening one checks everything that can be checked without reading weights; a [`Reader`] then reads the
//! part of each tensor that a rank holds. Nothing in a file is ever executed, and no file makes this module panic.

mod convert;
mod detect;
mod element;
mod error;
mod file;
mod index;
mod inspect;
mod inventory;
mod load;
mod pickle;
mod safetensors;
pub mod shard;
mod torch_bin;
mod write;
mod zip;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use inkstone_interface::config::ModelConfig;
use inkstone_interface::description::{ModelDescription, PartialLoraDescription};

pub(crate) use convert::encode as encode_numbers;
pub use element::{Shape, StoredType};
pub use error::CheckpointError;
pub use inspect::{FileRow, Inspection, PartRow, ShardRow};
pub use inventory::{ExpectedTensor, LinearKind, Structure, TensorKind, inventory};
pub use load::{LoadProgress, LoadedTensor, Reader};
pub use shard::{Shard, ShardError, Slice};
pub use write::{TensorSpec, WeightsWriter, WriteError};

use detect::detect;
use file::{StoredTensor, WeightFile};
use index::Weights;
use inventory::Unexpected;

/// An opened model folder. Its weight files stay mapped while it lives.
pub struct Checkpoint {
    dir: PathBuf,
    description: ModelDescription,
    structure: Structure,
    inventory: Vec<ExpectedTensor>,
    weights: Weights,
}

/// One tensor of the network, as stored.
#[derive(Debug, Clone, Copy)]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub kind: TensorKind,
    pub stored: StoredType,
    /// File name without the folder.
    pub file: &'a str,
    /// The stored bytes of its first few elements: enough to tell one training's weights from another's.
    pub first_bytes: &'a [u8],
}

/// Bytes of a tensor that are a sample of it.
const SAMPLE_BYTES: usize = 64;

impl TensorInfo<'_> {
    pub fn num_elements(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }

    /// Bytes in the file.
    pub fn num_bytes(&self) -> u64 {
        self.num_elements() * self.stored.size() as u64
    }
}

impl Checkpoint {
    /// Opens the model folder `dir`: reads the config, the index and every file's header, tells which release it is
    /// and checks that exactly the tensors of that release are there, with the right shapes and types. Adapters of
    /// release 2.5 for other modes and a few names of no effect are let pass and ignored.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let config = ModelConfig::read(dir)?;
        let weights = Weights::open(dir)?;
        check_names_are_unpacked(&weights)?;
        let detected = detect(dir, &config, &weights)?;
        let inventory = inventory(&config, &detected.structure);
        let weight_bytes = check(dir, &inventory, &weights)?;
        let description = ModelDescription {
            name: folder_name(dir),
            variant: detected.variant,
            picture: detected.picture,
            partial_lora: detected.structure.partial_lora,
            max_prompt_tokens: config.max_length,
            stop_token_ids: Vec::new(),
            weight_bytes,
            config,
        };
        Ok(Self {
            dir: dir.to_owned(),
            description,
            structure: detected.structure,
            inventory,
            weights,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn config(&self) -> &ModelConfig {
        &self.description.config
    }

    /// What a coordinator must know of the model. The stop tokens are left to whoever holds the tokenizer.
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// Rank and scale of the low-rank branch of each linear.
    pub fn partial_lora(&self) -> &PartialLoraDescription {
        &self.structure.partial_lora
    }

    /// The network's tensors in the order of the network, without those that are ignored.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.inventory.iter().filter_map(|expected| {
            let (file, tensor) = self.find(&expected.name).ok()?;
            Some(TensorInfo {
                name: &tensor.name,
                shape: &tensor.shape.0,
                kind: expected.kind,
                stored: tensor.stored,
                file: &file.name,
                first_bytes: first_bytes(file, tensor),
            })
        })
    }

    /// A reader that calls `progress` after each tensor, and every now and then inside a large one.
    pub fn reader<'a>(&'a self, progress: &'a dyn Fn(LoadProgress<'_>)) -> Reader<'a> {
        Reader::new(self, progress)
    }

    /// Bytes that a rank of the language model reads, as stored.
    pub fn language_bytes(&self, shard: Shard) -> Result<u64, ShardError> {
        shard.check(self.config())?;
        let parts = self.tensors().filter(|tensor| !tensor.kind.is_vision());
        Ok(parts.map(|tensor| self.shard_bytes(&tensor, shard)).sum())
    }

    /// Bytes that a vision worker reads, as stored.
    pub fn vision_bytes(&self) -> u64 {
        self.tensors()
            .filter(|tensor| tensor.kind.is_vision())
            .map(|tensor| tensor.num_bytes())
            .sum()
    }

    /// Bytes of the part of `tensor` that `shard` holds, as stored.
    fn shard_bytes(&self, tensor: &TensorInfo<'_>, shard: Shard) -> u64 {
        let whole = tensor.num_bytes();
        match shard::slice_for(tensor.kind, shard, self.config()) {
            Slice::Whole => whole,
            Slice::Rows(rows) => whole / tensor.shape[0] as u64 * rows.len() as u64,
            Slice::Columns(columns) => whole / tensor.shape[1] as u64 * columns.len() as u64,
        }
    }

    fn find(&self, name: &str) -> Result<(&WeightFile, &StoredTensor), CheckpointError> {
        match self.weights.tensors.get(name) {
            Some((file, tensor)) => Ok((&self.weights.files[*file], tensor)),
            None => Err(CheckpointError::NoSuchTensor {
                tensor: name.to_owned(),
            }),
        }
    }
}

/// The elements of a tensor that follow its first one in the file, that one included. Only a transposed tensor has others than its
/// first row there.
fn first_bytes<'a>(file: &'a WeightFile, tensor: &StoredTensor) -> &'a [u8] {
    let num_elements = tensor.shape.0.iter().product::<usize>();
    let len = num_elements
        .saturating_mul(tensor.stored.size())
        .min(SAMPLE_BYTES);
    let rest = file.map.get(tensor.offset..).unwrap_or_default();
    &rest[..len.min(rest.len())]
}

/// The folder's own name, which is the model's until somebody names it otherwise.
fn folder_name(dir: &Path) -> String {
    let resolved = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    resolved.file_name().map_or_else(
        || "model".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Checks the tensors found against the inventory, and gives the bytes of those that belong to it.
fn check(
    dir: &Path,
    inventory: &[ExpectedTensor],
    weights: &Weights,
) -> Result<u64, CheckpointError> {
    check_names(inventory, weights)?;
    let is_missing = |expected: &&ExpectedTensor| !weights.tensors.contains_key(&expected.name);
    if let Some(first) = inventory.iter().find(is_missing) {
        let others = inventory.iter().filter(is_missing).count() - 1;
        let more = if others == 0 {
            String::new()
        } else {
            format!(" ({others} more tensors are missing)")
        };
        let (tensor, wanted) = (first.name.clone(), first.shape.clone());
        return Err(CheckpointError::Missing {
            dir: dir.to_owned(),
            tensor,
            wanted,
            more,
        });
    }
    let mut bytes = 0;
    for expected in inventory {
        let (file, found) = &weights.tensors[&expected.name];
        let file = &weights.files[*file].name;
        if found.shape != expected.shape {
            return Err(CheckpointError::WrongShape {
                file: file.clone(),
                tensor: expected.name.clone(),
                wanted: expected.shape.clone(),
                found: found.shape.clone(),
            });
        }
        let dtype = load::weight_type(file, found)?;
        bytes += found.shape.0.iter().product::<usize>() as u64 * dtype.num_bytes() as u64;
    }
    Ok(bytes)
}

/// Checks first of all that the weights are not packed ones, since those would read as many missing tensors.
fn check_names_are_unpacked(weights: &Weights) -> Result<(), CheckpointError> {
    let packed = |name: &&String| Unexpected::classify(name) == Unexpected::Quantised;
    match weights.tensors.keys().find(packed) {
        Some(tensor) => {
            let file = weights.files[weights.tensors[tensor].0].name.clone();
            Err(CheckpointError::Quantised {
                file,
                tensor: tensor.clone(),
            })
        }
        None => Ok(()),
    }
}

/// Checks that every tensor found is in the inventory or may be ignored.
fn check_names(inventory: &[ExpectedTensor], weights: &Weights) -> Result<(), CheckpointError> {
    let known: HashSet<&str> = inventory
        .iter()
        .map(|expected| expected.name.as_str())
        .collect();
    let is_extra = |name: &str| {
        let unexpected = || Unexpected::classify(name);
        !known.contains(name) && matches!(unexpected(), Unexpected::Extra | Unexpected::Quantised)
    };
    match weights.tensors.iter().find(|(name, _)| is_extra(name)) {
        Some((name, (file, tensor))) => Err(CheckpointError::Extra {
            file: weights.files[*file].name.clone(),
            tensor: name.clone(),
            found: tensor.shape.clone(),
        }),
        None => Ok(()),
    }
}
