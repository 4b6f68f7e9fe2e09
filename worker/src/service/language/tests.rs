//! What a caller is sent, whatever the leader's loop does.

use std::{sync::Arc, thread};

use inkstone_engine::{Decoding, EngineLimits, Priority, RequestId, StepOutput, StepPlan};

use super::*;
use crate::{
    executor::{
        EncodedPicture, Executor, ExecutorError, PromptPart, RequestSetup, SequenceSampling,
    },
    group::leader::Leader,
    simulated_group::NoPictures,
};

/// How long the first step hangs, before it fails.
const HANG: Duration = Duration::from_millis(1200);

/// Does not get through its first step.
struct Stuck;

impl Executor for Stuck {
    fn admit(&mut self, _: Arc<RequestSetup>) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn pictures(&mut self, _: RequestId, _: Vec<Arc<EncodedPicture>>) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn start(&mut self, _: Arc<StepPlan>) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<StepOutput, ExecutorError> {
        thread::sleep(HANG);
        Err(ExecutorError::RankGone {
            rank: 1,
            reason: "it was stopped".to_owned(),
        })
    }
}

fn submission() -> Submission {
    Submission {
        handle: 1,
        prompt: vec![PromptPart::Tokens(vec![5; 20])],
        pictures: Vec::new(),
        sampling: SequenceSampling::default(),
        stop_token_ids: Vec::new(),
        cache_salt: [0; 32],
        decoding: Decoding::Sample { branches: 1 },
        max_new_tokens: 4,
        priority: Priority::Interactive,
        prompt_logprobs: false,
        resumed: Vec::new(),
        first_in_line: false,
    }
}

#[tokio::test]
async fn a_caller_hears_how_the_group_is_while_a_step_hangs() {
    let limits = EngineLimits {
        num_blocks: 8,
        max_step_tokens: 32,
        max_running: 4,
        max_waiting: 4,
        max_wait_steps: 100,
    };
    let leader = Leader::start(limits, Box::new(Stuck), Box::new(NoPictures)).unwrap();
    let (connection, events) = leader.handle().connect().await;
    let (first, mut responses) = Responses::new(events).next().await.unwrap();
    let first = first.unwrap();
    assert_eq!(first.load.map(|load| load.blocks_total), Some(8));
    assert!(first.cache.is_some_and(|cache| cache.reset), "all there is");
    connection.submit(submission()).await;
    let (mut events, mut ages) = (0, Vec::new());
    loop {
        let (response, rest) = responses.next().await.expect("it ends with an error");
        responses = rest;
        let Ok(response) = response else { break };
        events += response.events.len();
        let load = response.load.filter(|load| load.step_millis > 0);
        ages.extend(load.map(|load| load.step_millis));
    }
    assert_eq!(
        events, 3,
        "it was accepted, runs, and is refused in the end"
    );
    assert!(ages.len() >= 3, "{ages:?}");
    assert!(ages.is_sorted() && ages[ages.len() - 1] > 400, "{ages:?}");
}
