//! Scenarios as text in, plans as text out; random runs against ranks that notice what they read.

mod around;
mod random;
mod ranks;
mod scenarios;

use crate::*;

/// Ends an answer.
const STOP: u32 = 0;

/// One answer to a prompt of text.
fn request(id: u64, prompt: Vec<PromptSpan>, max_new_tokens: usize) -> EngineRequest {
    EngineRequest {
        id: RequestId(id),
        prompt,
        cache_salt: [0; 32],
        decoding: Decoding::Sample { branches: 1 },
        max_new_tokens,
        stop_token_ids: vec![STOP],
        priority: Priority::Interactive,
        prompt_logprobs: false,
        pictures_ready: true,
        resumed: Vec::new(),
        first_in_line: false,
    }
}
