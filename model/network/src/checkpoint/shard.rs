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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthesize::Preset;

    fn shards(world_size: usize) -> impl Iterator<Item = Shard> {
        (0..world_size).map(move |rank| Shard { rank, world_size })
    }

    /// Every rule of the table in spec section 8, for rank 1 of 2, 4 and 8.
    #[test]
    fn slices_are_those_of_the_published_shapes() {
        let config = Preset::Vl7b.config();
        for (width, wqkv, wo, inner, vocab) in [
            (2, 3072, 2048, 7168, 46272),
            (4, 1536, 1024, 3584, 23136),
            (8, 768, 512, 1792, 11568),
        ] {
            let shard = Shard {
                rank: 1,
                world_size: width,
            };
            let slice = |kind| slice_for(kind, shard, &config);
            for linear in LinearKind::ALL {
                let (part, other) = match linear {
                    LinearKind::Wqkv => (Slice::Rows(wqkv..2 * wqkv), TensorKind::PloraA(linear)),
                    LinearKind::W1 | LinearKind::W3 => {
                        (Slice::Rows(inner..2 * inner), TensorKind::PloraA(linear))
                    }
                    LinearKind::Wo => (Slice::Columns(wo..2 * wo), TensorKind::PloraB(linear)),
                    LinearKind::W2 => {
                        (Slice::Columns(inner..2 * inner), TensorKind::PloraB(linear))
                    }
                };
                let split = if splits_rows(linear) {
                    TensorKind::PloraB(linear)
                } else {
                    TensorKind::PloraA(linear)
                };
                assert_eq!(
                    slice(TensorKind::Linear(linear)),
                    part,
                    "{linear:?} over {width}"
                );
                assert_eq!(slice(split), part, "{split:?} over {width}");
                assert_eq!(slice(other), Slice::Whole, "{other:?} over {width}");
            }
            assert_eq!(slice(TensorKind::Output), Slice::Rows(vocab..2 * vocab));
            assert_eq!(slice(TensorKind::TokEmbeddings), Slice::Whole);
            assert_eq!(slice(TensorKind::Norm), Slice::Whole);
            assert_eq!(slice(TensorKind::Projector), Slice::Whole);
            assert_eq!(shard.key_value_heads(&config).len(), 8 / width);
        }
    }

    #[test]
    fn parts_of_a_vocabulary_that_does_not_divide_follow_one_another() {
        let config = ModelConfig {
            vocab_size: 1001,
            ..Preset::Tiny.config()
        };
        let parts: Vec<_> = shards(4).map(|shard| shard.vocab(&config)).collect();
        assert_eq!(parts, [0..250, 250..500, 500..750, 750..1001]);
    }

    #[test]
    fn width_that_does_not_divide_says_which_widths_work() {
        let config = Preset::Vl7b.config();
        for (width, number) in [
            (3, "num_key_value_heads 8"),
            (16, "num_key_value_heads 8"),
            (0, "num_key_value_heads 8"),
        ] {
            let error = check_width(width, &config).unwrap_err().to_string();
            assert!(
                error.contains(&format!("width of {width} does not divide {number}")),
                "{error}"
            );
            assert!(
                error.ends_with("widths that work for this model: 1, 2, 4, 8"),
                "{error}"
            );
        }
        let odd = ModelConfig {
            intermediate_size: 386,
            ..config
        };
        let error = check_width(4, &odd).unwrap_err().to_string();
        assert!(error.contains("intermediate_size 386"), "{error}");
        assert!(error.ends_with("1, 2"), "{error}");
    }

    #[test]
    fn rank_outside_its_group_is_refused() {
        let config = Preset::Vl7b.config();
        assert_eq!(
            Shard {
                rank: 2,
                world_size: 2
            }
            .check(&config),
            Err(ShardError::Rank { rank: 2, width: 2 })
        );
        assert_eq!(
            Shard {
                rank: 1,
                world_size: 2
            }
            .check(&config),
            Ok(())
        );
    }
}
