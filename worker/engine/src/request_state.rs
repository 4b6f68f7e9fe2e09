//! A request from its submission to its end: what it wants, and how far its sequences are.

use crate::{
    BLOCK_TOKENS, BeamSearch, BlockId, Decoding, Draw, DrawKind, EndReason, EngineRequest,
    Priority, RequestId, SequenceId,
    block_manager::BlockManager,
    prompt::Prompt,
    sequence::{Room, Sequence},
};

/// A request's place among all, the first in front: interactive before batch, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    class: u8,
    arrival: u64,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the queue since this step; it has no blocks.
    Waiting {
        since: u64,
    },
    /// As `Waiting`, but out of the queue until its pictures are there.
    Parked,
    Running,
}

/// What is known of the features of a request's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pictures {
    NotAsked,
    Asked,
    Ready,
}

/// How sequences come to be.
#[derive(Debug)]
pub(crate) enum Growth {
    /// So many branches that part at the first token.
    Sample { branches: usize },
    /// One sequence for each live beam, in their order.
    Beam(Box<BeamSearch>),
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct RequestState {
    pub(crate) id: RequestId,
    pub(crate) rank: Rank,
    pub(crate) phase: Phase,
    pub(crate) prompt: Prompt,
    pub(crate) growth: Growth,
    pub(crate) max_new_tokens: usize,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) pictures: Pictures,
    /// Those that have not ended; one until the first token is drawn.
    pub(crate) sequences: Vec<Sequence>,
    /// Blocks that its sequences may need in the step that is prepared: to go on in, or not to write where another one reads. Which
    /// of them need one is known when the step in flight is done; what is left over goes back then.
    pub(crate) reserve: Vec<BlockId>,
    /// Whether [`Event::Started`](crate::Event::Started) was sent.
    pub(crate) started: bool,
    /// Steps that it waited before the current wait.
    pub(crate) waited: u64,
    /// With log-probabilities of the prompt: rows whose answer was reported.
    pub(crate) prompt_rows_reported: Option<usize>,
}

/// What a request takes of the next step to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecodeDemand {
    /// Sequences that decode, one row each.
    pub(crate) rows: usize,
    /// Most blocks they need.
    pub(crate) blocks: usize,
}

impl Rank {
    pub(crate) fn new(priority: Priority, arrival: u64) -> Self {
        let class = match priority {
            Priority::Interactive => 0,
            Priority::Batch => 1,
        };
        Self { class, arrival }
    }

    /// In front of all that are batch requests still.
    pub(crate) const FIRST_BATCH: Self = Self {
        class: 1,
        arrival: 0,
    };

    /// The same request, counted as interactive.
    pub(crate) fn promoted(self) -> Self {
        Self { class: 0, ..self }
    }
}

impl Phase {
    /// Steps of the current wait.
    pub(crate) fn steps_waited(self, now: u64) -> u64 {
        match self {
            Self::Waiting { since } => now - since,
            Self::Parked | Self::Running => 0,
        }
    }
}

impl RequestState {
    /// A checked request, with its first sequence.
    pub(crate) fn new(request: EngineRequest, first: Sequence, arrival: u64, phase: Phase) -> Self {
        let has_pictures = request.has_pictures();
        let prompt = Prompt::new(&request.prompt, request.cache_salt);
        let growth = match request.decoding {
            Decoding::Sample { branches } => Growth::Sample { branches },
            Decoding::Beam(params) => {
                // The reference is given a prompt with pictures as embeddings, and counts the one id it makes up for them.
                let prompt_length = if has_pictures { 1 } else { prompt.len() };
                let stop_token_ids = request.stop_token_ids.clone();
                let new_tokens = request.max_new_tokens;
                Growth::Beam(Box::new(BeamSearch::new(
                    params,
                    stop_token_ids,
                    new_tokens,
                    prompt_length,
                )))
            }
        };
        Self {
            id: request.id,
            rank: Rank::new(request.priority, arrival),
            phase,
            prompt,
            growth,
            max_new_tokens: request.max_new_tokens,
            stop_token_ids: request.stop_token_ids,
            pictures: if request.pictures_ready {
                Pictures::Ready
            } else {
                Pictures::NotAsked
            },
            sequences: vec![first],
            reserve: Vec::new(),
            started: false,
            waited: 0,
            prompt_rows_reported: request.prompt_logprobs.then_some(0),
        }
    }

    /// Sequences it has or may yet have.
    pub(crate) fn width(&self) -> usize {
        match &self.growth {
            Growth::Sample { branches } if !self.has_parted() => *branches,
            Growth::Sample { .. } => self.sequences.len(),
            Growth::Beam(search) => search.width(),
        }
    }

    /// Whether its first token was drawn.
    pub(crate) fn has_parted(&self) -> bool {
        self.sequences
            .iter()
            .any(|sequence| !sequence.drawn.is_empty())
    }

    /// Positions that may be taken from the cache: all, or while log-probabilities of the prompt are wanted those that were reported.
    pub(crate) fn cacheable(&self) -> usize {
        self.prompt_rows_reported
            .filter(|rows| *rows < self.prompt.len())
            .unwrap_or(usize::MAX)
    }

    /// Whether it must compute rows of a picture that the executor does not hold, when `cached` positions are in the cache.
    pub(crate) fn lacks_pictures(&self, cached: usize) -> bool {
        self.pictures != Pictures::Ready && cached < self.prompt.pictures_end()
    }

    /// Where a sequence of it is among them.
    pub(crate) fn index_of(&self, sequence: SequenceId) -> usize {
        let at = self.sequences.iter().position(|other| other.id == sequence);
        at.expect("the scheduler knows whose a sequence is")
    }

    /// Why an answer is over with this token as its number `index`.
    pub(crate) fn end_of(&self, token_id: u32, index: usize) -> Option<EndReason> {
        if self.stop_token_ids.contains(&token_id) {
            Some(EndReason::Stop)
        } else if index + 1 == self.max_new_tokens {
            Some(EndReason::Length)
        } else {
            None
        }
    }

    /// Positions that its sequences still prefill, once the step in flight is done.
    pub(crate) fn prefill_left(&self) -> usize {
        self.sequences
            .iter()
            .map(|sequence| sequence.prefill_left(&self.prompt))
            .sum()
    }

    /// What it takes of the next step to decode; nothing, if the step in flight ends it.
    pub(crate) fn decode_demand(&self, blocks: &BlockManager) -> DecodeDemand {
        let decoding = || {
            self.sequences
                .iter()
                .filter(|sequence| sequence.is_decoding(&self.prompt))
        };
        match &self.growth {
            // The search goes on when all beams have drawn; until then those that have not are computed again.
            Growth::Beam(search) if self.sequences.iter().all(Sequence::has_drawn) => {
                let goes_on = !search.is_last_step() && decoding().next().is_some();
                self.demand_of_forks(if goes_on { search.width() } else { 0 })
            }
            Growth::Beam(_) => {
                self.demand_of(decoding().filter(|sequence| !sequence.drawing), blocks)
            }
            Growth::Sample { branches } => {
                let mut going_on = decoding().filter(|sequence| self.goes_on(sequence));
                if self.has_parted() || *branches == 1 {
                    self.demand_of(going_on, blocks)
                } else {
                    self.demand_of_forks(if going_on.next().is_some() {
                        *branches
                    } else {
                        0
                    })
                }
            }
        }
    }

    fn goes_on(&self, sequence: &Sequence) -> bool {
        sequence.drawn.len() + usize::from(sequence.drawing) < self.max_new_tokens
    }

    fn demand_of<'a>(
        &self,
        sequences: impl Iterator<Item = &'a Sequence>,
        blocks: &BlockManager,
    ) -> DecodeDemand {
        let mut demand = DecodeDemand { rows: 0, blocks: 0 };
        for sequence in sequences {
            demand.rows += 1;
            let room = sequence.room_for(self.len_next(sequence), blocks);
            demand.blocks += usize::from(room != Room::Own);
        }
        demand
    }

    /// Sequences that the step in flight forks: at a block's edge each needs a new block, elsewhere all but one copy the block that
    /// they share.
    fn demand_of_forks(&self, rows: usize) -> DecodeDemand {
        let at_edge = self.sequences[0]
            .len(&self.prompt)
            .is_multiple_of(BLOCK_TOKENS);
        DecodeDemand {
            rows,
            blocks: if at_edge {
                rows
            } else {
                rows.saturating_sub(1)
            },
        }
    }

    /// Positions of a sequence when the next step runs.
    pub(crate) fn len_next(&self, sequence: &Sequence) -> usize {
        sequence.len(&self.prompt) + usize::from(sequence.drawing)
    }

    /// What is drawn from the last row of a sequence.
    pub(crate) fn draw(&self, sequence: &Sequence) -> Draw {
        let kind = match &self.growth {
            Growth::Beam(search) => DrawKind::Candidates {
                count: search.num_candidates(),
            },
            Growth::Sample { branches } if sequence.drawn.is_empty() => DrawKind::Tokens {
                first_branch: 0,
                branches: *branches,
            },
            Growth::Sample { .. } => DrawKind::Tokens {
                first_branch: sequence.branch,
                branches: 1,
            },
        };
        Draw {
            token_index: sequence.drawn.len(),
            kind,
        }
    }

    /// Gives all blocks back.
    pub(crate) fn unplace(&mut self, blocks: &mut BlockManager) {
        self.sequences
            .iter_mut()
            .for_each(|sequence| sequence.unplace(blocks));
        blocks.release_table(&mut self.reserve);
    }
}
