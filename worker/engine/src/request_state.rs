//! A request from its submission to its end: what it wants, and how far its sequences are.

use crate::{
    BLOCK_TOKENS, BeamSearch, BlockId, Decoding, Draw, DrawKind, EndReason, EngineRequest,
    Priority, RequestId, SequenceId,
    beginning::Beginning,
    block_manager::BlockManager,
    prompt::Prompt,
    request::{Ends, end_of},
    sequence::{Room, Sequence},
};

/// A request's place among all, the first in front: those put in front, interactive, batch; then by arrival.
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
    Sample { branches: usize, has_parted: bool },
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
    /// Those that have not ended; one until the branches part at the first token.
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
    /// While it waits: positions that are to be computed when it runs, as far as the cache told when it began to wait.
    pub(crate) prefill_expected: usize,
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
    pub(crate) fn new(request: &EngineRequest, arrival: u64) -> Self {
        let class = match request.priority {
            _ if request.first_in_line => 0,
            Priority::Interactive => 1,
            Priority::Batch => 2,
        };
        Self { class, arrival }
    }

    /// In front of all that wait their turn.
    pub(crate) const FIRST_IN_TURN: Self = Self {
        class: 1,
        arrival: 0,
    };

    /// In front of all that are batch requests still.
    pub(crate) const FIRST_BATCH: Self = Self {
        class: 2,
        arrival: 0,
    };

    /// Whether it was put in front of those that wait their turn.
    pub(crate) fn is_put_first(self) -> bool {
        self < Self::FIRST_IN_TURN
    }

    /// The same request, counted as interactive.
    pub(crate) fn promoted(self) -> Self {
        Self { class: 1, ..self }
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
    /// A checked request. `names` are for the sequences that it begins with.
    pub(crate) fn new(
        request: EngineRequest,
        beginning: Beginning,
        names: impl Iterator<Item = SequenceId>,
        arrival: u64,
    ) -> Self {
        let has_pictures = request.has_pictures();
        let rank = Rank::new(&request, arrival);
        let prompt = Prompt::new(&request.prompt, request.cache_salt);
        let growth = match request.decoding {
            Decoding::Sample { branches } => Growth::Sample {
                branches,
                has_parted: beginning.has_parted,
            },
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
        let sequences = names.zip(beginning.live);
        let sequences = sequences
            .map(|(name, (branch, drawn))| Sequence::begin(name, branch, drawn, &prompt))
            .collect();
        Self {
            id: request.id,
            rank,
            phase: Phase::Waiting { since: 0 },
            prompt,
            growth,
            max_new_tokens: request.max_new_tokens,
            stop_token_ids: request.stop_token_ids,
            pictures: if request.pictures_ready {
                Pictures::Ready
            } else {
                Pictures::NotAsked
            },
            sequences,
            reserve: Vec::new(),
            started: false,
            waited: 0,
            prompt_rows_reported: request.prompt_logprobs.then_some(0),
            prefill_expected: 0,
        }
    }

    /// Sequences it has or may yet have.
    pub(crate) fn width(&self) -> usize {
        match &self.growth {
            Growth::Sample {
                branches,
                has_parted: false,
            } => *branches,
            Growth::Sample { .. } => self.sequences.len(),
            Growth::Beam(search) => search.width(),
        }
    }

    /// Positions that its sequences have to compute from here on, when `cached` of the first are found: the others share its prompt.
    pub(crate) fn positions_beside(&self, cached: usize) -> usize {
        let shared = self.prompt.num_full_blocks() * BLOCK_TOKENS;
        let lengths = self
            .sequences
            .iter()
            .map(|sequence| sequence.len(&self.prompt));
        let all: usize = lengths.sum();
        all - cached - shared * (self.sequences.len() - 1)
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
        let ends = Ends {
            stop_token_ids: &self.stop_token_ids,
            max_new_tokens: self.max_new_tokens,
        };
        end_of(ends, token_id, index)
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
            Growth::Sample {
                branches,
                has_parted,
            } => {
                let mut going_on = decoding().filter(|sequence| self.goes_on(sequence));
                if *has_parted || *branches == 1 {
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
            Growth::Sample {
                branches,
                has_parted: false,
            } => DrawKind::Tokens {
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
