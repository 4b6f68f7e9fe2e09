//! Which part of each tensor a tensor-parallel rank of the language model holds (spec section 8). The rules stand here
//! alone: the loader of the language model and the inspection report both ask this file.
//!
//! Linears that open a block (`wqkv`, `w1`, `w3`) and the head are split by output rows, those that close one (`wo`,
//! `w2`) by input columns. A low-rank branch follows its linear with one matrix and is whole in the other, so that it
//! adds no collective. Embeddings, norms and the projector are whole on every rank.

use std::ops::Range;

use inkstone_interface::config::ModelConfig;

use super::{LinearKind, TensorKind};

/// One rank's place in its tensor-parallel group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shard {
    pub rank: usize,
    pub world_size: usize,
}

/// Which part of a tensor to read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Slice {
    Whole,
    /// A range of the first dimension.
    Rows(Range<usize>),
    /// A range of the second dimension of a matrix.
    Columns(Range<usize>),
}

/// Why a model cannot be split over a number of ranks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    #[error(
        "a tensor-parallel width of {width} does not divide {number} {found}; widths that work for this model: \
         {widths}"
    )]
    Width {
        width: usize,
        number: &'static str,
        found: usize,
        widths: String,
    },
    #[error("rank {rank} is not below the tensor-parallel width {width}; ranks count from 0")]
    Rank { rank: usize, width: usize },
}

impl Shard {
    /// The one rank of a group of one.
    pub const SINGLE: Self = Self {
        rank: 0,
        world_size: 1,
    };

    /// Checks that `config` can be split over this many ranks and that the rank is one of them. To be called before
    /// any of the ranges below is asked for.
    pub fn check(self, config: &ModelConfig) -> Result<(), ShardError> {
        check_width(self.world_size, config)?;
        if self.rank < self.world_size {
            return Ok(());
        }
        Err(ShardError::Rank {
            rank: self.rank,
            width: self.world_size,
        })
    }

    /// This rank's key and value heads.
    pub fn key_value_heads(self, config: &ModelConfig) -> Range<usize> {
        self.part_of(config.num_key_value_heads)
    }

    /// This rank's query heads: those of its key and value heads.
    pub fn query_heads(self, config: &ModelConfig) -> Range<usize> {
        let group = config.num_attention_heads / config.num_key_value_heads;
        scale(self.key_value_heads(config), group)
    }

    /// This rank's part of the inner width of the feed-forward block.
    pub fn intermediate(self, config: &ModelConfig) -> Range<usize> {
        self.part_of(config.intermediate_size)
    }

    /// This rank's token ids in the head. Parts differ by one where the vocabulary does not divide evenly.
    pub fn vocab(self, config: &ModelConfig) -> Range<usize> {
        self.part_of(config.vocab_size)
    }

    /// A contiguous part of `0..total`; the parts of all ranks follow one another and differ by one at most.
    fn part_of(self, total: usize) -> Range<usize> {
        total * self.rank / self.world_size..total * (self.rank + 1) / self.world_size
    }
}

/// Checks that `config` can be split over `width` ranks.
pub fn check_width(width: usize, config: &ModelConfig) -> Result<(), ShardError> {
    let numbers = [
        ("num_key_value_heads", config.num_key_value_heads),
        ("intermediate_size", config.intermediate_size),
    ];
    let fits = |width: usize, number: usize| width > 0 && number.is_multiple_of(width);
    let Some((number, found)) = numbers
        .into_iter()
        .find(|&(_, number)| !fits(width, number))
    else {
        return Ok(());
    };
    let widths: Vec<String> = (1..=config.num_key_value_heads)
        .filter(|&width| numbers.iter().all(|&(_, number)| fits(width, number)))
        .map(|width| width.to_string())
        .collect();
    Err(ShardError::Width {
        width,
        number,
        found,
        widths: widths.join(", "),
    })
}

/// The part of a tensor that `shard` holds. Vision tensors are not split: a vision worker holds them whole.
pub fn slice_for(kind: TensorKind, shard: Shard, config: &ModelConfig) -> Slice {
    if shard.world_size == 1 {
        return Slice::Whole;
    }
    match kind {
        TensorKind::Linear(linear) | TensorKind::PloraB(linear) if splits_rows(linear) => {
            Slice::Rows(row_part(linear, shard, config))
        }
        TensorKind::Linear(linear) | TensorKind::PloraA(linear) if !splits_rows(linear) => {
            Slice::Columns(column_part(linear, shard, config))
        }
        TensorKind::Output => Slice::Rows(shard.vocab(config)),
        TensorKind::PloraA(_) | TensorKind::PloraB(_) | TensorKind::Linear(_) => Slice::Whole,
        TensorKind::TokEmbeddings | TensorKind::Norm | TensorKind::Projector => Slice::Whole,
        TensorKind::Separator | TensorKind::Tower => Slice::Whole,
    }
}

/// Whether a linear is split by its output rows, rather than by its input columns.
pub fn splits_rows(linear: LinearKind) -> bool {
    match linear {
        LinearKind::Wqkv | LinearKind::W1 | LinearKind::W3 => true,
        LinearKind::Wo | LinearKind::W2 => false,
    }
}

fn row_part(linear: LinearKind, shard: Shard, config: &ModelConfig) -> Range<usize> {
    match linear {
        // Each key and value head's rows hold its query heads, then the key head, then the value head.
        LinearKind::Wqkv => {
            let group = config.num_attention_heads / config.num_key_value_heads + 2;
            scale(shard.key_value_heads(config), group * config.head_dim())
        }
        _ => shard.intermediate(config),
    }
}

fn column_part(linear: LinearKind, shard: Shard, config: &ModelConfig) -> Range<usize> {
    match linear {
        LinearKind::Wo => scale(shard.query_heads(config), config.head_dim()),
        _ => shard.intermediate(config),
    }
}

fn scale(range: Range<usize>, factor: usize) -> Range<usize> {
    range.start * factor..range.end * factor
}
