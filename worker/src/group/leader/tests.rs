//! The loop against an executor that draws by script.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use inkstone_engine::{Sampled, StepOutput, StepPlan};
use inkstone_model::sampling::SamplingParams;

use super::*;
use crate::executor::{ExecutorError, PromptPart};

const STOP: u32 = 2;

/// Draws the number of the token; keeps what it was told.
#[derive(Default)]
struct Scripted {
    fail_at_step: Option<u64>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    admitted: AtomicUsize,
    steps: AtomicUsize,
    released: Mutex<Vec<SequenceId>>,
}

impl Executor for Scripted {
    fn admit(&mut self, _: Arc<SequenceSetup>) -> Result<(), ExecutorError> {
        self.seen.admitted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn execute(&mut self, plan: Arc<StepPlan>) -> Result<StepOutput, ExecutorError> {
        self.seen.steps.fetch_add(1, Ordering::SeqCst);
        self.seen.released.lock().unwrap().extend(&plan.released);
        if self.fail_at_step == Some(plan.step) {
            return Err(ExecutorError::RankGone { rank: 1 });
        }
        // A real step takes a while; without it a test could not cancel in the middle.
        thread::sleep(Duration::from_millis(1));
        let draw = |index: usize| Sampled::Token(100 + index as u32);
        let items = plan.items.iter();
        let sampled = items.filter_map(|item| {
            item.work
                .samples()
                .map(|index| (item.sequence, draw(index)))
        });
        Ok(StepOutput {
            sampled: sampled.collect(),
        })
    }
}

fn start(executor: Scripted) -> (Leader, Arc<Seen>) {
    let seen = Arc::clone(&executor.seen);
    let limits = EngineLimits {
        num_blocks: 64,
        max_step_tokens: 64,
        max_running: 4,
        max_waiting: 8,
    };
    (Leader::start(limits, Box::new(executor)).unwrap(), seen)
}

fn setup(handle: &LeaderHandle, prompt_tokens: usize) -> SequenceSetup {
    SequenceSetup {
        id: handle.new_sequence_id(),
        prompt: vec![PromptPart::Tokens(vec![5; prompt_tokens])],
        sampling: SamplingParams::default(),
    }
}

async fn drain(mut events: mpsc::Receiver<SequenceEvent>) -> Vec<SequenceEvent> {
    let mut all = Vec::new();
    while let Some(event) = events.recv().await {
        all.push(event);
    }
    all
}

#[tokio::test]
async fn tokens_come_once_in_order_and_the_end_comes_last() {
    let (leader, _) = start(Scripted::default());
    let handle = leader.handle();
    let events = handle
        .submit(setup(&handle, 5), 3, vec![STOP])
        .await
        .unwrap();
    let token = |index: usize| SequenceEvent::Token {
        index,
        token_id: 100 + index as u32,
    };
    let wanted = [
        token(0),
        token(1),
        token(2),
        SequenceEvent::Ended(EndReason::Length),
    ];
    assert_eq!(drain(events).await, wanted);
}

#[tokio::test]
async fn many_sequences_run_side_by_side() {
    let (leader, seen) = start(Scripted::default());
    let handle = leader.handle();
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(handle.submit(setup(&handle, 5), 20, vec![]).await.unwrap());
    }
    for events in streams {
        assert_eq!(drain(events).await.len(), 21);
    }
    let steps = seen.steps.load(Ordering::SeqCst);
    assert!(steps < 4 * 20, "{steps} steps: they did not share any");
}

#[tokio::test]
async fn a_dropped_receiver_ends_its_sequence_within_a_step() {
    let (leader, seen) = start(Scripted::default());
    let handle = leader.handle();
    let setup = setup(&handle, 5);
    let id = setup.id;
    let mut events = handle.submit(setup, 1000, vec![]).await.unwrap();
    events.recv().await.unwrap();
    drop(events);
    let before = seen.steps.load(Ordering::SeqCst);
    while !seen.released.lock().unwrap().contains(&id) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(
            seen.steps.load(Ordering::SeqCst) < before + 50,
            "it still runs"
        );
    }
    // The load is told after the step that released it.
    let idle = async {
        while handle.load().running > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), idle)
        .await
        .expect("its place is free");
}

#[tokio::test]
async fn a_full_queue_refuses_and_nothing_is_lost() {
    let (leader, _) = start(Scripted::default());
    let handle = leader.handle();
    let mut streams = Vec::new();
    let refused = loop {
        match handle.submit(setup(&handle, 5), 200, vec![]).await {
            Ok(events) => streams.push(events),
            Err(error) => break error,
        }
        assert!(streams.len() < 20);
    };
    assert!(matches!(
        refused,
        RefusedError::Limits(SubmitError::QueueFull { limit: 8, .. })
    ));
    for events in streams {
        assert_eq!(drain(events).await.len(), 201);
    }
}

#[tokio::test]
async fn a_failed_step_tells_every_owner_and_refuses_new_work() {
    let (leader, _) = start(Scripted {
        fail_at_step: Some(3),
        ..Scripted::default()
    });
    let handle = leader.handle();
    let events = handle.submit(setup(&handle, 5), 100, vec![]).await.unwrap();
    let last = drain(events).await.pop().unwrap();
    assert_eq!(
        last,
        SequenceEvent::GroupFailed("rank 1 is gone".to_owned())
    );
    let refused = handle
        .submit(setup(&handle, 5), 1, vec![])
        .await
        .unwrap_err();
    assert_eq!(
        refused,
        RefusedError::NotServing("rank 1 is gone".to_owned())
    );
}

#[tokio::test]
async fn the_loop_ends_when_nobody_can_send() {
    let (leader, _) = start(Scripted::default());
    let mut status = leader.handle().status();
    tokio::task::spawn_blocking(|| leader.stop()).await.unwrap();
    assert_eq!(*status.borrow_and_update(), GroupStatus::Stopped);
}
