//! What goes into a forward: new rows of several sequences, each a run of tokens and picture rows at consecutive positions.

use std::ops::Range;

use inkstone_interface::config::ModelConfig;
use thiserror::Error;

use crate::{
    ops::{
        attention::PlanError,
        embedding::{copy_rows, embed},
        rows::RowRanges,
    },
    partial_lora::PictureRows,
    tensor::{Result, Tensor},
};

/// A ragged batch. Rows lie in the order of the sequences.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    pub sequences: Vec<BatchSequence<'a>>,
}

/// The new rows of one sequence: a chunk of its prompt, or the token drawn last.
#[derive(Clone, Debug)]
pub struct BatchSequence<'a> {
    /// Position of the first row; all positions before it are in the cache.
    pub start: usize,
    pub inputs: Vec<Input<'a>>,
    /// The blocks that hold the sequence, in order, the new rows included.
    pub block_table: &'a [u32],
    /// The length that fixes the sequence's rotary base for its whole life: that of its prompt (spec section 2).
    pub rope_length: usize,
    pub logits: LogitsRows,
}

/// A run of rows.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    Tokens(&'a [u32]),
    /// Rows of a picture that [`super::LanguageModel::project`] gave. Partial LoRA acts on these and on no others.
    Picture {
        projected: &'a Tensor,
        rows: Range<usize>,
    },
}

/// Of which rows the logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsRows {
    None,
    Last,
    All,
}

/// Why a batch cannot be run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BatchError {
    #[error("sequence {sequence} brings no rows")]
    Empty { sequence: usize },
    #[error("sequence {sequence}: token {id} is outside the vocabulary of {vocab_size}")]
    Token {
        sequence: usize,
        id: u32,
        vocab_size: usize,
    },
    #[error(
        "sequence {sequence}: picture rows {start}..{end} are wanted of {found:?}, with rows of {hidden_size}"
    )]
    Picture {
        sequence: usize,
        start: usize,
        end: usize,
        found: Vec<usize>,
        hidden_size: usize,
    },
    #[error("the cache has {found} layers, the model {wanted}")]
    Cache { wanted: usize, found: usize },
    #[error(transparent)]
    Blocks(#[from] PlanError),
}

impl BatchSequence<'_> {
    pub fn num_rows(&self) -> usize {
        self.inputs.iter().map(Input::num_rows).sum()
    }
}

impl Input<'_> {
    pub fn num_rows(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Picture { rows, .. } => rows.len(),
        }
    }
}

impl Batch<'_> {
    pub fn num_rows(&self) -> usize {
        self.sequences.iter().map(BatchSequence::num_rows).sum()
    }

    pub(super) fn check(&self, config: &ModelConfig) -> Result<(), BatchError> {
        for (index, sequence) in self.sequences.iter().enumerate() {
            if sequence.num_rows() == 0 {
                return Err(BatchError::Empty { sequence: index });
            }
            for input in &sequence.inputs {
                input.check(index, config)?;
            }
        }
        Ok(())
    }

    /// The input of the first layer, `[num_rows, hidden_size]`.
    pub(super) fn embed(&self, tok_embeddings: &Tensor) -> Result<Tensor> {
        let shape = [self.num_rows(), tok_embeddings.cols()];
        let device = tok_embeddings.device();
        let dtype = device.activation_dtype(tok_embeddings.dtype());
        let mut hidden = Tensor::unwritten(device, dtype, &shape)?;
        for (first_row, input) in self.inputs() {
            match input {
                Input::Tokens(ids) => embed(tok_embeddings, ids, &mut hidden, first_row)?,
                Input::Picture { projected, rows } => {
                    copy_rows(projected, rows.clone(), &mut hidden, first_row)?;
                }
            }
        }
        Ok(hidden)
    }

    pub(super) fn picture_rows(&self) -> PictureRows {
        let mut pictures = PictureRows::default();
        for (first_row, input) in self.inputs() {
            if let Input::Picture { rows, .. } = input {
                pictures.push(first_row..first_row + rows.len());
            }
        }
        pictures
    }

    /// The rows whose logits are wanted.
    pub(super) fn logits_rows(&self) -> RowRanges {
        let mut rows = RowRanges::default();
        let mut first_row = 0;
        for sequence in &self.sequences {
            let end = first_row + sequence.num_rows();
            match sequence.logits {
                LogitsRows::None => {}
                LogitsRows::Last => rows.push(end - 1..end),
                LogitsRows::All => rows.push(first_row..end),
            }
            first_row = end;
        }
        rows
    }

    /// All inputs with their first row in the batch.
    fn inputs(&self) -> impl Iterator<Item = (usize, &Input<'_>)> {
        let inputs = self.sequences.iter().flat_map(|sequence| &sequence.inputs);
        inputs.scan(0, |next_row, input| {
            let first_row = *next_row;
            *next_row += input.num_rows();
            Some((first_row, input))
        })
    }
}

impl Input<'_> {
    fn check(&self, sequence: usize, config: &ModelConfig) -> Result<(), BatchError> {
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        match self {
            Self::Tokens(ids) => match ids.iter().find(|&&id| id as usize >= vocab_size) {
                Some(&id) => Err(BatchError::Token {
                    sequence,
                    id,
                    vocab_size,
                }),
                None => Ok(()),
            },
            Self::Picture { projected, rows } => {
                let has_rows = rows.start <= rows.end && rows.end <= projected.rows();
                if has_rows && projected.cols() == hidden_size {
                    return Ok(());
                }
                Err(BatchError::Picture {
                    sequence,
                    start: rows.start,
                    end: rows.end,
                    found: projected.shape().to_vec(),
                    hidden_size,
                })
            }
        }
    }
}
