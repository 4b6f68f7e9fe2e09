//! A rank that dies or hangs: the step fails soon, and the group ends cleanly.

use std::time::Instant;

use inkstone_engine::{BlockId, RequestId, SequenceId, Start, StepItem};

use super::{super::*, group::runners};
use crate::{
    executor::{PictureDigest, PromptPart, SequenceSampling},
    group::rank::RankCommand,
};

/// How soon a dead rank must be found out.
const SOON: Duration = Duration::from_secs(2);
/// A deadline that no test waits for.
const FAR: Duration = Duration::from_secs(120);

/// Rank 1, which does what a test wants when a step comes.
struct Puppet<F> {
    on_step: F,
}

impl<F: FnMut() + Send> PeerRank for Puppet<F> {
    fn rank(&self) -> usize {
        1
    }

    fn send(&mut self, command: RankCommand) -> Result<(), ExecutorError> {
        if let RankCommand::Step(_) = command {
            (self.on_step)();
        }
        Ok(())
    }
}

/// A group of two whose rank 1 is still to be made: its runner, and where its end is told.
struct Group {
    own: RankRunner,
    other: RankRunner,
    channel: (RankFailures, RankReports),
}

impl Group {
    fn new() -> Self {
        let (mut runners, channel) = runners(2, 8, FAR);
        let other = runners.pop().unwrap();
        let own = runners.pop().unwrap();
        Self {
            own,
            other,
            channel,
        }
    }

    /// The executor, with a puppet for rank 1, whose runner is handed out.
    fn with_puppet(
        self,
        deadline: Duration,
        on_step: impl FnMut() + Send + 'static,
    ) -> (DeviceExecutor, RankRunner) {
        let peers: Vec<Box<dyn PeerRank>> = vec![Box::new(Puppet { on_step })];
        let executor = DeviceExecutor::start(self.own, peers, self.channel, deadline);
        (executor.unwrap(), self.other)
    }
}

/// Does something a moment after a step began.
fn in_a_moment(what: impl FnOnce() + Send + 'static) {
    thread::spawn(|| {
        thread::sleep(Duration::from_millis(100));
        what();
    });
}

fn setup(part: PromptPart) -> Arc<RequestSetup> {
    Arc::new(RequestSetup {
        id: RequestId(1),
        prompt: vec![part],
        sampling: SequenceSampling::default(),
        stop_token_ids: Vec::new(),
        resumed: Vec::new(),
    })
}

fn text() -> PromptPart {
    PromptPart::Tokens(vec![5; 20])
}

fn plan(step: u64) -> Arc<StepPlan> {
    Arc::new(StepPlan {
        step,
        started: vec![Start {
            request: RequestId(1),
            sequence: SequenceId(1),
            branch: 0,
        }],
        items: vec![StepItem {
            sequence: SequenceId(1),
            appended: None,
            start: 0,
            end: 16,
            draw: None,
            prompt_logprobs: false,
            block_table: vec![BlockId(0)].into(),
        }],
        ..StepPlan::default()
    })
}

fn first_step(executor: &mut DeviceExecutor) -> (Result<StepOutput, ExecutorError>, Duration) {
    executor.admit(setup(text())).unwrap();
    let since = Instant::now();
    executor.start(plan(1)).unwrap();
    (executor.finish(), since.elapsed())
}

/// Nothing of the group is left waiting.
#[track_caller]
fn assert_ends(executor: DeviceExecutor) {
    let since = Instant::now();
    drop(executor);
    assert!(since.elapsed() < SOON, "a rank still waits");
}

#[test]
fn a_rank_whose_connection_ends_in_a_step_fails_the_step_at_once() {
    let group = Group::new();
    let failures = group.channel.0.clone();
    let on_step = move || {
        let failures = failures.clone();
        in_a_moment(move || failures.report(gone(1, "its connection ended")));
    };
    // Its end of the collective stays: as when the machine is gone and no socket says so.
    let (mut executor, _kept) = group.with_puppet(FAR, on_step);
    let (outcome, took) = first_step(&mut executor);
    assert_eq!(outcome, Err(gone(1, "its connection ended")));
    assert_eq!(executor.suspects(), [1]);
    assert!(took < SOON, "{took:?}");
    assert_ends(executor);
}

#[test]
fn a_rank_that_leaves_the_collective_in_a_step_fails_the_step_at_once() {
    let Group {
        own,
        other,
        channel,
    } = Group::new();
    let mut other = Some(other);
    let on_step = move || {
        let other = other.take();
        in_a_moment(move || drop(other));
    };
    let peers: Vec<Box<dyn PeerRank>> = vec![Box::new(Puppet { on_step })];
    let mut executor = DeviceExecutor::start(own, peers, channel, FAR).unwrap();
    let (outcome, took) = first_step(&mut executor);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("rank 1 left"), "{error}");
    assert_eq!(executor.suspects(), [1]);
    assert!(took < SOON, "{took:?}");
    assert_ends(executor);
}

#[test]
fn a_rank_that_refuses_its_plan_fails_the_step_with_its_reason() {
    let Group {
        own,
        mut other,
        channel,
    } = Group::new();
    // It has run a step that nobody else has.
    let empty = StepPlan {
        step: 1,
        ..StepPlan::default()
    };
    other.follow(RankCommand::Step(Arc::new(empty))).unwrap();
    let other = LocalRank::start(other, channel.0.clone()).unwrap();
    let mut executor = DeviceExecutor::start(own, vec![Box::new(other)], channel, FAR).unwrap();
    let (outcome, took) = first_step(&mut executor);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("wanted step 2, found 1"), "{error}");
    assert_eq!(executor.suspects(), [1]);
    assert!(took < SOON, "{took:?}");
    assert!(executor.start(plan(2)).is_err(), "the executor is dead");
    assert_ends(executor);
}

#[test]
fn a_step_that_hangs_is_a_failure_past_its_deadline() {
    // The collective would wait longer than the step may take.
    let deadline = Duration::from_millis(300);
    let (mut executor, _kept) = Group::new().with_puppet(deadline, || {});
    let (outcome, took) = first_step(&mut executor);
    let missing = vec![1];
    let wanted = ExecutorError::Deadline {
        step: 1,
        deadline,
        missing,
    };
    assert_eq!(outcome, Err(wanted));
    assert_eq!(executor.suspects(), [1]);
    assert!(took >= deadline && took < deadline + SOON, "{took:?}");
    assert_ends(executor);
}

#[test]
fn features_that_were_not_sent_are_an_error_of_the_group() {
    let (mut runners, channel) = runners(1, 8, FAR);
    let own = runners.pop().unwrap();
    let mut executor = DeviceExecutor::start(own, Vec::new(), channel, FAR).unwrap();
    let picture = PromptPart::Picture {
        digest: PictureDigest([3; 32]),
        num_tokens: 20,
    };
    executor.admit(setup(picture)).unwrap();
    executor.start(plan(1)).unwrap();
    let error = executor.finish().unwrap_err().to_string();
    assert!(error.contains("features were not sent"), "{error}");
}

#[test]
fn a_step_is_started_and_finished_in_turn() {
    let (mut executor, _kept) = Group::new().with_puppet(FAR, || {});
    let error = executor.finish().unwrap_err();
    assert!(matches!(error, ExecutorError::OutOfOrder { .. }), "{error}");
    executor.admit(setup(text())).unwrap();
    executor.start(plan(1)).unwrap();
    let error = executor.start(plan(2)).unwrap_err();
    assert!(matches!(error, ExecutorError::OutOfOrder { .. }), "{error}");
}
