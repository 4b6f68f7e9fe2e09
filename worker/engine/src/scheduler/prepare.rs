//! Deciding about the next step all that does not depend on what the step in flight draws.

use super::Scheduler;
use crate::{
    BlockCopy, Event, RequestId, SequenceId,
    block_manager::{BlockManager, CachedPrefix},
    request_state::{Phase, Rank},
    sequence::Sequence,
};

/// A step that was decided on, to be sealed when the step in flight is applied.
#[derive(Debug)]
#[must_use = "a step that is not sealed never runs"]
pub struct Prepared {
    /// Requests whose decoding sequences have rows and blocks.
    pub(super) decodes: Vec<RequestId>,
    /// Copies for sequences that begin inside a cached block.
    pub(super) copies: Vec<(SequenceId, BlockCopy)>,
    /// Rows for prompts.
    rows_left: usize,
    /// What sequences of running requests have to prefill, in the order in which requests were looked at.
    prefills: Vec<Prefill>,
    /// Positions in them, and those of requests that were put in front.
    prefill_left: usize,
    prefill_first: usize,
    /// Sequences that run, as requests count.
    running: usize,
    /// Whether a request gave way: then no other starts in this step.
    preempted: bool,
}

/// All that a sequence has to prefill.
#[derive(Clone, Copy, Debug)]
struct Prefill {
    rank: Rank,
    sequence: SequenceId,
    start: usize,
    num_rows: usize,
}

/// A part of a sequence's tokens to prefill.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) sequence: SequenceId,
    /// Position after the last.
    pub(super) end: usize,
}

/// Requests that are put in front and start one after another while others wait.
pub(super) const MAX_PUT_FIRST_IN_ROW: usize = 16;
/// Rows of other prompts in a step that computes one of a request that was put in front: so few that they cost it little time, and enough
/// that they go on.
const ROWS_BESIDE_FIRST: usize = 32;

/// What becomes of a request that would start.
enum Start {
    Placed,
    NoRoom,
    LacksPictures,
}

impl Prepared {
    /// Whether a prompt of this rank would get a row beside those that are in the step.
    fn has_row_for(&self, rank: Rank) -> bool {
        if rank.is_put_first() {
            return self.prefill_first < self.rows_left;
        }
        let is_short = self.prefill_first > 0;
        let beside = self.prefill_left - self.prefill_first;
        self.prefill_left < self.rows_left && !(is_short && beside >= ROWS_BESIDE_FIRST)
    }
}

impl Scheduler {
    /// Decides about the next step, in this order: rows and blocks for sequences that decode, if need be from requests that give way;
    /// who of the queue starts; prefill chunks in the rows that are left. May be called while a step is in flight, once for each
    /// [`seal`](Self::seal).
    pub fn prepare(&mut self) -> Prepared {
        self.now += 1;
        let mut step = Prepared {
            decodes: Vec::with_capacity(self.running.len()),
            copies: Vec::new(),
            rows_left: self.limits.max_step_tokens,
            prefills: Vec::new(),
            prefill_left: 0,
            prefill_first: 0,
            running: 0,
            preempted: false,
        };
        let running: Vec<(Rank, RequestId)> =
            self.running.iter().map(|(rank, id)| (*rank, *id)).collect();
        for (rank, id) in running {
            // Those that gave way are the last ones: nobody runs behind them.
            if step.preempted && !self.running.contains_key(&rank) {
                break;
            }
            self.grant_decodes(rank, id, &mut step);
        }
        self.start_waiting(&mut step);
        step
    }

    /// Lets those start in a prepared step that came after it was prepared, or found no room before others ended. For when what the step
    /// before drew is applied, so that a request which comes while a step runs is in the very next one.
    pub fn join(&mut self, step: &mut Prepared) {
        if self.waiting.is_empty() {
            return;
        }
        let running = self.running.values();
        step.running = running.map(|id| self.requests[id].width()).sum();
        self.start_waiting(step);
    }

    /// Rows for a request's decoding sequences, and the blocks they may need. Takes down what the request leaves to do.
    fn grant_decodes(&mut self, rank: Rank, id: RequestId, step: &mut Prepared) {
        if !self.requests[&id].sequences.iter().all(Sequence::is_placed) {
            self.place_siblings(id, step);
        }
        let state = &self.requests[&id];
        let (demand, width) = (state.decode_demand(&self.blocks), state.width());
        let prefill_left = state.prefill_left();
        if state.phase != Phase::Running || !self.make_available(demand.blocks, id, step) {
            return;
        }
        step.running += width;
        if prefill_left > 0 {
            step.prefill_left += prefill_left;
            if rank.is_put_first() {
                step.prefill_first += prefill_left;
            }
            let state = &self.requests[&id];
            let prefills = state.sequences.iter().map(|sequence| Prefill {
                rank,
                sequence: sequence.id,
                start: sequence.planned,
                num_rows: sequence.prefill_left(&state.prompt),
            });
            step.prefills
                .extend(prefills.filter(|prefill| prefill.num_rows > 0));
        }
        if demand.rows == 0 {
            return;
        }
        // No more sequences run than a step has rows.
        step.rows_left -= demand.rows;
        step.decodes.push(id);
        if demand.blocks > 0 {
            let new = (0..demand.blocks).map(|_| self.blocks.allocate().expect("made available"));
            self.requests
                .get_mut(&id)
                .expect("it runs")
                .reserve
                .extend(new);
        }
    }

    /// Places the sequences of a request that has several and lost their blocks, one after another: when the first has computed its
    /// tokens, the next finds in the cache what they share.
    fn place_siblings(&mut self, id: RequestId, step: &mut Prepared) {
        let state = &self.requests[&id];
        let next = state
            .sequences
            .iter()
            .position(|sequence| !sequence.is_placed());
        let next = next.expect("asked for by the caller");
        let is_computed = |at: usize| {
            let sequence = &state.sequences[at];
            sequence.computed + 1 >= sequence.len(&state.prompt)
        };
        if !(0..next).all(is_computed) {
            return;
        }
        loop {
            let (found, wanted) = self.find_prefix(id, next);
            if self.requests[&id].lacks_pictures(found.num_tokens) {
                // The first was found in the cache with its pictures, but has ended, and others took their blocks. It does not start
                // again in this step: what the step in flight computes of it is not for its new blocks.
                step.preempted = true;
                return self.give_way(id);
            }
            if wanted <= self.blocks.available_beside(&found) {
                return self.place(id, next, found, step);
            }
            if !self.preempt_last(id, step) {
                return;
            }
        }
    }

    /// Makes `count` blocks available for `id`: the last of the running requests give way, `id` itself if it is the last (`false`).
    fn make_available(&mut self, count: usize, id: RequestId, step: &mut Prepared) -> bool {
        while self.blocks.available() < count {
            if !self.preempt_last(id, step) {
                return false;
            }
        }
        true
    }

    /// The last of the running requests gives up its blocks and waits again, in front of all that came later; it keeps what it drew,
    /// and gets what the step in flight draws. `false` if it was `id`.
    fn preempt_last(&mut self, id: RequestId, step: &mut Prepared) -> bool {
        let (_, last) = self.running.last_key_value().expect("`id` runs");
        let last = *last;
        self.give_way(last);
        step.preempted = true;
        last != id
    }

    /// A running request goes back into the queue.
    fn give_way(&mut self, id: RequestId) {
        let state = self.requests.get_mut(&id).expect("it runs");
        state.unplace(&mut self.blocks);
        self.running.remove(&state.rank);
        self.stats.preemptions += 1;
        self.wait(id, 0);
    }

    /// Starts requests of the queue, strictly in order: a short one never passes a long one, so each starts after a bounded time.
    /// Only those that lack pictures are passed. None starts that would get no row in this step, since until then more of its
    /// prompt may come to be cached.
    fn start_waiting(&mut self, step: &mut Prepared) {
        self.promote();
        while let Some((rank, id)) = self.next_in_line() {
            let width = self.requests[&id].width();
            let is_full = step.running + width > self.limits.max_running || width > step.rows_left;
            if step.preempted || !step.has_row_for(rank) || is_full {
                return;
            }
            match self.start(id, step) {
                Start::NoRoom => return,
                Start::LacksPictures => self.park(id),
                Start::Placed => {
                    self.leave_queue(rank);
                    self.running.insert(rank, id);
                    self.grant_decodes(rank, id, step);
                }
            }
        }
    }

    /// Who of the queue is next: the first, but when many that were put in front have started in a row, the first of those that wait
    /// their turn.
    fn next_in_line(&self) -> Option<(Rank, RequestId)> {
        let in_turn = self.waiting.range(Rank::FIRST_IN_TURN..).next();
        let next = in_turn.filter(|_| self.put_first_in_row >= MAX_PUT_FIRST_IN_ROW);
        let next = next.or_else(|| self.waiting.first_key_value());
        next.map(|(rank, id)| (*rank, *id))
    }

    /// A request starts. Those that are put in front count while others wait.
    fn leave_queue(&mut self, rank: Rank) {
        self.waiting.remove(&rank);
        let passes =
            rank.is_put_first() && self.waiting.range(Rank::FIRST_IN_TURN..).next().is_some();
        self.put_first_in_row = if passes { self.put_first_in_row + 1 } else { 0 };
    }

    /// Counts batch requests that waited long as interactive. They wait in order of arrival, so the first has waited longest, but for
    /// those that ran in between.
    fn promote(&mut self) {
        while let Some((rank, id)) = self
            .waiting
            .range(Rank::FIRST_BATCH..)
            .next()
            .map(|(rank, id)| (*rank, *id))
        {
            let state = self.requests.get_mut(&id).expect("it waits");
            let waited = state.waited + state.phase.steps_waited(self.now);
            if waited <= self.limits.max_wait_steps as u64 {
                return;
            }
            state.rank = rank.promoted();
            self.waiting.remove(&rank);
            self.waiting.insert(rank.promoted(), id);
        }
    }

    /// Places a request's first sequence if all its sequences find room, counting that they share the prompt, and beside it a
    /// block is left for each running sequence to grow into: else the next steps would take the room back.
    fn start(&mut self, id: RequestId, step: &mut Prepared) -> Start {
        let (found, wanted) = self.find_prefix(id, 0);
        let state = &self.requests[&id];
        if state.lacks_pictures(found.num_tokens) {
            return Start::LacksPictures;
        }
        let tails = state.sequences[1..].iter().map(|sequence| {
            BlockManager::blocks_for(sequence.len(&state.prompt)) - state.prompt.num_full_blocks()
        });
        if wanted + tails.sum::<usize>() + step.running > self.blocks.available_beside(&found) {
            return Start::NoRoom;
        }
        let state = self.requests.get_mut(&id).expect("it waits");
        state.waited += state.phase.steps_waited(self.now);
        state.phase = Phase::Running;
        self.prefill_waiting -= std::mem::take(&mut state.prefill_expected);
        if !state.started {
            state.started = true;
            // Of what an earlier run drew some may be found as well.
            let cached_tokens = found.num_tokens.min(state.prompt.len());
            self.stats.prompt_tokens += state.prompt.len() as u64;
            self.stats.cached_tokens += cached_tokens as u64;
            self.events.push(Event::Started {
                request: id,
                cached_tokens,
            });
            for sequence in &state.sequences {
                self.notices.start(id, sequence.id, sequence.branch);
            }
        }
        self.place(id, 0, found, step);
        Start::Placed
    }

    /// What the cache has of a sequence, and how many blocks it needs beside.
    fn find_prefix(&self, id: RequestId, at: usize) -> (CachedPrefix, usize) {
        let state = &self.requests[&id];
        let sequence = &state.sequences[at];
        let found = sequence.find_prefix(&state.prompt, &self.blocks, state.cacheable());
        let wanted = BlockManager::blocks_for(sequence.len(&state.prompt)) - found.blocks.len();
        (found, wanted)
    }

    fn place(&mut self, id: RequestId, at: usize, found: CachedPrefix, step: &mut Prepared) {
        let state = self.requests.get_mut(&id).expect("it runs");
        let sequence = &mut state.sequences[at];
        let copy = sequence.place(&state.prompt, found, &mut self.blocks);
        step.copies.extend(copy.map(|copy| (sequence.id, copy)));
    }

    /// Prefill chunks, in the order of the running requests. A step is kept short that somebody waits for who was put in front.
    pub(super) fn chunks(&mut self, step: &Prepared) -> Vec<Chunk> {
        let mut prefills = step.prefills.clone();
        prefills.sort_by_key(|prefill| prefill.rank);
        let mut rows_left = step.rows_left;
        let mut beside_left = match step.prefill_first {
            0 => rows_left,
            _ => ROWS_BESIDE_FIRST,
        };
        let mut chunks = Vec::with_capacity(prefills.len());
        for prefill in prefills {
            let mut num_rows = prefill.num_rows.min(rows_left);
            if !prefill.rank.is_put_first() {
                num_rows = num_rows.min(beside_left);
                beside_left -= num_rows;
            }
            if num_rows == 0 {
                break;
            }
            rows_left -= num_rows;
            chunks.push(Chunk {
                sequence: prefill.sequence,
                end: prefill.start + num_rows,
            });
        }
        self.prefill_running = step.prefill_left - (step.rows_left - rows_left);
        chunks
    }
}
