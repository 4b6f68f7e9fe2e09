//! Ranks without a network: they keep what the plan tells them, and a cache in which each position holds a digest of all it was
//! computed from. What they draw is a function of what they read through the block table, so a wrong block, a copy that is
//! missing or another's picture gives other tokens.

use std::collections::{HashMap, HashSet};

use crate::*;

pub(super) const VOCABULARY: u64 = 150;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Content {
    Token(u32),
    PictureRow(u64),
}

#[derive(Default)]
pub(super) struct Ranks {
    prompts: HashMap<RequestId, Vec<Content>>,
    /// What branches drew in an earlier run.
    resumed: HashMap<(RequestId, usize), Vec<u32>>,
    sequences: HashMap<SequenceId, (RequestId, Vec<Content>)>,
    pictures: HashSet<RequestId>,
    cache: HashMap<(BlockId, usize), (usize, u64)>,
    pub(super) num_copies: usize,
}

impl Ranks {
    pub(super) fn admit(&mut self, request: &EngineRequest) {
        // The salt stands for all that changes what is cached for the same tokens.
        let salt = u64::from(request.cache_salt[0]);
        let mut contents = Vec::new();
        for span in &request.prompt {
            match span {
                PromptSpan::Tokens(ids) => contents.extend(
                    ids.iter()
                        .map(|id| Content::Token(*id + (salt << 20) as u32)),
                ),
                PromptSpan::Picture { digest, num_tokens } => {
                    let picture = digest
                        .iter()
                        .fold(salt, |seed, byte| mix(seed, u64::from(*byte)));
                    contents.extend(
                        (0..*num_tokens as u64).map(|row| Content::PictureRow(mix(picture, row))),
                    );
                }
            }
        }
        self.prompts.insert(request.id, contents);
        for known in &request.resumed {
            let drawn = known.token_ids.clone();
            self.resumed.insert((request.id, known.branch), drawn);
        }
        if request.pictures_ready {
            self.pictures.insert(request.id);
        }
    }

    pub(super) fn pictures(&mut self, request: RequestId) {
        self.pictures.insert(request);
    }

    pub(super) fn run(&mut self, plan: &StepPlan) -> StepOutput {
        self.take_notices(plan);
        // All items read before any writes: what another item of the step computes is not there yet.
        let before: Vec<u64> = plan
            .items
            .iter()
            .map(|item| self.read(item, item.start))
            .collect();
        let mut written = HashSet::new();
        for (item, before) in plan.items.iter().zip(before) {
            self.write(item, before, &mut written);
        }
        let mut output = StepOutput::default();
        for item in &plan.items {
            let state = self.read(item, item.end);
            if item.prompt_logprobs {
                output
                    .prompt_logprobs
                    .push((item.sequence, self.prompt_logprobs(item)));
            }
            if let Some(draw) = item.draw {
                output.drawn.push((item.sequence, draw_from(state, draw)));
            }
        }
        output
    }

    fn take_notices(&mut self, plan: &StepPlan) {
        for sequence in &plan.released {
            assert!(
                self.sequences.remove(sequence).is_some(),
                "released {sequence} was never started"
            );
        }
        for request in &plan.retired {
            assert!(
                self.prompts.remove(request).is_some(),
                "retired {request} twice"
            );
            self.pictures.remove(request);
        }
        for start in &plan.started {
            let mut tokens = self.prompts[&start.request].clone();
            let drawn = self.resumed.get(&(start.request, start.branch));
            tokens.extend(drawn.into_iter().flatten().copied().map(Content::Token));
            assert!(
                self.sequences
                    .insert(start.sequence, (start.request, tokens))
                    .is_none()
            );
        }
        for fork in &plan.forks {
            let parent = self.sequences[&fork.parent].clone();
            assert!(self.sequences.insert(fork.child, parent).is_none());
        }
        for copy in &plan.copies {
            self.num_copies += 1;
            for offset in 0..BLOCK_TOKENS {
                match self.cache.get(&(copy.from, offset)).copied() {
                    Some(cell) => self.cache.insert((copy.to, offset), cell),
                    None => self.cache.remove(&(copy.to, offset)),
                };
            }
        }
        for item in &plan.items {
            let (_, tokens) = self
                .sequences
                .get_mut(&item.sequence)
                .expect("it was started");
            if let Some(id) = item.appended {
                tokens.push(Content::Token(id));
                assert_eq!(tokens.len(), item.end);
            }
            assert!(item.start < item.end && item.end <= tokens.len());
            assert!(item.draw.is_none() || item.end == tokens.len());
        }
    }

    /// What the positions before `end` come to, as they are in the cache.
    fn read(&self, item: &StepItem, end: usize) -> u64 {
        (0..end).fold(0, |state, position| {
            let slot = (
                item.block_table[position / BLOCK_TOKENS],
                position % BLOCK_TOKENS,
            );
            let (found, value) = self.cache.get(&slot).copied().unwrap_or((usize::MAX, 0));
            mix(mix(state, found as u64), value)
        })
    }

    fn write(&mut self, item: &StepItem, before: u64, written: &mut HashSet<(BlockId, usize)>) {
        let (request, tokens) = &self.sequences[&item.sequence];
        let mut state = before;
        for position in item.positions() {
            let content = match tokens[position] {
                Content::Token(id) => mix(1, u64::from(id)),
                Content::PictureRow(row) => {
                    assert!(
                        self.pictures.contains(request),
                        "{request} computes a picture that is not there"
                    );
                    mix(2, row)
                }
            };
            let value = mix(state, content);
            state = mix(mix(state, position as u64), value);
            let slot = (
                item.block_table[position / BLOCK_TOKENS],
                position % BLOCK_TOKENS,
            );
            assert!(
                written.insert(slot),
                "two sequences write to block {}",
                slot.0
            );
            self.cache.insert(slot, (position, value));
        }
    }

    fn prompt_logprobs(&self, item: &StepItem) -> Vec<Option<DrawnToken>> {
        let (request, _) = &self.sequences[&item.sequence];
        let prompt = &self.prompts[request];
        item.positions()
            .map(|row| match prompt.get(row + 1)? {
                Content::PictureRow(_) => None,
                Content::Token(id) => {
                    let logprob = -((self.read(item, row + 1) % 1000) as f32);
                    Some(DrawnToken {
                        logprob: Some(logprob),
                        ..DrawnToken::plain(*id)
                    })
                }
            })
            .collect()
    }
}

fn draw_from(state: u64, draw: Draw) -> Drawn {
    match draw.kind {
        DrawKind::Tokens {
            first_branch,
            branches,
        } => Drawn::Tokens(
            (first_branch..first_branch + branches)
                .map(|branch| {
                    let number = mix(mix(state, branch as u64), draw.token_index as u64);
                    DrawnToken::plain((number % VOCABULARY) as u32)
                })
                .collect(),
        ),
        DrawKind::Candidates { count } => {
            let mut best: Vec<TokenLogprob> = (0..VOCABULARY)
                .map(|id| TokenLogprob {
                    token_id: id as u32,
                    logprob: -0.01 - (mix(state, id) % 4000) as f32 / 1000.0,
                })
                .collect();
            best.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
            best.truncate(count);
            Drawn::Candidates(best)
        }
    }
}

fn mix(state: u64, number: u64) -> u64 {
    let mixed =
        (state ^ number.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb)
}
