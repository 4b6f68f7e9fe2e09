//! Answers that must have a form get the tokens that they get alone, whoever comes and goes beside them.

use inkstone_engine::DrawFailure;

use super::{
    company::{alone, assert_same, scramble, words},
    group::{Answer, Ask, Setting, Timed, model, run},
};
use crate::constraint::ConstraintForm;

/// Answers of a form, drawn from many tokens each, in groups with much room and with little, of requests that come and go at random.
fn constrained_in_company(world_size: usize, count: usize) {
    const SCHEMA: &str = r#"{"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]}"#;
    let ask = |index: usize| {
        let mut ask = Ask::text(words(index, 3 + scramble(index) % 40), 48).sampled(index as u64);
        ask.sampling.params.temperature = 1.5;
        ask.sampling.params.num_logprobs = Some(0);
        ask.stop_token_ids = model().vocabulary.stop_token_ids().to_vec();
        ask.sampling.constraint = match index % 5 {
            0 => None,
            1 => Some(ConstraintForm::JsonSchema(SCHEMA.to_owned())),
            2 => Some(ConstraintForm::Choices(
                (1..40).map(|count| "ab".repeat(count)).collect(),
            )),
            _ => Some(ConstraintForm::Regex(
                "([a-z]{2,9} [a-z]{1,9}[.]){400}".to_owned(),
            )),
        };
        ask
    };
    let asks: Vec<Ask> = (0..count).map(ask).collect();
    let wanted: Vec<Answer> = asks.iter().map(|ask| alone(ask, world_size)).collect();
    let settings = [(600, 512, 64), (90, 24, 9), (24, 7, 6)];
    for (round, (num_blocks, max_step_tokens, max_running)) in settings.into_iter().enumerate() {
        let setting = Setting {
            world_size,
            num_blocks,
            max_step_tokens,
            max_running,
        };
        let timed = asks.iter().enumerate().map(|(index, ask)| {
            let arrival = scramble(1000 * round + index) % 60;
            let cancel = (index % 11 == 10).then_some(arrival + index % 30);
            (ask.clone(), arrival, cancel)
        });
        let outcome = run(setting, &timed.collect::<Vec<Timed>>());
        for (index, ask) in asks.iter().enumerate() {
            assert_same(index, ask, &wanted[index], &outcome.answers[index]);
        }
    }
}

#[test]
fn constrained_answers_do_not_depend_on_company() {
    constrained_in_company(1, 40);
}

#[test]
fn constrained_answers_do_not_depend_on_company_on_two_ranks() {
    constrained_in_company(2, 20);
}

#[test]
fn a_form_that_ends_before_the_answer_may_says_so() {
    let mut ask = Ask::text(words(1, 5), 20);
    ask.stop_token_ids = model().vocabulary.stop_token_ids().to_vec();
    ask.sampling.constraint = Some(ConstraintForm::Choices(vec!["a".to_owned()]));
    assert_eq!(alone(&ask, 1).failure, None);
    ask.sampling.min_new_tokens = 8;
    let Some(DrawFailure::NothingAllowed(reason)) = alone(&ask, 1).failure else {
        panic!("an answer of eight tokens that is \"a\"");
    };
    assert!(reason.contains("min_tokens asks for 8"), "{reason}");
}
