//! What holds between any two calls, whatever was asked of the engine.

use super::Scheduler;
use crate::{
    block_manager::BlockManager,
    request_state::{Phase, RequestState},
    sequence::Sequence,
};

impl Scheduler {
    /// Every block is free, cached, or referred to as often as it is counted; every table is long enough; every request is where its
    /// phase says. Panics otherwise: only a bug can do that.
    pub fn check_integrity(&self) {
        let states = || self.requests.values();
        let tables = states()
            .flat_map(|state| &state.sequences)
            .flat_map(|sequence| sequence.table.iter());
        let reserves = states().flat_map(|state| &state.reserve);
        self.blocks.check_integrity(tables.chain(reserves).copied());

        let sequences: usize = states().map(|state| state.sequences.len()).sum();
        assert_eq!(sequences, self.owners.len(), "a sequence without an owner");
        for state in states() {
            self.check_phase(state);
            for sequence in &state.sequences {
                assert_eq!(
                    self.owners.get(&sequence.id),
                    Some(&state.id),
                    "owner of {}",
                    sequence.id
                );
                check_sequence(state, sequence);
            }
        }

        let queued = states()
            .filter(|state| state.phase != Phase::Parked)
            .count();
        assert_eq!(
            queued,
            self.waiting.len() + self.running.len(),
            "a request is in two places or in none"
        );
        let load = self.load();
        assert!(
            load.running <= self.limits.max_running,
            "{} sequences run",
            load.running
        );
    }

    fn check_phase(&self, state: &RequestState) {
        let id = Some(&state.id);
        assert_eq!(
            self.waiting.get(&state.rank) == id,
            matches!(state.phase, Phase::Waiting { .. })
        );
        assert_eq!(
            self.running.get(&state.rank) == id,
            state.phase == Phase::Running
        );
        let holds_blocks =
            !state.reserve.is_empty() || state.sequences.iter().any(Sequence::is_placed);
        assert!(
            !holds_blocks || state.phase == Phase::Running,
            "{} waits and has blocks",
            state.id
        );
        assert!(
            (1..=state.width()).contains(&state.sequences.len()),
            "sequences of {}",
            state.id
        );
    }
}

fn check_sequence(state: &RequestState, sequence: &Sequence) {
    let id = sequence.id;
    let len = sequence.len(&state.prompt);
    assert!(
        sequence.computed <= sequence.planned && sequence.planned <= len,
        "positions of {id}"
    );
    assert!(
        sequence.told <= sequence.drawn.len() && sequence.drawn.len() <= sequence.told + 1,
        "tokens of {id}"
    );
    assert!(
        sequence.drawn.len() < state.max_new_tokens,
        "{id} drew all it may, and goes on"
    );
    if sequence.is_placed() {
        let tokens = sequence
            .planned
            .max(len - usize::from(sequence.planned + 1 == len));
        assert!(
            sequence.table.len() >= BlockManager::blocks_for(tokens),
            "table of {id}"
        );
    }
}
