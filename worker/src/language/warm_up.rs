//! The first forward of a group: nobody is told that it is ready before it drew a token.

use inkstone_engine::{Decoding, Priority};

use crate::{
    executor::{PromptPart, SequenceSampling},
    group::leader::{LeaderHandle, OwnerEvent, Submission},
};

/// The request's name within its own connection.
const HANDLE: u64 = 1;

/// Runs a prompt of one token through the leader and all ranks. It is too short to leave anything in the cache.
pub(super) async fn warm_up(leader: &LeaderHandle, token_id: u32) -> Result<(), String> {
    let (connection, mut events) = leader.connect().await;
    connection.submit(submission(token_id)).await;
    loop {
        let told = events.next().await.ok_or("the leader ended")??;
        for told in told {
            match told.event {
                OwnerEvent::Ended { .. } => return Ok(()),
                OwnerEvent::Refused { message, .. } => return Err(message),
                OwnerEvent::Accepted
                | OwnerEvent::Started { .. }
                | OwnerEvent::PromptLogprobs { .. }
                | OwnerEvent::Token { .. }
                | OwnerEvent::Beams(_) => {}
            }
        }
    }
}

fn submission(token_id: u32) -> Submission {
    Submission {
        handle: HANDLE,
        prompt: vec![PromptPart::Tokens(vec![token_id])],
        pictures: Vec::new(),
        sampling: SequenceSampling::default(),
        stop_token_ids: Vec::new(),
        cache_salt: [0; 32],
        decoding: Decoding::Sample { branches: 1 },
        max_new_tokens: 1,
        priority: Priority::Interactive,
        prompt_logprobs: false,
        resumed: Vec::new(),
        first_in_line: false,
    }
}
