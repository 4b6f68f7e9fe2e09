//! Committing what a step computed and drew.

use super::Scheduler;
use crate::{
    ApplyError, BeamAnswer, Draw, DrawFailure, DrawKind, Drawn, DrawnToken, Event, RequestId,
    SearchStep, SequenceId, StepItem, StepOutput, StepPlan, TokenLogprob, request_state::Growth,
    sequence::Sequence,
};

impl Scheduler {
    /// Commits what a plan drew. Requests that were cancelled meanwhile are passed over; those that gave way keep their tokens.
    pub fn apply(
        &mut self,
        plan: &StepPlan,
        output: &StepOutput,
    ) -> Result<Vec<Event>, ApplyError> {
        check_answers(plan, output)?;
        let mut events = Vec::with_capacity(output.drawn.len());
        let mut prompt_logprobs = output.prompt_logprobs.iter();
        let mut drawn = output.drawn.iter();
        for item in &plan.items {
            let logprobs = item
                .prompt_logprobs
                .then(|| prompt_logprobs.next())
                .flatten();
            let drawn = item.draw.and_then(|_| drawn.next());
            let Some(id) = self.owners.get(&item.sequence).copied() else {
                continue;
            };
            self.commit_positions(id, item);
            if let Some((_, rows)) = logprobs {
                self.report_prompt(id, item, rows, &mut events);
            }
            match drawn {
                None => {}
                Some((_, Drawn::Tokens(tokens))) => {
                    self.commit_tokens(id, item.sequence, tokens, &mut events)
                }
                Some((_, Drawn::Candidates(best))) => {
                    self.commit_candidates(id, item.sequence, best, &mut events)
                }
                Some((_, Drawn::Failed(reason))) => self.fail(id, reason.clone(), &mut events),
            }
        }
        Ok(events)
    }

    /// What the item computed is in the cache. Not of a sequence that gave its blocks up meanwhile.
    fn commit_positions(&mut self, id: RequestId, item: &StepItem) {
        let state = self.requests.get_mut(&id).expect("owners are not over");
        let at = state.index_of(item.sequence);
        let sequence = &mut state.sequences[at];
        sequence.drawing = false;
        if sequence.is_placed() {
            sequence.commit(&state.prompt, item.end, &mut self.blocks);
        }
    }

    /// A row tells about the token after it, so the first token of a prompt, which no row tells about, goes with the first row.
    fn report_prompt(
        &mut self,
        id: RequestId,
        item: &StepItem,
        rows: &[Option<DrawnToken>],
        events: &mut Vec<Event>,
    ) {
        let state = self.requests.get_mut(&id).expect("owners are not over");
        let reported = state.prompt_rows_reported.unwrap_or(0);
        let end = item.end.min(state.prompt.len());
        if reported >= end {
            return;
        }
        state.prompt_rows_reported = Some(end);
        let new = &rows[reported - item.start..end - item.start];
        // The last row of the prompt tells about a token that is drawn.
        let new = if end == state.prompt.len() {
            &new[..new.len() - 1]
        } else {
            new
        };
        let first = if reported == 0 { 0 } else { reported + 1 };
        let no_row = (reported == 0).then_some(None);
        let tokens: Vec<_> = no_row.into_iter().chain(new.iter().cloned()).collect();
        if !tokens.is_empty() {
            events.push(Event::PromptLogprobs {
                request: id,
                first,
                tokens,
            });
        }
    }

    /// The next token of a branch, or the first of all branches.
    fn commit_tokens(
        &mut self,
        id: RequestId,
        sequence: SequenceId,
        tokens: &[DrawnToken],
        events: &mut Vec<Event>,
    ) {
        let state = self.requests.get_mut(&id).expect("owners are not over");
        let at = state.index_of(sequence);
        if let Growth::Sample { has_parted, .. } = &mut state.growth {
            *has_parted = true;
        }
        let Sequence {
            branch: first_branch,
            ref drawn,
            ..
        } = state.sequences[at];
        let index = drawn.len();
        let mut live = Vec::new();
        for (branch, token) in (first_branch..).zip(tokens) {
            events.push(Event::Token {
                request: id,
                branch,
                index,
                token: token.clone(),
            });
            match state.end_of(token.token_id, index) {
                Some(reason) => events.push(Event::Ended {
                    request: id,
                    branch,
                    reason,
                }),
                None if tokens.len() == 1 => state.sequences[at].drawn.push(token.token_id),
                None => live.push(Continuation {
                    parent: at,
                    branch,
                    token_id: token.token_id,
                }),
            }
        }
        let goes_on = state.sequences[at].drawn.len() > index;
        match () {
            () if goes_on => {}
            () if !live.is_empty() => self.part(id, &live),
            () if state.sequences.len() > 1 => {
                let ended = state.sequences.remove(at);
                self.release(ended);
            }
            () => self.retire(id),
        }
    }

    /// What a beam may go on with. When all live beams have drawn, the search takes its step.
    fn commit_candidates(
        &mut self,
        id: RequestId,
        sequence: SequenceId,
        best: &[TokenLogprob],
        events: &mut Vec<Event>,
    ) {
        let state = self.requests.get_mut(&id).expect("owners are not over");
        let at = state.index_of(sequence);
        state.sequences[at].candidates = Some(best.to_vec());
        let Growth::Beam(search) = &mut state.growth else {
            return;
        };
        if !state
            .sequences
            .iter()
            .all(|sequence| sequence.candidates.is_some())
        {
            return;
        }
        let taken = state
            .sequences
            .iter_mut()
            .filter_map(|sequence| sequence.candidates.take());
        let candidates: Vec<_> = taken.collect();
        match search.advance(&candidates) {
            SearchStep::Live(extensions) => {
                let live: Vec<_> = extensions
                    .iter()
                    .map(|beam| Continuation {
                        parent: beam.parent,
                        branch: 0,
                        token_id: beam.token_id,
                    })
                    .collect();
                self.part(id, &live);
            }
            SearchStep::Done(answers) => self.end_search(id, answers, events),
        }
    }

    fn end_search(&mut self, id: RequestId, answers: Vec<BeamAnswer>, events: &mut Vec<Event>) {
        if answers.is_empty() {
            let reason =
                DrawFailure::NothingAllowed("no beam can go on and none has ended".to_owned());
            return self.fail(id, reason, events);
        }
        events.push(Event::Beams {
            request: id,
            answers,
        });
        self.retire(id);
    }

    fn fail(&mut self, id: RequestId, reason: DrawFailure, events: &mut Vec<Event>) {
        events.push(Event::Failed {
            request: id,
            reason,
        });
        self.retire(id);
    }

    /// Replaces the sequences of a request by continuations of them. The first of a parent keeps its name, if it is of the same
    /// branch; the others are forks. They share its blocks, until they write.
    fn part(&mut self, id: RequestId, live: &[Continuation]) {
        let state = self.requests.get_mut(&id).expect("owners are not over");
        let parents = std::mem::take(&mut state.sequences);
        let mut is_continued = vec![false; parents.len()];
        let mut sequences = Vec::with_capacity(live.len());
        for way in live {
            let parent = &parents[way.parent];
            let keeps_name = !is_continued[way.parent] && parent.branch == way.branch;
            let name = if keeps_name {
                parent.id
            } else {
                self.new_sequence_id()
            };
            if keeps_name {
                is_continued[way.parent] = true;
            } else {
                self.owners.insert(name, id);
                self.notices.fork(parent.id, name, way.branch);
            }
            let mut sequence = parent.fork(name, way.branch, &mut self.blocks);
            sequence.drawn.push(way.token_id);
            sequences.push(sequence);
        }
        self.requests.get_mut(&id).expect("found above").sequences = sequences;
        for (mut parent, is_continued) in parents.into_iter().zip(is_continued) {
            if is_continued {
                parent.unplace(&mut self.blocks);
            } else {
                self.release(parent);
            }
        }
    }

    /// A sequence is no more, though its request goes on.
    fn release(&mut self, mut sequence: Sequence) {
        sequence.unplace(&mut self.blocks);
        self.owners.remove(&sequence.id);
        self.notices.release(sequence.id);
    }
}

/// A sequence that goes on.
#[derive(Clone, Copy, Debug)]
struct Continuation {
    /// Which of its request's sequences it continues.
    parent: usize,
    branch: usize,
    token_id: u32,
}

/// Whether the output has what the plan asks for, item by item.
fn check_answers(plan: &StepPlan, output: &StepOutput) -> Result<(), ApplyError> {
    let wanted_draws = plan
        .items
        .iter()
        .filter_map(|item| Some((item.sequence, item.draw?)));
    let draws = output.drawn.iter();
    let wanted_rows = plan.items.iter().filter(|item| item.prompt_logprobs);
    let rows = output.prompt_logprobs.iter();
    let is_answered = wanted_draws.clone().count() == draws.len()
        && wanted_rows.clone().count() == rows.len()
        && wanted_draws
            .clone()
            .zip(draws)
            .all(|((sequence, draw), (found, drawn))| sequence == *found && answers(draw, drawn))
        && wanted_rows
            .clone()
            .zip(rows)
            .all(|(item, (found, rows))| item.sequence == *found && item.num_rows() == rows.len());
    if is_answered {
        return Ok(());
    }
    let wanted = wanted_draws.map(|(sequence, draw)| match draw.kind {
        DrawKind::Tokens { branches, .. } => format!("{sequence} draws {branches}"),
        DrawKind::Candidates { count } => format!("{sequence} best {count}"),
    });
    let wanted_rows = wanted_rows.map(|item| format!("{} rows {}", item.sequence, item.num_rows()));
    let found = output.drawn.iter().map(|(sequence, drawn)| match drawn {
        Drawn::Tokens(tokens) => format!("{sequence} draws {}", tokens.len()),
        Drawn::Candidates(best) => format!("{sequence} best {}", best.len()),
        Drawn::Failed(_) => format!("{sequence} failed"),
    });
    let rows = output.prompt_logprobs.iter();
    let found_rows = rows.map(|(sequence, rows)| format!("{sequence} rows {}", rows.len()));
    Err(ApplyError {
        step: plan.step,
        wanted: list(wanted.chain(wanted_rows)),
        found: list(found.chain(found_rows)),
    })
}

fn answers(draw: Draw, drawn: &Drawn) -> bool {
    match (draw.kind, drawn) {
        (_, Drawn::Failed(_)) => true,
        (DrawKind::Tokens { branches, .. }, Drawn::Tokens(tokens)) => tokens.len() == branches,
        // A small vocabulary has fewer.
        (DrawKind::Candidates { count }, Drawn::Candidates(best)) => best.len() <= count,
        (DrawKind::Tokens { .. }, Drawn::Candidates(_))
        | (DrawKind::Candidates { .. }, Drawn::Tokens(_)) => false,
    }
}

fn list(entries: impl Iterator<Item = String>) -> String {
    format!("[{}]", entries.collect::<Vec<_>>().join(", "))
}
