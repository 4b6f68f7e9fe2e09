//! What the engine does, case by case.

pub(super) mod script;

use self::script::{check, check_with, limits, parse_request, step};
use super::request;
use crate::*;

#[test]
fn a_request_runs_from_prefill_to_its_length() {
    check(
        "submit 1 a5 3
         step 10
         step 11
         step 12
         step
         step",
        "step 1: start 1 of 1; 1 0..5 draw
         step 2: 1 +10 5..6 draw
         step 3: 1 +11 6..7 draw | 1.0 Length
         step 4: release 1; retire 1
         idle",
    );
}

#[test]
fn a_stop_token_ends_an_answer() {
    check(
        "submit 1 a5 9
         step 10
         step 0",
        "step 1: start 1 of 1; 1 0..5 draw
         step 2: 1 +10 5..6 draw | 1.0 Stop",
    );
}

#[test]
fn decodes_come_first_and_a_long_prompt_takes_what_is_left() {
    check(
        "submit 1 a4 8
         step 10
         submit 2 b90 2
         step 11
         step 12
         step 13 20",
        "step 1: start 1 of 1; 1 0..4 draw
         step 2: start 2 of 2; 1 +10 4..5 draw; 2 0..39
         step 3: 1 +11 5..6 draw; 2 39..78
         step 4: 1 +12 6..7 draw; 2 78..90 draw",
    );
}

#[test]
fn several_prefills_share_a_step() {
    check(
        "submit 1 a16 1
         submit 2 b16 1
         submit 3 c16 1
         step 7 8
         step 9",
        "step 1: start 1 of 1; start 2 of 2; start 3 of 3; 1 0..16 draw; 2 0..16 draw; 3 0..8 | 1.0 Length | 2.0 Length
         step 2: release 1; release 2; retire 1; retire 2; 3 8..16 draw | 3.0 Length",
    );
}

#[test]
fn a_request_waits_for_blocks_and_is_not_passed_by_a_shorter_one() {
    check(
        "submit 1 a100 4
         submit 2 b60 1
         submit 3 c10 1
         step
         step
         step 5
         cancel 1
         step
         step 6 7",
        "step 1: start 1 of 1; 1 0..40
         step 2: 1 40..80
         step 3: 1 80..100 draw
         step 4: release 1; retire 1; start 2 of 2; 2 0..40
         step 5: start 3 of 3; 2 40..60 draw; 3 0..10 draw | 2.0 Length | 3.0 Length",
    );
}

#[test]
fn a_second_question_takes_the_cached_blocks_and_one_position_is_always_computed() {
    check(
        "submit 1 a32+b3 1
         step 7
         submit 2 a32+c3 1
         submit 3 a32 1
         step 7 7",
        "step 1: start 1 of 1; 1 0..35 draw | 1.0 Length
         step 2: release 1; retire 1; start 2 of 2; start 3 of 3; copy 1>3; 2 32..35 draw; 3 31..32 draw | 2 cached 32 | 3 cached 31 | 2.0 Length | 3.0 Length",
    );
}

#[test]
fn tenants_share_nothing() {
    check(
        "submit 1 a32+b3 1
         step 7
         submit 2 a32+b3 1 salt=1
         step 7",
        "step 1: start 1 of 1; 1 0..35 draw | 1.0 Length
         step 2: release 1; retire 1; start 2 of 2; 2 0..35 draw | 2.0 Length",
    );
}

#[test]
fn another_question_about_a_picture_computes_only_the_question() {
    check(
        "submit 1 a3+A20+b4 2
         step 7
         submit 2 a3+A20+c6 1
         submit 3 a3+B20+b4 1
         step 7 7 7",
        "step 1: start 1 of 1; 1 0..27 draw
         step 2: start 2 of 2; start 3 of 3; copy 1>2; 1 +7 27..28 draw; 2 23..29 draw; 3 0..27 draw | 2 cached 23 | 1.0 Length | 2.0 Length | 3.0 Length",
    );
}

#[test]
fn who_lacks_pictures_holds_nobody_up_and_a_cached_picture_is_not_asked_for() {
    check(
        "submit 1 A20+b4 1 fetch
         submit 2 c5 2
         step 7
         ready 1
         step 7 8
         submit 3 A20+d4 1 fetch
         step 7",
        "step 1: start 2 of 2; 2 0..5 draw | 1 needs pictures
         step 2: start 1 of 1; 2 +7 5..6 draw; 1 0..24 draw | 2.0 Length | 1.0 Length
         step 3: release 2; release 1; retire 2; retire 1; start 3 of 3; copy 2>0; 3 20..24 draw | 3 cached 20 | 3.0 Length",
    );
}

#[test]
fn branches_share_the_prompt_and_the_first_to_write_copies() {
    check(
        "submit 1 a12 3 n=3
         step 5/0/6
         step 7 8
         step 9 10",
        "step 1: start 1 of 1; 1 0..12 draw 3 | 1.1 Stop
         step 2: fork 2 from 1; copy 0>2; 1 +5 12..13 draw; 2 +6 12..13 draw
         step 3: 1 +7 13..14 draw; 2 +8 13..14 draw | 1.0 Length | 1.2 Length",
    );
}

#[test]
fn a_branch_forks_from_one_that_ended() {
    check(
        "submit 1 a20 3 n=2
         step 0/6
         step 7
         step 8",
        "step 1: start 1 of 1; 1 0..20 draw 2 | 1.0 Stop
         step 2: fork 2 from 1; 2 +6 20..21 draw
         step 3: release 1; 2 +7 21..22 draw | 1.1 Length",
    );
}

#[test]
fn beams_fork_and_are_released() {
    check(
        "submit 1 a20 3 beam=2
         step 5/6/7/8
         step 9/10/11/12 13/14/15/16
         step 0/3/4/5 0/3/4/5",
        "step 1: start 1 of 1; 1 0..20 best 4
         step 2: fork 2 from 1; copy 1>3; 1 +5 20..21 best 4; 2 +6 20..21 best 4
         step 3: release 2; fork 3 from 1; copy 3>2; 1 +9 21..22 best 4; 3 +10 21..22 best 4 | 1 [5, 9, 0]",
    );
}

#[test]
fn the_youngest_batch_request_gives_way_and_keeps_its_tokens() {
    check(
        "submit 1 a46 6
         submit 2 b32 9 batch
         submit 3 c14 9
         step
         step
         step
         step
         step
         step
         step
         step
         step
         step",
        "step 1: start 1 of 1; 1 0..40
         step 2: start 3 of 3; start 2 of 2; 1 40..46 draw; 3 0..14 draw; 2 0..20
         step 3: 1 +5 46..47 draw; 3 +5 14..15 draw; 2 20..32 draw
         step 4: 1 +5 47..48 draw; 3 +5 15..16 draw; 2 +5 32..33 draw
         step 5: 1 +5 48..49 draw; 3 +5 16..17 draw
         step 6: 1 +5 49..50 draw; 3 +5 17..18 draw
         step 7: 1 +5 50..51 draw; 3 +5 18..19 draw | 1.0 Length
         step 8: release 1; retire 1; 3 +5 19..20 draw; 2 +5 32..34 draw
         step 9: 2 +5 34..35 draw; 3 +5 20..21 draw
         step 10: 2 +5 35..36 draw; 3 +5 21..22 draw | 3.0 Length",
    );
}

#[test]
fn interactive_goes_before_batch() {
    check(
        "submit 1 a40 1 batch
         submit 2 b40 1
         step
         step",
        "step 1: start 2 of 2; 2 0..40 draw | 2.0 Length
         step 2: release 2; retire 2; start 1 of 1; 1 0..40 draw | 1.0 Length",
    );
}

#[test]
fn a_batch_request_that_waited_long_goes_first() {
    check(
        "submit 1 a100 9
         submit 2 b40 1 batch
         step
         step
         step 10
         submit 3 c40 1
         step 11
         cancel 1
         step 12",
        "step 1: start 1 of 1; 1 0..40
         step 2: 1 40..80
         step 3: 1 80..100 draw
         step 4: 1 +10 100..101 draw
         step 5: release 1; retire 1; start 2 of 2; 2 0..40 draw | 2.0 Length",
    );
}

#[test]
fn a_prompt_with_log_probabilities_is_computed_whole_and_reported_in_order() {
    check(
        "submit 1 a50 1
         step
         step 7
         submit 2 a50 1 logprobs
         step
         step 7",
        "step 1: start 1 of 1; 1 0..40
         step 2: 1 40..50 draw | 1.0 Length
         step 3: release 1; retire 1; start 2 of 2; 2 0..40 | 2 logprobs 0..41
         step 4: 2 40..50 draw | 2 logprobs 41..50 | 2.0 Length",
    );
}

#[test]
fn a_cancelled_request_leaves_the_next_plan_and_frees_its_blocks() {
    check(
        "submit 1 a5 9
         submit 2 b5 9
         step 10 20
         cancel 1
         step 21
         cancel 2
         step
         step",
        "step 1: start 1 of 1; start 2 of 2; 1 0..5 draw; 2 0..5 draw
         step 2: release 1; retire 1; 2 +20 5..6 draw
         step 3: release 2; retire 2
         idle",
    );
}

#[test]
fn logits_that_are_not_finite_end_only_their_request() {
    check(
        "submit 1 a5 9
         submit 2 b5 9
         step nan 20
         step 21",
        "step 1: start 1 of 1; start 2 of 2; 1 0..5 draw; 2 0..5 draw | 1 NotFinite
         step 2: release 1; retire 1; 2 +20 5..6 draw",
    );
}

#[test]
fn a_resumed_answer_computes_what_was_drawn_and_goes_on_after_it() {
    check(
        "submit 1 a20 5 resume=0:7.8
         step 9
         step 10
         step 11
         step",
        "step 1: start 1 of 1; 1 0..22 draw
         step 2: 1 +9 22..23 draw
         step 3: 1 +10 23..24 draw | 1.0 Length
         step 4: release 1; retire 1",
    );
}

#[test]
fn resumed_branches_share_the_prompt_and_ended_ones_stay_silent() {
    // Branch 1 was told complete, of branch 2 nothing was heard.
    let limits = EngineLimits {
        num_blocks: 16,
        ..limits()
    };
    check_with(
        limits,
        "submit 1 a16+b3 4 n=4 resume=0:7.8 resume=1:7.0! resume=3:9
         step 10
         step 11 12
         step 13 14
         step 15 16
         step 17",
        "step 1: start 1 of 1; start 2 of 1.2; start 3 of 1.3; 1 0..21 draw
         step 2: 1 +10 21..22 draw; 2 16..19 draw | 1.0 Length
         step 3: release 1; 2 +12 19..20 draw; 3 16..20 draw
         step 4: 2 +13 20..21 draw; 3 +14 20..21 draw
         step 5: 2 +15 21..22 draw; 3 +16 21..22 draw | 1.2 Length | 1.3 Length",
    );
}

#[test]
fn a_resumed_answer_that_is_complete_is_told_its_end_only() {
    check(
        "submit 1 a5 3 n=2 resume=0:7.0 resume=1:7
         step 8
         submit 2 a5 2 resume=0:7.8
         step 9
         step
         step",
        "step 1: start 1 of 1.1; 1 0..6 draw | 1.0 Stop
         step 2: retire 2; 1 +8 6..7 draw | 2.0 Length | 1.1 Length
         step 3: release 1; retire 1
         idle",
    );
}

#[test]
fn what_is_resumed_must_make_sense() {
    check(
        "submit 1 a5 3 resume=1:7
         submit 1 a5 3 resume=0:7 resume=0:7
         submit 1 a5 3 resume=0:7.8.9.10
         submit 1 a5 3 resume=0:0.7
         submit 1 a5 3 n=2 resume=0:7! resume=1:0!
         submit 1 a5 3 beam=2 resume=0:7",
        "a resumed answer is not one of those asked for
         an answer is resumed twice
         a resumed answer has more than max_new_tokens already
         a resumed answer goes on after a stop token
         all answers of the request have ended already
         a beam search begins anew: it resumes no answer",
    );
}

#[test]
fn who_is_first_in_line_passes_all_that_wait_and_finds_room_in_a_full_queue() {
    check(
        "submit 1 a40 9
         step
         submit 2 b40 1
         submit 3 c40 1
         submit 4 d40 1
         submit 5 e40 1
         submit 6 f40 1
         submit 7 g40 1 batch first
         step
         step",
        "step 1: start 1 of 1; 1 0..40 draw
         4 requests wait already, the limit is 4
         step 2: start 6 of 7; 1 +5 40..41 draw; 6 0..39
         step 3: 1 +5 41..42 draw; 6 39..40 draw | 7.0 Length",
    );
}

#[test]
fn who_comes_while_a_step_runs_is_in_the_next_one() {
    let mut scheduler = Scheduler::new(EngineLimits {
        num_blocks: 40,
        max_running: 2,
        ..limits()
    });
    let submit = |scheduler: &mut Scheduler, words: &str| {
        let words: Vec<_> = words.split(' ').collect();
        scheduler.submit(parse_request(&words)).expect("room");
    };
    let draw = |scheduler: &mut Scheduler, plan: &StepPlan| {
        let drawing = plan.items.iter().filter(|item| item.draw.is_some());
        let output = StepOutput {
            drawn: drawing
                .map(|item| (item.sequence, Drawn::Tokens(vec![DrawnToken::plain(5)])))
                .collect(),
            prompt_logprobs: vec![],
        };
        scheduler.apply(plan, &output).expect("it answers the plan");
    };
    submit(&mut scheduler, "1 a30 9");
    submit(&mut scheduler, "2 b30 1");
    let mut plan = scheduler.plan().expect("work");
    let mut plans = vec![];
    for newcomer in ["3 c35 2", "4 d20 1 first", "5 e5 1"] {
        let mut prepared = scheduler.prepare();
        submit(&mut scheduler, newcomer);
        draw(&mut scheduler, &plan);
        scheduler.join(&mut prepared);
        scheduler.check_integrity();
        plan = scheduler.seal(prepared).expect("work");
        plans.push(plan.to_string());
    }
    assert_eq!(
        plans,
        [
            // All the rows that there are go to whom they were given; 2 is not done, 3 finds no place.
            "step 2: 1 +5 30..31 draw; 2 10..30 draw",
            // 2 ended: there is a place, which 4 takes.
            "step 3: release 2; retire 2; start 4 of 4; 1 +5 31..32 draw; 4 0..20 draw",
            "step 4: release 4; retire 4; start 3 of 3; 1 +5 32..33 draw; 3 0..35 draw",
        ]
    );
}

#[test]
fn a_step_is_kept_short_for_who_is_first_in_line() {
    check_with(
        EngineLimits {
            num_blocks: 100,
            max_step_tokens: 300,
            ..limits()
        },
        "submit 1 a400 1
         step
         submit 2 b200 1
         submit 3 c100 2 first
         step
         step",
        "step 1: start 1 of 1; 1 0..300
         step 2: start 3 of 3; 3 0..100 draw; 1 300..332
         step 3: start 2 of 2; 3 +5 100..101 draw; 1 332..400 draw; 2 0..200 draw | 3.0 Length | 1.0 Length | 2.0 Length",
    );
}

#[test]
fn who_waits_for_a_turn_is_passed_a_bounded_number_of_times() {
    let mut scheduler = Scheduler::new(EngineLimits {
        max_running: 1,
        max_waiting: 100,
        ..limits()
    });
    let submit = |scheduler: &mut Scheduler, id: u64, first_in_line| {
        let request = EngineRequest {
            first_in_line,
            ..request(id, vec![PromptSpan::Tokens(vec![7; 5])], 1)
        };
        scheduler.submit(request).expect("room");
    };
    submit(&mut scheduler, 1000, false);
    submit(&mut scheduler, 2000, true);
    let mut started = Vec::new();
    for id in 0..40 {
        // There is always somebody in front.
        submit(&mut scheduler, id, true);
        let text = step(&mut scheduler, &[]);
        started.push(text.contains("of 1000"));
    }
    let turn = started.iter().position(|is_it| *is_it);
    assert_eq!(turn, Some(16), "after 16 that were put in front");
}
