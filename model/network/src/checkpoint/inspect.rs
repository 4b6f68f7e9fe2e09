//! What is in a checkpoint and what a rank of a tensor-parallel group would hold of it, as numbers and as the text that
//! `inkstone model inspect` prints.

use std::collections::BTreeMap;
use std::fmt;

use inkstone_interface::description::{PartialLoraDescription, Variant};
use serde::Serialize;

use super::shard::{self, Shard, ShardError, Slice};
use super::{Checkpoint, LinearKind, StoredType, TensorInfo, TensorKind};

/// A checkpoint's contents, and their split over `tensor_parallel` ranks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    pub name: String,
    pub variant: Variant,
    /// Side of a picture or tile in pixels.
    pub picture_side: u32,
    pub layers: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub attention_heads: usize,
    pub key_value_heads: usize,
    pub vocab_size: usize,
    pub partial_lora: PartialLoraDescription,
    pub files: Vec<FileRow>,
    pub parts: Vec<PartRow>,
    pub parameters: u64,
    pub bytes: u64,
    /// Tensors in the files that base mode does not use: adapters of other modes, leftovers.
    pub ignored_tensors: usize,
    pub ignored_bytes: u64,
    pub tensor_parallel: usize,
    pub shards: Vec<ShardRow>,
    /// Weights that the fullest rank of the language model holds, as stored.
    pub language_bytes_per_rank: u64,
    /// Weights that a vision worker holds, as stored.
    pub vision_bytes: u64,
    /// Keys and values are kept in the type of the weights.
    pub kv_bytes_per_token_per_rank: u64,
    /// Tokens of the longest prompt.
    pub max_prompt_tokens: usize,
    /// Weights and the cache of one longest prompt on the fullest rank.
    pub total_bytes_per_rank: u64,
}

/// A weight file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileRow {
    pub name: String,
    pub bytes: u64,
    pub tensors: usize,
}

/// A part of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartRow {
    pub part: &'static str,
    pub parameters: u64,
    pub bytes: u64,
}

/// One kind of tensor and what a rank holds of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardRow {
    pub tensor: String,
    /// Shape of the whole tensor, of the first where shapes differ.
    pub shape: Vec<usize>,
    pub count: usize,
    /// `whole`, `rows`, `columns`, or `vision` for what is not on these ranks.
    pub rule: &'static str,
    pub bytes: u64,
    /// On the rank that holds most.
    pub bytes_per_rank: u64,
}

impl Checkpoint {
    /// Looks at the checkpoint as a group of `tensor_parallel` ranks would load it. Fails where the model cannot be
    /// split that way.
    pub fn inspect(&self, tensor_parallel: usize) -> Result<Inspection, ShardError> {
        let config = self.config();
        shard::check_width(tensor_parallel, config)?;
        let ranks: Vec<Shard> = (0..tensor_parallel)
            .map(|rank| Shard {
                rank,
                world_size: tensor_parallel,
            })
            .collect();
        let fullest = |bytes_of: &dyn Fn(Shard) -> u64| {
            ranks.iter().map(|&rank| bytes_of(rank)).max().unwrap_or(0)
        };
        let language_bytes = |rank: Shard| {
            let language = self.tensors().filter(|tensor| !tensor.kind.is_vision());
            language.map(|tensor| self.shard_bytes(&tensor, rank)).sum()
        };
        let language_bytes_per_rank = fullest(&language_bytes);
        let local_heads = (config.num_key_value_heads / tensor_parallel) as u64;
        let kv_numbers =
            2 * local_heads * config.head_dim() as u64 * config.num_hidden_layers as u64;
        let kv_bytes_per_token_per_rank = kv_numbers * self.kv_number_bytes();
        let (ignored_tensors, ignored_bytes) = self.ignored();
        Ok(Inspection {
            name: self.description().name.clone(),
            variant: self.description().variant,
            picture_side: self.description().picture.side,
            layers: config.num_hidden_layers,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            attention_heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            vocab_size: config.vocab_size,
            partial_lora: *self.partial_lora(),
            files: self.file_rows(),
            parts: self.part_rows(),
            parameters: self.tensors().map(|tensor| tensor.num_elements()).sum(),
            bytes: self.description().weight_bytes,
            ignored_tensors,
            ignored_bytes,
            tensor_parallel,
            shards: self.shard_rows(&ranks),
            language_bytes_per_rank,
            vision_bytes: self.vision_bytes(),
            kv_bytes_per_token_per_rank,
            max_prompt_tokens: config.max_length,
            total_bytes_per_rank: language_bytes_per_rank
                + kv_bytes_per_token_per_rank * config.max_length as u64,
        })
    }

    /// Bytes of a cached number: the cache has the type of the head, like the language model's.
    fn kv_number_bytes(&self) -> u64 {
        let head = self
            .tensors()
            .find(|tensor| tensor.kind == TensorKind::Output);
        head.map_or(2, |head| head.stored.size() as u64)
    }

    fn file_rows(&self) -> Vec<FileRow> {
        let row = |(index, file): (usize, &super::WeightFile)| FileRow {
            name: file.name.clone(),
            bytes: file.map.len() as u64,
            tensors: self
                .weights
                .tensors
                .values()
                .filter(|(of, _)| *of == index)
                .count(),
        };
        self.weights.files.iter().enumerate().map(row).collect()
    }

    fn part_rows(&self) -> Vec<PartRow> {
        let mut rows: BTreeMap<usize, PartRow> = BTreeMap::new();
        for tensor in self.tensors() {
            let (place, part) = part_of(tensor.kind);
            let row = rows.entry(place).or_insert(PartRow {
                part,
                parameters: 0,
                bytes: 0,
            });
            row.parameters += tensor.num_elements();
            row.bytes += tensor.num_bytes();
        }
        rows.into_values().collect()
    }

    fn shard_rows(&self, ranks: &[Shard]) -> Vec<ShardRow> {
        let mut kinds: BTreeMap<TensorKind, (Vec<TensorInfo<'_>>, Vec<u64>)> = BTreeMap::new();
        for tensor in self.tensors() {
            let (tensors, bytes) = kinds
                .entry(tensor.kind)
                .or_insert_with(|| (Vec::new(), vec![0; ranks.len()]));
            for (bytes, &rank) in bytes.iter_mut().zip(ranks) {
                *bytes += self.shard_bytes(&tensor, rank);
            }
            tensors.push(tensor);
        }
        let row =
            |(kind, (tensors, bytes)): (TensorKind, (Vec<TensorInfo<'_>>, Vec<u64>))| ShardRow {
                tensor: kind_name(kind),
                shape: tensors[0].shape.to_vec(),
                count: tensors.len(),
                rule: self.rule_name(kind, ranks.len()),
                bytes: tensors.iter().map(TensorInfo::num_bytes).sum(),
                bytes_per_rank: if kind.is_vision() {
                    0
                } else {
                    bytes.into_iter().max().unwrap_or(0)
                },
            };
        kinds.into_iter().map(row).collect()
    }

    fn rule_name(&self, kind: TensorKind, world_size: usize) -> &'static str {
        match shard::slice_for(
            kind,
            Shard {
                rank: 0,
                world_size,
            },
            self.config(),
        ) {
            _ if kind.is_vision() => "vision",
            Slice::Whole => "whole",
            Slice::Rows(_) => "rows",
            Slice::Columns(_) => "columns",
        }
    }

    /// Number and bytes of the tensors that are in the files but not in the network.
    fn ignored(&self) -> (usize, u64) {
        let all = self.weights.tensors.values().map(|(_, tensor)| {
            let count: u64 = tensor.shape.0.iter().map(|&dim| dim as u64).product();
            count * StoredType::size(tensor.stored) as u64
        });
        let bytes: u64 = all.sum();
        (
            self.weights.tensors.len() - self.inventory.len(),
            bytes - self.description().weight_bytes,
        )
    }
}

/// The part of the network that a kind belongs to, with its place in the report.
fn part_of(kind: TensorKind) -> (usize, &'static str) {
    match kind {
        TensorKind::TokEmbeddings => (0, "token embeddings"),
        TensorKind::Linear(_) => (1, "decoder linears"),
        TensorKind::PloraA(_) | TensorKind::PloraB(_) => (2, "partial lora"),
        TensorKind::Norm => (3, "norms"),
        TensorKind::Output => (4, "output head"),
        TensorKind::Projector => (5, "projector"),
        TensorKind::Separator => (6, "separators"),
        TensorKind::Tower => (7, "vision tower"),
    }
}

fn kind_name(kind: TensorKind) -> String {
    match kind {
        TensorKind::TokEmbeddings => "tok_embeddings".to_owned(),
        TensorKind::Norm => "norms".to_owned(),
        TensorKind::Linear(linear) => linear.name().to_owned(),
        TensorKind::PloraA(linear) => format!("{}.Plora_A", linear.name()),
        TensorKind::PloraB(linear) => format!("{}.Plora_B", linear.name()),
        TensorKind::Output => "output".to_owned(),
        TensorKind::Projector => "vision_proj".to_owned(),
        TensorKind::Separator => "plora_glb_GN, plora_sub_GN".to_owned(),
        TensorKind::Tower => "vit".to_owned(),
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_model(f)?;
        self.fmt_contents(f)?;
        self.fmt_shards(f)
    }
}

impl Inspection {
    fn fmt_model(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({}, pictures of {} pixels)",
            self.name, self.variant, self.picture_side
        )?;
        writeln!(
            f,
            "{} layers, hidden {}, intermediate {}, {} heads, {} kv heads, vocabulary {}",
            self.layers,
            self.hidden_size,
            self.intermediate_size,
            self.attention_heads,
            self.key_value_heads,
            self.vocab_size
        )?;
        let plora = &self.partial_lora;
        let branches = LinearKind::ALL
            .into_iter()
            .zip([plora.wqkv, plora.wo, plora.w1, plora.w3, plora.w2]);
        write!(f, "partial lora")?;
        for (linear, branch) in branches {
            let short = linear.name().rsplit('.').next().unwrap_or_default();
            write!(f, "  {short} rank {} scale {}", branch.rank, branch.scale)?;
        }
        writeln!(f, "\n")
    }

    fn fmt_contents(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<40} {:>10} {:>12}", "file", "tensors", "bytes")?;
        for row in &self.files {
            writeln!(
                f,
                "{:<40} {:>10} {:>12}",
                row.name,
                row.tensors,
                Bytes(row.bytes)
            )?;
        }
        if self.ignored_tensors > 0 {
            let bytes = Bytes(self.ignored_bytes);
            writeln!(
                f,
                "{:<40} {:>10} {:>12}",
                "of them not used", self.ignored_tensors, bytes
            )?;
        }
        writeln!(f, "\n{:<34} {:>16} {:>12}", "part", "parameters", "bytes")?;
        for row in &self.parts {
            writeln!(
                f,
                "{:<34} {:>16} {:>12}",
                row.part,
                row.parameters,
                Bytes(row.bytes)
            )?;
        }
        writeln!(
            f,
            "{:<34} {:>16} {:>12}\n",
            "total",
            self.parameters,
            Bytes(self.bytes)
        )
    }

    fn fmt_shards(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tensor parallel {}", self.tensor_parallel)?;
        writeln!(
            f,
            "{:<28} {:>6} {:<18} {:<8} {:>12} {:>12}",
            "tensor", "count", "shape", "split", "bytes", "per rank"
        )?;
        for row in &self.shards {
            let (shape, bytes, per_rank) = (
                format!("{:?}", row.shape),
                Bytes(row.bytes),
                Bytes(row.bytes_per_rank),
            );
            writeln!(
                f,
                "{:<28} {:>6} {shape:<18} {:<8} {bytes:>12} {per_rank:>12}",
                row.tensor, row.count, row.rule
            )?;
        }
        writeln!(
            f,
            "\nweights per language rank        {:>12}",
            Bytes(self.language_bytes_per_rank)
        )?;
        writeln!(
            f,
            "weights per vision worker        {:>12}",
            Bytes(self.vision_bytes)
        )?;
        writeln!(
            f,
            "kv cache per token per rank      {:>12}",
            Bytes(self.kv_bytes_per_token_per_rank)
        )?;
        let tokens = self.max_prompt_tokens;
        writeln!(
            f,
            "total per language rank          {:>12}  (one sequence of {tokens} tokens)",
            Bytes(self.total_bytes_per_rank)
        )
    }
}

/// Bytes with a unit of powers of ten, as file listings have them.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        let text = match self.0 {
            0..10_000 => format!("{} B", self.0),
            10_000..10_000_000 => format!("{:.1} kB", bytes / 1e3),
            10_000_000..10_000_000_000 => format!("{:.1} MB", bytes / 1e6),
            _ => format!("{:.2} GB", bytes / 1e9),
        };
        f.pad(&text)
    }
}
