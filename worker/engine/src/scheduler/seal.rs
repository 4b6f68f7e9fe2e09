//! Writing the plan of a prepared step, once what the step before it drew is known.

use super::{Prepared, Scheduler, prepare::Chunk};
use crate::{
    Fork, RequestId, SequenceId, Start, StepItem, StepPlan, request_state::RequestState,
    sequence::Sequence,
};

/// What ranks must be told with the next plan besides its items.
#[derive(Debug, Default)]
pub(super) struct Notices {
    released: Vec<SequenceId>,
    pub(super) retired: Vec<RequestId>,
    started: Vec<Start>,
    forks: Vec<Fork>,
}

impl Notices {
    pub(super) fn start(&mut self, request: RequestId, sequence: SequenceId, branch: usize) {
        self.started.push(Start {
            request,
            sequence,
            branch,
        });
    }

    pub(super) fn fork(&mut self, parent: SequenceId, child: SequenceId, branch: usize) {
        self.forks.push(Fork {
            parent,
            child,
            branch,
        });
    }

    /// A sequence is no more. Ranks that never heard of it need not hear of its end.
    pub(super) fn release(&mut self, sequence: SequenceId) {
        let (started, forks) = (self.started.len(), self.forks.len());
        self.started.retain(|start| start.sequence != sequence);
        self.forks.retain(|fork| fork.child != sequence);
        if (started, forks) == (self.started.len(), self.forks.len()) {
            self.released.push(sequence);
        }
    }

    /// Moves all into a plan, but for the end of sequences that others are forked from in it: ranks release first.
    fn tell(&mut self, plan: &mut StepPlan) {
        plan.retired = std::mem::take(&mut self.retired);
        plan.started = std::mem::take(&mut self.started);
        plan.forks = std::mem::take(&mut self.forks);
        let is_parent = |id: &SequenceId| plan.forks.iter().any(|fork| fork.parent == *id);
        (self.released, plan.released) = std::mem::take(&mut self.released)
            .into_iter()
            .partition(is_parent);
    }
}

impl Scheduler {
    /// The plan of a prepared step, without what ended or gave way meanwhile; `None` when there is nothing to run and nothing to
    /// tell before something is submitted, cancelled, or a picture comes. Called when the step before is applied.
    pub fn seal(&mut self, prepared: Prepared) -> Option<StepPlan> {
        let mut plan = self.write(prepared);
        // All that was prepared may have ended; and the last request may have given way to itself, to start anew.
        let mut attempts = 2;
        while plan.is_none()
            && attempts > 0
            && !(self.running.is_empty() && self.waiting.is_empty())
        {
            let prepared = self.prepare();
            plan = self.write(prepared);
            attempts -= 1;
        }
        plan
    }

    fn write(&mut self, prepared: Prepared) -> Option<StepPlan> {
        let mut plan = StepPlan::default();
        let chunks = self.chunks(&prepared);
        self.notices.tell(&mut plan);
        for (sequence, copy) in prepared.copies {
            if self.sequence(sequence).is_some_and(Sequence::is_placed) {
                plan.copies.push(copy);
            }
        }
        plan.items
            .reserve_exact(prepared.decodes.len() + chunks.len());
        for id in prepared.decodes {
            self.write_decodes(id, &mut plan);
        }
        for chunk in chunks {
            self.write_chunk(&chunk, &mut plan);
        }
        if plan == StepPlan::default() {
            return None;
        }
        plan.step = self.next_step;
        self.next_step += 1;
        Some(plan)
    }

    /// Items for all sequences of a request that decode. What is left of the blocks that were reserved for them goes back.
    fn write_decodes(&mut self, id: RequestId, plan: &mut StepPlan) {
        let Some(state) = self.requests.get_mut(&id) else {
            return;
        };
        for at in 0..state.sequences.len() {
            let sequence = &mut state.sequences[at];
            if sequence.is_placed() && sequence.lacks_last(&state.prompt) {
                let end = sequence.len(&state.prompt);
                let copy = sequence.make_room(end, &mut state.reserve, &mut self.blocks);
                plan.copies.extend(copy);
                plan.items.push(write_item(state, at, end));
            }
        }
        self.blocks.release_table(&mut state.reserve);
    }

    fn write_chunk(&mut self, chunk: &Chunk, plan: &mut StepPlan) {
        let Some(id) = self.owners.get(&chunk.sequence) else {
            return;
        };
        let state = self.requests.get_mut(id).expect("owners are not over");
        let at = state.index_of(chunk.sequence);
        if state.sequences[at].is_placed() {
            plan.items.push(write_item(state, at, chunk.end));
        }
    }

    fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        let state = &self.requests[self.owners.get(&id)?];
        Some(&state.sequences[state.index_of(id)])
    }
}

/// The item that computes a sequence's positions up to `end`. From now on they, and what it draws, are in flight.
fn write_item(state: &mut RequestState, at: usize, end: usize) -> StepItem {
    let sequence = &state.sequences[at];
    let is_whole = end == sequence.len(&state.prompt);
    let prompt_end = end.min(state.prompt.len());
    let prompt_logprobs = state
        .prompt_rows_reported
        .is_some_and(|reported| reported < prompt_end)
        && sequence.planned < prompt_end;
    let item = StepItem {
        sequence: sequence.id,
        appended: if is_whole { sequence.untold() } else { None },
        start: sequence.planned,
        end,
        draw: is_whole.then(|| state.draw(sequence)),
        prompt_logprobs,
        block_table: sequence.table.clone(),
    };
    let sequence = &mut state.sequences[at];
    sequence.planned = end;
    if is_whole {
        sequence.told = sequence.drawn.len();
        sequence.drawing = true;
    }
    item
}
