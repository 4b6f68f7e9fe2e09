//! One rank: keeps the contents of sequences, runs plans on its shard, and draws with the others. It decides nothing.

use std::{collections::HashMap, ops::Range, sync::Arc};

use inkstone_engine::{BlockId, Sampled, SequenceId, StepItem, StepOutput, StepPlan, Work};
use inkstone_model::{
    collectives::Collective,
    internlm2::{Batch, BatchSequence, Input, LanguageModel, LogitsRows},
    kv_cache::KvCache,
    sampling::{self, RowSampling, SampleError, SampledToken},
    tensor::Tensor,
};

use crate::executor::{ExecutorError, PromptPart, SequenceSetup};

/// What a rank is told.
#[derive(Clone, Debug)]
pub enum RankCommand {
    /// The contents of a sequence that plans will name.
    Admit(Arc<SequenceSetup>),
    /// A step to run.
    Step(Arc<StepPlan>),
}

/// A rank with its shard, its cache and its way to the others.
pub struct RankRunner {
    model: Arc<LanguageModel>,
    cache: KvCache,
    collective: Arc<dyn Collective>,
    sequences: HashMap<SequenceId, RankSequence>,
    last_step: u64,
}

/// A sequence as a rank keeps it.
struct RankSequence {
    setup: Arc<SequenceSetup>,
    /// Projected pictures of the prompt, by part; made when prefill reaches them, dropped when it is done.
    projected: Vec<Option<Tensor>>,
    /// Distinct ids that the repetition penalty counts (spec/model.md section 10.3).
    seen: Vec<u32>,
}

impl RankRunner {
    /// Puts a rank together, with an empty cache of its own.
    pub fn new(
        model: Arc<LanguageModel>,
        num_kv_blocks: usize,
        collective: Arc<dyn Collective>,
    ) -> Self {
        Self {
            cache: model.new_kv_cache(num_kv_blocks),
            model,
            collective,
            sequences: HashMap::new(),
            last_step: 0,
        }
    }

    /// Its number.
    pub fn rank(&self) -> usize {
        self.collective.rank()
    }

    /// Does as told. After an error the group is over: the others are told through the collective.
    pub fn follow(&mut self, command: RankCommand) -> Result<(), ExecutorError> {
        match command {
            RankCommand::Admit(setup) => {
                self.admit(setup);
                Ok(())
            }
            RankCommand::Step(plan) => self.run(&plan).map(drop),
        }
    }

    /// Keeps the contents of a sequence.
    pub fn admit(&mut self, setup: Arc<SequenceSetup>) {
        let sequence = RankSequence::new(setup, self.model.config().bos_token_id);
        self.sequences.insert(sequence.setup.id, sequence);
    }

    /// Runs one step and draws.
    pub fn run(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecutorError> {
        let result = self.try_run(plan);
        if result.is_err() {
            self.collective.abort();
        }
        result.map_err(|reason| ExecutorError::Rank {
            rank: self.rank(),
            step: plan.step,
            reason,
        })
    }

    fn try_run(&mut self, plan: &StepPlan) -> Result<StepOutput, String> {
        if plan.step != self.last_step + 1 {
            return Err(format!(
                "wanted step {}, found {}",
                self.last_step + 1,
                plan.step
            ));
        }
        self.last_step = plan.step;
        for id in &plan.released {
            self.sequences.remove(id);
        }
        if plan.items.is_empty() {
            return Ok(StepOutput::default());
        }
        self.note_tokens(plan)?;
        self.project_pictures(plan)?;
        let logits = self.forward(plan)?;
        let output = self.draw(plan, &logits)?;
        self.drop_pictures(plan);
        Ok(output)
    }

    /// Tokens that were drawn count as seen. All ranks learn of them here, from the plan: only the leader drew.
    fn note_tokens(&mut self, plan: &StepPlan) -> Result<(), String> {
        for item in &plan.items {
            if let Work::Decode { token_id, .. } = item.work {
                self.sequences
                    .get_mut(&item.sequence)
                    .ok_or_else(|| unknown(item.sequence))?
                    .see(token_id);
            }
        }
        Ok(())
    }

    /// Runs the projector on pictures that this step reaches for the first time.
    fn project_pictures(&mut self, plan: &StepPlan) -> Result<(), String> {
        for item in &plan.items {
            let Work::Prefill { start, end, .. } = item.work else {
                continue;
            };
            let sequence = self
                .sequences
                .get_mut(&item.sequence)
                .ok_or_else(|| unknown(item.sequence))?;
            let setup = Arc::clone(&sequence.setup);
            for (part, _) in parts_in(&setup.prompt, start..end) {
                if let (PromptPart::Picture(picture), projected @ None) =
                    (&setup.prompt[part], &mut sequence.projected[part])
                {
                    let tensor = self
                        .model
                        .project(&picture.features)
                        .map_err(|error| error.to_string())?;
                    *projected = Some(tensor);
                }
            }
        }
        Ok(())
    }

    fn forward(&mut self, plan: &StepPlan) -> Result<Tensor, String> {
        let tables: Vec<Vec<u32>> = plan.items.iter().map(block_table).collect();
        let mut sequences = Vec::with_capacity(plan.items.len());
        for (item, table) in plan.items.iter().zip(&tables) {
            let sequence = self
                .sequences
                .get(&item.sequence)
                .ok_or_else(|| unknown(item.sequence))?;
            sequences.push(sequence.batch_sequence(&item.work, table)?);
        }
        let output = self
            .model
            .forward(
                &Batch { sequences },
                &mut self.cache,
                self.collective.as_ref(),
            )
            .map_err(|error| error.to_string())?;
        metrics::counter!("inkstone_partial_lora_rows_total")
            .increment(output.stats.partial_lora_rows as u64);
        Ok(output.logits)
    }

    fn draw(&self, plan: &StepPlan, logits: &Tensor) -> Result<StepOutput, String> {
        let mut ids = Vec::new();
        let mut rows = Vec::new();
        for item in &plan.items {
            let Some(token_index) = item.work.samples() else {
                continue;
            };
            let sequence = self
                .sequences
                .get(&item.sequence)
                .ok_or_else(|| unknown(item.sequence))?;
            ids.push(item.sequence);
            rows.push(RowSampling {
                params: sequence.setup.sampling,
                seen: &sequence.seen,
                token_index: token_index as u64,
            });
        }
        if rows.is_empty() {
            return Ok(StepOutput::default());
        }
        let logits = logits.as_f32().map_err(|error| error.to_string())?;
        let drawn = sampling::sample(
            logits,
            self.model.first_vocab_id(),
            &rows,
            self.collective.as_ref(),
        )
        .map_err(|error| error.to_string())?;
        let sampled = |(id, drawn): (SequenceId, Result<SampledToken, SampleError>)| match drawn {
            Ok(token) => Ok((id, Sampled::Token(token.id))),
            Err(SampleError::NotFinite { .. }) => Ok((id, Sampled::NotFinite)),
            Err(error @ (SampleError::Parameter { .. } | SampleError::Malformed(_))) => {
                Err(error.to_string())
            }
        };
        let sampled = ids
            .into_iter()
            .zip(drawn.unwrap_or_default())
            .map(sampled)
            .collect::<Result<_, _>>()?;
        Ok(StepOutput { sampled })
    }

    /// A finished prefill needs its projected pictures no more.
    fn drop_pictures(&mut self, plan: &StepPlan) {
        for item in &plan.items {
            if let (Work::Prefill { samples: true, .. }, Some(sequence)) =
                (&item.work, self.sequences.get_mut(&item.sequence))
            {
                sequence.projected.fill(None);
            }
        }
    }
}

impl RankSequence {
    fn new(setup: Arc<SequenceSetup>, bos_token_id: u32) -> Self {
        let mut sequence = Self {
            projected: vec![None; setup.prompt.len()],
            seen: Vec::new(),
            setup,
        };
        let setup = Arc::clone(&sequence.setup);
        if setup.has_picture() {
            // The reference gives such prompts as embeddings: all it has seen is one BOS.
            sequence.see(bos_token_id);
        } else {
            for part in &setup.prompt {
                if let PromptPart::Tokens(ids) = part {
                    ids.iter().for_each(|id| sequence.see(*id));
                }
            }
        }
        sequence
    }

    fn see(&mut self, token_id: u32) {
        if let Err(at) = self.seen.binary_search(&token_id) {
            self.seen.insert(at, token_id);
        }
    }

    fn batch_sequence<'a>(
        &'a self,
        work: &'a Work,
        block_table: &'a [u32],
    ) -> Result<BatchSequence<'a>, String> {
        let rope_length = self.setup.prompt_tokens();
        let (start, inputs, logits) = match work {
            Work::Decode {
                token_id, position, ..
            } => (
                *position,
                vec![Input::Tokens(std::slice::from_ref(token_id))],
                LogitsRows::Last,
            ),
            Work::Prefill {
                start,
                end,
                samples,
            } => {
                let inputs = self.prompt_inputs(*start..*end)?;
                let logits = if *samples {
                    LogitsRows::Last
                } else {
                    LogitsRows::None
                };
                (*start, inputs, logits)
            }
        };
        Ok(BatchSequence {
            start,
            inputs,
            block_table,
            rope_length,
            logits,
        })
    }

    fn prompt_inputs(&self, positions: Range<usize>) -> Result<Vec<Input<'_>>, String> {
        let end = positions.end;
        let mut inputs = Vec::new();
        let mut reached = positions.start;
        for (part, rows) in parts_in(&self.setup.prompt, positions) {
            reached += rows.len();
            inputs.push(match &self.setup.prompt[part] {
                PromptPart::Tokens(ids) => Input::Tokens(&ids[rows]),
                PromptPart::Picture(_) => Input::Picture {
                    projected: self.projected[part]
                        .as_ref()
                        .ok_or("a picture was not projected")?,
                    rows,
                },
            });
        }
        if reached != end {
            return Err(format!(
                "wanted positions up to {end} of sequence {}, found {reached}",
                self.setup.id
            ));
        }
        Ok(inputs)
    }
}

/// The parts of a prompt that `positions` touch, each with its own rows among them.
fn parts_in(prompt: &[PromptPart], positions: Range<usize>) -> Vec<(usize, Range<usize>)> {
    let mut first = 0;
    let mut touched = Vec::new();
    for (part, content) in prompt.iter().enumerate() {
        let len = content.num_tokens();
        let start = positions.start.clamp(first, first + len) - first;
        let end = positions.end.clamp(first, first + len) - first;
        if start < end {
            touched.push((part, start..end));
        }
        first += len;
    }
    touched
}

fn block_table(item: &StepItem) -> Vec<u32> {
    item.block_table.iter().map(|BlockId(id)| *id).collect()
}

fn unknown(id: SequenceId) -> String {
    format!("the plan names sequence {id}, which was not admitted")
}

#[cfg(test)]
mod tests;
