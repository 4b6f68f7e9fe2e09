//! The states of a request and how it goes from one to the next. No I/O here: `run` does what the effects say and
//! feeds back what came of it.

use super::{
    ChatEvent, FinishReason, PromptSize, Usage,
    detokenise::{Answer, Growth},
    render::ReadyPrompt,
};
use crate::{
    error::RequestError,
    worker_client::{EndReason, GenerationEvent},
};

/// Where a request stands. The last three states are final, and one of them is reached once.
#[derive(Debug)]
pub(crate) enum Lifecycle {
    /// Its prompt is being rendered and its pictures are on their way to vision workers.
    Admitted { answer: Answer, attempt: Attempt },
    /// Its prompt is known; a language group was asked to run it.
    Rendered {
        answer: Answer,
        attempt: Attempt,
        prompt: PromptSize,
    },
    /// A language group runs it.
    Running {
        answer: Answer,
        attempt: Attempt,
        prompt: PromptSize,
    },
    /// The answer is complete.
    Finished { reason: FinishReason },
    /// The client went away.
    Cancelled,
    /// There is no answer, or only a part.
    Failed { error: RequestError },
}

/// What was done before for this request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attempt {
    /// The client was told that it started.
    started: bool,
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

type Step = (Lifecycle, Vec<Effect>);

impl Lifecycle {
    /// A new request.
    pub(crate) fn admit(answer: Answer) -> Step {
        let attempt = Attempt::default();
        (Self::Admitted { answer, attempt }, vec![Effect::Render])
    }

    /// Whether nothing follows; whatever still runs for the request is to be dropped.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Admitted { .. } | Self::Rendered { .. } | Self::Running { .. } => false,
            Self::Finished { .. } | Self::Cancelled | Self::Failed { .. } => true,
        }
    }

    /// The state's name in logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Admitted { .. } => "admitted",
            Self::Rendered { .. } => "rendered",
            Self::Running { .. } => "running",
            Self::Finished { .. } => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed { .. } => "failed",
        }
    }

    /// Takes an event in. In a final state nothing changes any more.
    pub(crate) fn apply(self, event: Event, model: &str) -> Step {
        match event {
            Event::ClientGone if !self.is_final() => (Self::Cancelled, vec![]),
            Event::Failed(error) if !self.is_final() => fail(error),
            Event::ClientGone | Event::Failed(_) => (self, vec![]),
            Event::Rendered(prompt) => self.rendered(prompt),
            Event::Accepted => self.accepted(model),
            Event::FeaturesMissing(error) => self.features_missing(error),
            Event::Generation(event) => self.generation(event),
        }
    }

    fn rendered(self, prompt: ReadyPrompt) -> Step {
        match self {
            Self::Admitted { answer, attempt } => {
                let state = Self::Rendered {
                    answer,
                    attempt,
                    prompt: prompt.size,
                };
                (state, vec![Effect::Generate(prompt)])
            }
            Self::Rendered { .. } | Self::Running { .. } => self.out_of_turn("rendered"),
            Self::Finished { .. } | Self::Cancelled | Self::Failed { .. } => (self, vec![]),
        }
    }

    fn accepted(self, model: &str) -> Step {
        match self {
            Self::Rendered {
                answer,
                mut attempt,
                prompt,
            } => {
                let first_time = !std::mem::replace(&mut attempt.started, true);
                let started = first_time.then(|| {
                    Effect::Emit(ChatEvent::Started {
                        model: model.to_owned(),
                        prompt,
                    })
                });
                let state = Self::Running {
                    answer,
                    attempt,
                    prompt,
                };
                (state, started.into_iter().collect())
            }
            Self::Admitted { .. } | Self::Running { .. } => self.out_of_turn("accepted"),
            Self::Finished { .. } | Self::Cancelled | Self::Failed { .. } => (self, vec![]),
        }
    }

    fn features_missing(self, error: RequestError) -> Step {
        match self {
            Self::Rendered {
                answer, attempt, ..
            }
            | Self::Running {
                answer, attempt, ..
            } if answer.num_tokens() == 0 && !attempt.pictures_put_again => {
                let attempt = Attempt {
                    pictures_put_again: true,
                    ..attempt
                };
                (Self::Admitted { answer, attempt }, vec![Effect::Render])
            }
            Self::Admitted { .. } | Self::Rendered { .. } | Self::Running { .. } => fail(error),
            Self::Finished { .. } | Self::Cancelled | Self::Failed { .. } => (self, vec![]),
        }
    }

    fn generation(self, event: GenerationEvent) -> Step {
        match self {
            Self::Running {
                answer,
                attempt,
                prompt,
            } => match event {
                GenerationEvent::Tokens { first_index, ids } => {
                    tokens(answer, attempt, prompt, first_index, &ids)
                }
                GenerationEvent::Ended(reason) => ended(answer, prompt, reason),
            },
            Self::Admitted { .. } | Self::Rendered { .. } => self.out_of_turn("generation"),
            Self::Finished { .. } | Self::Cancelled | Self::Failed { .. } => (self, vec![]),
        }
    }

    /// An event that cannot come in this state: a bug in the driver, which must not take the process down.
    fn out_of_turn(self, event: &str) -> Step {
        let state = self.name();
        fail(RequestError::Internal(format!(
            "event `{event}` came in state `{state}`"
        )))
    }
}

fn fail(error: RequestError) -> Step {
    let state = Lifecycle::Failed {
        error: error.clone(),
    };
    (state, vec![Effect::Fail(error)])
}

fn tokens(
    mut answer: Answer,
    attempt: Attempt,
    prompt: PromptSize,
    first_index: u32,
    ids: &[u32],
) -> Step {
    let wanted = answer.num_tokens();
    if first_index != wanted {
        return fail(RequestError::Internal(format!(
            "the leader sent token {first_index}, wanted token {wanted}"
        )));
    }
    let growth = answer.push(ids);
    if growth.stop_string.is_some() {
        return finish(growth, &answer, prompt, FinishReason::Stop);
    }
    let effects = delta(growth).into_iter().collect();
    let state = Lifecycle::Running {
        answer,
        attempt,
        prompt,
    };
    (state, effects)
}

fn ended(mut answer: Answer, prompt: PromptSize, reason: EndReason) -> Step {
    let growth = answer.finish();
    let reason = match reason {
        // A stop string that only the flushed text completed.
        _ if growth.stop_string.is_some() => FinishReason::Stop,
        EndReason::Stop => FinishReason::Stop,
        EndReason::Length => FinishReason::Length,
    };
    finish(growth, &answer, prompt, reason)
}

fn finish(mut growth: Growth, answer: &Answer, prompt: PromptSize, reason: FinishReason) -> Step {
    let usage = Usage {
        prompt,
        completion_tokens: answer.num_tokens(),
    };
    let finished = Effect::Emit(ChatEvent::Finished {
        reason,
        stop_string: growth.stop_string.take(),
        usage,
    });
    let effects = delta(growth).into_iter().chain([finished]).collect();
    (Lifecycle::Finished { reason }, effects)
}

/// The event for what was added; none when nothing was.
fn delta(growth: Growth) -> Option<Effect> {
    let Growth {
        text, token_ids, ..
    } = growth;
    let empty = text.is_empty() && token_ids.is_empty();
    (!empty).then_some(Effect::Emit(ChatEvent::Delta { text, token_ids }))
}

#[cfg(test)]
mod tests;
