//! A request gets the tokens that it gets alone, whoever runs beside it, in whatever chunks, however often it is preempted and
//! whatever it finds in the cache.

use inkstone_engine::{BeamParams, Decoding, DrawnToken, EndReason, Priority};
use inkstone_model::sampling::SamplingParams;

use super::group::{Answer, Ask, Setting, Timed, model, run};
use crate::{
    constraint::ConstraintForm,
    executor::{PictureDigest, PromptPart},
};

/// A number that looks drawn, the same in every run.
pub(super) fn scramble(number: usize) -> usize {
    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) as usize
}

pub(super) fn words(name: usize, len: usize) -> Vec<u32> {
    let word = |at: usize| (scramble(name * 1000 + at) % 900) as u32 + 3;
    (0..len).map(word).collect()
}

fn picture(name: usize, num_tokens: usize) -> PromptPart {
    PromptPart::Picture {
        digest: PictureDigest([name as u8; 32]),
        num_tokens,
    }
}

/// A ragged mix: texts and pictures, some with beginnings they share, greedy, drawn, of several answers, and beams.
pub(super) fn mix(count: usize) -> Vec<Ask> {
    (0..count).map(mixed).collect()
}

fn mixed(index: usize) -> Ask {
    let shared = words(index % 3, 40);
    let own = words(100 + index, 1 + scramble(index) % 50);
    let with_pictures = |prompt| Ask {
        prompt,
        ..Ask::text(Vec::new(), 0)
    };
    let mut ask = match index % 4 {
        0 => Ask::text(own, 0),
        1 => Ask::text([shared, own].concat(), 0),
        2 => with_pictures(vec![
            PromptPart::Tokens(shared),
            picture(index % 3, 37),
            PromptPart::Tokens(own),
        ]),
        // Two pictures of one size, in either order.
        _ => with_pictures(vec![
            picture(index % 2, 20),
            picture((index + 1) % 2, 20),
            PromptPart::Tokens(own),
        ]),
    };
    ask.max_new_tokens = 2 + scramble(index + 7) % 20;
    ask.salt = (index % 5 == 4).into();
    if index.is_multiple_of(3) {
        ask = ask.sampled(index as u64);
    }
    if index % 6 == 5 {
        ask.decoding = Decoding::Sample { branches: 3 };
        ask = ask.sampled(index as u64);
    }
    if index % 7 == 6 {
        ask.decoding = Decoding::Beam(BeamParams {
            width: 3,
            num_answers: 2,
            length_penalty: 1.0,
            early_stopping: false,
        });
        ask.sampling.params = SamplingParams::default();
        ask.stop_token_ids = (0..1024).step_by(9).collect();
    }
    if index % 5 == 1 {
        ask.priority = Priority::Batch;
    }
    ask.prompt_logprobs = index % 8 == 3;
    if index.is_multiple_of(2) {
        ask.sampling.params.num_logprobs = Some(0);
    }
    ask
}

/// With room for everything.
pub(super) fn alone(ask: &Ask, world_size: usize) -> Answer {
    let setting = Setting {
        world_size,
        num_blocks: 64,
        max_step_tokens: 512,
        max_running: 8,
    };
    run(setting, &[(ask.clone(), 0, None)]).answers.remove(0)
}

fn beams_of(answer: &Answer) -> Vec<(Vec<u32>, EndReason)> {
    let beams = answer.beams.iter();
    beams
        .map(|beam| (beam.token_ids.clone(), beam.reason))
        .collect()
}

fn scored_ids(answer: &Answer) -> Vec<Option<u32>> {
    let tokens = answer.prompt_logprobs.iter();
    tokens
        .map(|token| token.as_ref().map(|token| token.token_id))
        .collect()
}

/// The log-probabilities of the prompt.
fn logprobs(answer: &Answer) -> Vec<f32> {
    let tokens = answer.prompt_logprobs.iter().flatten();
    tokens.map(|token| token.logprob.unwrap()).collect()
}

/// All that was told is the same, log-probabilities to the bit. A cancelled request has the beginning of its answers; every other has all
/// of them.
#[track_caller]
pub(super) fn assert_same(index: usize, ask: &Ask, wanted: &Answer, found: &Answer) {
    assert_same_tokens(index, ask, wanted, found);
    if found.was_cancelled {
        return;
    }
    assert_eq!(
        bits(&logprobs(wanted)),
        bits(&logprobs(found)),
        "request {index}: {ask:?}"
    );
    for (branch, found) in &found.logprobs {
        // Of one that goes on, this run drew the last ones.
        let wanted = wanted.logprobs[branch].iter().flatten().copied();
        let wanted: Vec<f32> = wanted.collect();
        let found: Vec<f32> = found.iter().flatten().copied().collect();
        let wanted = &wanted[wanted.len() - found.len()..];
        assert_eq!(bits(wanted), bits(&found), "request {index}: {ask:?}");
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The same tokens, ends and beams.
#[track_caller]
fn assert_same_tokens(index: usize, ask: &Ask, wanted: &Answer, found: &Answer) {
    if found.was_cancelled {
        for (branch, tokens) in &found.branches {
            let wanted = &wanted.branches[branch];
            assert!(wanted.starts_with(tokens), "request {index}: {ask:?}");
        }
        return;
    }
    assert_eq!(wanted.branches, found.branches, "request {index}: {ask:?}");
    assert_eq!(wanted.ends, found.ends, "request {index}: {ask:?}");
    assert_eq!(
        beams_of(wanted),
        beams_of(found),
        "request {index}: {ask:?}"
    );
    assert_eq!(
        scored_ids(wanted),
        scored_ids(found),
        "request {index}: {ask:?}"
    );
}

fn in_company(world_size: usize, count: usize) {
    let asks = mix(count);
    let wanted: Vec<Answer> = asks.iter().map(|ask| alone(ask, world_size)).collect();
    assert!(wanted.iter().any(|answer| answer.branches.len() == 3));
    assert!(wanted.iter().any(|answer| answer.beams.len() == 2));
    let settings = [
        // Room for all, in large steps: only company.
        (600, 512, 64),
        // Prompts in small chunks, and room for few.
        (64, 16, 12),
        // Hardly room for two: what was cached is given up all the time.
        (40, 40, 24),
    ];
    for (num_blocks, max_step_tokens, max_running) in settings {
        let setting = Setting {
            world_size,
            num_blocks,
            max_step_tokens,
            max_running,
        };
        let timed = asks.iter().enumerate().map(|(index, ask)| {
            let arrival = scramble(index + 50) % 30;
            let cancel = (index % 9 == 8).then_some(arrival + 3 + index % 4);
            (ask.clone(), arrival, cancel)
        });
        let outcome = run(setting, &timed.collect::<Vec<Timed>>());
        for (index, ask) in asks.iter().enumerate() {
            assert_same(index, ask, &wanted[index], &outcome.answers[index]);
        }
        let found = outcome.stats.cached_tokens;
        assert!(found > 0, "{setting:?}: no prefix was found");
    }
}

/// Short prompts and long answers: they outgrow what was free when they began.
fn outgrow(world_size: usize) {
    let ask = |index: usize| {
        let mut ask = Ask::text(words(index, 5 + index), 70 + index);
        if index.is_multiple_of(2) {
            ask = ask.sampled(index as u64);
        }
        match index % 5 {
            1 => ask.prompt.push(picture(index, 9)),
            3 => ask.decoding = Decoding::Sample { branches: 2 },
            4 => ask.prompt_logprobs = true,
            _ => {}
        }
        ask
    };
    let asks: Vec<Ask> = (0..12).map(ask).collect();
    let setting = Setting {
        world_size,
        num_blocks: 16,
        max_step_tokens: 24,
        max_running: 12,
    };
    let timed = asks.iter().enumerate();
    let timed = timed.map(|(index, ask)| (ask.clone(), 2 * index, None));
    let outcome = run(setting, &timed.collect::<Vec<Timed>>());
    assert!(outcome.stats.preemptions > 0, "nobody had to give way");
    for (index, ask) in asks.iter().enumerate() {
        assert_same(index, ask, &alone(ask, world_size), &outcome.answers[index]);
    }
}

#[test]
fn requests_that_outgrow_the_cache_give_way_and_lose_nothing() {
    outgrow(1);
}

#[test]
fn requests_that_outgrow_the_cache_give_way_and_lose_nothing_on_two_ranks() {
    outgrow(2);
}

#[test]
fn tokens_do_not_depend_on_company() {
    in_company(1, 64);
}

#[test]
fn tokens_do_not_depend_on_company_on_two_ranks() {
    in_company(2, 28);
}

#[test]
fn one_rank_and_two_draw_the_same() {
    for (index, ask) in mix(14).iter().enumerate() {
        let [one, two] = [1, 2].map(|world_size| alone(ask, world_size));
        assert_same_tokens(index, ask, &one, &two);
        // Two ranks add up what one sums in a row.
        for (one, two) in logprobs(&one).iter().zip(logprobs(&two)) {
            assert!((one - two).abs() < 1e-3, "{one} and {two}");
        }
    }
}

#[test]
fn a_second_question_about_a_picture_needs_no_features() {
    let setting = Setting {
        world_size: 1,
        num_blocks: 64,
        max_step_tokens: 64,
        max_running: 4,
    };
    let question = |name: usize, picture_name: usize| Ask {
        prompt: vec![
            PromptPart::Tokens(words(1, 5)),
            picture(picture_name, 50),
            PromptPart::Tokens(words(name, 9)),
        ],
        ..Ask::text(Vec::new(), 6)
    };
    let asks = [question(1, 1), question(2, 1), question(3, 2)];
    let timed = asks.iter().enumerate();
    let timed: Vec<Timed> = timed
        .map(|(index, ask)| (ask.clone(), index * 30, None))
        .collect();
    let outcome = run(setting, &timed);
    assert_eq!(outcome.picture_requests, 2, "one for each picture");
    for (index, ask) in asks.iter().enumerate() {
        assert_same(index, ask, &alone(ask, 1), &outcome.answers[index]);
    }
    assert_ne!(outcome.answers[0].branches, outcome.answers[1].branches);
}

#[test]
fn answers_have_the_form_that_was_asked_for() {
    let constrained = |form: ConstraintForm, seed: u64| {
        let mut ask = Ask::text(words(seed as usize, 12), 40).sampled(seed);
        ask.sampling.constraint = Some(form);
        ask.stop_token_ids = model().vocabulary.stop_token_ids().to_vec();
        ask
    };
    let choices = ["yes", "no", "not at all"].map(str::to_owned).to_vec();
    let form = |seed| match seed % 2 {
        0 => ConstraintForm::Choices(choices.clone()),
        _ => ConstraintForm::Regex("[a-c]{3,5}".to_owned()),
    };
    let free = Ask::text(words(9, 30), 20);
    let asks: Vec<Ask> = (0..6)
        .map(|seed| constrained(form(seed), seed))
        .chain([free])
        .collect();
    let setting = Setting {
        world_size: 2,
        num_blocks: 64,
        max_step_tokens: 32,
        max_running: 8,
    };
    let timed = asks.iter().map(|ask| (ask.clone(), 0, None));
    let outcome = run(setting, &timed.collect::<Vec<Timed>>());
    for (index, ask) in asks.iter().enumerate() {
        let answer = &outcome.answers[index];
        assert_same(index, ask, &alone(ask, 2), answer);
        assert_eq!(answer.failure, None, "request {index}");
        if ask.sampling.constraint.is_some() {
            assert_eq!(
                answer.ends[&0],
                EndReason::Stop,
                "request {index}: {answer:?}"
            );
            // A byte a token at most, and the stop token.
            assert!(
                answer.branches[&0].len() <= 11,
                "request {index}: {answer:?}"
            );
        }
    }
}

#[test]
fn stop_tokens_are_not_drawn_too_early() {
    let mut ask = Ask::text(words(3, 20), 30).sampled(4);
    ask.stop_token_ids = (0..1024).filter(|id| id % 3 != 0).collect();
    ask.sampling.min_new_tokens = 8;
    let answer = alone(&ask, 1);
    let tokens = &answer.branches[&0];
    assert!(tokens.len() > 8, "{tokens:?}");
    assert!(tokens[..8].iter().all(|id| id % 3 == 0), "{tokens:?}");
    assert_eq!(answer.ends[&0], EndReason::Stop);
}

#[test]
fn a_prompts_tokens_are_scored_where_there_is_a_token_before() {
    let (before, after) = (words(1, 6), words(2, 5));
    let ask = Ask {
        prompt: vec![
            PromptPart::Tokens(before.clone()),
            picture(1, 10),
            PromptPart::Tokens(after.clone()),
        ],
        prompt_logprobs: true,
        ..Ask::text(Vec::new(), 2)
    };
    let scored = |max_step_tokens| {
        let setting = Setting {
            world_size: 2,
            num_blocks: 8,
            max_step_tokens,
            max_running: 2,
        };
        run(setting, &[(ask.clone(), 0, None)]).answers.remove(0)
    };
    let whole = scored(64);
    let mut wanted = vec![None];
    wanted.extend(before[1..].iter().map(|id| Some(*id)));
    // The picture's ten positions, and the token behind it.
    wanted.extend([None; 11]);
    wanted.extend(after[1..].iter().map(|id| Some(*id)));
    assert_eq!(scored_ids(&whole), wanted);
    let is_likely = |token: &DrawnToken| token.logprob.is_none_or(|logprob| logprob >= 0.0);
    assert!(!whole.prompt_logprobs.iter().flatten().any(is_likely));
    let in_chunks = scored(4);
    assert_same(0, &ask, &whole, &in_chunks);
}
