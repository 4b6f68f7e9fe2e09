//! A request that was cut off anywhere, and goes on in another group, gets the tokens that it gets undisturbed.

use inkstone_engine::{Decoding, EndReason, Resumed};

use super::{
    company::{alone, assert_same, mix, scramble, words},
    group::{Answer, Ask, Setting, Timed, model, run},
};
use crate::constraint::ConstraintForm;

/// The request as it goes on after a part of `answer` was told: of each branch another part, in `round` another than in others.
fn cut_off(ask: &Ask, answer: &Answer, round: usize) -> Ask {
    let mut cut = ask.clone();
    let Decoding::Sample { branches } = ask.decoding else {
        return cut;
    };
    for branch in 0..branches {
        let drawn = &answer.branches[&branch];
        let number = scramble(branch + 100 * round + drawn.len());
        let told = match number % 5 {
            // A branch that is complete, whether its end was told or not; never all of them with their ends. Of a request that is
            // complete in all branches nothing is computed, so that nothing can be said of its prompt.
            0 if branch > 0 || !ask.prompt_logprobs => drawn.len(),
            _ => number / 5 % drawn.len(),
        };
        let has_ended = told == drawn.len() && branch > 0 && number.is_multiple_of(2);
        cut.resumed.push(Resumed {
            branch,
            token_ids: drawn[..told].to_vec(),
            has_ended,
        });
    }
    cut
}

/// All go on at once, in a group with little room, beside others that are new to it.
fn go_on(world_size: usize, asks: &[Ask], num_blocks: usize, rounds: usize) {
    let wanted: Vec<Answer> = asks.iter().map(|ask| alone(ask, world_size)).collect();
    let setting = Setting {
        world_size,
        num_blocks,
        max_step_tokens: 40,
        max_running: 16,
    };
    for round in 0..rounds {
        let timed = asks.iter().enumerate().map(|(index, ask)| {
            let is_new = index % 5 == round % 5;
            let cut = match is_new {
                true => ask.clone(),
                false => cut_off(ask, &wanted[index], round),
            };
            (cut, scramble(index + round) % 6, None)
        });
        let timed: Vec<Timed> = timed.collect();
        let outcome = run(setting, &timed);
        for (index, (ask, ..)) in timed.iter().enumerate() {
            assert_same(index, ask, &wanted[index], &outcome.answers[index]);
        }
    }
}

#[test]
fn requests_that_move_go_on_with_the_tokens_of_an_undisturbed_run() {
    go_on(1, &mix(24), 60, 4);
}

#[test]
fn requests_that_move_to_two_ranks_go_on_with_the_tokens_of_an_undisturbed_run() {
    go_on(2, &mix(18), 60, 2);
}

/// Whatever a draw depends on is as if the tokens had been drawn here: penalties, counts, stop tokens held back, the form.
#[test]
fn penalties_limits_and_forms_hold_over_both_runs() {
    let penalised = |seed: u64| {
        let mut ask = Ask::text(words(seed as usize, 9), 30).sampled(seed);
        ask.sampling.params.repetition_penalty = 1.4;
        ask.sampling.params.frequency_penalty = 0.8;
        ask.sampling.min_new_tokens = 12;
        ask.stop_token_ids = (0..1024).filter(|id| id % 4 != 0).collect();
        ask
    };
    let formed = |seed: u64, form: ConstraintForm| {
        let mut ask = Ask::text(words(seed as usize, 12), 60).sampled(seed);
        ask.sampling.constraint = Some(form);
        ask.stop_token_ids = model().vocabulary.stop_token_ids().to_vec();
        ask.decoding = Decoding::Sample { branches: 2 };
        ask
    };
    let choices = ["yes", "no", "not at all"].map(str::to_owned).to_vec();
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}"#;
    let asks = [
        penalised(1),
        penalised(2),
        formed(3, ConstraintForm::Choices(choices)),
        formed(4, ConstraintForm::Regex("[a-c]{6,9}".to_owned())),
        formed(5, ConstraintForm::JsonSchema(schema.to_owned())),
    ];
    let answer = alone(&asks[3], 2);
    assert_eq!(answer.ends[&0], EndReason::Stop, "{answer:?}");
    assert!(answer.branches[&0].len() > 3, "there is something to cut");
    for world_size in [1, 2] {
        go_on(world_size, &asks, 60, 4);
    }
}
