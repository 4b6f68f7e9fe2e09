//! The loop against an executor that draws by script.

mod scripted;

use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use inkstone_engine::{Decoding, EndReason, Resumed};

use self::scripted::*;
use super::*;
use crate::executor::PictureDigest;

#[tokio::test]
async fn what_happens_comes_once_in_order_and_the_end_comes_last() {
    let (leader, _) = start(Scripted::default());
    let (connection, mut events) = leader.handle().connect().await;
    connection.submit(text(7, 5, 3)).await;
    let heard = hear(&mut events, &[7]).await;
    let wanted = [
        OwnerEvent::Accepted,
        OwnerEvent::Started { cached_tokens: 0 },
        token(0),
        token(1),
        token(2),
        OwnerEvent::Ended {
            branch: 0,
            reason: EndReason::Length,
        },
    ];
    assert_eq!(heard[&7], wanted);
}

#[tokio::test]
async fn a_request_ends_with_the_last_of_its_answers() {
    let (leader, _) = start(Scripted::default());
    let (connection, mut events) = leader.handle().connect().await;
    let decoding = Decoding::Sample { branches: 3 };
    connection
        .submit(Submission {
            decoding,
            ..text(1, 20, 4)
        })
        .await;
    connection.submit(text(2, 5, 30)).await;
    let heard = hear(&mut events, &[1, 1, 1, 2]).await;
    assert_eq!(tokens_in(&heard[&1]), 3 * 4);
    assert_eq!(tokens_in(&heard[&2]), 30);
}

#[tokio::test]
async fn requests_of_a_connection_share_steps_and_messages() {
    let (leader, seen) = start(Scripted::default());
    let (connection, mut events) = leader.handle().connect().await;
    for handle in 1..=4 {
        connection.submit(text(handle, 5, 20)).await;
    }
    let mut messages = 0;
    let mut ended = 0;
    while ended < 4 {
        let told = events.next().await.unwrap().unwrap();
        messages += 1;
        let is_end = |told: &&Told| matches!(told.event, OwnerEvent::Ended { .. });
        ended += told.iter().filter(is_end).count();
    }
    let steps = seen.steps.load(Ordering::SeqCst);
    assert!(steps < 4 * 20, "{steps} steps: they did not share any");
    assert!(
        messages <= steps + 6,
        "{messages} messages of {steps} steps"
    );
}

#[tokio::test]
async fn a_cancelled_request_ends_within_a_step_and_others_go_on() {
    let (leader, seen) = start(Scripted::default());
    let handle = leader.handle();
    let (connection, mut events) = handle.connect().await;
    connection.submit(text(1, 5, 900)).await;
    connection.submit(text(2, 5, 200)).await;
    while tokens_in(&hear_some(&mut events).await) == 0 {}
    connection.cancel(1).await;
    wait_until("its end", || seen.retired.load(Ordering::SeqCst) == 1).await;
    let heard = hear(&mut events, &[2]).await;
    let after = heard.get(&1).map_or(0, |events| tokens_in(events));
    assert!(after < 100, "{after} tokens after the cancel");
    // The handle is free again.
    connection.submit(text(1, 5, 2)).await;
    assert_eq!(tokens_in(&hear(&mut events, &[1]).await[&1]), 2);
}

#[tokio::test]
async fn a_dropped_connection_ends_its_requests_within_a_step() {
    let (leader, seen) = start(Scripted::default());
    let handle = leader.handle();
    let (connection, mut events) = handle.connect().await;
    for name in 1..=3 {
        connection.submit(text(name, 5, 900)).await;
    }
    while tokens_in(&hear_some(&mut events).await) == 0 {}
    drop(events);
    let before = seen.steps.load(Ordering::SeqCst);
    wait_until("their end", || seen.retired.load(Ordering::SeqCst) == 3).await;
    let steps = seen.steps.load(Ordering::SeqCst) - before;
    assert!(steps < 100, "they ran for {steps} steps more");
    // The load is told after the step that released them.
    wait_until("an empty engine", || {
        handle.load().running + handle.load().waiting == 0
    })
    .await;
}

#[tokio::test]
async fn a_connection_whose_input_ended_ends_with_its_last_request() {
    let (leader, _) = start(Scripted::default());
    let (connection, mut events) = leader.handle().connect().await;
    connection.submit(text(1, 5, 10)).await;
    connection.end_input().await;
    assert_eq!(tokens_in(&hear(&mut events, &[1]).await[&1]), 10);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_full_queue_refuses_and_nothing_is_lost() {
    let (leader, _) = start(Scripted::default());
    let (connection, mut events) = leader.handle().connect().await;
    let handles: Vec<u64> = (1..=20).collect();
    for handle in &handles {
        connection.submit(text(*handle, 5, 200)).await;
    }
    let heard = hear(&mut events, &handles).await;
    let is_busy = |events: &&Vec<OwnerEvent>| {
        let refused = |event: &OwnerEvent| {
            let busy = Refusal::Busy;
            matches!(event, OwnerEvent::Refused { reason, .. } if *reason == busy)
        };
        events.iter().all(refused)
    };
    let refused = heard.values().filter(is_busy).count();
    assert!((1..=12).contains(&refused), "{refused} refused");
    let whole = heard.values().filter(|events| tokens_in(events) == 200);
    assert_eq!(whole.count() + refused, 20);
}

#[tokio::test]
async fn a_request_that_is_wrong_is_refused_alone() {
    let (leader, seen) = start(Scripted::default());
    let (connection, mut events) = leader.handle().connect().await;
    connection.submit(text(1, 5, 50)).await;
    connection.submit(text(2, 5, 100_000)).await;
    connection.submit(text(1, 5, 1)).await;
    let decoding = Decoding::Sample { branches: 9 };
    connection
        .submit(Submission {
            decoding,
            ..text(3, 5, 1)
        })
        .await;
    let mut refused = Vec::new();
    let mut tokens = 0;
    while tokens < 50 || refused.len() < 3 {
        for told in events.next().await.unwrap().unwrap() {
            match told.event {
                OwnerEvent::Refused { reason, message } => {
                    assert_eq!(reason, Refusal::Invalid, "{message}");
                    refused.push(told.handle);
                }
                OwnerEvent::Token { .. } => tokens += 1,
                _ => {}
            }
        }
    }
    refused.sort_unstable();
    assert_eq!(refused, [1, 2, 3]);
    assert_eq!(seen.admitted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_second_question_about_a_picture_fetches_nothing() {
    let shelf = Shelf::default();
    let (leader, seen) = start_with(Scripted::default(), shelf.clone());
    let (connection, mut events) = leader.handle().connect().await;
    connection.submit(question(1, 9)).await;
    hear(&mut events, &[1]).await;
    let rows = seen.rows.load(Ordering::SeqCst);
    assert_eq!(rows, 48 + 4 + 2, "all of the prompt, and two tokens");
    connection.submit(question(2, 9)).await;
    let heard = hear(&mut events, &[2]).await;
    let started = OwnerEvent::Started { cached_tokens: 48 };
    assert!(heard[&2].contains(&started), "{:?}", heard[&2]);
    assert_eq!(seen.rows.load(Ordering::SeqCst) - rows, 4 + 2);
    assert_eq!(shelf.fetches.lock().unwrap().len(), 1);
    assert_eq!(seen.pictures.load(Ordering::SeqCst), 1);
    // Another picture, of the same size, is not that one.
    connection.submit(question(3, 8)).await;
    let heard = hear(&mut events, &[3]).await;
    assert!(heard[&3].contains(&OwnerEvent::Started { cached_tokens: 0 }));
    assert_eq!(shelf.fetches.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_picture_that_is_gone_refuses_its_request_and_no_other() {
    let shelf = Shelf {
        missing: Some(PictureDigest([9; 32])),
        ..Shelf::default()
    };
    let (leader, _) = start_with(Scripted::default(), shelf);
    let (connection, mut events) = leader.handle().connect().await;
    connection.submit(question(1, 9)).await;
    connection.submit(question(2, 8)).await;
    let heard = hear(&mut events, &[1, 2]).await;
    let Some(OwnerEvent::Refused { reason, message }) = heard[&1].last() else {
        panic!("wanted a refusal, found {:?}", heard[&1]);
    };
    assert_eq!(*reason, Refusal::FeaturesMissing, "{message}");
    assert_eq!(tokens_in(&heard[&2]), 3);
}

#[tokio::test]
async fn a_failed_step_tells_every_owner_and_refuses_new_work() {
    let (leader, _) = start(Scripted {
        fail_at_step: Some(3),
        ..Scripted::default()
    });
    let handle = leader.handle();
    let (connection, mut events) = handle.connect().await;
    connection.submit(text(1, 5, 100)).await;
    connection.submit(text(2, 5, 100)).await;
    let heard = hear(&mut events, &[1, 2]).await;
    for events in heard.values() {
        let last = events.last().unwrap();
        assert!(
            matches!(last, OwnerEvent::Refused { reason: Refusal::NotServing, message } if message.contains("rank 1 is gone")),
            "{last:?}"
        );
    }
    assert!(matches!(events.next().await, Some(Err(_))));
    assert!(events.next().await.is_none());
    // Owners are told first, so that nothing ends their connections before.
    let mut status = handle.status();
    let status = status
        .wait_for(|status| *status != GroupStatus::Serving)
        .await;
    assert_eq!(
        *status.unwrap(),
        GroupStatus::Failed(Breakage::by([1], "rank 1 is gone: it was killed"))
    );
    let (connection, mut events) = handle.connect().await;
    connection.submit(text(1, 5, 1)).await;
    assert!(matches!(events.next().await, Some(Err(_))));
}

#[tokio::test]
async fn an_idle_group_can_be_told_that_it_failed() {
    let (leader, _) = start(Scripted::default());
    let handle = leader.handle();
    let (_connection, mut events) = handle.connect().await;
    handle.fail("rank 1 left".to_owned()).await;
    assert!(matches!(events.next().await, Some(Err(reason)) if reason.contains("rank 1 left")));
}

#[tokio::test]
async fn a_resumed_request_is_told_what_is_new_only() {
    let (leader, _) = start(Scripted::default());
    let (connection, mut events) = leader.handle().connect().await;
    let resumed = |branch, token_ids: &[u32], has_ended| Resumed {
        branch,
        token_ids: token_ids.to_vec(),
        has_ended,
    };
    let submission = Submission {
        decoding: Decoding::Sample { branches: 3 },
        resumed: vec![
            resumed(0, &[100, 101], false),
            resumed(1, &[100, STOP], true),
            // All was drawn, and nobody heard of the end.
            resumed(2, &[100, STOP], false),
        ],
        first_in_line: true,
        ..text(1, 20, 4)
    };
    connection.submit(submission).await;
    let heard = hear(&mut events, &[1, 1]).await;
    let ended = |branch, reason| OwnerEvent::Ended { branch, reason };
    let wanted = [
        OwnerEvent::Accepted,
        ended(2, EndReason::Stop),
        OwnerEvent::Started { cached_tokens: 0 },
        token(2),
        token(3),
        ended(0, EndReason::Length),
    ];
    assert_eq!(heard[&1], wanted);
}

#[tokio::test]
async fn a_resumed_request_that_is_complete_is_told_so_and_leaves_nothing_behind() {
    let (leader, seen) = start(Scripted::default());
    let (connection, mut events) = leader.handle().connect().await;
    let resumed = Resumed {
        branch: 0,
        token_ids: vec![100, STOP],
        has_ended: false,
    };
    let submission = Submission {
        resumed: vec![resumed],
        ..text(1, 20, 4)
    };
    connection.submit(submission).await;
    let heard = hear(&mut events, &[1]).await;
    assert_eq!(heard[&1].len(), 2, "{heard:?}");
    wait_until("ranks forget it", || {
        seen.retired.load(Ordering::SeqCst) == 1
    })
    .await;
    assert_eq!(seen.rows.load(Ordering::SeqCst), 0);
    connection.submit(text(1, 5, 2)).await;
    assert_eq!(tokens_in(&hear(&mut events, &[1]).await[&1]), 2);
}

#[tokio::test]
async fn a_step_that_hangs_shows_while_it_does() {
    let (leader, seen) = start(Scripted {
        hang_at_step: Some(4),
        ..Scripted::default()
    });
    let handle = leader.handle();
    let (connection, events) = handle.connect().await;
    assert_eq!(handle.progress().step_age, None);
    connection.submit(text(1, 5, 30)).await;
    wait_until("three steps", || handle.progress().steps == 3).await;
    let hung = |report: LoadReport| report.progress.step_age > Some(Duration::from_millis(50));
    wait_until("a step that takes long", || hung(events.report())).await;
    let report = events.report();
    assert_eq!((report.progress.steps, report.load.running), (3, 1));
    assert_eq!(report.max_running, limits().max_running);
    assert_eq!(report.rows_per_second, None, "three steps tell nothing");
    seen.let_go.store(true, Ordering::SeqCst);
    // The last step tells ranks of the end.
    let is_idle = |report: LoadReport| report.load.running == 0 && report.progress.steps > 30;
    wait_until("the end", || {
        is_idle(events.report()) && handle.progress().step_age.is_none()
    })
    .await;
    let report = events.report();
    assert_eq!(
        (report.stats.prompt_tokens, report.stats.cached_tokens),
        (5, 0)
    );
}

#[tokio::test]
async fn connections_follow_the_cache_each_at_its_own_pace() {
    let (leader, _) = start(Scripted::default());
    let follow = |events: &mut ConnectionEvents, held: &mut HashSet<u64>| {
        let mut num_resets = 0;
        while let Some(update) = events.cache_update() {
            if update.is_reset {
                num_resets += 1;
                held.clear();
            }
            held.extend(update.added);
            update.removed.iter().for_each(|hash| {
                held.remove(hash);
            });
        }
        num_resets
    };
    let (connection, mut first) = leader.handle().connect().await;
    let (_, mut second) = leader.handle().connect().await;
    let mut seen = (HashSet::new(), HashSet::new());
    for handle in 1..=40 {
        connection.submit(text(handle, 50, 3)).await;
        hear(&mut first, &[handle]).await;
        let resets = follow(&mut first, &mut seen.0);
        assert_eq!(resets, usize::from(handle == 1));
    }
    // What the last step left is told before the loop sleeps.
    wait_until("all is told", || {
        follow(&mut first, &mut seen.0);
        follow(&mut second, &mut seen.1);
        let blocks = leader.handle().load().blocks_cached;
        seen.0.len() == blocks && seen.0 == seen.1 && blocks > 50
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_sleeps_gets_everything_later() {
    let (leader, seen) = start(Scripted::default());
    let (connection, mut events) = leader.handle().connect().await;
    for handle in 1..=4 {
        connection.submit(text(handle, 5, 100)).await;
    }
    wait_until("all answers", || seen.retired.load(Ordering::SeqCst) == 4).await;
    let heard = hear(&mut events, &[1, 2, 3, 4]).await;
    assert!(heard.values().all(|events| tokens_in(events) == 100));
}

#[test]
fn an_outbox_that_nobody_reads_ends_its_connection() {
    let outbox = Outbox::default();
    let told = |handle| Told {
        handle,
        event: OwnerEvent::Accepted,
    };
    let mut pushed = 0;
    while outbox.push(&mut vec![told(1); 1000]) {
        pushed += 1000;
        assert!(pushed < 10_000_000, "it holds without a bound");
    }
    assert!(pushed > 0);
    assert!(!outbox.push(&mut vec![told(2)]), "it has ended");
}

#[tokio::test]
async fn the_loop_ends_when_nobody_can_send() {
    let (leader, _) = start(Scripted::default());
    let mut status = leader.handle().status();
    tokio::task::spawn_blocking(|| leader.stop()).await.unwrap();
    assert_eq!(*status.borrow_and_update(), GroupStatus::Stopped);
}
