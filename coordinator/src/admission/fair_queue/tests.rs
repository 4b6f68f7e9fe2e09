use super::*;
use crate::admission::cost::PromptCost;

const NOW: Duration = Duration::ZERO;

fn queued(ticket: u64, prompt: u64) -> Queued {
    Queued {
        ticket: Ticket(ticket),
        cost: RequestCost {
            prompt: PromptCost {
                text_tokens: prompt,
                picture_tokens: 0,
            },
            sequences: 1,
            max_output_tokens: 10,
            bytes: 100,
        },
        tokens: prompt + 10,
        since: NOW,
    }
}

fn push(queue: &mut FairQueue, tenant: &'static str, priority: Priority, ticket: u64, prompt: u64) {
    queue.push(tenant.into(), priority, queued(ticket, prompt));
}

/// Lets the next one go.
fn next(queue: &mut FairQueue) -> Option<u64> {
    let candidate = queue.candidates().next()?;
    queue.go(&candidate);
    Some(candidate.queued.ticket.0)
}

fn all(queue: &mut FairQueue) -> Vec<u64> {
    std::iter::from_fn(|| next(queue)).collect()
}

use Priority::{Batch, Interactive};

#[test]
fn tenants_take_turns_however_much_one_asks_for() {
    let mut queue = FairQueue::default();
    for ticket in 0..6 {
        push(&mut queue, "loud", Interactive, ticket, 10);
    }
    for ticket in 6..8 {
        push(&mut queue, "quiet", Interactive, ticket, 10);
    }
    assert_eq!(all(&mut queue), [0, 6, 1, 7, 2, 3, 4, 5]);
}

#[test]
fn a_long_prompt_costs_more_turns_than_a_short_one() {
    let mut queue = FairQueue::default();
    for ticket in 0..3 {
        push(&mut queue, "long", Interactive, ticket, 30);
    }
    for ticket in 3..9 {
        push(&mut queue, "short", Interactive, ticket, 10);
    }
    assert_eq!(all(&mut queue), [0, 3, 4, 5, 1, 6, 7, 8, 2]);
}

#[test]
fn answers_are_charged_as_they_are_drawn() {
    let mut queue = FairQueue::default();
    push(&mut queue, "talker", Interactive, 0, 10);
    push(&mut queue, "other", Interactive, 1, 10);
    push(&mut queue, "talker", Interactive, 2, 10);
    push(&mut queue, "other", Interactive, 3, 10);
    push(&mut queue, "other", Interactive, 4, 10);
    assert_eq!(next(&mut queue), Some(0));
    queue.charge(b"talker", Interactive, 100);
    assert_eq!(all(&mut queue), [1, 3, 4, 2]);
}

#[test]
fn time_spent_away_earns_nothing() {
    let mut queue = FairQueue::default();
    for ticket in 0..20 {
        push(&mut queue, "busy", Interactive, ticket, 10);
    }
    for _ in 0..10 {
        next(&mut queue);
    }
    for ticket in 20..23 {
        push(&mut queue, "late", Interactive, ticket, 10);
    }
    // Not three in a row, as it would be were the late one owed what it did not ask for.
    let order: Vec<_> = (0..4).filter_map(|_| next(&mut queue)).collect();
    assert_eq!(order, [10, 20, 11, 21]);
}

#[test]
fn whoever_comes_when_nobody_waits_starts_where_the_last_one_left() {
    let mut queue = FairQueue::default();
    for ticket in 0..10 {
        push(&mut queue, "first", Interactive, ticket, 10);
        next(&mut queue);
    }
    push(&mut queue, "second", Interactive, 10, 10);
    push(&mut queue, "second", Interactive, 11, 10);
    push(&mut queue, "second", Interactive, 12, 10);
    push(&mut queue, "first", Interactive, 13, 10);
    assert_eq!(all(&mut queue), [10, 11, 13, 12]);
}

#[test]
fn what_was_charged_too_much_is_given_back() {
    let mut queue = FairQueue::default();
    push(&mut queue, "guessed", Interactive, 0, 1000);
    push(&mut queue, "guessed", Interactive, 1, 10);
    push(&mut queue, "other", Interactive, 2, 100);
    push(&mut queue, "other", Interactive, 3, 100);
    assert_eq!(next(&mut queue), Some(0));
    queue.charge(b"guessed", Interactive, -4 * 990);
    assert_eq!(all(&mut queue), [2, 1, 3]);
    queue.charge(b"guessed", Interactive, i64::MIN);
}

#[test]
fn batch_requests_go_last_but_one_in_eight_goes() {
    let mut queue = FairQueue::default();
    for ticket in 100..104 {
        push(&mut queue, "t", Batch, ticket, 10);
    }
    for ticket in 0..20 {
        push(&mut queue, "t", Interactive, ticket, 10);
    }
    let order = all(&mut queue);
    let places: Vec<_> = (0..order.len()).filter(|&at| order[at] >= 100).collect();
    assert_eq!(places, [7, 15, 22, 23], "{order:?}");
}

#[test]
fn a_tenant_of_which_nothing_runs_is_the_second_choice() {
    let mut queue = FairQueue::default();
    push(&mut queue, "running", Interactive, 0, 10);
    next(&mut queue);
    queue.charge(b"running", Interactive, -1000);
    push(&mut queue, "running", Interactive, 1, 10);
    push(&mut queue, "idle", Interactive, 2, 10);
    queue.charge(b"idle", Interactive, 1000);
    let candidates: Vec<_> = queue
        .candidates()
        .map(|candidate| (candidate.queued.ticket.0, candidate.is_newcomer))
        .collect();
    assert_eq!(candidates, [(1, false), (2, true)]);
}

#[test]
fn the_tenant_with_most_waiting_makes_room() {
    let mut queue = FairQueue::default();
    for ticket in 0..5 {
        push(&mut queue, "many", Interactive, ticket, 10);
    }
    push(&mut queue, "large", Interactive, 5, 1000);
    push(&mut queue, "new", Interactive, 6, 10);
    let displaced = |queue: &FairQueue, measure| queue.displaced_by(b"new", Interactive, measure);
    assert_eq!(displaced(&queue, Measure::Requests), Some(Ticket(4)));
    assert_eq!(displaced(&queue, Measure::Tokens), Some(Ticket(5)));
    assert_eq!(
        queue.displaced_by(b"many", Interactive, Measure::Requests),
        None
    );
    push(&mut queue, "many", Batch, 7, 10);
    assert_eq!(displaced(&queue, Measure::Tokens), Some(Ticket(7)));
    assert_eq!(queue.displaced_by(b"many", Batch, Measure::Requests), None);
}

#[test]
fn tenants_that_do_nothing_are_forgotten_in_time() {
    let mut queue = FairQueue::default();
    push(&mut queue, "left", Interactive, 0, 10);
    queue.remove(Ticket(0), NOW);
    assert_eq!(queue.num_tenants(), 1);
    push(&mut queue, "waits", Interactive, 1, 10);
    queue.forget(REMEMBERED);
    assert_eq!(queue.num_tenants(), 1);
    assert!(queue.idle.is_empty());
    let many = MAX_REMEMBERED as u64 + 10;
    for number in 0..many {
        let ticket = 10 + number;
        queue.push(number.to_string().into(), Interactive, queued(ticket, 1));
        queue.remove(Ticket(ticket), NOW);
    }
    assert_eq!(queue.num_tenants(), MAX_REMEMBERED + 1);
}

#[test]
fn a_tenant_that_comes_back_in_time_is_remembered() {
    let mut queue = FairQueue::default();
    push(&mut queue, "debtor", Interactive, 0, 1000);
    next(&mut queue);
    queue.ended(&"debtor".into(), NOW);
    push(&mut queue, "other", Interactive, 1, 10);
    push(&mut queue, "debtor", Interactive, 2, 10);
    push(&mut queue, "other", Interactive, 3, 10);
    assert_eq!(all(&mut queue), [1, 3, 2]);
}
