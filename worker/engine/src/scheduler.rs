//! The scheduler: plans the next step and commits what it drew.
//!
//! A request waits until there is room for its prompt, then runs in every step until it ends. A step has a row for each sequence
//! that decodes, then prefill chunks of the others in what is left of `max_step_tokens`, so a long prompt never stops the
//! answers of others. Blocks are taken as sequences grow; when there are none left, the last of the running requests gives up
//! its own and waits again, in front, to compute its tokens anew.
//!
//! A step goes through three hands, a file each. [`prepare`](Scheduler::prepare) decides all that does not depend on what the step
//! in flight draws: who starts, who gives way, who gets how many rows and blocks. [`apply`](Scheduler::apply) takes what the
//! step in flight drew: tokens, ends, forks. [`seal`](Scheduler::seal) then writes the plan that was prepared, without those that ended.

mod apply;
mod integrity;
mod prepare;
mod seal;

use std::collections::BTreeMap;

use thiserror::Error;

pub use self::prepare::Prepared;
use self::seal::Notices;
use crate::{
    CacheChanges, Decoding, EngineLimits, EngineRequest, Event, Load, RequestId, SequenceId, Stats,
    StepPlan,
    beginning::Beginning,
    block_manager::BlockManager,
    id_map::IdMap,
    request_state::{Phase, Pictures, Rank, RequestState},
};

/// See the module's text.
#[derive(Debug)]
pub struct Scheduler {
    limits: EngineLimits,
    blocks: BlockManager,
    /// All that are not over.
    requests: IdMap<RequestId, RequestState>,
    /// Whose a sequence is.
    owners: IdMap<SequenceId, RequestId>,
    /// The queue, first in front. Parked requests are not in it.
    waiting: BTreeMap<Rank, RequestId>,
    /// Those that have blocks, first in front; the last is the first to give way.
    running: BTreeMap<Rank, RequestId>,
    /// What the next plan tells ranks besides its items.
    notices: Notices,
    events: Vec<Event>,
    stats: Stats,
    /// Steps prepared so far: the measure of waiting.
    now: u64,
    /// Requests put in front that started in a row while others waited.
    put_first_in_row: usize,
    /// Positions that requests which wait are expected to compute.
    prefill_waiting: usize,
    /// Positions that running requests compute in steps after the one prepared last.
    prefill_running: usize,
    next_step: u64,
    next_sequence: u64,
    next_arrival: u64,
}

/// A request that cannot be taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The queue is full.
    #[error("{waiting} requests wait already, the limit is {limit}")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// `max_waiting`.
        limit: usize,
    },
    /// It would never fit.
    #[error("a sequence may grow to {wanted} tokens, the KV cache holds {limit}")]
    TooLong {
        /// Prompt and answer.
        wanted: usize,
        /// What the cache holds.
        limit: usize,
    },
    /// Its sequences would not fit together. Counted as if they shared nothing: after a preemption they may not.
    #[error(
        "{sequences} sequences of up to {tokens} tokens want {wanted} blocks, the KV cache has {limit}"
    )]
    TooManyTokens {
        /// Answers or beams.
        sequences: usize,
        /// Prompt and answer.
        tokens: usize,
        /// Blocks for all of them.
        wanted: usize,
        /// All blocks.
        limit: usize,
    },
    /// More answers or beams than may run side by side.
    #[error("{wanted} answers or beams are wanted, the limit is {limit}")]
    TooManySequences {
        /// Answers or beams.
        wanted: usize,
        /// `max_running`.
        limit: usize,
    },
    /// Something that makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
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
            requests: IdMap::default(),
            owners: IdMap::default(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            notices: Notices::default(),
            events: Vec::new(),
            stats: Stats::default(),
            now: 0,
            put_first_in_row: 0,
            prefill_waiting: 0,
            prefill_running: 0,
            next_step: 1,
            next_sequence: 1,
            next_arrival: 0,
        }
    }

    /// Queues a request. If it will need its pictures, as far as the cache can tell by now, it asks for them at once. A request
    /// whose answers are all complete already is over with the events that say so.
    pub fn submit(&mut self, request: EngineRequest) -> Result<(), SubmitError> {
        self.check(&request)?;
        let id = request.id;
        let beginning = Beginning::of(&request);
        self.events
            .extend(beginning.ended.iter().map(|(branch, reason)| Event::Ended {
                request: id,
                branch: *branch,
                reason: *reason,
            }));
        if beginning.live.is_empty() {
            self.notices.retired.push(id);
            return Ok(());
        }
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        let names: Vec<_> = beginning
            .live
            .iter()
            .map(|_| self.new_sequence_id())
            .collect();
        self.owners.extend(names.iter().map(|name| (*name, id)));
        let state = RequestState::new(request, beginning, names.into_iter(), arrival);
        let found = state.sequences[0].find_prefix(&state.prompt, &self.blocks, state.cacheable());
        let lacks_pictures = state.lacks_pictures(found.num_tokens);
        self.requests.insert(id, state);
        self.wait(id, found.num_tokens);
        if lacks_pictures {
            self.park(id);
        }
        Ok(())
    }

    /// The executor holds the features of a request's pictures. `false` when the request is over.
    pub fn pictures_ready(&mut self, request: RequestId) -> bool {
        let Some(state) = self.requests.get_mut(&request) else {
            return false;
        };
        state.pictures = Pictures::Ready;
        if state.phase == Phase::Parked {
            state.phase = Phase::Waiting { since: self.now };
            self.waiting.insert(state.rank, request);
        }
        true
    }

    /// Ends a request wherever it is and frees its blocks. Nothing more is said of it. `false` when it is over already.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        let known = self.requests.contains_key(&request);
        if known {
            self.retire(request);
            self.events.retain(|event| event.request() != request);
        }
        known
    }

    /// The next step, or `None` when there is nothing to run and nothing to tell: [`prepare`](Self::prepare) and
    /// [`seal`](Self::seal) at once, for when no step is in flight.
    pub fn plan(&mut self) -> Option<StepPlan> {
        let prepared = self.prepare();
        self.seal(prepared)
    }

    /// What happened apart from draws: requests that started, requests that need their pictures.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// What came into the prefix cache and left it since the last call.
    pub fn take_cache_changes(&mut self) -> CacheChanges {
        self.blocks.take_cache_changes()
    }

    /// All that is in the prefix cache, by short hashes: for whoever lost track of its changes.
    pub fn cached_hashes(&self) -> impl Iterator<Item = u64> {
        self.blocks.cached_hashes()
    }

    /// How busy the engine is.
    pub fn load(&self) -> Load {
        let blocks_total = self.blocks.num_blocks();
        Load {
            prefill_tokens: self.prefill_waiting + self.prefill_running,
            waiting: self.num_waiting(),
            running: self
                .running
                .values()
                .map(|id| self.requests[id].width())
                .sum(),
            blocks_used: blocks_total - self.blocks.available(),
            blocks_cached: self.blocks.num_cached(),
            blocks_total,
        }
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        Stats {
            evictions: self.blocks.evictions(),
            ..self.stats
        }
    }

    /// Refuses what is wrong, what does not fit the queue, and what could not run to its end even alone.
    fn check(&self, request: &EngineRequest) -> Result<(), SubmitError> {
        if self.requests.contains_key(&request.id) {
            return Err(SubmitError::Invalid("a request of this name runs already"));
        }
        if let Some(wrong) = request.find_fault() {
            return Err(SubmitError::Invalid(wrong));
        }
        let sequences = match request.decoding {
            Decoding::Sample { branches } => branches,
            Decoding::Beam(params) => params.width,
        };
        if sequences > self.limits.max_running {
            return Err(SubmitError::TooManySequences {
                wanted: sequences,
                limit: self.limits.max_running,
            });
        }
        let tokens = request.prompt_len().saturating_add(request.max_new_tokens);
        // The last token is drawn, never computed.
        let blocks = BlockManager::blocks_for(tokens - 1);
        let limit = self.limits.num_blocks;
        if blocks > limit {
            return Err(SubmitError::TooLong {
                wanted: tokens,
                limit: self.limits.max_sequence_tokens(),
            });
        }
        // Sequences that part need a block more each for a moment, beside those of the sequences that they replace.
        let wanted = sequences.saturating_mul(blocks + usize::from(sequences > 1));
        if wanted > limit {
            return Err(SubmitError::TooManyTokens {
                sequences,
                tokens,
                wanted,
                limit,
            });
        }
        // Those that were cut off elsewhere find some room in a full queue.
        let in_front = usize::from(request.first_in_line) * self.limits.max_running;
        let limit = self.limits.max_waiting + in_front;
        if self.num_waiting() >= limit {
            return Err(SubmitError::QueueFull {
                waiting: self.num_waiting(),
                limit,
            });
        }
        Ok(())
    }

    /// In the queue or parked.
    fn num_waiting(&self) -> usize {
        self.requests.len() - self.running.len()
    }

    fn new_sequence_id(&mut self) -> SequenceId {
        let id = SequenceId(self.next_sequence);
        self.next_sequence += 1;
        id
    }

    /// A request begins to wait; of its first sequence so many positions are in the cache.
    fn wait(&mut self, id: RequestId, cached: usize) {
        let state = self.requests.get_mut(&id).expect("it is not over");
        state.phase = Phase::Waiting { since: self.now };
        state.prefill_expected = state.positions_beside(cached);
        self.prefill_waiting += state.prefill_expected;
        self.waiting.insert(state.rank, id);
    }

    /// Takes a waiting request out of the queue until its pictures are there, and asks for them if that was not done.
    fn park(&mut self, id: RequestId) {
        let state = self.requests.get_mut(&id).expect("it waits");
        self.waiting.remove(&state.rank);
        state.waited += state.phase.steps_waited(self.now);
        state.phase = Phase::Parked;
        if state.pictures == Pictures::NotAsked {
            state.pictures = Pictures::Asked;
            self.events.push(Event::NeedsPictures { request: id });
        }
    }

    /// The request is over, in whatever phase: its blocks go back, and ranks are told.
    fn retire(&mut self, id: RequestId) {
        let mut state = self.requests.remove(&id).expect("it is not over");
        self.waiting.remove(&state.rank);
        self.running.remove(&state.rank);
        self.prefill_waiting -= state.prefill_expected;
        state.unplace(&mut self.blocks);
        for sequence in &state.sequences {
            self.owners.remove(&sequence.id);
            if state.started {
                self.notices.release(sequence.id);
            }
        }
        self.notices.retired.push(id);
    }
}

#[cfg(test)]
mod tests;
