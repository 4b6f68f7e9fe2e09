//! The states of a request and how it goes from one to the next, from group to group where one is lost. No I/O here: `run` does what
//! the effects say and feeds back what came of it.

use std::time::Duration;

use super::{
    ChatEvent, FinishReason, Receipt, Usage, answers::Answers, journal::Journal,
    render::ReadyPrompt,
};
use crate::{
    error::RequestError,
    worker_client::{EndReason, GenerationEvent, Resumed, TokenInfo},
};

/// Positions of a prompt that are told in one event, so that it stays far below the 4 MiB that clients take in one message
/// unless told otherwise.
const MAX_PROMPT_LOGPROBS: usize = 1024;

/// Where a request stands. The last three states are final, and one of them is reached once.
#[derive(Debug)]
pub(crate) enum Lifecycle {
    /// Its prompt is being rendered and its pictures are on their way to vision workers.
    Admitted(Progress),
    /// Its prompt is known; a language group is sought that runs it.
    Rendered(Progress, ReadyPrompt),
    /// A language group runs it.
    Running(Running),
    /// What ran it was lost; another group is sought, or the same one's next life, after its pictures were put again where they are
    /// missing.
    Moving(Progress, ReadyPrompt),
    /// All answers are complete; answer 0 ended so.
    Finished { reason: FinishReason },
    /// The client went away.
    Cancelled,
    /// There is no answer, or only a part.
    Failed { error: RequestError },
}

/// What was done for a request so far, over all groups that ran it.
#[derive(Debug)]
pub(crate) struct Progress {
    answers: Answers,
    journal: Journal,
    rule: MoveRule,
    num_moves: u32,
    /// What the client was told at the start of cached positions; none: it was not told that the request started.
    told_cached: Option<u32>,
    /// The client was told the log-probabilities of so many positions of the prompt.
    told_logprobs: u32,
}

/// A request that a language group runs.
#[derive(Debug)]
pub(crate) struct Running {
    progress: Progress,
    prompt: ReadyPrompt,
    receipt: Receipt,
}

/// How far a request is carried on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoveRule {
    /// How often it may be moved.
    pub(crate) max_moves: u32,
    /// What the client is told where it cannot be.
    pub(crate) retry_after: Duration,
}

/// What happened to a request.
#[derive(Debug)]
pub(crate) enum Event {
    /// Its prompt is known; or its pictures are in other places now.
    Rendered(ReadyPrompt),
    /// A language group took it on; what is not known yet of the receipt is filled in.
    Accepted(Receipt),
    /// The group sent something, in that attempt.
    Generation(u32, GenerationEvent),
    /// What ran it is lost, or does not have its pictures.
    Lost(Loss),
    /// The client went away.
    ClientGone,
    /// It cannot go on.
    Failed(RequestError),
}

/// How a request lost what ran it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The attempt that is lost.
    pub(crate) attempt: u32,
    pub(crate) cause: LossCause,
    /// For people.
    pub(crate) message: String,
}

/// Why a request has to go elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LossCause {
    /// The connection to the leader broke.
    Connection,
    /// The leader said nothing for too long.
    Silence,
    /// The group said that it does not serve any more.
    NotServing,
    /// The group has another epoch.
    Epoch,
    /// The group took it on and has no room for it.
    Busy,
    /// The features of its pictures are nowhere.
    Features,
}

impl LossCause {
    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Silence => "silence",
            Self::NotServing => "not_serving",
            Self::Epoch => "epoch",
            Self::Busy => "busy",
            Self::Features => "features",
        }
    }
}

/// What a language group is to run.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) prompt: ReadyPrompt,
    /// What was drawn already.
    pub(crate) resumed: Vec<Resumed>,
    /// Somebody was promised it already: in front of all that wait.
    pub(crate) is_move: bool,
    /// The log-probabilities of the prompt are all told.
    pub(crate) skip_prompt_logprobs: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Render the prompt and put the pictures.
    Render,
    /// Ask a language group to run this.
    Generate(Attempt),
    /// Let go of the group that ran it. What it still says is not taken.
    Leave(LossCause),
    /// Put the pictures of this prompt again.
    PutPictures(ReadyPrompt),
    /// Send this to the client.
    Emit(ChatEvent),
    /// Tell the client that it failed. Always the last effect.
    Fail(RequestError),
}

impl Lifecycle {
    /// A new request, and what is to be done first.
    pub(crate) fn admit(answers: Answers, rule: MoveRule) -> (Self, Effect) {
        let progress = Progress {
            journal: Journal::new(answers.num_branches()),
            answers,
            rule,
            num_moves: 0,
            told_cached: None,
            told_logprobs: 0,
        };
        (Self::Admitted(progress), Effect::Render)
    }

    /// Whether nothing follows; whatever still runs for the request is to be dropped.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Admitted(_) | Self::Rendered(..) | Self::Running(_) | Self::Moving(..) => false,
            Self::Finished { .. } | Self::Cancelled | Self::Failed { .. } => true,
        }
    }

    /// The state's name in logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Admitted(_) => "admitted",
            Self::Rendered(..) => "rendered",
            Self::Running(_) => "running",
            Self::Moving(..) => "moving",
            Self::Finished { .. } => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed { .. } => "failed",
        }
    }

    /// The attempt that is being made, or runs; none in a final state.
    pub(crate) fn attempt(&self) -> Option<u32> {
        let progress = match self {
            Self::Admitted(progress) | Self::Rendered(progress, _) | Self::Moving(progress, _) => {
                progress
            }
            Self::Running(running) => &running.progress,
            Self::Finished { .. } | Self::Cancelled | Self::Failed { .. } => return None,
        };
        Some(progress.journal.attempt())
    }

    /// Takes an event in and adds what is to be done. In a final state nothing changes any more.
    pub(crate) fn apply(&mut self, event: Event, model: &str, effects: &mut Vec<Effect>) {
        if self.is_final() {
            return;
        }
        match event {
            Event::ClientGone => *self = Self::Cancelled,
            Event::Failed(error) => self.fail(self.in_terms_of_moves(error), effects),
            Event::Rendered(prompt) => self.rendered(prompt, effects),
            Event::Accepted(receipt) => self.accepted(receipt, effects),
            // What an attempt says that was given up is nobody's any more.
            Event::Generation(attempt, _) | Event::Lost(Loss { attempt, .. })
                if self.attempt() != Some(attempt) => {}
            Event::Generation(_, event) => self.generation(event, model, effects),
            Event::Lost(loss) => self.lost(loss, effects),
        }
    }

    /// A request that was moved and finds no group is not one that none would take.
    fn in_terms_of_moves(&self, error: RequestError) -> RequestError {
        match (self, error) {
            (
                Self::Moving(Progress { num_moves, .. }, _),
                RequestError::LanguageUnavailable {
                    message,
                    retry_after,
                },
            ) => RequestError::RecoveryFailed {
                num_moves: *num_moves,
                message,
                retry_after,
            },
            (_, error) => error,
        }
    }

    fn rendered(&mut self, prompt: ReadyPrompt, effects: &mut Vec<Effect>) {
        match self.take() {
            Self::Admitted(progress) => {
                effects.push(Effect::Generate(progress.attempt(&prompt)));
                *self = Self::Rendered(progress, prompt);
            }
            Self::Moving(progress, _) => {
                effects.push(Effect::Generate(progress.attempt(&prompt)));
                *self = Self::Moving(progress, prompt);
            }
            other => self.out_of_turn("rendered", other.name(), effects),
        }
    }

    fn accepted(&mut self, receipt: Receipt, effects: &mut Vec<Effect>) {
        match self.take() {
            Self::Rendered(progress, prompt) | Self::Moving(progress, prompt) => {
                let receipt = Receipt {
                    num_moves: progress.num_moves,
                    ..receipt
                };
                *self = Self::Running(Running {
                    progress,
                    prompt,
                    receipt,
                });
            }
            other => self.out_of_turn("accepted", other.name(), effects),
        }
    }

    fn generation(&mut self, event: GenerationEvent, model: &str, effects: &mut Vec<Effect>) {
        let Self::Running(running) = self else {
            let state = self.name();
            self.out_of_turn("generation", state, effects);
            return;
        };
        match running.take_in(event, model, effects) {
            Err(fault) => self.fail(RequestError::Internal(fault), effects),
            Ok(()) => self.finish_if_complete(effects),
        }
    }

    /// The request goes elsewhere, unless it was complete but for the last word, or was moved too often.
    fn lost(&mut self, loss: Loss, effects: &mut Vec<Effect>) {
        if let Self::Running(running) = self {
            if let Err(fault) = running.end_what_is_complete(effects) {
                self.fail(RequestError::Internal(fault), effects);
                return;
            }
            self.finish_if_complete(effects);
            if self.is_final() {
                return;
            }
        }
        let (mut progress, prompt) = match self.take() {
            Self::Running(running) => (running.progress, running.prompt),
            // A group may say so before it takes the request on.
            Self::Rendered(progress, prompt) | Self::Moving(progress, prompt)
                if loss.cause == LossCause::Features =>
            {
                (progress, prompt)
            }
            other => return self.out_of_turn("lost", other.name(), effects),
        };
        if progress.num_moves >= progress.rule.max_moves {
            let error = progress.give_up(loss);
            return self.fail(error, effects);
        }
        progress.num_moves += 1;
        progress.journal.give_up();
        effects.push(Effect::Leave(loss.cause));
        effects.push(match loss.cause {
            LossCause::Features => Effect::PutPictures(prompt.clone()),
            _ => Effect::Generate(progress.attempt(&prompt)),
        });
        *self = Self::Moving(progress, prompt);
    }

    fn finish_if_complete(&mut self, effects: &mut Vec<Effect>) {
        let Self::Running(running) = self else {
            return;
        };
        if let Some(end) = running.progress.answers.end() {
            let reason = end.reason;
            effects.push(Effect::Emit(ChatEvent::Finished {
                end: end.clone(),
                usage: running.usage(),
                receipt: running.receipt.clone(),
            }));
            *self = Self::Finished { reason };
        }
    }

    fn fail(&mut self, error: RequestError, effects: &mut Vec<Effect>) {
        *self = Self::Failed {
            error: error.clone(),
        };
        effects.push(Effect::Fail(error));
    }

    /// An event that cannot come in this state: a bug in the driver, which must not take the process down.
    fn out_of_turn(&mut self, event: &str, state: &str, effects: &mut Vec<Effect>) {
        let fault = format!("event `{event}` came in state `{state}`");
        self.fail(RequestError::Internal(fault), effects);
    }

    /// The state, of which another is made.
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Cancelled)
    }
}

impl Progress {
    /// What a group is asked for next.
    fn attempt(&self, prompt: &ReadyPrompt) -> Attempt {
        Attempt {
            prompt: prompt.clone(),
            resumed: self.journal.resumed(),
            is_move: self.num_moves > 0,
            skip_prompt_logprobs: self.told_logprobs >= prompt.size.prompt_tokens,
        }
    }

    fn give_up(&self, loss: Loss) -> RequestError {
        let retry_after = self.rule.retry_after;
        let message = loss.message;
        match loss.cause {
            LossCause::Features => RequestError::VisionUnavailable {
                message,
                retry_after,
            },
            _ => RequestError::RecoveryFailed {
                num_moves: self.num_moves,
                message,
                retry_after,
            },
        }
    }
}

impl Running {
    fn take_in(
        &mut self,
        event: GenerationEvent,
        model: &str,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        if let GenerationEvent::Started { cached_tokens } = event {
            self.receipt.cached_tokens = cached_tokens;
        }
        if self.progress.told_cached.is_none() {
            let cached_tokens = self.receipt.cached_tokens;
            self.progress.told_cached = Some(cached_tokens);
            effects.push(Effect::Emit(ChatEvent::Started {
                model: model.to_owned(),
                prompt: self.prompt.size,
                cached_tokens,
                receipt: self.receipt.clone(),
            }));
        }
        let mut tell = |event| effects.push(Effect::Emit(event));
        let Progress {
            answers, journal, ..
        } = &mut self.progress;
        match event {
            GenerationEvent::Started { .. } => Ok(()),
            GenerationEvent::PromptLogprobs { first, tokens } => {
                self.progress.prompt_logprobs(first, tokens, tell)
            }
            GenerationEvent::Tokens(batch) => {
                let branch = batch.branch;
                journal.take(journal.attempt(), &batch)?;
                answers.tokens(batch, tell)?;
                if answers.has_ended(branch) {
                    journal.end(branch);
                }
                Ok(())
            }
            GenerationEvent::Ended { branch, reason } => {
                journal.end(branch);
                answers.ended(branch, reason, &mut tell)
            }
            GenerationEvent::Beams(beams) => answers.beams(beams, tell),
        }
    }

    /// Ends answers whose last token came and whose end did not.
    fn end_what_is_complete(&mut self, effects: &mut Vec<Effect>) -> Result<(), String> {
        let mut tell = |event| effects.push(Effect::Emit(event));
        let Progress {
            answers, journal, ..
        } = &mut self.progress;
        let max_new_tokens = self.prompt.max_new_tokens as usize;
        let complete: Vec<_> = journal
            .open()
            .filter_map(|(branch, last, num_tokens)| match last {
                Some(last) if answers.is_stop(last) => Some((branch, EndReason::Stop)),
                _ if num_tokens >= max_new_tokens => Some((branch, EndReason::Length)),
                _ => None,
            })
            .collect();
        for (branch, reason) in complete {
            journal.end(branch);
            answers.ended(branch, reason, &mut tell)?;
        }
        Ok(())
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt: self.prompt.size,
            cached_tokens: self.progress.told_cached.unwrap_or(0),
            completion_tokens: self.progress.answers.num_tokens(),
        }
    }
}

impl Progress {
    /// Tells those that were not told in an earlier attempt.
    fn prompt_logprobs(
        &mut self,
        mut first: u32,
        mut tokens: Vec<TokenInfo>,
        mut tell: impl FnMut(ChatEvent),
    ) -> Result<(), String> {
        let told = self.told_logprobs;
        if first > told {
            return Err(format!(
                "the leader sent log-probabilities of prompt token {first}, wanted token {told}"
            ));
        }
        let num_known = (told - first) as usize;
        tokens.drain(..num_known.min(tokens.len()));
        first = told;
        while !tokens.is_empty() {
            let rest = tokens.split_off(tokens.len().min(MAX_PROMPT_LOGPROBS));
            let num_told = tokens.len() as u32;
            tell(ChatEvent::PromptLogprobs { first, tokens });
            first += num_told;
            tokens = rest;
        }
        self.told_logprobs = first;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
