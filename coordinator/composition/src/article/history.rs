//! What an article was before its last changes.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Segment;

/// Changes that can be undone.
pub const MAX_UNDO: usize = 50;

/// Earlier and later states, the nearest last. The oldest is forgotten when there are too many.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    earlier: VecDeque<Vec<Segment>>,
    /// What was undone; forgotten at the next change.
    later: VecDeque<Vec<Segment>>,
}

impl History {
    pub fn is_empty(&self) -> bool {
        self.earlier.is_empty() && self.later.is_empty()
    }

    /// Changes that can be undone.
    pub fn num_undo(&self) -> usize {
        self.earlier.len()
    }

    /// Undone changes that can be done again.
    pub fn num_redo(&self) -> usize {
        self.later.len()
    }

    /// Remembers the state before a change.
    pub(super) fn remember(&mut self, before: Vec<Segment>) {
        self.later.clear();
        push_bounded(&mut self.earlier, before);
    }

    /// The state before the last change, for the present one.
    pub(super) fn undo(&mut self, present: &mut Vec<Segment>) -> bool {
        exchange(&mut self.earlier, &mut self.later, present)
    }

    /// The state after the change that was undone last, for the present one.
    pub(super) fn redo(&mut self, present: &mut Vec<Segment>) -> bool {
        exchange(&mut self.later, &mut self.earlier, present)
    }
}

fn exchange(
    from: &mut VecDeque<Vec<Segment>>,
    to: &mut VecDeque<Vec<Segment>>,
    present: &mut Vec<Segment>,
) -> bool {
    let Some(other) = from.pop_back() else {
        return false;
    };
    push_bounded(to, std::mem::replace(present, other));
    true
}

fn push_bounded(states: &mut VecDeque<Vec<Segment>>, state: Vec<Segment>) {
    if states.len() == MAX_UNDO {
        states.pop_front();
    }
    states.push_back(state);
}
