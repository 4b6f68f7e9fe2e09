//! The door with a clock: who waits, who is told what, and who leaves.

use std::sync::atomic::AtomicU32 as Counter;

use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::cluster_load::LoadReport;

const PATIENCE: Duration = Duration::from_secs(20);

/// One group that says that it runs so many sequences; 0: it says nothing.
#[derive(Default)]
struct Groups(Counter);

impl LoadSource for Groups {
    fn loads(&self) -> Vec<GroupLoad> {
        let max_running = self.0.load(Ordering::SeqCst);
        if max_running == 0 {
            return vec![];
        }
        vec![GroupLoad {
            group: inkstone_cluster::GroupId::new("0"),
            epoch: None,
            age: Duration::ZERO,
            report: LoadReport {
                max_running,
                ..LoadReport::default()
            },
        }]
    }
}

fn asked(tenant: &'static str) -> Asked {
    Asked {
        tenant: tenant.into(),
        priority: Priority::Interactive,
        cost: RequestCost {
            prompt: PromptCost {
                text_tokens: 100,
                picture_tokens: 0,
            },
            sequences: 1,
            max_output_tokens: 10,
            bytes: 400,
        },
        goes_on: false,
    }
}

/// A door with one place.
fn narrow(change: impl FnOnce(&mut Limits, &mut Timeouts)) -> Arc<Admission> {
    let (mut limits, mut timeouts) = (Limits::default(), Timeouts::default());
    limits.max_requests = 1;
    change(&mut limits, &mut timeouts);
    Arc::new(Admission::new(
        &limits,
        &timeouts,
        Arc::new(Groups::default()),
    ))
}

type Answer = Result<Arc<Place>, RequestError>;

/// Comes to the door, and waits until it is in the queue.
async fn queue_up(admission: &Arc<Admission>, tenant: &'static str) -> JoinHandle<Answer> {
    let before = num_queued(admission);
    let door = admission.clone();
    let waiting = tokio::spawn(async move { door.admit(asked(tenant), None).await });
    eventually(|| num_queued(admission) > before).await;
    waiting
}

fn num_queued(admission: &Admission) -> usize {
    let state = admission.lock();
    assert_eq!(
        state.waiting.len(),
        state.queue.queued(Priority::Interactive).requests
    );
    state.waiting.len()
}

async fn eventually(holds: impl Fn() -> bool) {
    let watch = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, watch).await.expect("it comes about");
}

async fn answer(waiting: JoinHandle<Answer>) -> Answer {
    let answer = timeout(PATIENCE, waiting).await.expect("an answer in time");
    answer.expect("no panic")
}

#[tokio::test]
async fn a_place_that_is_given_back_goes_to_the_next_one() {
    let admission = narrow(|_, _| {});
    let first = admission.admit(asked("a"), None).await.unwrap();
    let second = queue_up(&admission, "a").await;
    assert!(!second.is_finished());
    drop(first);
    answer(second).await.unwrap();
}

#[tokio::test]
async fn a_place_lives_as_long_as_any_of_its_holders() {
    let admission = narrow(|_, _| {});
    let first = admission.admit(asked("a"), None).await.unwrap();
    let moved = first.clone();
    drop(first);
    let second = queue_up(&admission, "a").await;
    drop(moved);
    answer(second).await.unwrap();
}

#[tokio::test]
async fn who_goes_away_leaves_the_queue_at_once() {
    let admission = narrow(|_, _| {});
    let first = admission.admit(asked("a"), None).await.unwrap();
    let second = queue_up(&admission, "a").await;
    let third = queue_up(&admission, "a").await;
    second.abort();
    eventually(|| num_queued(&admission) == 1).await;
    drop(first);
    answer(third).await.unwrap();
    assert_eq!(num_queued(&admission), 0);
}

#[tokio::test]
async fn who_goes_away_as_its_turn_comes_gives_the_place_on() {
    let admission = narrow(|_, _| {});
    let first = admission.admit(asked("a"), None).await.unwrap();
    let door = admission.clone();
    let mut second = Box::pin(async move { door.admit(asked("a"), None).await });
    let polled = timeout(Duration::from_millis(10), &mut second).await;
    assert!(polled.is_err(), "it waits");
    let third = queue_up(&admission, "a").await;
    drop(first);
    // Its turn has come, and it never learns.
    drop(second);
    answer(third).await.unwrap();
}

#[tokio::test]
async fn a_deadline_ends_the_wait() {
    let admission = narrow(|_, _| {});
    let _first = admission.admit(asked("a"), None).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let late = admission.admit(asked("a"), Some(deadline)).await;
    assert_eq!(late.unwrap_err(), RequestError::DeadlineExceeded);
    assert_eq!(num_queued(&admission), 0);
}

#[tokio::test]
async fn nobody_waits_longer_than_the_limit() {
    let limit = Duration::from_millis(20);
    let admission = narrow(|_, timeouts| timeouts.queued = limit);
    let _first = admission.admit(asked("a"), None).await.unwrap();
    let error = admission.admit(asked("a"), None).await.unwrap_err();
    let RequestError::Overloaded { reason, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(reason, ShedReason::WaitedTooLong { limit });
    assert_eq!(num_queued(&admission), 0);
}

#[tokio::test]
async fn closing_sends_away_all_that_wait_and_come() {
    let admission = narrow(|_, _| {});
    let _first = admission.admit(asked("a"), None).await.unwrap();
    let second = queue_up(&admission, "a").await;
    admission.close();
    let late = tokio::spawn({
        let admission = admission.clone();
        async move { admission.admit(asked("b"), None).await }
    });
    for waiting in [second, late] {
        let error = answer(waiting).await.unwrap_err();
        assert!(
            matches!(error, RequestError::ShuttingDown { .. }),
            "{error:?}"
        );
    }
    assert_eq!(num_queued(&admission), 0);
}

#[tokio::test]
async fn what_goes_on_is_let_in_until_all_is_closed() {
    let admission = narrow(|_, _| {});
    let first = admission.admit(asked("a"), None).await.unwrap();
    let new = queue_up(&admission, "a").await;
    let more = || {
        let door = admission.clone();
        let more = Asked {
            goes_on: true,
            ..asked("a")
        };
        tokio::spawn(async move { door.admit(more, None).await })
    };
    let going_on = more();
    eventually(|| num_queued(&admission) > 1).await;
    admission.close_to_new();
    let error = answer(new).await.unwrap_err();
    assert!(
        matches!(error, RequestError::ShuttingDown { .. }),
        "{error:?}"
    );
    let later = more();
    eventually(|| num_queued(&admission) > 1).await;
    drop(first);
    drop(answer(going_on).await.unwrap());
    answer(later).await.unwrap();
    admission.close();
    let late = Asked {
        goes_on: true,
        ..asked("a")
    };
    assert!(admission.admit(late, None).await.is_err());
}

#[tokio::test]
async fn what_is_full_says_when_to_come_again_by_what_it_served() {
    let admission = narrow(|limits, timeouts| {
        limits.max_queued_requests = 1;
        timeouts.retry_after = Duration::from_secs(7);
    });
    let first = admission.admit(asked("a"), None).await.unwrap();
    let _second = queue_up(&admission, "a").await;
    let retry_after = async || match admission.admit(asked("a"), None).await {
        Err(RequestError::Overloaded { retry_after, .. }) => retry_after,
        other => panic!("{other:?}"),
    };
    assert_eq!(retry_after().await, Duration::from_secs(7), "nothing known");
    first.drawn(10);
    // 110 tokens in this second; as many wait, and as many come with the request.
    assert_eq!(retry_after().await, Duration::from_secs(2));
}

#[tokio::test]
async fn tokens_are_charged_however_they_come() {
    let admission = narrow(|_, _| {});
    let place = admission.admit(asked("a"), None).await.unwrap();
    // The first one at once, the others together, the rest at the end.
    for (tokens, uncharged) in [(1, 0), (1, 1), (14, 15), (1, 0), (3, 3)] {
        place.drawn(tokens);
        assert_eq!(place.uncharged.load(Ordering::Relaxed), uncharged);
    }
    drop(place);
    // 120 tokens in the window: the prompt and 20.
    let mut state = admission.lock();
    let room = Room::default();
    let reason = ShedReason::Requests { limit: 0 };
    let mut cost = asked("a").cost;
    cost.prompt.text_tokens = 1180;
    let after = state
        .queue
        .retry_after(b"a", reason, &cost, &room, admission.now());
    assert_eq!(after, Some(Duration::from_secs_f64(1190.0 / 120.0)));
}

#[tokio::test]
async fn the_first_token_lets_the_next_prompt_go() {
    let groups = Arc::new(Groups(Counter::new(64)));
    let (limits, timeouts) = (Limits::default(), Timeouts::default());
    let admission = Arc::new(Admission::new(&limits, &timeouts, groups));
    // Prompts of 100 positions, of which a group is given some 1,000 ahead.
    let mut places = vec![];
    while let Ok(place) =
        timeout(Duration::from_millis(50), admission.admit(asked("a"), None)).await
    {
        places.push(place.unwrap());
    }
    assert_eq!(places.len(), 10);
    let next = queue_up(&admission, "a").await;
    // It was started: that is no token yet.
    places[0].drawn(0);
    assert_eq!(num_queued(&admission), 1);
    places[0].drawn(1);
    answer(next).await.unwrap();
}

#[tokio::test]
async fn requests_go_when_the_groups_say_that_they_have_room() {
    let groups = Arc::new(Groups(Counter::new(1)));
    let admission = Arc::new(Admission::new(
        &Limits::default(),
        &Timeouts::default(),
        groups.clone(),
    ));
    let stop = CancellationToken::new();
    let looking = tokio::spawn(admission.clone().keep_looking(stop.clone()));
    let _first = admission.admit(asked("a"), None).await.unwrap();
    let second = queue_up(&admission, "a").await;
    groups.0.store(2, Ordering::SeqCst);
    answer(second).await.unwrap();
    stop.cancel();
    timeout(PATIENCE, looking).await.unwrap().unwrap();
}

#[tokio::test]
async fn without_turns_the_first_to_come_is_the_first_to_go() {
    for is_fair in [true, false] {
        let admission = narrow(|limits, _| limits.fair_queueing = is_fair);
        let first = admission.admit(asked("loud"), None).await.unwrap();
        let loud = queue_up(&admission, "loud").await;
        let quiet = queue_up(&admission, "quiet").await;
        first.drawn(100);
        drop(first);
        eventually(|| num_queued(&admission) == 1).await;
        let (next, last) = match is_fair {
            true => (quiet, loud),
            false => (loud, quiet),
        };
        drop(answer(next).await.unwrap());
        drop(answer(last).await.unwrap());
    }
}

#[test]
fn the_defaults_leave_room_on_a_connection_for_all_that_may_run_and_wait() {
    let limits = Limits::default();
    assert_eq!(
        limits.max_requests_per_connection as usize,
        limits.max_requests + limits.max_queued_requests
    );
    assert!(limits.max_queued_per_tenant * 4 <= limits.max_queued_requests);
}
