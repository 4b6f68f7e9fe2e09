//! What can be wrong with a model folder. Every message names the file and the tensor, what was wanted, what was
//! found and what to do about it.

use std::path::PathBuf;

use inkstone_interface::config::ConfigError;

use super::Shape;
use super::shard::ShardError;
use crate::tensor::TensorError;

const DAMAGED: &str = "download the file again or restore it from a good copy";

/// Why a model folder cannot be opened or a tensor of it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot read {path}: {source}; check that the path is right and may be read", path = path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },

    #[error(transparent)]
    Config(#[from] ConfigError),

    /// The device has no room for a weight, or failed.
    #[error(transparent)]
    Device(#[from] TensorError),

    #[error(
        "no weights in {dir}: wanted model.safetensors, model.safetensors.index.json, pytorch_model.bin or \
         pytorch_model.bin.index.json, found none of them; point to the folder that holds config.json and the weights",
        dir = dir.display()
    )]
    NoWeights { dir: PathBuf },

    #[error("{file} is not a usable shard index: {reason}; {DAMAGED}")]
    CorruptIndex { file: String, reason: String },

    #[error(
        "{index} names the shard {shard} (for tensor {tensor}), but there is no such file; download the shard"
    )]
    MissingShard {
        index: String,
        shard: String,
        tensor: String,
    },

    #[error(
        "{index} says that tensor {tensor} is in {wanted}, but it was found in {found}; the index does not belong to \
         these shards: take index and shards from one download"
    )]
    WrongShard {
        index: String,
        tensor: String,
        wanted: String,
        found: String,
    },

    #[error(
        "{index} says that tensor {tensor} is in {wanted}, but it is in no shard; the index does not belong to these \
         shards: take index and shards from one download"
    )]
    AbsentFromShard {
        index: String,
        tensor: String,
        wanted: String,
    },

    #[error(
        "tensor {tensor} is in {file} but {index} does not name it; take index and shards from one download"
    )]
    AbsentFromIndex {
        index: String,
        tensor: String,
        file: String,
    },

    #[error(
        "tensor {tensor} is both in {first} and in {second}; wanted it once: remove one of the two"
    )]
    Duplicate {
        tensor: String,
        first: String,
        second: String,
    },

    #[error("{file} has a corrupt header: {reason}; {DAMAGED}")]
    CorruptHeader { file: String, reason: String },

    #[error(
        "{file} is truncated: {what} ends at byte {wanted}, the file has {found} bytes; {DAMAGED}"
    )]
    Truncated {
        file: String,
        what: String,
        wanted: u64,
        found: u64,
    },

    #[error(
        "{file}: tensor {tensor} has the bytes {begin}..{end}, but its shape {shape} takes {wanted} bytes; {DAMAGED}"
    )]
    BadOffsets {
        file: String,
        tensor: String,
        begin: u64,
        end: u64,
        shape: Shape,
        wanted: u64,
    },

    #[error("{file}: the bytes of tensor {tensor} overlap those of tensor {other}; {DAMAGED}")]
    Overlap {
        file: String,
        tensor: String,
        other: String,
    },

    #[error(
        "{file} asks to run `{global}`, which a checkpoint of tensors does not need; nothing was run. Do not use this \
         file unless you trust where it comes from; if you do, save it again as safetensors"
    )]
    RefusedGlobal { file: String, global: String },

    #[error(
        "{file}: {what} is not something that a checkpoint of plain tensors has; save the weights again as \
         safetensors, or with torch.save(model.state_dict())"
    )]
    UnsupportedPickle { file: String, what: String },

    #[error("{file}: tensor {tensor} {reason}; save the weights again as contiguous tensors")]
    UnsupportedLayout {
        file: String,
        tensor: String,
        reason: String,
    },

    #[error(
        "quantised checkpoints are not supported yet: {file} has the packed tensor {tensor}; use the bfloat16 release \
         of the model"
    )]
    Quantised { file: String, tensor: String },

    #[error(
        "tensor {tensor} is missing from {dir}: wanted it with shape {wanted}, found no tensor of that name{more}; \
         check that config.json belongs to these weights and that the download is complete",
        dir = dir.display()
    )]
    Missing {
        dir: PathBuf,
        tensor: String,
        wanted: Shape,
        more: String,
    },

    #[error(
        "{file}: tensor {tensor} with shape {found} does not belong to this model (config.json and the other tensors \
         do not lead to such a name); check that config.json belongs to these weights, or remove the tensor"
    )]
    Extra {
        file: String,
        tensor: String,
        found: Shape,
    },

    #[error(
        "{file}: tensor {tensor} has shape {found}, wanted {wanted}; check that config.json belongs to these weights"
    )]
    WrongShape {
        file: String,
        tensor: String,
        wanted: Shape,
        found: Shape,
    },

    #[error(
        "{file}: tensor {tensor} has type {found}, wanted F32, BF16 or F16; convert the weights"
    )]
    WrongType {
        file: String,
        tensor: String,
        found: String,
    },

    #[error(
        "cannot tell which release {file} is: {reason}; wanted the tensors of XComposer2 (7b, vl-7b), 4KHD (577 rows \
         of position_embedding) or 2.5 (1601 rows)"
    )]
    UnknownVariant { file: String, reason: String },

    #[error("{dir}: {reason}; check that config.json belongs to these weights", dir = dir.display())]
    BadGeometry { dir: PathBuf, reason: String },

    #[error(
        "there is no tensor {tensor} in this checkpoint; ask for a name that `tensors()` lists"
    )]
    NoSuchTensor { tensor: String },

    #[error("tensor {tensor} has shape {found}; {asked} cannot be cut from it")]
    BadSlice {
        tensor: String,
        found: Shape,
        asked: String,
    },

    #[error(transparent)]
    Shard(#[from] ShardError),
}
