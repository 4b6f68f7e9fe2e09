//! The scheduler: plans the next step and commits what it drew.
//!
//! First come, first served. A sequence starts when its blocks (for the prompt and all it may draw) are free; from then
//! on it runs in every step. A step holds one row for each decoding sequence first, then prefill chunks of the others in
//! what is left of `max_step_tokens`, so a long prompt never stops the answers of others.

use std::collections::VecDeque;

use thiserror::Error;

use crate::{
    BlockManager, EndReason, EngineLimits, SequenceId, SequenceRequest,
    sequence::{Progress, Running},
    step::{ApplyError, Sampled, StepItem, StepOutput, StepPlan, Work},
};

/// See the module's text.
#[derive(Debug)]
pub struct Scheduler {
    limits: EngineLimits,
    blocks: BlockManager,
    waiting: VecDeque<SequenceRequest>,
    /// In order of arrival.
    running: Vec<Running>,
    released: Vec<SequenceId>,
    next_step: u64,
}

/// What happened to a sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It drew the token number `index`.
    Token {
        /// The sequence.
        sequence: SequenceId,
        /// Number of the token; 0 is the first after the prompt.
        index: usize,
        /// The token.
        token_id: u32,
    },
    /// It ended and its blocks are free.
    Ended {
        /// The sequence.
        sequence: SequenceId,
        /// Why.
        reason: EndReason,
    },
    /// Its logits were not finite; it ended and its blocks are free.
    NotFinite {
        /// The sequence.
        sequence: SequenceId,
    },
}

/// A sequence that cannot be taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The queue is full.
    #[error("{waiting} sequences wait already, the limit is {limit}")]
    QueueFull {
        /// Sequences that wait.
        waiting: usize,
        /// `max_waiting`.
        limit: usize,
    },
    /// It would never fit.
    #[error("the sequence may grow to {wanted} tokens, the KV cache holds {limit}")]
    TooLong {
        /// Prompt and answer.
        wanted: usize,
        /// What the cache holds.
        limit: usize,
    },
    /// No prompt, or nothing to draw.
    #[error("a sequence needs at least one prompt token and one token to draw")]
    Empty,
}

/// How busy the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that wait for blocks.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// Blocks that sequences own.
    pub blocks_used: usize,
    /// All blocks.
    pub blocks_total: usize,
}

impl Scheduler {
    /// An idle engine. The limits must be valid ([`EngineLimits::validate`]).
    pub fn new(limits: EngineLimits) -> Self {
        assert!(
            limits.validate().is_ok(),
            "limits are checked by the caller"
        );
        Self {
            blocks: BlockManager::new(limits.num_blocks),
            limits,
            waiting: VecDeque::new(),
            running: Vec::new(),
            released: Vec::new(),
            next_step: 1,
        }
    }

    /// Queues a sequence.
    pub fn submit(&mut self, request: SequenceRequest) -> Result<(), SubmitError> {
        if request.prompt_tokens == 0 || request.max_new_tokens == 0 {
            return Err(SubmitError::Empty);
        }
        let limit = self.limits.max_sequence_tokens();
        if request.max_positions() > limit {
            return Err(SubmitError::TooLong {
                wanted: request.prompt_tokens.saturating_add(request.max_new_tokens),
                limit,
            });
        }
        if self.waiting.len() >= self.limits.max_waiting {
            return Err(SubmitError::QueueFull {
                waiting: self.waiting.len(),
                limit: self.limits.max_waiting,
            });
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Ends a sequence wherever it is and frees its blocks. Called between steps; `false` when it has ended already.
    pub fn cancel(&mut self, sequence: SequenceId) -> bool {
        if let Some(at) = self
            .waiting
            .iter()
            .position(|request| request.id == sequence)
        {
            self.waiting.remove(at);
            // Executors learn of a sequence when it is submitted, so one that never ran is released as well.
            self.released.push(sequence);
            return true;
        }
        let Some(at) = self
            .running
            .iter()
            .position(|running| running.request.id == sequence)
        else {
            return false;
        };
        self.retire(at);
        true
    }

    /// The next step, or `None` when there is nothing to run and nothing to release.
    pub fn plan(&mut self) -> Option<StepPlan> {
        self.start_waiting();
        let mut budget = self.limits.max_step_tokens;
        let mut items = Vec::with_capacity(self.running.len());
        for running in &self.running {
            if let Some(work) = decode_work(running) {
                budget -= 1;
                items.push(item(running, work));
            }
        }
        for running in &self.running {
            if let Some(work) = prefill_work(running, budget) {
                budget -= work.num_rows();
                items.push(item(running, work));
            }
        }
        let released = std::mem::take(&mut self.released);
        if items.is_empty() && released.is_empty() {
            return None;
        }
        let step = self.next_step;
        self.next_step += 1;
        Some(StepPlan {
            step,
            items,
            released,
        })
    }

    /// Commits what a plan drew. Sequences cancelled meanwhile are passed over.
    pub fn apply(
        &mut self,
        plan: &StepPlan,
        output: &StepOutput,
    ) -> Result<Vec<Event>, ApplyError> {
        let sampling = || {
            plan.items
                .iter()
                .filter(|item| item.work.samples().is_some())
        };
        if !sampling()
            .map(|item| item.sequence)
            .eq(output.sampled.iter().map(|(sequence, _)| *sequence))
        {
            return Err(ApplyError {
                step: plan.step,
                wanted: sampling().map(|item| item.sequence).collect(),
                found: output
                    .sampled
                    .iter()
                    .map(|(sequence, _)| *sequence)
                    .collect(),
            });
        }
        let mut events = Vec::with_capacity(output.sampled.len());
        for item in &plan.items {
            if let (Work::Prefill { end, .. }, Some(at)) =
                (&item.work, self.position(item.sequence))
            {
                self.running[at].progress = Progress::Prefill { computed: *end };
            }
        }
        for (sequence, sampled) in &output.sampled {
            if let Some(at) = self.position(*sequence) {
                self.commit(at, *sampled, &mut events);
            }
        }
        Ok(events)
    }

    /// How busy the engine is.
    pub fn load(&self) -> Load {
        Load {
            waiting: self.waiting.len(),
            running: self.running.len(),
            blocks_used: self.blocks.num_blocks() - self.blocks.num_free(),
            blocks_total: self.blocks.num_blocks(),
        }
    }

    /// Every block is free or owned by one running sequence, and no limit is passed. Panics otherwise: only a bug can do
    /// that.
    pub fn check_integrity(&self) {
        self.blocks.check_integrity(
            self.running
                .iter()
                .flat_map(|running| running.blocks.iter().copied()),
        );
        assert!(self.running.len() <= self.limits.max_running);
        assert!(self.waiting.len() <= self.limits.max_waiting);
        for running in &self.running {
            let wanted = BlockManager::blocks_for(running.request.max_positions());
            assert_eq!(
                running.blocks.len(),
                wanted,
                "sequence {}",
                running.request.id
            );
        }
    }

    /// Moves sequences from the queue while their blocks are free. Strictly in order: a short one never passes a long one,
    /// so every sequence starts after a bounded time.
    fn start_waiting(&mut self) {
        while self.running.len() < self.limits.max_running {
            let Some(request) = self.waiting.front() else {
                return;
            };
            let count = BlockManager::blocks_for(request.max_positions());
            let Some(blocks) = self.blocks.allocate(count) else {
                return;
            };
            let request = self.waiting.pop_front().expect("there is a front");
            self.running.push(Running {
                request,
                blocks,
                progress: Progress::Prefill { computed: 0 },
            });
        }
    }

    fn commit(&mut self, at: usize, sampled: Sampled, events: &mut Vec<Event>) {
        let running = &mut self.running[at];
        let sequence = running.request.id;
        let Sampled::Token(token_id) = sampled else {
            self.retire(at);
            events.push(Event::NotFinite { sequence });
            return;
        };
        let index = match running.progress {
            Progress::Prefill { .. } => 0,
            Progress::Decode { drawn, .. } => drawn,
        };
        let drawn = index + 1;
        running.progress = Progress::Decode {
            last_token: token_id,
            drawn,
        };
        events.push(Event::Token {
            sequence,
            index,
            token_id,
        });
        let reason = if running.request.stop_token_ids.contains(&token_id) {
            EndReason::Stop
        } else if drawn == running.request.max_new_tokens {
            EndReason::Length
        } else {
            return;
        };
        self.retire(at);
        events.push(Event::Ended { sequence, reason });
    }

    fn retire(&mut self, at: usize) {
        let running = self.running.remove(at);
        self.blocks.release(running.blocks);
        self.released.push(running.request.id);
    }

    fn position(&self, sequence: SequenceId) -> Option<usize> {
        self.running
            .iter()
            .position(|running| running.request.id == sequence)
    }
}

fn decode_work(running: &Running) -> Option<Work> {
    match running.progress {
        Progress::Prefill { .. } => None,
        Progress::Decode { last_token, drawn } => Some(Work::Decode {
            token_id: last_token,
            position: running.request.prompt_tokens + drawn - 1,
            token_index: drawn,
        }),
    }
}

fn prefill_work(running: &Running, budget: usize) -> Option<Work> {
    match running.progress {
        Progress::Decode { .. } => None,
        Progress::Prefill { .. } if budget == 0 => None,
        Progress::Prefill { computed } => {
            let prompt = running.request.prompt_tokens;
            let end = prompt.min(computed + budget);
            Some(Work::Prefill {
                start: computed,
                end,
                samples: end == prompt,
            })
        }
    }
}

fn item(running: &Running, work: Work) -> StepItem {
    StepItem {
        sequence: running.request.id,
        work,
        block_table: running.blocks.clone(),
    }
}

#[cfg(test)]
mod tests;
