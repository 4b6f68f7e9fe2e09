//! The states of a request and how it goes from one to the next. No I/O here: `run` does what the effects say and
//! feeds back what came of it.

use super::{ChatEvent, FinishReason, PromptSize, Usage, answers::Answers, render::ReadyPrompt};
use crate::{
    error::RequestError,
    worker_client::{GenerationEvent, TokenInfo},
};

/// Positions of a prompt that are told in one event, so that it stays far below the 4 MiB that clients take in one message
/// unless told otherwise.
const MAX_PROMPT_LOGPROBS: usize = 1024;

/// Where a request stands. The last three states are final, and one of them is reached once.
#[derive(Debug)]
pub(crate) enum Lifecycle {
    /// Its prompt is being rendered and its pictures are on their way to vision workers.
    Admitted { answers: Answers, attempt: Attempt },
    /// Its prompt is known; a language group was asked to run it.
    Rendered {
        answers: Answers,
        attempt: Attempt,
        prompt: PromptSize,
    },
    /// A language group took it on.
    Running(Running),
    /// All answers are complete; answer 0 ended so.
    Finished { reason: FinishReason },
    /// The client went away.
    Cancelled,
    /// There is no answer, or only a part.
    Failed { error: RequestError },
}

/// A request that a language group took on.
#[derive(Debug)]
pub(crate) struct Running {
    answers: Answers,
    attempt: Attempt,
    prompt: PromptSize,
    /// Positions of the prompt that were found in the cache.
    cached_tokens: u32,
}

/// What was done before for this request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attempt {
    /// The client was told that it started.
    started: bool,
    /// The client was told the log-probabilities of so many positions of the prompt.
    prompt_logprobs: u32,
    /// Features were evicted once and the pictures put again; a second time is a failure.
    pictures_put_again: bool,
}

/// What happened to a request.
#[derive(Debug)]
pub(crate) enum Event {
    /// Its prompt is known.
    Rendered(ReadyPrompt),
    /// A language group took it on.
    Accepted,
    /// The group could not get the features of a picture; the error is for when they cannot be put again.
    FeaturesMissing(RequestError),
    /// The group sent something.
    Generation(GenerationEvent),
    /// The client went away.
    ClientGone,
    /// It cannot go on.
    Failed(RequestError),
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Render the prompt and put the pictures.
    Render,
    /// Ask a language group to run this.
    Generate(ReadyPrompt),
    /// Send this to the client.
    Emit(ChatEvent),
    /// Tell the client that it failed. Always the last effect.
    Fail(RequestError),
}

impl Lifecycle {
    /// A new request, and what is to be done first.
    pub(crate) fn admit(answers: Answers) -> (Self, Effect) {
        let attempt = Attempt::default();
        (Self::Admitted { answers, attempt }, Effect::Render)
    }

    /// Whether nothing follows; whatever still runs for the request is to be dropped.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Admitted { .. } | Self::Rendered { .. } | Self::Running(_) => false,
            Self::Finished { .. } | Self::Cancelled | Self::Failed { .. } => true,
        }
    }

    /// The state's name in logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Admitted { .. } => "admitted",
            Self::Rendered { .. } => "rendered",
            Self::Running(_) => "running",
            Self::Finished { .. } => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed { .. } => "failed",
        }
    }

    /// Takes an event in and adds what is to be done. In a final state nothing changes any more.
    pub(crate) fn apply(&mut self, event: Event, model: &str, effects: &mut Vec<Effect>) {
        if self.is_final() {
            return;
        }
        match event {
            Event::ClientGone => *self = Self::Cancelled,
            Event::Failed(error) => self.fail(error, effects),
            Event::Rendered(prompt) => self.rendered(prompt, effects),
            Event::Accepted => self.accepted(effects),
            Event::FeaturesMissing(error) => self.features_missing(error, effects),
            Event::Generation(event) => self.generation(event, model, effects),
        }
    }

    fn rendered(&mut self, prompt: ReadyPrompt, effects: &mut Vec<Effect>) {
        match self.take() {
            Self::Admitted { answers, attempt } => {
                *self = Self::Rendered {
                    answers,
                    attempt,
                    prompt: prompt.size,
                };
                effects.push(Effect::Generate(prompt));
            }
            other => self.out_of_turn("rendered", other.name(), effects),
        }
    }

    fn accepted(&mut self, effects: &mut Vec<Effect>) {
        match self.take() {
            Self::Rendered {
                answers,
                attempt,
                prompt,
            } => {
                *self = Self::Running(Running {
                    answers,
                    attempt,
                    prompt,
                    cached_tokens: 0,
                });
            }
            other => self.out_of_turn("accepted", other.name(), effects),
        }
    }

    fn features_missing(&mut self, error: RequestError, effects: &mut Vec<Effect>) {
        match self.take() {
            Self::Rendered {
                answers, attempt, ..
            }
            | Self::Running(Running {
                answers, attempt, ..
            }) if answers.num_tokens() == 0 && !attempt.pictures_put_again => {
                let attempt = Attempt {
                    pictures_put_again: true,
                    ..attempt
                };
                *self = Self::Admitted { answers, attempt };
                effects.push(Effect::Render);
            }
            _ => self.fail(error, effects),
        }
    }

    fn generation(&mut self, event: GenerationEvent, model: &str, effects: &mut Vec<Effect>) {
        let Self::Running(running) = self else {
            let state = self.name();
            self.out_of_turn("generation", state, effects);
            return;
        };
        if let Err(fault) = running.take_in(event, model, effects) {
            self.fail(RequestError::Internal(fault), effects);
            return;
        }
        if let Some(end) = running.answers.end() {
            let reason = end.reason;
            effects.push(Effect::Emit(ChatEvent::Finished {
                end: end.clone(),
                usage: running.usage(),
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

impl Running {
    fn take_in(
        &mut self,
        event: GenerationEvent,
        model: &str,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        if let GenerationEvent::Started { cached_tokens } = event {
            self.cached_tokens = cached_tokens;
        }
        if !std::mem::replace(&mut self.attempt.started, true) {
            effects.push(Effect::Emit(ChatEvent::Started {
                model: model.to_owned(),
                prompt: self.prompt,
                cached_tokens: self.cached_tokens,
            }));
        }
        let mut tell = |event| effects.push(Effect::Emit(event));
        match event {
            GenerationEvent::Started { .. } => Ok(()),
            GenerationEvent::PromptLogprobs { first, tokens } => {
                self.prompt_logprobs(first, tokens, tell)
            }
            GenerationEvent::Tokens(batch) => self.answers.tokens(batch, tell),
            GenerationEvent::Ended { branch, reason } => {
                self.answers.ended(branch, reason, &mut tell)
            }
            GenerationEvent::Beams(beams) => self.answers.beams(beams, tell),
        }
    }

    /// Tells those that were not told in an earlier attempt.
    fn prompt_logprobs(
        &mut self,
        mut first: u32,
        mut tokens: Vec<TokenInfo>,
        mut tell: impl FnMut(ChatEvent),
    ) -> Result<(), String> {
        let told = self.attempt.prompt_logprobs;
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
        self.attempt.prompt_logprobs = first;
        Ok(())
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt: self.prompt,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.answers.num_tokens(),
        }
    }
}

#[cfg(test)]
mod tests;
