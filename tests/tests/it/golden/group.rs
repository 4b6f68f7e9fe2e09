//! A tensor-parallel group of threads that runs prompts the way a worker does: every rank loads its shard, projects the
//! pictures, keeps its part of a paged cache, and takes part in sampling; the leader's tokens go to the others.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use inkstone_interface::config::ModelConfig;
use inkstone_model::{
    checkpoint::{Checkpoint, Shard},
    clip::PictureFeatures,
    collectives::{Collective, LocalCollective},
    device::Device,
    internlm2::{Batch, BatchSequence, ForwardOutput, Input, LanguageModel, LogitsRows},
    kv_cache::{BLOCK_TOKENS, KvCache},
    load_options::LoadOptions,
    sampling::{RowDraw, RowSampling, SamplingParams, sample},
    tensor::{DType, Tensor},
};

use super::{
    compare::pick_rows,
    sequence::{Blocks, RankInput, Running, num_picture_rows, num_rows, slice},
};

/// Longer than any case takes, so that only a rank that has gone ends a wait.
const DEADLINE: Duration = Duration::from_secs(300);

/// Threads of all ranks together.
const NUM_THREADS: usize = 2;

/// The loaded ranks of a group.
pub(super) struct Group {
    ranks: Vec<LanguageModel>,
    devices: Vec<Device>,
    config: ModelConfig,
    cache_dtype: DType,
}

/// A piece of a prompt with the pictures encoded.
#[derive(Clone)]
pub(super) enum PromptInput {
    Tokens(Vec<u32>),
    Picture(Arc<PictureFeatures>),
}

/// What to generate for one prompt.
pub(super) struct Job {
    pub(super) inputs: Vec<PromptInput>,
    pub(super) params: SamplingParams,
    /// Ids that the repetition penalty counts besides the new ones.
    pub(super) seen: Vec<u32>,
    /// Tokens that end the answer, and are its last.
    pub(super) stop_ids: Vec<u32>,
    pub(super) max_new_tokens: usize,
}

/// What came of a [`Job`].
#[derive(Debug)]
pub(super) struct Generated {
    pub(super) tokens: Vec<u32>,
    /// Logits of each step, `[tokens.len(), vocab_size]`.
    pub(super) logits: Vec<f32>,
}

/// Logits and hidden states of some positions of a prompt.
pub(super) struct Prefilled {
    /// `[positions, vocab_size]`
    pub(super) logits: Vec<f32>,
    /// `[num_hidden_layers + 2, positions, hidden_size]`
    pub(super) hidden: Vec<f32>,
}

impl Group {
    pub(super) fn load(
        checkpoint: &Checkpoint,
        world_size: usize,
        dtype: Option<DType>,
    ) -> Result<Self> {
        let devices: Vec<_> = (0..world_size)
            .map(|_| Device::cpu((NUM_THREADS / world_size).max(1)))
            .collect();
        let load = |(rank, device): (usize, &Device)| {
            let shard = Shard { rank, world_size };
            let options = LoadOptions {
                device: device.clone(),
                dtype,
            };
            Ok(LanguageModel::load(checkpoint, shard, &options, &|_| ())?)
        };
        Ok(Self {
            ranks: devices
                .iter()
                .enumerate()
                .map(load)
                .collect::<Result<_>>()?,
            devices,
            config: checkpoint.config().clone(),
            cache_dtype: dtype.unwrap_or(DType::F32),
        })
    }

    pub(super) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// A picture's rows after the projector.
    pub(super) fn project(&self, features: &PictureFeatures) -> Result<Vec<f32>> {
        Ok(self.ranks[0].project(features)?.to_f32_vec()?)
    }

    /// Runs a whole prompt in one step and gives the logits, and where wanted the hidden states, of `positions`.
    pub(super) fn prefill(
        &self,
        inputs: &[PromptInput],
        positions: &[usize],
        wants_hidden: bool,
    ) -> Result<Prefilled> {
        let parts = self.on_all_ranks(|rank| rank.prefill(inputs, positions, wants_hidden))?;
        let mut parts = parts.into_iter();
        let (first, hidden) = parts.next().context("a group has a leader")?;
        let slices = [first].into_iter().chain(parts.map(|(logits, _)| logits));
        Ok(Prefilled {
            logits: self.join_columns(slices.collect(), positions.len()),
            hidden,
        })
    }

    /// Generates for all jobs together in one ragged batch, prompts in chunks; short prompts decode while long ones are read.
    pub(super) fn generate(&self, jobs: &[Job]) -> Result<Vec<Generated>> {
        let parts = self.on_all_ranks(|rank| rank.generate(jobs))?;
        let mut joined = Vec::new();
        for job in 0..jobs.len() {
            let tokens = parts[0][job].tokens.clone();
            ensure!(
                parts.iter().all(|rank| rank[job].tokens == tokens),
                "ranks hold different tokens"
            );
            let slices = parts.iter().map(|rank| rank[job].logits.clone()).collect();
            let logits = self.join_columns(slices, tokens.len());
            joined.push(Generated { tokens, logits });
        }
        Ok(joined)
    }

    /// Runs `work` on a thread for each rank. The first error is returned, with the others' consequences left out.
    fn on_all_ranks<T: Send>(
        &self,
        work: impl Fn(&Rank<'_>) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let ends = LocalCollective::group(self.ranks.len(), DEADLINE);
        let run = |end: LocalCollective| {
            let rank = Rank {
                model: &self.ranks[end.rank()],
                device: &self.devices[end.rank()],
                config: &self.config,
                cache_dtype: self.cache_dtype,
                shard: Shard {
                    rank: end.rank(),
                    world_size: self.ranks.len(),
                },
                collective: &end,
            };
            work(&rank)
        };
        let run = &run;
        thread::scope(|scope| {
            let spawn = |end| scope.spawn(move || run(end));
            let threads: Vec<_> = ends.into_iter().map(spawn).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<T>>| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a rank panicked")))
            };
            threads.into_iter().map(join).collect()
        })
    }

    /// Puts the ranks' columns of `[num_rows, vocab / world_size]` side by side.
    fn join_columns(&self, slices: Vec<Vec<f32>>, num_rows: usize) -> Vec<f32> {
        let mut joined = Vec::with_capacity(num_rows * self.config.vocab_size);
        for row in 0..num_rows {
            for slice in &slices {
                let width = slice.len() / num_rows;
                joined.extend_from_slice(&slice[row * width..][..width]);
            }
        }
        joined
    }
}

/// One rank at work.
struct Rank<'a> {
    model: &'a LanguageModel,
    device: &'a Device,
    config: &'a ModelConfig,
    cache_dtype: DType,
    shard: Shard,
    collective: &'a dyn Collective,
}

impl Rank<'_> {
    fn prefill(
        &self,
        inputs: &[PromptInput],
        positions: &[usize],
        wants_hidden: bool,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let inputs = self.inputs(inputs)?;
        let num_rows = num_rows(&inputs);
        let mut blocks = Blocks::new(num_rows.div_ceil(BLOCK_TOKENS));
        let block_table = blocks.take(num_rows);
        let batch = Batch {
            sequences: vec![BatchSequence {
                start: 0,
                inputs: slice(&inputs, 0..num_rows),
                block_table: &block_table,
                rope_length: num_rows,
                logits: LogitsRows::All,
            }],
        };
        let mut cache = self.cache(blocks.total);
        let mut hidden = Vec::new();
        let mut pick = |_: usize, states: &Tensor| {
            let values = states.to_f32_vec().expect("rows of numbers");
            for position in positions {
                hidden.extend_from_slice(&values[position * states.cols()..][..states.cols()]);
            }
        };
        let output = if wants_hidden {
            self.model
                .forward_with(&batch, &mut cache, self.collective, &mut pick)?
        } else {
            self.model.forward(&batch, &mut cache, self.collective)?
        };
        self.check_stats(&output, num_picture_rows(&inputs))?;
        let width = output.logits.cols();
        let logits = pick_rows(output.logits.as_f32()?, width, positions)?;
        Ok((logits, hidden))
    }

    fn generate(&self, jobs: &[Job]) -> Result<Vec<Generated>> {
        let inputs = jobs
            .iter()
            .map(|job| self.inputs(&job.inputs))
            .collect::<Result<Vec<_>>>()?;
        let lengths: Vec<_> = inputs
            .iter()
            .zip(jobs)
            .map(|(inputs, job)| num_rows(inputs) + job.max_new_tokens)
            .collect();
        let mut blocks = Blocks::new(lengths.iter().map(|n| n.div_ceil(BLOCK_TOKENS)).sum());
        let mut running: Vec<_> = jobs
            .iter()
            .zip(&inputs)
            .zip(&lengths)
            .map(|((job, inputs), length)| Running::new(job, inputs, blocks.take(*length)))
            .collect();
        let mut cache = self.cache(blocks.total);
        while running.iter().any(|sequence| !sequence.is_done()) {
            self.step(&mut running, &mut cache)?;
        }
        Ok(running
            .into_iter()
            .map(|sequence| sequence.generated)
            .collect())
    }

    /// One step of all sequences that are not done: the next rows of each, and a token for each that has read its prompt.
    fn step(&self, running: &mut [Running<'_>], cache: &mut KvCache) -> Result<()> {
        let mut active: Vec<_> = running.iter_mut().filter(|s| !s.is_done()).collect();
        let batch = Batch {
            sequences: active.iter().map(|sequence| sequence.next()).collect(),
        };
        let num_picture_rows = batch
            .sequences
            .iter()
            .flat_map(|s| &s.inputs)
            .map(|input| match input {
                Input::Tokens(_) => 0,
                Input::Picture { rows, .. } => rows.len(),
            })
            .sum();
        let num_rows: Vec<_> = batch
            .sequences
            .iter()
            .map(BatchSequence::num_rows)
            .collect();
        let output = self.model.forward(&batch, cache, self.collective)?;
        self.check_stats(&output, num_picture_rows)?;
        for (sequence, num_rows) in active.iter_mut().zip(num_rows) {
            sequence.position += num_rows;
        }
        active.retain(|sequence| sequence.has_read_prompt());
        self.sample(&mut active, &output.logits)
    }

    /// Draws a token for each of the sequences, whose logits are the rows of `logits`.
    fn sample(&self, active: &mut [&mut Running<'_>], logits: &Tensor) -> Result<()> {
        if active.is_empty() {
            return Ok(());
        }
        let first_id = self.shard.vocab(self.config).start as u32;
        let seen: Vec<Vec<u32>> = active.iter().map(|sequence| sequence.seen()).collect();
        let row = active
            .iter()
            .zip(&seen)
            .map(|(sequence, seen)| RowSampling {
                params: sequence.job.params,
                seen,
                draw: RowDraw::Tokens {
                    token_index: sequence.generated.tokens.len() as u64,
                    first_branch: 0,
                    branches: 1,
                },
                ..RowSampling::default()
            });
        let rows: Vec<_> = row.collect();
        let drawn = sample(logits, first_id, &rows, self.collective)?;
        let mine = match drawn {
            None => Vec::new(),
            Some(tokens) => {
                let ids = tokens.into_iter().map(|row| Ok(row?.tokens()[0].id as f32));
                ids.collect::<Result<_>>()?
            }
        };
        let gathered = self.collective.all_gather(&mine)?;
        let logits = logits.as_f32()?;
        let width = logits.len() / active.len();
        for ((sequence, id), row) in active
            .iter_mut()
            .zip(&gathered[0])
            .zip(logits.chunks_exact(width))
        {
            sequence.generated.tokens.push(*id as u32);
            sequence.generated.logits.extend_from_slice(row);
        }
        Ok(())
    }

    /// Partial LoRA runs on picture rows and no others, and there are two sums a layer.
    fn check_stats(&self, output: &ForwardOutput, num_picture_rows: usize) -> Result<()> {
        let stats = output.stats;
        ensure!(
            stats.partial_lora_rows == num_picture_rows,
            "Partial LoRA ran on {} rows, {num_picture_rows} are of pictures",
            stats.partial_lora_rows
        );
        let wanted = 2 * self.config.num_hidden_layers;
        ensure!(
            stats.all_reduces == wanted,
            "{} all-reduces, wanted {wanted}",
            stats.all_reduces
        );
        Ok(())
    }

    fn inputs<'a>(&self, inputs: &'a [PromptInput]) -> Result<Vec<RankInput<'a>>> {
        let input = |input: &'a PromptInput| {
            Ok(match input {
                PromptInput::Tokens(ids) => RankInput::Tokens(ids),
                PromptInput::Picture(features) => RankInput::Picture(self.model.project(features)?),
            })
        };
        inputs.iter().map(input).collect()
    }

    fn cache(&self, num_blocks: usize) -> KvCache {
        KvCache::new(
            self.config,
            self.shard,
            num_blocks,
            self.cache_dtype,
            self.device,
        )
    }
}
