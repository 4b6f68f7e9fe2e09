//! A request as it comes in, checked field by field: what is wrong is refused with the field's name.

use inkstone_engine::{BeamParams, Decoding, Priority, Resumed};
use inkstone_model::internlm2::RopeRule;
use inkstone_proto::worker::v1::{self as wire, GenerateRequest, prompt_part};

use crate::{
    executor::{PictureDigest, PromptPart},
    group::{
        leader::{PictureRef, Refusal, Submission},
        plan_stream::sampling_from_wire,
    },
};

/// Most of the likely tokens that are reported with each token.
const MAX_LOGPROBS: u32 = 100;
/// Most answers or beams of a request, whatever the engine's limit.
const MAX_BRANCHES: u32 = 1024;

/// What a group asks of a request.
#[derive(Clone, Debug)]
pub struct RequestTerms {
    /// The group's epoch.
    pub epoch: u64,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// Prompt and answer together have at most so many tokens.
    pub max_sequence_tokens: usize,
    /// The model that cached blocks are of.
    pub model_fingerprint: [u8; 32],
    /// Decides the rotary base, which is in the cached keys.
    pub rope: RopeRule,
}

type Refused = (Refusal, String);

impl RequestTerms {
    /// The request named `handle`, or why it is refused.
    pub(super) fn check(
        &self,
        handle: u64,
        request: Option<GenerateRequest>,
    ) -> Result<Submission, Refused> {
        let invalid = |what: String| (Refusal::Invalid, what);
        let request = request.ok_or_else(|| invalid("request is not set".to_owned()))?;
        if request.epoch != 0 && request.epoch != self.epoch {
            let (wanted, found) = (request.epoch, self.epoch);
            let message = format!("wanted epoch {wanted}, the group is in epoch {found}");
            return Err((Refusal::Epoch, message));
        }
        self.checked(handle, request).map_err(invalid)
    }

    fn checked(&self, handle: u64, request: GenerateRequest) -> Result<Submission, String> {
        let decoding = decoding_of(&request)?;
        let priority = match wire::Priority::try_from(request.priority) {
            Ok(wire::Priority::Unspecified | wire::Priority::Interactive) => Priority::Interactive,
            Ok(wire::Priority::Batch) => Priority::Batch,
            Err(error) => return Err(format!("priority: {error}")),
        };
        let sampling = request.sampling.ok_or("sampling is not set")?;
        let sampling = sampling_from_wire(sampling)?;
        let num_logprobs = sampling.params.num_logprobs.unwrap_or(0);
        if num_logprobs > MAX_LOGPROBS {
            return Err(format!(
                "num_logprobs must be at most {MAX_LOGPROBS}, found {num_logprobs}"
            ));
        }
        let max_new_tokens = request.max_new_tokens as usize;
        if max_new_tokens == 0 {
            return Err("max_new_tokens must be at least 1".to_owned());
        }
        if sampling.min_new_tokens > max_new_tokens {
            return Err(format!(
                "min_new_tokens must be at most max_new_tokens ({max_new_tokens}), found {}",
                sampling.min_new_tokens
            ));
        }
        let biased = sampling.logit_bias.iter().map(|(id, _)| id);
        self.check_ids("logit_bias", biased)?;
        self.check_ids("stop_token_ids", &request.stop_token_ids)?;
        let (prompt, pictures) = self.prompt_from_wire(request.prompt)?;
        let prompt_tokens: usize = prompt.iter().map(PromptPart::num_tokens).sum();
        let wanted = prompt_tokens.saturating_add(max_new_tokens);
        if prompt_tokens == 0 || wanted > self.max_sequence_tokens {
            return Err(format!(
                "prompt and answer must have 2 to {} tokens together, found {prompt_tokens} and {max_new_tokens}",
                self.max_sequence_tokens
            ));
        }
        let resumed = self.resumed_from_wire(request.resumed, decoding, max_new_tokens)?;
        tracing::debug!(
            request_id = request.request_id,
            handle,
            is_resumed = !resumed.is_empty(),
            "request submitted"
        );
        Ok(Submission {
            handle,
            prompt,
            pictures,
            sampling,
            stop_token_ids: request.stop_token_ids,
            cache_salt: self.salt(&request.cache_salt, prompt_tokens),
            decoding,
            max_new_tokens,
            priority,
            prompt_logprobs: request.prompt_logprobs,
            resumed,
            first_in_line: request.first_in_line,
        })
    }

    /// What an earlier run drew. Which tokens end an answer is looked at by the engine: one that is complete, though its end was not
    /// told, is told its end.
    fn resumed_from_wire(
        &self,
        resumed: Vec<wire::ResumedAnswer>,
        decoding: Decoding,
        max_new_tokens: usize,
    ) -> Result<Vec<Resumed>, String> {
        let Decoding::Sample { branches } = decoding else {
            return match resumed.len() {
                0 => Ok(Vec::new()),
                found => Err(format!(
                    "resumed: a beam search begins anew, found {found} answers"
                )),
            };
        };
        let mut known: Vec<Resumed> = Vec::with_capacity(resumed.len().min(branches));
        for answer in resumed {
            let (branch, drawn) = (answer.branch as usize, answer.ids.len());
            if branch >= branches {
                return Err(format!(
                    "resumed: branch must be below {branches}, found {branch}"
                ));
            }
            if known.iter().any(|other| other.branch == branch) {
                return Err(format!("resumed: branch {branch} is named twice"));
            }
            if drawn > max_new_tokens {
                return Err(format!(
                    "resumed: branch {branch} must have at most max_new_tokens ({max_new_tokens}) ids, found {drawn}"
                ));
            }
            self.check_ids("resumed", &answer.ids)?;
            known.push(Resumed {
                branch,
                token_ids: answer.ids,
                has_ended: answer.ended,
            });
        }
        Ok(known)
    }

    fn check_ids<'a>(
        &self,
        field: &str,
        ids: impl IntoIterator<Item = &'a u32>,
    ) -> Result<(), String> {
        match ids.into_iter().find(|id| **id >= self.vocab_size) {
            None => Ok(()),
            Some(id) => Err(format!(
                "{field}: token {id} is outside the vocabulary of {}",
                self.vocab_size
            )),
        }
    }

    fn prompt_from_wire(
        &self,
        prompt: Vec<wire::PromptPart>,
    ) -> Result<(Vec<PromptPart>, Vec<PictureRef>), String> {
        let mut parts = Vec::with_capacity(prompt.len());
        let mut pictures: Vec<PictureRef> = Vec::new();
        for part in prompt {
            parts.push(match part.part.ok_or("a prompt part is empty")? {
                prompt_part::Part::Tokens(span) => {
                    self.check_ids("prompt", &span.ids)?;
                    PromptPart::Tokens(span.ids)
                }
                prompt_part::Part::Picture(picture) => {
                    let picture = PictureRef {
                        digest: PictureDigest::try_from(&picture.digest[..])?,
                        num_tokens: picture.num_tokens as usize,
                        vision_address: picture.vision_address,
                    };
                    let (digest, num_tokens) = (picture.digest, picture.num_tokens);
                    if num_tokens == 0 {
                        return Err(format!("picture {digest} takes no position"));
                    }
                    match pictures.iter().find(|known| known.digest == digest) {
                        None => pictures.push(picture),
                        Some(known) if known.num_tokens == num_tokens => {}
                        Some(known) => {
                            return Err(format!(
                                "picture {digest} takes {} positions and then {num_tokens}",
                                known.num_tokens
                            ));
                        }
                    }
                    PromptPart::Picture { digest, num_tokens }
                }
            });
        }
        Ok((parts, pictures))
    }

    /// Two requests share cached blocks only where the same tokens mean the same keys and values, and their owners allow it. A
    /// coordinator computes the same from what the group says of itself.
    fn salt(&self, owner: &[u8], prompt_tokens: usize) -> [u8; 32] {
        let class = inkstone_prefix::rope_class(prompt_tokens, self.rope.fixed_up_to());
        inkstone_prefix::salt(self.cache_namespace(), owner, class)
    }

    /// What the group says its cached blocks are of (`DescribeLanguageResponse.cache_namespace`).
    pub(super) fn cache_namespace(&self) -> &[u8] {
        &self.model_fingerprint
    }
}

fn decoding_of(request: &GenerateRequest) -> Result<Decoding, String> {
    let at_most = |field: &str, found: u32| match found <= MAX_BRANCHES {
        true => Ok(found as usize),
        false => Err(format!(
            "{field} must be at most {MAX_BRANCHES}, found {found}"
        )),
    };
    let Some(beam) = &request.beam else {
        let branches = at_most("branches", request.branches.max(1))?;
        return Ok(Decoding::Sample { branches });
    };
    if request.branches > 1 {
        return Err("branches and beam cannot be set together".to_owned());
    }
    let width = at_most("beam.width", beam.width)?;
    let num_answers = beam.num_answers as usize;
    if num_answers == 0 || num_answers > width {
        return Err(format!(
            "beam.num_answers must be 1 to beam.width ({width}), found {num_answers}"
        ));
    }
    if !beam.length_penalty.is_finite() {
        return Err(format!(
            "beam.length_penalty must be finite, found {}",
            beam.length_penalty
        ));
    }
    Ok(Decoding::Beam(BeamParams {
        width,
        num_answers,
        length_penalty: beam.length_penalty,
        early_stopping: beam.early_stopping,
    }))
}

#[cfg(test)]
mod tests;
