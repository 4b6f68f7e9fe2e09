//! One rank: keeps the contents of requests and the tokens of sequences, runs plans on its shard, and draws with the others.
//! It decides nothing.

mod request;
mod sequence;

use std::{collections::HashMap, sync::Arc, time::Instant};

use inkstone_engine::{
    BlockId, DrawFailure, DrawKind, Drawn, DrawnToken, RequestId, SequenceId, StepItem, StepOutput,
    StepPlan, TokenLogprob,
};
use inkstone_model::{
    collectives::Collective,
    internlm2::{Batch, LanguageModel},
    kv_cache::KvCache,
    sampling::{self, RowDraw, RowResult, RowSampling, SampleError, SampledToken, TokenMask},
    tensor::Tensor,
};

use self::{request::RankRequest, sequence::RankSequence};
use crate::{
    constraint::ConstraintVocabulary,
    executor::{EncodedPicture, ExecutorError, RequestSetup},
};

/// What a rank is told.
#[derive(Clone, Debug)]
pub enum RankCommand {
    /// The contents of a request that plans will name.
    Admit(Arc<RequestSetup>),
    /// The features of a request's pictures.
    Pictures {
        /// The request.
        request: RequestId,
        /// Each of its pictures once.
        pictures: Vec<Arc<EncodedPicture>>,
    },
    /// A step to run.
    Step(Arc<StepPlan>),
}

/// A rank with its shard, its cache and its way to the others.
pub struct RankRunner {
    model: Arc<LanguageModel>,
    cache: KvCache,
    collective: Arc<dyn Collective>,
    vocabulary: Arc<ConstraintVocabulary>,
    requests: HashMap<RequestId, RankRequest>,
    sequences: HashMap<SequenceId, RankSequence>,
    last_step: u64,
}

/// What a row of logits is for.
#[derive(Clone, Copy)]
enum RowUse {
    /// The item's draw.
    Draw,
    /// The token of a prompt, by its id, that the row predicts.
    Score(u32),
    /// Nothing: the row came along with others of its prompt.
    Nothing,
}

impl RankRunner {
    /// Puts a rank together, with an empty cache of its own.
    pub fn new(
        model: Arc<LanguageModel>,
        num_kv_blocks: usize,
        collective: Arc<dyn Collective>,
        vocabulary: Arc<ConstraintVocabulary>,
    ) -> Self {
        Self {
            cache: model.new_kv_cache(num_kv_blocks),
            model,
            collective,
            vocabulary,
            requests: HashMap::new(),
            sequences: HashMap::new(),
            last_step: 0,
        }
    }

    /// Records its decode steps of up to `most_rows` sequences, where the device gains by that. It works without, more slowly, so a
    /// failure is told and no more.
    pub fn record_decode(&mut self, most_rows: usize) {
        let started = Instant::now();
        let progress = |done, of| tracing::debug!(done, of, "recording decode steps");
        let collective = self.collective.as_ref();
        match self
            .model
            .record_decode(&mut self.cache, collective, most_rows, &progress)
        {
            Ok(0) => {}
            Ok(sizes) => {
                tracing::info!(
                    sizes,
                    seconds = started.elapsed().as_secs_f32(),
                    "decode steps are recorded"
                );
            }
            Err(error) => {
                tracing::warn!(%error, "decode steps cannot be recorded and run op by op");
            }
        }
    }

    /// Its number.
    pub fn rank(&self) -> usize {
        self.collective.rank()
    }

    /// Its way to the others. Whoever runs the rank aborts it when the rank is done for.
    pub fn collective(&self) -> Arc<dyn Collective> {
        Arc::clone(&self.collective)
    }

    /// Does as told; a step's number and output come back. After an error the group is over.
    pub fn follow(
        &mut self,
        command: RankCommand,
    ) -> Result<Option<(u64, StepOutput)>, ExecutorError> {
        let failed = |rank, step, reason| ExecutorError::Rank { rank, step, reason };
        match command {
            RankCommand::Admit(setup) => {
                let request = RankRequest::new(setup, &self.vocabulary);
                self.requests.insert(request.id(), request);
                Ok(None)
            }
            RankCommand::Pictures { request, pictures } => {
                // A request that is over does not need them any more.
                if let Some(request) = self.requests.get_mut(&request) {
                    request.keep_pictures(pictures);
                }
                Ok(None)
            }
            RankCommand::Step(plan) => match self.run(&plan) {
                Ok(output) => Ok(Some((plan.step, output))),
                Err(reason) => Err(failed(self.rank(), plan.step, reason)),
            },
        }
    }

    fn run(&mut self, plan: &StepPlan) -> Result<StepOutput, String> {
        let wanted = self.last_step + 1;
        if plan.step != wanted {
            return Err(format!("wanted step {wanted}, found {}", plan.step));
        }
        self.last_step = plan.step;
        self.keep_books(plan)?;
        if plan.items.is_empty() {
            return Ok(StepOutput::default());
        }
        self.project_pictures(plan)?;
        let logits = self.forward(plan)?;
        let output = self.draw(plan, &logits)?;
        self.drop_projected(plan);
        Ok(output)
    }

    /// All that a plan says before its rows: who ends, who begins, which blocks are copied, what was drawn. All ranks learn
    /// of drawn tokens here, from the plan: only rank 0 drew them.
    fn keep_books(&mut self, plan: &StepPlan) -> Result<(), String> {
        for id in &plan.released {
            self.sequences.remove(id);
        }
        for id in &plan.retired {
            self.requests.remove(id);
        }
        let bos_token_id = self.model.config().bos_token_id;
        for start in &plan.started {
            let request = self.requests.get(&start.request);
            let request = request.ok_or_else(|| is_over(start.request))?;
            let sequence = RankSequence::start(request, start.branch, bos_token_id);
            self.sequences.insert(start.sequence, sequence);
        }
        for fork in &plan.forks {
            let child = sequence(&self.sequences, fork.parent)?.clone();
            self.sequences.insert(fork.child, child);
        }
        for copy in &plan.copies {
            self.cache
                .copy_block(copy.from.0, copy.to.0)
                .map_err(|error| error.to_string())?;
        }
        for item in &plan.items {
            let sequence = self
                .sequences
                .get_mut(&item.sequence)
                .ok_or_else(|| unknown(item.sequence))?;
            if let Some(token_id) = item.appended {
                sequence.append(token_id);
            }
            sequence.check(item)?;
        }
        Ok(())
    }

    /// Runs the projector on pictures whose rows this step computes, unless a step before did.
    fn project_pictures(&mut self, plan: &StepPlan) -> Result<(), String> {
        for item in &plan.items {
            let id = sequence(&self.sequences, item.sequence)?.request();
            let request = self.requests.get_mut(&id).ok_or_else(|| is_over(id))?;
            request.project(item.positions(), &self.model)?;
        }
        Ok(())
    }

    fn forward(&mut self, plan: &StepPlan) -> Result<Tensor, String> {
        let tables: Vec<Vec<u32>> = plan.items.iter().map(block_table).collect();
        let mut sequences = Vec::with_capacity(plan.items.len());
        for (item, table) in plan.items.iter().zip(&tables) {
            let (sequence, request) = contents(&self.sequences, &self.requests, item)?;
            sequences.push(sequence.rows(item, request, table)?);
        }
        let batch = Batch { sequences };
        let output = self
            .model
            .forward(&batch, &mut self.cache, self.collective.as_ref())
            .map_err(|error| error.to_string())?;
        metrics::counter!("inkstone_partial_lora_rows_total")
            .increment(output.stats.partial_lora_rows as u64);
        metrics::counter!("inkstone_replayed_steps_total")
            .increment(output.stats.is_replayed.into());
        Ok(output.logits)
    }

    fn draw(&mut self, plan: &StepPlan, logits: &Tensor) -> Result<StepOutput, String> {
        let uses = self.row_uses(plan)?;
        if uses.is_empty() {
            return Ok(StepOutput::default());
        }
        let masks = self.masks(plan)?;
        let mut rows = Vec::with_capacity(uses.len());
        for (at, used) in &uses {
            let item = &plan.items[*at];
            rows.push(match used {
                RowUse::Draw => self.draw_row(item, masks[*at].as_ref())?,
                RowUse::Score(token_id) => self.score_row(item, *token_id)?,
                RowUse::Nothing => RowSampling::default(),
            });
        }
        let first_id = self.model.first_vocab_id();
        let results = sampling::sample(logits, first_id, &rows, self.collective.as_ref())
            .map_err(|error| error.to_string())?;
        match results {
            Some(results) => collect(plan, &uses, &masks, &|item| self.too_early(item), results),
            None => Ok(StepOutput::default()),
        }
    }

    /// What each row of the logits is for, with its item, in the logits' order.
    fn row_uses(&self, plan: &StepPlan) -> Result<Vec<(usize, RowUse)>, String> {
        let mut uses = Vec::new();
        for (at, item) in plan.items.iter().enumerate() {
            if item.prompt_logprobs {
                let (_, request) = self.contents(item)?;
                let rows = item.positions().map(|position| {
                    let is_last = position + 1 == item.end;
                    match request.predicted(position) {
                        Some(token_id) => RowUse::Score(token_id),
                        None if is_last && item.draw.is_some() => RowUse::Draw,
                        None => RowUse::Nothing,
                    }
                });
                uses.extend(rows.map(|used| (at, used)));
            } else if item.draw.is_some() {
                uses.push((at, RowUse::Draw));
            }
        }
        Ok(uses)
    }

    /// For each item that draws under a constraint, the tokens it allows, or why there are none.
    fn masks(&mut self, plan: &StepPlan) -> Result<Vec<Option<Mask>>, String> {
        let vocab_size = self.model.config().vocab_size;
        let mut masks = Vec::with_capacity(plan.items.len());
        for item in &plan.items {
            let sequence = self
                .sequences
                .get_mut(&item.sequence)
                .ok_or_else(|| unknown(item.sequence))?;
            let allowed = item.draw.and_then(|_| sequence.allowed());
            masks.push(allowed.map(|allowed| Mask::new(allowed, vocab_size)));
        }
        Ok(masks)
    }

    fn draw_row<'a>(
        &'a self,
        item: &StepItem,
        mask: Option<&'a Mask>,
    ) -> Result<RowSampling<'a>, String> {
        let (sequence, request) = self.contents(item)?;
        let draw = item.draw.ok_or("an item without a draw has no row")?;
        let setup = request.setup();
        let is_early = draw.token_index < setup.sampling.min_new_tokens;
        Ok(RowSampling {
            params: setup.sampling.params,
            seen: sequence.seen(),
            generated: sequence.generated(),
            logit_bias: &setup.sampling.logit_bias,
            banned: if is_early { &setup.stop_token_ids } else { &[] },
            allowed: mask.map(|mask| &mask.allowed),
            draw: match draw.kind {
                DrawKind::Tokens {
                    first_branch,
                    branches,
                } => RowDraw::Tokens {
                    token_index: draw.token_index as u64,
                    first_branch: first_branch as u64,
                    branches: branches as u64,
                },
                DrawKind::Candidates { count } => RowDraw::Candidates {
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                },
            },
        })
    }

    /// Where the answer may not end yet, what asks for more of it.
    fn too_early(&self, item: &StepItem) -> Option<String> {
        let (_, request) = self.contents(item).ok()?;
        let (drawn, wanted) = (
            item.draw?.token_index,
            request.setup().sampling.min_new_tokens,
        );
        (drawn < wanted).then(|| {
            format!("the answer can only end after {drawn} tokens, and min_tokens asks for {wanted}; ask for fewer")
        })
    }

    fn score_row(&self, item: &StepItem, token_id: u32) -> Result<RowSampling<'_>, String> {
        let (_, request) = self.contents(item)?;
        Ok(RowSampling {
            params: request.setup().sampling.params,
            draw: RowDraw::Score { token_id },
            ..RowSampling::default()
        })
    }

    /// Once a prompt is computed its projected pictures are not needed; they are made again from the features should it be
    /// computed once more.
    fn drop_projected(&mut self, plan: &StepPlan) {
        for item in plan.items.iter().filter(|item| item.draw.is_some()) {
            let id = self
                .sequences
                .get(&item.sequence)
                .map(RankSequence::request);
            let request = id.and_then(|id| self.requests.get_mut(&id));
            if let Some(request) = request.filter(|request| item.start < request.prompt_tokens()) {
                request.drop_projected();
            }
        }
    }

    fn contents(&self, item: &StepItem) -> Result<(&RankSequence, &RankRequest), String> {
        contents(&self.sequences, &self.requests, item)
    }
}

/// What a constraint allows.
struct Mask {
    allowed: TokenMask,
    /// Why nothing is.
    failure: Option<String>,
}

impl Mask {
    fn new(allowed: Result<TokenMask, String>, vocab_size: usize) -> Self {
        match allowed {
            Ok(allowed) => Self {
                allowed,
                failure: None,
            },
            Err(reason) => Self {
                allowed: TokenMask::none(vocab_size),
                failure: Some(reason),
            },
        }
    }
}

/// What was drawn, as the engine reads it. An error is one that concerns the whole group.
fn collect(
    plan: &StepPlan,
    uses: &[(usize, RowUse)],
    masks: &[Option<Mask>],
    too_early: &dyn Fn(&StepItem) -> Option<String>,
    results: Vec<Result<RowResult, SampleError>>,
) -> Result<StepOutput, String> {
    let mut drawn = Vec::new();
    let mut scores: HashMap<usize, Vec<Option<DrawnToken>>> = HashMap::new();
    for ((at, used), result) in uses.iter().zip(results) {
        let item = &plan.items[*at];
        let mut score = None;
        match used {
            RowUse::Draw => {
                let failure = masks[*at].as_ref().and_then(|mask| mask.failure.clone());
                let failure = || failure.or_else(|| too_early(item));
                drawn.push((item.sequence, drawn_from(result, failure)?));
            }
            RowUse::Score(_) => score = score_from(result)?,
            RowUse::Nothing => {}
        }
        if item.prompt_logprobs {
            scores.entry(*at).or_default().push(score);
        }
    }
    let with_logprobs = plan.items.iter().enumerate();
    let prompt_logprobs = with_logprobs
        .filter(|(_, item)| item.prompt_logprobs)
        .map(|(at, item)| (item.sequence, scores.remove(&at).unwrap_or_default()))
        .collect();
    Ok(StepOutput {
        drawn,
        prompt_logprobs,
    })
}

fn drawn_from(
    result: Result<RowResult, SampleError>,
    failure: impl FnOnce() -> Option<String>,
) -> Result<Drawn, String> {
    match result {
        Ok(RowResult::Tokens(tokens)) => {
            Ok(Drawn::Tokens(tokens.into_iter().map(drawn_token).collect()))
        }
        Ok(RowResult::Candidates(candidates)) => Ok(Drawn::Candidates(token_logprobs(candidates))),
        Ok(RowResult::Score(_)) => Err("a draw came back as a score".to_owned()),
        Err(SampleError::NotFinite { .. }) => Ok(Drawn::Failed(DrawFailure::NotFinite)),
        Err(error @ SampleError::NothingAllowed) => {
            let reason = failure().unwrap_or_else(|| error.to_string());
            Ok(Drawn::Failed(DrawFailure::NothingAllowed(reason)))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn score_from(result: Result<RowResult, SampleError>) -> Result<Option<DrawnToken>, String> {
    match result {
        Ok(RowResult::Score(token)) => Ok(Some(drawn_token(token))),
        Ok(RowResult::Tokens(_) | RowResult::Candidates(_)) => {
            Err("a score came back as a draw".to_owned())
        }
        // The prompt's last row tells the same, and ends the request.
        Err(SampleError::NotFinite { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn drawn_token(token: SampledToken) -> DrawnToken {
    DrawnToken {
        token_id: token.id,
        logprob: token.logprob,
        top_logprobs: token_logprobs(token.top_logprobs),
    }
}

fn token_logprobs(tokens: Vec<sampling::TokenLogprob>) -> Vec<TokenLogprob> {
    let token = |token: sampling::TokenLogprob| TokenLogprob {
        token_id: token.id,
        logprob: token.logprob,
    };
    tokens.into_iter().map(token).collect()
}

fn block_table(item: &StepItem) -> Vec<u32> {
    item.block_table.iter().map(|BlockId(id)| *id).collect()
}

fn sequence(
    sequences: &HashMap<SequenceId, RankSequence>,
    id: SequenceId,
) -> Result<&RankSequence, String> {
    sequences.get(&id).ok_or_else(|| unknown(id))
}

/// The sequence of an item, and its request.
fn contents<'a>(
    sequences: &'a HashMap<SequenceId, RankSequence>,
    requests: &'a HashMap<RequestId, RankRequest>,
    item: &StepItem,
) -> Result<(&'a RankSequence, &'a RankRequest), String> {
    let sequence = sequence(sequences, item.sequence)?;
    let id = sequence.request();
    let request = requests.get(&id).ok_or_else(|| is_over(id))?;
    Ok((sequence, request))
}

fn is_over(id: RequestId) -> String {
    format!("request {id} is over or was not admitted, but the plan runs it")
}

fn unknown(id: SequenceId) -> String {
    format!("the plan names sequence {id}, which was not started")
}

#[cfg(test)]
mod tests;
