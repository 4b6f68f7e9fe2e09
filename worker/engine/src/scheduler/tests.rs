//! Scenarios as text in, plans as text out; and random runs that keep the books after every step.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::BLOCK_TOKENS;

const STOP: u32 = 2;

fn limits() -> EngineLimits {
    EngineLimits {
        num_blocks: 8,
        max_step_tokens: 40,
        max_running: 4,
        max_waiting: 4,
    }
}

fn request(id: u64, prompt_tokens: usize, max_new_tokens: usize) -> SequenceRequest {
    SequenceRequest {
        id: SequenceId(id),
        prompt_tokens,
        max_new_tokens,
        stop_token_ids: vec![STOP],
    }
}

/// Runs a scenario: `submit ID PROMPT NEW`, `cancel ID`, `step TOKEN...` (what each sampling item draws, in order).
/// Compares what `step` prints with `expected`.
#[track_caller]
fn check(scenario: &str, expected: &str) {
    let mut scheduler = Scheduler::new(limits());
    let mut printed = Vec::new();
    for line in scenario
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        match words[0] {
            "submit" => {
                let answer =
                    scheduler.submit(request(number(1), number(2) as usize, number(3) as usize));
                if let Err(error) = answer {
                    printed.push(error.to_string());
                }
            }
            "cancel" => assert!(scheduler.cancel(SequenceId(number(1)))),
            "step" => printed.push(step(&mut scheduler, &words[1..])),
            other => panic!("unknown word {other}"),
        }
        scheduler.check_integrity();
    }
    let expected: Vec<&str> = expected
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(printed, expected);
}

fn step(scheduler: &mut Scheduler, draws: &[&str]) -> String {
    let Some(plan) = scheduler.plan() else {
        return "idle".to_owned();
    };
    let sampled = plan
        .items
        .iter()
        .filter(|item| item.work.samples().is_some())
        .zip(draws)
        .map(|(item, draw)| {
            (
                item.sequence,
                draw.parse().map_or(Sampled::NotFinite, Sampled::Token),
            )
        })
        .collect();
    let events = scheduler
        .apply(&plan, &StepOutput { sampled })
        .expect("the output answers the plan");
    let mut text = plan.to_string();
    for event in events {
        match event {
            Event::Token { .. } => {}
            Event::Ended { sequence, reason } => text += &format!(" | {sequence} {reason:?}"),
            Event::NotFinite { sequence } => text += &format!(" | {sequence} NotFinite"),
        }
    }
    text
}

#[test]
fn a_sequence_runs_from_prefill_to_its_length() {
    check(
        "submit 1 5 3
         step 10
         step 11
         step 12
         step
         step",
        "step 1: prefill 1 0..5 draw
         step 2: decode 1 token 10 at 5
         step 3: decode 1 token 11 at 6 | 1 Length
         step 4: release 1
         idle",
    );
}

#[test]
fn a_stop_token_ends_a_sequence() {
    check(
        "submit 1 5 9
         step 10
         step 2",
        "step 1: prefill 1 0..5 draw
         step 2: decode 1 token 10 at 5 | 1 Stop",
    );
}

#[test]
fn decodes_come_first_and_a_long_prompt_takes_what_is_left() {
    check(
        "submit 1 4 8
         step 10
         submit 2 90 2
         step 11
         step 12
         step 13 20",
        "step 1: prefill 1 0..4 draw
         step 2: decode 1 token 10 at 4; prefill 2 0..39
         step 3: decode 1 token 11 at 5; prefill 2 39..78
         step 4: decode 1 token 12 at 6; prefill 2 78..90 draw",
    );
}

#[test]
fn several_prefills_share_a_step() {
    check(
        "submit 1 16 1
         submit 2 16 1
         submit 3 16 1
         step 7 8
         step 9",
        "step 1: prefill 1 0..16 draw; prefill 2 0..16 draw; prefill 3 0..8 | 1 Length | 2 Length
         step 2: prefill 3 8..16 draw; release 1; release 2 | 3 Length",
    );
}

#[test]
fn a_sequence_waits_for_blocks_and_is_not_passed_by_a_shorter_one() {
    check(
        "submit 1 100 4
         submit 2 60 1
         submit 3 10 1
         step
         step
         step 5
         cancel 1
         step 6",
        "step 1: prefill 1 0..40
         step 2: prefill 1 40..80
         step 3: prefill 1 80..100 draw
         step 4: prefill 2 0..40; release 1",
    );
}

#[test]
fn a_cancelled_sequence_leaves_the_next_plan_and_frees_its_blocks() {
    check(
        "submit 1 5 9
         submit 2 5 9
         step 10 20
         cancel 1
         step 21
         cancel 2
         step
         step",
        "step 1: prefill 1 0..5 draw; prefill 2 0..5 draw
         step 2: decode 2 token 20 at 5; release 1
         step 3: release 2
         idle",
    );
}

#[test]
fn logits_that_are_not_finite_end_only_their_sequence() {
    check(
        "submit 1 5 9
         submit 2 5 9
         step nan 20
         step 21",
        "step 1: prefill 1 0..5 draw; prefill 2 0..5 draw | 1 NotFinite
         step 2: decode 2 token 20 at 5; release 1",
    );
}

#[test]
fn what_cannot_be_taken_is_refused_with_the_limit() {
    check(
        "submit 1 128 2
         submit 2 0 2
         submit 3 1 1
         submit 4 1 1
         submit 5 1 1
         submit 6 1 1
         submit 7 1 1",
        "the sequence may grow to 130 tokens, the KV cache holds 128
         a sequence needs at least one prompt token and one token to draw
         4 sequences wait already, the limit is 4",
    );
}

#[test]
fn an_output_for_other_sequences_is_refused() {
    let mut scheduler = Scheduler::new(limits());
    scheduler.submit(request(1, 5, 9)).expect("room");
    let plan = scheduler.plan().expect("work");
    let output = StepOutput {
        sampled: vec![(SequenceId(9), Sampled::Token(1))],
    };
    let error = scheduler
        .apply(&plan, &output)
        .expect_err("the wrong sequence");
    assert_eq!(error.wanted, [SequenceId(1)]);
}

#[test]
fn plans_that_differ_anywhere_have_other_hashes() {
    let plan = |token_id, block| StepPlan {
        step: 3,
        items: vec![StepItem {
            sequence: SequenceId(1),
            work: Work::Decode {
                token_id,
                position: 4,
                token_index: 2,
            },
            block_table: vec![crate::BlockId(block)],
        }],
        released: vec![],
    };
    assert_eq!(plan(1, 1).content_hash(), plan(1, 1).content_hash());
    assert_ne!(plan(1, 1).content_hash(), plan(2, 1).content_hash());
    assert_ne!(plan(1, 1).content_hash(), plan(1, 2).content_hash());
}

#[derive(Clone, Debug)]
enum Action {
    Submit { prompt: usize, new: usize },
    Cancel { nth: usize },
    Step { draw: u32 },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (1..90_usize, 1..30_usize).prop_map(|(prompt, new)| Action::Submit { prompt, new }),
        1 => (0..8_usize).prop_map(|nth| Action::Cancel { nth }),
        6 => (0..12_u32).prop_map(|draw| Action::Step { draw }),
    ]
}

proptest! {
    /// Whatever arrives and leaves, the books are right after every step, every token comes once and in order, and every
    /// sequence that is not cancelled comes to its end.
    #[test]
    fn random_runs_keep_the_books(actions in prop::collection::vec(action(), 1..120)) {
        let mut scheduler = Scheduler::new(limits());
        let mut drawn: HashMap<SequenceId, usize> = HashMap::new();
        let mut next = 0;
        let run = |scheduler: &mut Scheduler, drawn: &mut HashMap<SequenceId, usize>, draw: u32| {
            let Some(plan) = scheduler.plan() else { return false };
            assert!(plan.num_rows() <= limits().max_step_tokens);
            for item in &plan.items {
                let last = match item.work {
                    Work::Prefill { end, .. } => end - 1,
                    Work::Decode { position, .. } => position,
                };
                assert!(last < item.block_table.len() * BLOCK_TOKENS);
            }
            let sampled = plan.items.iter().filter(|item| item.work.samples().is_some())
                .map(|item| (item.sequence, Sampled::Token(draw))).collect();
            for event in scheduler.apply(&plan, &StepOutput { sampled }).expect("answers the plan") {
                match event {
                    Event::Token { sequence, index, .. } => {
                        let count = drawn.get_mut(&sequence).expect("a live sequence");
                        assert_eq!(*count, index);
                        *count += 1;
                    }
                    Event::Ended { sequence, .. } | Event::NotFinite { sequence } => {
                        assert!(drawn.remove(&sequence).is_some());
                    }
                }
            }
            true
        };
        for action in actions {
            match action {
                Action::Submit { prompt, new } => {
                    next += 1;
                    if scheduler.submit(request(next, prompt, new)).is_ok() {
                        drawn.insert(SequenceId(next), 0);
                    }
                }
                Action::Cancel { nth } => {
                    let id = drawn.keys().copied().min_by_key(|id| id.0.wrapping_add(nth as u64) % 7);
                    if let Some(id) = id {
                        prop_assert!(scheduler.cancel(id));
                        drawn.remove(&id);
                    }
                }
                Action::Step { draw } => { run(&mut scheduler, &mut drawn, draw); }
            }
            scheduler.check_integrity();
        }
        for _ in 0..2000 {
            if !run(&mut scheduler, &mut drawn, 7) { break }
            scheduler.check_integrity();
        }
        prop_assert!(drawn.is_empty(), "sequences never ended: {:?}", drawn);
        prop_assert_eq!(scheduler.load().blocks_used, 0);
    }
}
