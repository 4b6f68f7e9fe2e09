//! Writes weights as safetensors from a stream of bytes, so that no tensor need ever be in memory whole. Above a limit
//! the tensors go to several files with an index, named as published checkpoints name them. Nothing is forced to the
//! disk: a machine that loses power right afterwards may lose what was written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::StoredType;
use crate::tensor::DType;

/// Header lengths are rounded up to this, so that the first tensor of the mapped file is aligned.
const ALIGNMENT: usize = 64;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: DType,
}

impl TensorSpec {
    /// Bytes of its numbers.
    pub fn num_bytes(&self) -> u64 {
        let count: u64 = self.shape.iter().map(|&dim| dim as u64).product();
        count * self.dtype.num_bytes() as u64
    }

    fn stored(&self) -> StoredType {
        match self.dtype {
            DType::F32 => StoredType::F32,
            DType::BF16 => StoredType::BF16,
            DType::F16 => StoredType::F16,
        }
    }
}

/// Why weights cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot write {path}: {source}", path = path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("wanted {wanted} bytes of tensors, {found} were given")]
    Length { wanted: u64, found: u64 },
}

/// Writes the tensors it was made with, in their order, to one or more files.
pub struct WeightsWriter {
    dir: PathBuf,
    shards: Vec<Vec<TensorSpec>>,
    /// The shard being written, and how many bytes of it are still to come.
    open: Option<(File, u64)>,
    next_shard: usize,
    bytes_done: u64,
    bytes_total: u64,
}

impl WeightsWriter {
    /// Prepares to write `tensors` to the folder `dir`. A file takes tensors until the next would bring it above
    /// `max_file_bytes`; it always takes one.
    pub fn new(dir: &Path, tensors: Vec<TensorSpec>, max_file_bytes: u64) -> Self {
        let bytes_total = tensors.iter().map(TensorSpec::num_bytes).sum();
        let shards = split(tensors, max_file_bytes);
        Self {
            dir: dir.to_owned(),
            shards,
            open: None,
            next_shard: 0,
            bytes_done: 0,
            bytes_total,
        }
    }

    /// Bytes of all tensors.
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total
    }

    /// Appends `bytes`, little-endian numbers, wherever in the sequence of tensors the writer has come to.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let path = self
                .dir
                .join(self.file_name(self.next_shard.saturating_sub(1)));
            let Some((file, left)) = self.open.as_mut().filter(|(_, left)| *left > 0) else {
                self.start_shard(bytes.len())?;
                continue;
            };
            let (now, later) = bytes.split_at(
                bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX)),
            );
            file.write_all(now)
                .map_err(|source| WriteError::Io { path, source })?;
            *left -= now.len() as u64;
            self.bytes_done += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Checks that every byte has come, and writes the index where there are several files.
    pub fn finish(self) -> Result<(), WriteError> {
        if self.bytes_done != self.bytes_total {
            return Err(WriteError::Length {
                wanted: self.bytes_total,
                found: self.bytes_done,
            });
        }
        if self.shards.len() > 1 {
            self.write_index()?;
        }
        Ok(())
    }

    /// Instead of any `write`: files whose numbers are holes, which read as zeros and take no room on the disk.
    pub fn finish_hollow(mut self) -> Result<(), WriteError> {
        while self.next_shard < self.shards.len() {
            self.start_shard(0)?;
            let path = self.dir.join(self.file_name(self.next_shard - 1));
            let Some((file, bytes)) = self.open.as_mut() else {
                continue;
            };
            file.stream_position()
                .and_then(|begin| file.set_len(begin + *bytes))
                .map_err(|source| WriteError::Io { path, source })?;
            self.bytes_done += *bytes;
            *bytes = 0;
        }
        self.finish()
    }

    fn file_name(&self, shard: usize) -> String {
        match self.shards.len() {
            0 | 1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
        }
    }

    fn start_shard(&mut self, given: usize) -> Result<(), WriteError> {
        let Some(tensors) = self.shards.get(self.next_shard) else {
            let found = self.bytes_done + given as u64;
            return Err(WriteError::Length {
                wanted: self.bytes_total,
                found,
            });
        };
        let path = self.dir.join(self.file_name(self.next_shard));
        let io = |source| WriteError::Io {
            path: path.clone(),
            source,
        };
        let mut file = File::create_new(&path).map_err(io)?;
        file.write_all(&header(tensors)).map_err(io)?;
        self.open = Some((file, tensors.iter().map(TensorSpec::num_bytes).sum()));
        self.next_shard += 1;
        Ok(())
    }

    fn write_index(&self) -> Result<(), WriteError> {
        let named = self.shards.iter().enumerate().flat_map(|(shard, tensors)| {
            tensors
                .iter()
                .map(move |tensor| (tensor.name.clone(), self.file_name(shard)))
        });
        let weight_map: BTreeMap<String, String> = named.collect();
        let index = json!({"metadata": {"total_size": self.bytes_total}, "weight_map": weight_map});
        let path = self.dir.join("model.safetensors.index.json");
        std::fs::write(&path, format!("{index:#}\n"))
            .map_err(|source| WriteError::Io { path, source })
    }
}

/// Tensors in order, cut into files. There is always one file.
fn split(tensors: Vec<TensorSpec>, max_file_bytes: u64) -> Vec<Vec<TensorSpec>> {
    let mut shards = vec![Vec::new()];
    let mut bytes = 0;
    for tensor in tensors {
        let size = tensor.num_bytes();
        if bytes > 0 && bytes + size > max_file_bytes {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

/// The file's first bytes: length and JSON, padded with spaces as the format allows.
fn header(tensors: &[TensorSpec]) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.num_bytes();
        let entry = json!({
            "dtype": tensor.stored().name(), "shape": tensor.shape, "data_offsets": [begin, end]
        });
        entries.insert(tensor.name.clone(), entry);
        begin = end;
    }
    let json = serde_json::Value::Object(entries).to_string();
    let padded = (8 + json.len()).next_multiple_of(ALIGNMENT) - 8;
    let mut header = (padded as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header.resize(8 + padded, b' ');
    header
}
