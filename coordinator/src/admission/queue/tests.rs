use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds {
    running: 4,
    queued: 8,
    queued_per_tenant: 6,
    queued_tokens: 100_000,
    queued_tokens_per_tenant: 50_000,
    queued_bytes: 1_000_000,
};
const NOWHERE: Room = Room {
    sequences: None,
    tokens: None,
    ahead_tokens: None,
    rows_per_second: None,
};

fn prompt(text_tokens: u64) -> PromptCost {
    PromptCost {
        text_tokens,
        picture_tokens: 0,
    }
}

fn asked(tenant: &str, tokens: u64) -> Asked {
    Asked {
        tenant: tenant.to_owned().into(),
        priority: Priority::Interactive,
        cost: RequestCost {
            prompt: prompt(tokens),
            sequences: 1,
            max_output_tokens: 10,
            bytes: 100,
        },
        goes_on: false,
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Enters requests of a tenant and gives their tickets with the last one's verdicts.
fn enter(queue: &mut AdmissionQueue, tenant: &str, count: usize) -> (Vec<Ticket>, Vec<Verdict>) {
    let mut last = vec![];
    let tickets = (0..count).map(|_| {
        let (ticket, verdicts) = queue.enter(asked(tenant, 100), &NOWHERE, secs(0));
        last = verdicts;
        ticket
    });
    (tickets.collect(), last)
}

#[test]
fn places_are_given_until_there_are_none_and_given_on_when_one_ends() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    let (first, verdicts) = enter(&mut queue, "a", 4);
    assert_eq!(verdicts, [Verdict::Go(first[3])]);
    let (late, verdicts) = enter(&mut queue, "a", 1);
    assert_eq!(verdicts, []);
    assert_eq!(queue.pump(&NOWHERE), []);
    queue.leave(first[1], secs(2));
    assert_eq!(queue.pump(&NOWHERE), [Verdict::Go(late[0])]);
}

#[test]
fn who_leaves_the_queue_takes_no_place() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    let (first, _) = enter(&mut queue, "a", 4);
    let (waiting, _) = enter(&mut queue, "a", 2);
    queue.leave(waiting[0], secs(1));
    queue.leave(first[0], secs(1));
    assert_eq!(queue.pump(&NOWHERE), [Verdict::Go(waiting[1])]);
    assert_eq!(queue.queue.amount(), Amount::default());
}

#[test]
fn a_tenant_past_its_bound_is_sent_away_and_others_are_not() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    enter(&mut queue, "a", 4 + 6);
    let (ticket, verdicts) = enter(&mut queue, "a", 1);
    let reason = ShedReason::TenantRequests { limit: 6 };
    assert_eq!(verdicts, [Verdict::Shed(ticket[0], reason)]);
    let (_, verdicts) = enter(&mut queue, "b", 1);
    assert_eq!(verdicts, []);
}

#[test]
fn in_a_full_queue_the_tenant_with_most_makes_room() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    let (loud, _) = enter(&mut queue, "loud", 4 + 6);
    enter(&mut queue, "b", 2);
    let (_, verdicts) = enter(&mut queue, "c", 1);
    assert_eq!(verdicts, [Verdict::Shed(loud[9], ShedReason::Displaced)]);
    let (loud, verdicts) = enter(&mut queue, "loud", 1);
    let reason = ShedReason::Requests { limit: 8 };
    assert_eq!(verdicts, [Verdict::Shed(loud[0], reason)]);
    assert_eq!(queue.queue.amount().requests, 8);
}

#[test]
fn tokens_and_bytes_are_bounded_too() {
    for (bounds, reason) in [
        (
            Bounds {
                queued_tokens: 250,
                ..BOUNDS
            },
            ShedReason::Tokens { limit: 250 },
        ),
        (
            Bounds {
                queued_tokens_per_tenant: 250,
                ..BOUNDS
            },
            ShedReason::TenantTokens { limit: 250 },
        ),
        (
            Bounds {
                queued_bytes: 250,
                ..BOUNDS
            },
            ShedReason::Bytes { limit: 250 },
        ),
    ] {
        let mut queue = AdmissionQueue::new(bounds);
        let (tickets, verdicts) = enter(&mut queue, "a", 4 + 3);
        assert_eq!(verdicts, [Verdict::Shed(tickets[6], reason)]);
    }
}

#[test]
fn without_a_queue_what_cannot_run_at_once_is_sent_away() {
    let bounds = Bounds {
        queued: 0,
        ..BOUNDS
    };
    let mut queue = AdmissionQueue::new(bounds);
    let (tickets, verdicts) = enter(&mut queue, "a", 5);
    let reason = ShedReason::Requests { limit: 0 };
    assert_eq!(verdicts, [Verdict::Shed(tickets[4], reason)]);
    let huge = asked("a", u64::MAX / 8);
    let mut idle = AdmissionQueue::new(bounds);
    let (ticket, verdicts) = idle.enter(huge, &NOWHERE, secs(0));
    assert_eq!(verdicts, [Verdict::Go(ticket)]);
}

#[test]
fn groups_are_given_no_more_sequences_than_they_run() {
    let mut queue = AdmissionQueue::new(Bounds {
        running: 100,
        ..BOUNDS
    });
    let room = Room {
        sequences: Some(3),
        ..NOWHERE
    };
    let gone = (0..5).map(|_| queue.enter(asked("a", 1), &room, secs(0)).1.len());
    assert_eq!(gone.sum::<usize>(), 3);
}

#[test]
fn prompts_wait_for_room_in_the_caches() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    let room = |used| Room {
        tokens: Some(super::super::room::TokenRoom { total: 1000, used }),
        ..NOWHERE
    };
    // The first one goes in any case: the groups have queues of their own.
    let (first, verdicts) = queue.enter(asked("a", 400), &room(5000), secs(0));
    assert_eq!(verdicts, [Verdict::Go(first)]);
    let (second, verdicts) = queue.enter(asked("a", 400), &room(200), secs(0));
    assert_eq!(verdicts, []);
    // Its prompt is computed, so what the groups say covers it.
    queue.drawn(first, 1, secs(0));
    assert_eq!(queue.pump(&room(600)), []);
    assert_eq!(queue.pump(&room(400)), [Verdict::Go(second)]);
}

#[test]
fn groups_are_given_little_ahead_but_tenants_without_a_place_are_not_held_up() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    let room = Room {
        ahead_tokens: Some(150),
        ..NOWHERE
    };
    let (first, verdicts) = queue.enter(asked("a", 100), &room, secs(0));
    assert_eq!(verdicts, [Verdict::Go(first)]);
    let (second, verdicts) = queue.enter(asked("a", 100), &room, secs(0));
    assert_eq!(verdicts, []);
    let (other, verdicts) = queue.enter(asked("b", 100), &room, secs(0));
    assert_eq!(verdicts, [Verdict::Go(other)]);
    queue.drawn(first, 1, secs(0));
    assert_eq!(queue.pump(&room), []);
    queue.rendered(other, prompt(20));
    assert_eq!(queue.pump(&room), [Verdict::Go(second)]);
}

#[test]
fn what_a_group_has_in_its_cache_is_not_ahead_of_others() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    let room = Room {
        ahead_tokens: Some(1500),
        ..NOWHERE
    };
    let (first, _) = queue.enter(asked("a", 1000), &room, secs(0));
    let (second, verdicts) = queue.enter(asked("a", 1000), &room, secs(0));
    assert_eq!(verdicts, []);
    queue.rendered(first, prompt(1100));
    queue.routed(first, 60);
    assert_eq!(queue.pump(&room), [Verdict::Go(second)]);
    assert_eq!(queue.pending_rows, 1060);
    for ticket in [first, second] {
        queue.drawn(ticket, 1, secs(0));
        // It was moved: its prompt is computed again, in front of all.
        queue.routed(ticket, 500);
        queue.leave(ticket, secs(0));
    }
    assert_eq!((queue.pending_rows, queue.pending_tokens), (0, 0));
}

#[test]
fn who_has_nothing_that_runs_goes_in_front_of_those_who_have() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    let go = |queue: &mut AdmissionQueue, tenant: &str| {
        let (ticket, verdicts) = queue.enter(asked(tenant, 10), &NOWHERE, secs(0));
        assert_eq!(verdicts, [Verdict::Go(ticket)]);
        ticket
    };
    let loud = [go(&mut queue, "loud"), go(&mut queue, "loud")];
    let quiet = go(&mut queue, "quiet");
    let again = go(&mut queue, "quiet");
    let first = [loud[0], loud[1], quiet, again].map(|ticket| queue.goes_first(ticket));
    // Before the first there was nobody to pass.
    assert_eq!(first, [false, false, true, false]);
    queue.leave(quiet, secs(0));
    assert!(!queue.goes_first(quiet));
    queue.leave(again, secs(1));
    let batch = Asked {
        priority: Priority::Batch,
        ..asked("quiet", 10)
    };
    let (batch, _) = queue.enter(batch, &NOWHERE, secs(1));
    assert!(!queue.goes_first(batch), "it is in no hurry");
}

#[test]
fn a_share_of_the_places_is_kept_for_tenants_that_have_none() {
    let bounds = Bounds {
        running: 32,
        queued: 100,
        queued_per_tenant: 100,
        ..BOUNDS
    };
    let mut queue = AdmissionQueue::new(bounds);
    enter(&mut queue, "loud", 32);
    assert_eq!(queue.running.len(), 32, "a lone tenant has all");
    let mut queue = AdmissionQueue::new(bounds);
    let (seen, _) = enter(&mut queue, "quiet", 1);
    queue.leave(seen[0], secs(0));
    enter(&mut queue, "loud", 40);
    assert_eq!(queue.running.len(), 30);
    let (quiet, verdicts) = enter(&mut queue, "quiet", 2);
    assert_eq!(verdicts, [], "its second one takes its turn");
    assert!(queue.running.contains_key(&quiet[0]));
}

#[test]
fn an_answer_that_is_drawn_and_not_read_takes_no_place_in_a_group() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    let room = Room {
        sequences: Some(1),
        ..NOWHERE
    };
    let (first, _) = queue.enter(asked("a", 1), &room, secs(0));
    let (second, verdicts) = queue.enter(asked("a", 1), &room, secs(0));
    assert_eq!(verdicts, []);
    queue.drawn(first, 1, secs(0));
    queue.all_drawn(first, secs(0));
    assert_eq!(queue.pump(&room), [Verdict::Go(second)]);
    // It is one of this coordinator's until it is read.
    assert_eq!(queue.running.len(), 2);
    queue.all_drawn(first, secs(0));
    queue.leave(first, secs(0));
    assert_eq!((queue.running.len(), queue.sequences), (1, 1));
}

#[test]
fn a_client_is_told_to_wait_for_what_is_ahead_of_it() {
    let mut queue = AdmissionQueue::new(BOUNDS);
    let (running, _) = enter(&mut queue, "a", 4);
    enter(&mut queue, "a", 4);
    let cost = asked("a", 100).cost;
    let after = |queue: &mut AdmissionQueue, reason, room: &Room| {
        queue.retry_after(b"a", reason, &cost, room, secs(1))
    };
    let full = ShedReason::Requests { limit: 8 };
    assert_eq!(after(&mut queue, full, &NOWHERE), None);
    // What waits, and the request itself: five prompts of 100 with answers of 10 at 110 a second.
    let room = Room {
        rows_per_second: Some(110),
        ..NOWHERE
    };
    assert_eq!(after(&mut queue, full, &room), Some(secs(5)));
    // What was measured counts more than what the groups say: a prompt and ten tokens of it in the first second.
    queue.drawn(running[0], 10, secs(0));
    assert_eq!(after(&mut queue, full, &NOWHERE), Some(secs(5)));
    // A tenant waits for its own, and for the others' turns between them, but not for more than there is.
    enter(&mut queue, "b", 1);
    let own = ShedReason::TenantRequests { limit: 6 };
    assert_eq!(after(&mut queue, own, &NOWHERE), Some(secs(6)));
    let slow = Room {
        rows_per_second: Some(1),
        ..NOWHERE
    };
    let mut queue = AdmissionQueue::new(BOUNDS);
    enter(&mut queue, "a", 8);
    assert_eq!(after(&mut queue, full, &slow), Some(secs(60)));
}

/// What a tenant does: how much it keeps waiting, more than can go at once, and how large its requests are at most.
#[derive(Debug, Clone)]
struct Habit {
    backlog: usize,
    prompt: u64,
    output: u64,
}

fn habits() -> impl Strategy<Value = Vec<Habit>> {
    let habit = (8usize..24, 1u64..60, 1u64..12).prop_map(|(backlog, prompt, output)| Habit {
        backlog,
        prompt,
        output,
    });
    prop::collection::vec(habit, 2..5)
}

/// A number that depends on two others and looks drawn.
fn drawn(seed: u64, number: u64) -> u64 {
    let mixed =
        (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 29)
}

/// Tenants that always have something waiting, in front of a group that draws a token for each of its requests in a round.
struct Contest {
    queue: AdmissionQueue,
    habits: Vec<Habit>,
    /// Whether the queue knows whose a request is.
    is_fair: bool,
    seed: u64,
    /// Of each request its tenant, its prompt, and the tokens that it has yet to get.
    requests: HashMap<Ticket, (usize, u64, u64)>,
    running: Vec<Ticket>,
    waiting: Vec<usize>,
    /// Service units that each tenant got.
    served: Vec<u64>,
}

impl Contest {
    fn new(habits: Vec<Habit>, slots: usize, is_fair: bool, seed: u64) -> Self {
        let bounds = Bounds {
            running: slots,
            queued: 1000,
            queued_per_tenant: 1000,
            ..BOUNDS
        };
        Self {
            queue: AdmissionQueue::new(bounds),
            waiting: vec![0; habits.len()],
            served: vec![0; habits.len()],
            habits,
            is_fair,
            seed,
            requests: HashMap::new(),
            running: vec![],
        }
    }

    /// The largest difference between what two tenants got, after any round.
    fn largest_difference(mut self, rounds: u64) -> u64 {
        let mut largest = 0;
        for round in 0..rounds {
            let now = Duration::from_millis(round);
            for tenant in 0..self.habits.len() {
                while self.waiting[tenant] < self.habits[tenant].backlog {
                    self.ask(tenant, now);
                }
            }
            for ticket in self.running.clone() {
                self.draw(ticket, now);
            }
            let verdicts = self.queue.pump(&NOWHERE);
            self.carry_out(verdicts);
            let (least, most) = (self.served.iter().min(), self.served.iter().max());
            largest = largest.max(most.unwrap() - least.unwrap());
        }
        largest
    }

    fn ask(&mut self, tenant: usize, now: Duration) {
        let number = self.requests.len() as u64;
        let habit = &self.habits[tenant];
        let size = 1 + drawn(self.seed, number) % habit.prompt;
        let output = 1 + drawn(!self.seed, number) % habit.output;
        let name = if self.is_fair {
            tenant.to_string()
        } else {
            String::new()
        };
        // Guessed at twice its size, and put right when it runs.
        let (ticket, verdicts) = self.queue.enter(asked(&name, 2 * size), &NOWHERE, now);
        self.requests.insert(ticket, (tenant, size, output));
        self.waiting[tenant] += 1;
        self.carry_out(verdicts);
    }

    fn carry_out(&mut self, verdicts: Vec<Verdict>) {
        for verdict in verdicts {
            let Verdict::Go(ticket) = verdict else {
                panic!("{verdict:?}");
            };
            let (tenant, size, _) = self.requests[&ticket];
            self.queue.rendered(ticket, prompt(size));
            self.served[tenant] += prompt(size).units();
            self.waiting[tenant] -= 1;
            self.running.push(ticket);
        }
    }

    fn draw(&mut self, ticket: Ticket, now: Duration) {
        self.queue.drawn(ticket, 1, now);
        let (tenant, _, left) = self.requests.get_mut(&ticket).unwrap();
        self.served[*tenant] += output_units(1);
        *left -= 1;
        if *left == 0 {
            self.queue.leave(ticket, now);
            self.running.retain(|&other| other != ticket);
        }
    }
}

/// By how much two tenants may differ: twice what one may get at once, in all places.
fn fair_difference(habits: &[Habit], slots: usize) -> u64 {
    let longest_prompt = habits.iter().map(|habit| habit.prompt).max().unwrap();
    let longest_output = habits.iter().map(|habit| habit.output).max().unwrap();
    2 * slots as u64 * (prompt(longest_prompt).units() + output_units(longest_output))
}

#[test]
fn first_come_first_served_is_not_fair() {
    let habit = |backlog| Habit {
        backlog,
        prompt: 20,
        output: 8,
    };
    let habits = vec![habit(5), habit(50)];
    let bound = fair_difference(&habits, 4);
    let fair = Contest::new(habits.clone(), 4, true, 1).largest_difference(2000);
    assert!(fair <= bound, "{fair}");
    let unfair = Contest::new(habits, 4, false, 1).largest_difference(2000);
    assert!(unfair > 10 * bound, "{unfair}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The promise of virtual token counters: tenants that always have something waiting are served alike, up to a constant that does
    /// not grow with time, whatever they ask for and however much of it.
    #[test]
    fn backlogged_tenants_are_served_alike(habits in habits(), slots in 1usize..8, seed: u64) {
        let bound = fair_difference(&habits, slots);
        let largest = Contest::new(habits, slots, true, seed).largest_difference(600);
        prop_assert!(largest <= bound, "{largest}, bound {bound}");
    }

    /// A request that waits goes after a number of others that depends on the number of tenants and not on how much they ask for.
    #[test]
    fn nobody_starves(tenants in 1usize..6, fresh: bool, is_batch: bool) {
        let bounds = Bounds { running: 1, queued: 1000, queued_per_tenant: 1000, ..BOUNDS };
        let mut queue = AdmissionQueue::new(bounds);
        let (mut current, _) = queue.enter(asked("first", 100), &NOWHERE, secs(0));
        let mut number = 0;
        let mut others = |queue: &mut AdmissionQueue| {
            for tenant in 0..tenants {
                number += 1;
                // Tenants that were never seen before, or always the same.
                let name = if fresh { format!("t{number}") } else { format!("t{tenant}") };
                queue.enter(asked(&name, 100), &NOWHERE, secs(0));
            }
        };
        others(&mut queue);
        let priority = if is_batch { Priority::Batch } else { Priority::Interactive };
        let (mine, _) = queue.enter(Asked { priority, ..asked("mine", 100) }, &NOWHERE, secs(0));
        let mut gone = 0;
        while current != mine {
            others(&mut queue);
            queue.leave(current, secs(0));
            let verdicts = queue.pump(&NOWHERE);
            let [Verdict::Go(next)] = verdicts[..] else { panic!("{verdicts:?}") };
            current = next;
            gone += 1;
            prop_assert!(gone <= 2 * tenants + 10, "{gone} went before");
        }
    }

    /// Whatever happens: bounds hold, every request has one verdict at most, and nothing is left when all have left.
    #[test]
    fn bounds_hold_and_nothing_is_left(
        steps in prop::collection::vec((0u8..7, 0usize..5, 1u64..400, any::<bool>()), 1..300),
        queued in 0usize..12,
        queued_tokens in 0u64..3000,
    ) {
        let bounds = Bounds { queued, queued_tokens, ..BOUNDS };
        let mut queue = AdmissionQueue::new(bounds);
        let room = Room { sequences: Some(3), ahead_tokens: Some(500), ..NOWHERE };
        let mut there: Vec<Ticket> = vec![];
        let mut decided: HashSet<Ticket> = HashSet::new();
        for (millis, &(step, tenant, tokens, is_batch)) in steps.iter().enumerate() {
            let now = Duration::from_millis(millis as u64);
            let verdicts = match step {
                0..=2 => {
                    let priority = if is_batch { Priority::Batch } else { Priority::Interactive };
                    let who = Asked { priority, ..asked(&tenant.to_string(), tokens) };
                    let (ticket, verdicts) = queue.enter(who, &room, now);
                    there.push(ticket);
                    verdicts
                }
                3 if !there.is_empty() => {
                    queue.leave(there.swap_remove(tokens as usize % there.len()), now);
                    queue.pump(&room)
                }
                4 if !there.is_empty() => {
                    queue.rendered(there[tokens as usize % there.len()], prompt(tokens));
                    queue.pump(&room)
                }
                5 if !there.is_empty() => {
                    queue.drawn(there[tokens as usize % there.len()], tokens, now);
                    queue.pump(&room)
                }
                6 if !there.is_empty() => {
                    queue.routed(there[tokens as usize % there.len()], tokens / 2);
                    queue.pump(&room)
                }
                _ => queue.pump(&room),
            };
            for verdict in verdicts {
                let (Verdict::Go(ticket) | Verdict::Shed(ticket, _)) = verdict;
                prop_assert!(decided.insert(ticket), "{verdict:?} is the second one");
            }
            let all = queue.queue.amount();
            prop_assert!(all.requests <= queued && all.tokens <= queued_tokens, "{all:?}");
            prop_assert!(queue.running.len() <= BOUNDS.running);
            prop_assert!(queue.waiting().len() == all.requests);
        }
        for ticket in there {
            queue.leave(ticket, secs(1));
        }
        prop_assert_eq!(queue.queue.amount(), Amount::default());
        prop_assert_eq!((queue.running.len(), queue.sequences, queue.pending_tokens), (0, 0, 0));
        let (last, _) = queue.enter(asked("last", 1), &NOWHERE, secs(10_000));
        queue.leave(last, secs(20_000));
        prop_assert!(queue.queue.num_tenants() <= 1, "all but the last are forgotten");
    }
}
