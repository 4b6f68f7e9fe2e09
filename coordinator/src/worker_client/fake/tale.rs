//! What a fake group answers to every request, wherever the request was before.

use std::time::Duration;

use super::{Step, encode, tokenizer};
use crate::worker_client::{
    BeamAnswer, Decoding, EndReason, Generation, GenerationEvent, PromptPiece, TokenBatch,
    TokenInfo,
};

/// What a group would answer to every request: of a request that it goes on with it tells the rest.
#[derive(Clone)]
pub(crate) struct Tale {
    /// The tokens of each answer, and how it ends.
    pub(crate) answers: Vec<(Vec<u32>, EndReason)>,
}

impl Tale {
    /// All answers are this text and the end of the turn.
    pub(crate) fn of(texts: &[&str]) -> Self {
        let answers = texts.iter().map(|text| {
            let mut ids = encode(text);
            ids.push(tokenizer().end_of_turn_id());
            (ids, EndReason::Stop)
        });
        Self {
            answers: answers.collect(),
        }
    }

    /// A token at a time, the answers in turns; what the request has already is left out.
    pub(super) fn rest(&self, generation: &Generation) -> Vec<Step> {
        let mut steps = vec![];
        if generation.prompt_logprobs {
            let num_tokens: usize = generation.prompt.iter().map(PromptPiece::num_tokens).sum();
            let infos = (0..num_tokens as u32).map(fake_info);
            steps.push(Step::Event(GenerationEvent::PromptLogprobs {
                first: 0,
                tokens: infos.collect(),
            }));
        }
        let num_branches = generation.decoding.num_branches();
        let longest = self.answers.iter().map(|(ids, _)| ids.len()).max();
        for index in 0..=longest.unwrap_or(0) {
            for branch in 0..num_branches {
                let mut resumed = generation.resumed.iter();
                let resumed = resumed.find(|resumed| resumed.branch == branch);
                if resumed.is_some_and(|resumed| resumed.ended || resumed.ids.len() > index) {
                    continue;
                }
                let (ids, reason) = &self.answers[branch as usize % self.answers.len()];
                if let Some(resumed) = resumed {
                    assert_eq!(
                        resumed.ids,
                        ids[..resumed.ids.len()],
                        "what was drawn before"
                    );
                }
                if index < ids.len() {
                    let infos = generation
                        .sampling
                        .num_logprobs
                        .map(|_| fake_info(ids[index]));
                    steps.push(Step::Event(GenerationEvent::Tokens(TokenBatch {
                        branch,
                        first_index: index as u32,
                        ids: vec![ids[index]],
                        infos: infos.into_iter().collect(),
                    })));
                } else if index == ids.len() {
                    steps.push(Step::EndOf(branch, *reason));
                }
            }
        }
        if let Decoding::Beam(beam) = generation.decoding {
            let beams = self.answers.iter().take(beam.num_answers as usize);
            let beams = beams.map(|(ids, reason)| BeamAnswer {
                ids: ids.clone(),
                score: -1.0,
                reason: *reason,
            });
            steps = vec![
                Step::Pause(Duration::from_millis(1)),
                Step::Event(GenerationEvent::Beams(beams.collect())),
            ];
        }
        steps
    }
}

fn fake_info(token_id: u32) -> TokenInfo {
    TokenInfo {
        token_id,
        logprob: Some(-f32::from((token_id % 13) as u16)),
        top: vec![],
    }
}
