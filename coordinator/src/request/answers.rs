//! The answers of one request: each with its own text and its own end, told as they grow, or chosen and told at the end.
//! Pure; what is said to the client comes out as events.

use super::{
    AnswerEnd, AnswerPlan, ChatEvent, Delta, FinishReason,
    detokenise::{Answer, Growth},
};
use crate::worker_client::{BeamAnswer, EndReason, TokenBatch, TokenInfo};

/// Tokens of one delta at most where a whole answer is told at once: it stays far below the 4 MiB that clients take in
/// one message unless told otherwise, log-probabilities included.
const MAX_DELTA_TOKENS: usize = 1024;

/// All answers of a request.
#[derive(Debug)]
pub(crate) struct Answers {
    plan: AnswerPlan,
    /// Whether deltas tell log-probabilities.
    logprobs: bool,
    branches: Vec<Branch>,
    /// Branches that go on.
    num_open: usize,
    /// What an answer is before its first token.
    blank: Answer,
    /// Set at the end where answers are told at the end: how the first of them ended.
    chosen: Option<AnswerEnd>,
    /// Tokens of answers that have no branch.
    num_beam_tokens: u32,
}

/// An answer that comes token by token.
#[derive(Debug)]
struct Branch {
    answer: Answer,
    /// Set at its end. The group may go on with it, which is passed over: it cannot end one branch alone.
    end: Option<AnswerEnd>,
    /// Kept until the choice is made.
    held: Vec<Delta>,
    sum_logprob: f64,
}

impl Answers {
    /// None has a token yet; each begins as `blank` is.
    pub(crate) fn new(plan: AnswerPlan, logprobs: bool, blank: Answer) -> Self {
        let num_branches = plan.decoding().num_branches() as usize;
        let branches = (0..num_branches).map(|_| Branch {
            answer: blank.clone(),
            end: None,
            held: vec![],
            sum_logprob: 0.0,
        });
        Self {
            plan,
            logprobs,
            branches: branches.collect(),
            num_open: num_branches,
            blank,
            chosen: None,
            num_beam_tokens: 0,
        }
    }

    /// Answers that come token by token.
    pub(crate) fn num_branches(&self) -> u32 {
        self.plan.decoding().num_branches()
    }

    /// Tokens taken in so far, of all answers.
    pub(crate) fn num_tokens(&self) -> u32 {
        let tokens = self
            .branches
            .iter()
            .map(|branch| branch.answer.num_tokens());
        tokens.fold(self.num_beam_tokens, u32::saturating_add)
    }

    /// How answer 0 ended, once all did.
    pub(crate) fn end(&self) -> Option<&AnswerEnd> {
        match self.plan {
            AnswerPlan::All { .. } if self.num_open == 0 => self.branches[0].end.as_ref(),
            AnswerPlan::All { .. } => None,
            AnswerPlan::Best { .. } | AnswerPlan::Beam(_) => self.chosen.as_ref(),
        }
    }

    /// Whether nothing more is wanted of an answer.
    pub(crate) fn has_ended(&self, branch: u32) -> bool {
        let branch = self.branches.get(branch as usize);
        branch.is_some_and(|branch| branch.end.is_some())
    }

    /// Whether an answer ends with this token.
    pub(crate) fn is_stop(&self, id: u32) -> bool {
        self.blank.is_stop(id)
    }

    /// Takes the next tokens of an answer.
    pub(crate) fn tokens(
        &mut self,
        batch: TokenBatch,
        mut tell: impl FnMut(ChatEvent),
    ) -> Result<(), String> {
        let TokenBatch {
            branch: index,
            ids,
            mut infos,
            ..
        } = batch;
        let branch = find(&mut self.branches, index)?;
        if branch.end.is_some() {
            return Ok(());
        }
        let growth = branch.answer.push(ids);
        infos.truncate(growth.token_ids.len());
        let is_choice = matches!(self.plan, AnswerPlan::Best { .. });
        if (self.logprobs || is_choice) && infos.len() != growth.token_ids.len() {
            return Err("the leader sent tokens without log-probabilities".into());
        }
        if is_choice {
            let logprobs = infos.iter().filter_map(|info| info.logprob);
            branch.sum_logprob += logprobs.map(f64::from).sum::<f64>();
        }
        if !self.logprobs {
            infos = vec![];
        }
        match growth.stop_string {
            Some(_) => self.close(index, growth, infos, FinishReason::Stop, tell),
            None => {
                if let Some(delta) = delta(index, growth, infos) {
                    branch.put(delta, is_choice, &mut tell);
                }
                Ok(())
            }
        }
    }

    /// An answer ended by itself.
    pub(crate) fn ended(
        &mut self,
        index: u32,
        reason: EndReason,
        tell: impl FnMut(ChatEvent),
    ) -> Result<(), String> {
        let branch = find(&mut self.branches, index)?;
        if branch.end.is_some() {
            return Ok(());
        }
        let growth = branch.answer.finish();
        let reason = finish_reason(reason, &growth);
        self.close(index, growth, vec![], reason, tell)
    }

    /// Takes the answers of a beam search, best first.
    pub(crate) fn beams(
        &mut self,
        beams: Vec<BeamAnswer>,
        mut tell: impl FnMut(ChatEvent),
    ) -> Result<(), String> {
        for (index, beam) in (0..).zip(beams) {
            let mut answer = self.blank.clone();
            let end = tell_beam(index, &beam, &mut answer, &mut tell);
            tell(ChatEvent::AnswerFinished {
                answer: index,
                end: end.clone(),
                completion_tokens: answer.num_tokens(),
                score: Some(beam.score),
            });
            self.num_beam_tokens = self.num_beam_tokens.saturating_add(answer.num_tokens());
            self.chosen.get_or_insert(end);
        }
        match self.chosen {
            Some(_) => Ok(()),
            None => Err("the leader found no answer".into()),
        }
    }

    /// The end of a branch, with the last that it says.
    fn close(
        &mut self,
        index: u32,
        mut growth: Growth,
        infos: Vec<TokenInfo>,
        reason: FinishReason,
        mut tell: impl FnMut(ChatEvent),
    ) -> Result<(), String> {
        let is_choice = matches!(self.plan, AnswerPlan::Best { .. });
        let branch = find(&mut self.branches, index)?;
        let end = AnswerEnd {
            reason,
            stop_string: growth.stop_string.take(),
        };
        if let Some(delta) = delta(index, growth, infos) {
            branch.put(delta, is_choice, &mut tell);
        }
        branch.end = Some(end.clone());
        let completion_tokens = branch.answer.num_tokens();
        self.num_open -= 1;
        match self.plan {
            AnswerPlan::All { num_answers: 2.. } => tell(ChatEvent::AnswerFinished {
                answer: index,
                end,
                completion_tokens,
                score: None,
            }),
            AnswerPlan::Best { num_answers, .. } if self.num_open == 0 => {
                self.choose(num_answers as usize, tell);
            }
            AnswerPlan::All { .. } | AnswerPlan::Best { .. } | AnswerPlan::Beam(_) => {}
        }
        Ok(())
    }

    /// Tells the most likely answers, best first; of equal ones those that were drawn first.
    fn choose(&mut self, num_answers: usize, mut tell: impl FnMut(ChatEvent)) {
        let mut order: Vec<&mut Branch> = self.branches.iter_mut().collect();
        order.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
        for (answer, branch) in (0..).zip(order.into_iter().take(num_answers)) {
            for delta in std::mem::take(&mut branch.held) {
                tell(ChatEvent::Delta(Delta { answer, ..delta }));
            }
            let end = branch.end.clone().expect("all branches ended");
            self.chosen.get_or_insert(end.clone());
            tell(ChatEvent::AnswerFinished {
                answer,
                end,
                completion_tokens: branch.answer.num_tokens(),
                score: Some(branch.mean_logprob() as f32),
            });
        }
    }
}

impl Branch {
    /// Tells more of the answer, or keeps it for the choice.
    fn put(&mut self, delta: Delta, is_choice: bool, tell: &mut impl FnMut(ChatEvent)) {
        if !is_choice {
            tell(ChatEvent::Delta(delta));
            return;
        }
        match self.held.last_mut() {
            Some(last) if last.token_ids.len() + delta.token_ids.len() <= MAX_DELTA_TOKENS => {
                last.text += &delta.text;
                last.token_ids.extend(delta.token_ids);
                last.logprobs.extend(delta.logprobs);
            }
            _ => self.held.push(delta),
        }
    }

    fn mean_logprob(&self) -> f64 {
        self.sum_logprob / f64::from(self.answer.num_tokens().max(1))
    }
}

fn find(branches: &mut [Branch], index: u32) -> Result<&mut Branch, String> {
    let num_branches = branches.len();
    let branch = branches.get_mut(index as usize);
    branch.ok_or_else(|| format!("the leader spoke of answer {index} of {num_branches}"))
}

fn tell_beam(
    index: u32,
    beam: &BeamAnswer,
    answer: &mut Answer,
    tell: &mut impl FnMut(ChatEvent),
) -> AnswerEnd {
    for ids in beam.ids.chunks(MAX_DELTA_TOKENS) {
        let mut growth = answer.push(ids.to_vec());
        let stop_string = growth.stop_string.take();
        tell_delta(index, growth, tell);
        if stop_string.is_some() {
            let reason = FinishReason::Stop;
            return AnswerEnd {
                reason,
                stop_string,
            };
        }
    }
    let mut growth = answer.finish();
    let end = AnswerEnd {
        reason: finish_reason(beam.reason, &growth),
        stop_string: growth.stop_string.take(),
    };
    tell_delta(index, growth, tell);
    end
}

fn tell_delta(index: u32, growth: Growth, tell: &mut impl FnMut(ChatEvent)) {
    if let Some(delta) = delta(index, growth, vec![]) {
        tell(ChatEvent::Delta(delta));
    }
}

/// What the group says, unless a stop string was completed by text that came out at the end.
fn finish_reason(reason: EndReason, growth: &Growth) -> FinishReason {
    match reason {
        _ if growth.stop_string.is_some() => FinishReason::Stop,
        EndReason::Stop => FinishReason::Stop,
        EndReason::Length => FinishReason::Length,
    }
}

/// What was added; none when nothing was.
fn delta(answer: u32, growth: Growth, logprobs: Vec<TokenInfo>) -> Option<Delta> {
    let Growth {
        text, token_ids, ..
    } = growth;
    let is_empty = text.is_empty() && token_ids.is_empty();
    (!is_empty).then_some(Delta {
        answer,
        text,
        token_ids,
        logprobs,
    })
}

#[cfg(test)]
mod tests;
