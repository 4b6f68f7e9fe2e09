//! Where a request begins: at its prompt, or where an earlier run of it was cut off.

use crate::{Decoding, EndReason, EngineRequest, request::end_of};

/// See the module's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Branches that go on, rising, each with what it drew. While they have not parted there is one, which stands for all.
    pub(crate) live: Vec<(usize, Vec<u32>)>,
    /// Branches that are complete, though nobody heard of their end.
    pub(crate) ended: Vec<(usize, EndReason)>,
    /// Whether the branches have parted: each draws its own tokens.
    pub(crate) has_parted: bool,
}

impl Beginning {
    /// Of a request that was checked.
    pub(crate) fn of(request: &EngineRequest) -> Self {
        let mut beginning = Self {
            live: Vec::new(),
            ended: Vec::new(),
            has_parted: request
                .resumed
                .iter()
                .any(|branch| branch.has_ended || !branch.token_ids.is_empty()),
        };
        let branches = match request.decoding {
            Decoding::Sample { branches } if beginning.has_parted => branches,
            Decoding::Sample { .. } | Decoding::Beam(_) => {
                beginning.live.push((0, Vec::new()));
                return beginning;
            }
        };
        for branch in 0..branches {
            let resumed = request.resumed.iter().find(|known| known.branch == branch);
            if resumed.is_some_and(|known| known.has_ended) {
                continue;
            }
            let drawn = resumed.map_or(&[][..], |known| &known.token_ids);
            let end = drawn
                .last()
                .and_then(|last| end_of(request.ends(), *last, drawn.len() - 1));
            match end {
                Some(reason) => beginning.ended.push((branch, reason)),
                None => beginning.live.push((branch, drawn.to_vec())),
            }
        }
        beginning
    }
}
