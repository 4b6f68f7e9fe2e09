//! The executor that computes nothing: it takes the time that a cost model says and draws tokens from a hash, so that
//! scheduler, leader, wire and coordinator can be loaded as a rack of accelerators would load them.
//!
//! It keeps the books that a rank keeps, and refuses a plan that a rank could not run. Constraints are not followed: its
//! tokens mean nothing anyway.

mod clock;
mod cost_model;
#[cfg(test)]
mod tests;
mod tokens;

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use inkstone_engine::{
    BLOCK_TOKENS, DrawnToken, RequestId, SequenceId, StepItem, StepOutput, StepPlan,
};

use super::{EncodedPicture, Executor, ExecutorError, PromptPart, RequestSetup};
use tokens::{DrawAt, TokenSource};

pub use clock::Clock;
pub use cost_model::{Accelerator, CostModel, StepWork};

/// Settings of a [`SimulatedExecutor`].
#[derive(Clone, Debug)]
pub struct SimulatedSettings {
    /// What steps cost.
    pub cost: CostModel,
    /// Tokens below this are drawn.
    pub vocab_size: usize,
    /// Blocks of the cache that is not there.
    pub num_blocks: usize,
    /// Tokens of every answer, its stop token included; not set: answers end at their `max_new_tokens`.
    pub answer_tokens: Option<usize>,
}

/// See the module's text.
pub struct SimulatedExecutor {
    settings: SimulatedSettings,
    source: TokenSource,
    clock: Clock,
    books: Books,
    in_flight: Option<InFlight>,
    /// When the accelerator has run all that was given to it.
    free_at: Duration,
}

/// What a rank knows of requests and sequences.
struct Books {
    num_blocks: usize,
    requests: HashMap<RequestId, Request>,
    sequences: HashMap<SequenceId, Sequence>,
}

struct Request {
    setup: Arc<RequestSetup>,
    prompt_tokens: usize,
    /// Positions of its pictures, in order.
    pictures: Vec<Range<usize>>,
}

#[derive(Clone, Copy)]
struct Sequence {
    request: RequestId,
    /// Those of the prompt, those of an earlier run, and those drawn that plans have told.
    num_tokens: usize,
}

struct InFlight {
    output: StepOutput,
    done_at: Duration,
}

impl SimulatedExecutor {
    /// An accelerator that has nothing to do.
    pub fn new(settings: SimulatedSettings, clock: Clock) -> Self {
        Self {
            source: TokenSource::new(settings.vocab_size, settings.answer_tokens),
            books: Books {
                num_blocks: settings.num_blocks,
                requests: HashMap::new(),
                sequences: HashMap::new(),
            },
            settings,
            clock,
            in_flight: None,
            free_at: Duration::ZERO,
        }
    }

    fn run(&mut self, plan: &StepPlan) -> Result<(StepOutput, StepWork), String> {
        self.books.follow(plan)?;
        let mut picture_rows = 0;
        let mut output = StepOutput::default();
        for item in &plan.items {
            let request = self.books.append(item)?;
            picture_rows += request.picture_rows(item.positions());
            if item.prompt_logprobs {
                let scores = item.positions().map(|row| request.score(row, &self.source));
                output
                    .prompt_logprobs
                    .push((item.sequence, scores.collect()));
            }
            if let Some(draw) = item.draw {
                let at = DrawAt {
                    token_index: draw.token_index,
                    position: item.end,
                    kind: draw.kind,
                };
                let drawn = self.source.draw(&request.setup, at);
                output.drawn.push((item.sequence, drawn));
            }
        }
        Ok((output, StepWork::of(plan, picture_rows)))
    }
}

impl Books {
    /// What comes before a plan's items.
    fn follow(&mut self, plan: &StepPlan) -> Result<(), String> {
        for id in &plan.released {
            let known = self.sequences.remove(id);
            known.ok_or_else(|| format!("sequence {id} is released but was never started"))?;
        }
        for id in &plan.retired {
            let known = self.requests.remove(id);
            known.ok_or_else(|| format!("request {id} is retired but was never admitted"))?;
        }
        for start in &plan.started {
            let request = self.requests.get(&start.request).ok_or_else(|| {
                format!(
                    "request {} is started but was never admitted",
                    start.request
                )
            })?;
            let sequence = Sequence {
                request: start.request,
                num_tokens: request.prompt_tokens + request.setup.resumed(start.branch).len(),
            };
            self.begin(start.sequence, sequence)?;
        }
        for fork in &plan.forks {
            let parent = self.sequences.get(&fork.parent).copied().ok_or_else(|| {
                format!("sequence {} is forked but was never started", fork.parent)
            })?;
            self.begin(fork.child, parent)?;
        }
        Ok(())
    }

    fn begin(&mut self, id: SequenceId, sequence: Sequence) -> Result<(), String> {
        match self.sequences.insert(id, sequence) {
            None => Ok(()),
            Some(_) => Err(format!("sequence {id} is started a second time")),
        }
    }

    /// Adds an item's new token and checks that the item can be run.
    fn append(&mut self, item: &StepItem) -> Result<&Request, String> {
        let id = item.sequence;
        let sequence = self
            .sequences
            .get_mut(&id)
            .ok_or_else(|| format!("sequence {id} runs but was never started"))?;
        sequence.num_tokens += usize::from(item.appended.is_some());
        let num_tokens = sequence.num_tokens;
        if item.start >= item.end || item.end > num_tokens {
            return Err(format!(
                "sequence {id} has {num_tokens} tokens, found rows {}..{}",
                item.start, item.end
            ));
        }
        if item.draw.is_some() && item.end != num_tokens {
            return Err(format!(
                "sequence {id} draws after row {} of {num_tokens}",
                item.end
            ));
        }
        let blocks = item.block_table.len();
        if blocks * BLOCK_TOKENS < item.end {
            return Err(format!(
                "sequence {id} needs {} blocks, found {blocks}",
                item.end.div_ceil(BLOCK_TOKENS)
            ));
        }
        let last = item.block_table.last().map_or(0, |block| block.0 as usize);
        if last >= self.num_blocks {
            return Err(format!(
                "there are {} blocks, found block {last}",
                self.num_blocks
            ));
        }
        let request = sequence.request;
        self.requests
            .get(&request)
            .ok_or_else(|| format!("sequence {id} runs but its request {request} is retired"))
    }
}

impl Executor for SimulatedExecutor {
    fn admit(&mut self, setup: Arc<RequestSetup>) -> Result<(), ExecutorError> {
        self.books.requests.insert(setup.id, Request::new(setup));
        Ok(())
    }

    fn pictures(
        &mut self,
        _request: RequestId,
        _pictures: Vec<Arc<EncodedPicture>>,
    ) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn start(&mut self, plan: Arc<StepPlan>) -> Result<(), ExecutorError> {
        if self.in_flight.is_some() {
            return Err(ExecutorError::OutOfOrder {
                asked: "start a step",
                found: "the one before is not finished".to_owned(),
            });
        }
        let failed = |reason| ExecutorError::Rank {
            rank: 0,
            step: plan.step,
            reason,
        };
        let now = self.clock.now();
        let (output, work) = self.run(&plan).map_err(failed)?;
        let done_at = self.free_at.max(now) + self.settings.cost.step_time(&work);
        self.free_at = done_at;
        self.in_flight = Some(InFlight { output, done_at });
        Ok(())
    }

    fn finish(&mut self) -> Result<StepOutput, ExecutorError> {
        let Some(InFlight { output, done_at }) = self.in_flight.take() else {
            return Err(ExecutorError::OutOfOrder {
                asked: "finish a step",
                found: "none was started".to_owned(),
            });
        };
        self.clock.wait_until(done_at);
        Ok(output)
    }
}

impl Request {
    fn new(setup: Arc<RequestSetup>) -> Self {
        let mut prompt_tokens = 0;
        let mut pictures = Vec::new();
        for part in &setup.prompt {
            let begin = prompt_tokens;
            match part {
                PromptPart::Tokens(ids) => prompt_tokens += ids.len(),
                PromptPart::Picture { num_tokens, .. } => {
                    prompt_tokens += num_tokens;
                    pictures.push(begin..prompt_tokens);
                }
            }
        }
        Self {
            setup,
            prompt_tokens,
            pictures,
        }
    }

    /// How many of `rows` are a picture's.
    fn picture_rows(&self, rows: Range<usize>) -> usize {
        let inside = |span: &Range<usize>| {
            rows.end
                .min(span.end)
                .saturating_sub(rows.start.max(span.start))
        };
        self.pictures.iter().map(inside).sum()
    }

    /// What is said of the token after `row`: nothing when it is not the prompt's, or one of the two is a picture's.
    fn score(&self, row: usize, source: &TokenSource) -> Option<DrawnToken> {
        let token_id = self.token(row + 1)?;
        self.token(row)?;
        Some(source.score(&self.setup, token_id, row + 1))
    }

    /// The prompt's token at a position, unless a picture stands there.
    fn token(&self, position: usize) -> Option<u32> {
        let mut begin = 0;
        for part in &self.setup.prompt {
            let (num_tokens, ids) = match part {
                PromptPart::Tokens(ids) => (ids.len(), Some(ids)),
                PromptPart::Picture { num_tokens, .. } => (*num_tokens, None),
            };
            if position < begin + num_tokens {
                return ids?.get(position - begin).copied();
            }
            begin += num_tokens;
        }
        None
    }
}
