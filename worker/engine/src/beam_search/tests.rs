//! Against an exhaustive search on a tiny vocabulary, and the reference's rules one by one.

use proptest::prelude::*;

use super::*;

const STOP: u32 = 0;

fn params(width: usize) -> BeamParams {
    BeamParams {
        width,
        num_answers: width,
        length_penalty: 1.0,
        early_stopping: false,
    }
}

fn candidates(best: &[(u32, f32)]) -> Vec<TokenLogprob> {
    best.iter()
        .map(|(token_id, logprob)| TokenLogprob {
            token_id: *token_id,
            logprob: *logprob,
        })
        .collect()
}

fn live(extensions: &[(usize, u32)]) -> SearchStep {
    SearchStep::Live(
        extensions
            .iter()
            .map(|(parent, token_id)| Extension {
                parent: *parent,
                token_id: *token_id,
            })
            .collect(),
    )
}

#[test]
fn a_stop_token_finishes_a_beam_only_when_it_ranks_below_the_width() {
    let mut search = BeamSearch::new(params(2), vec![STOP], 2, 10);
    let first = [candidates(&[(5, -1.0), (6, -1.5), (STOP, -2.0), (7, -3.0)])];
    assert_eq!(search.advance(&first), live(&[(0, 5), (0, 6)]));
    assert!(search.finished.is_empty(), "the stop token ranked third");
    let second = [
        candidates(&[(STOP, -0.5), (8, -1.0)]),
        candidates(&[(9, -1.0), (5, -9.0)]),
    ];
    let SearchStep::Done(answers) = search.advance(&second) else {
        panic!("it drew all it may")
    };
    let found: Vec<_> = answers
        .iter()
        .map(|answer| (answer.token_ids.as_slice(), answer.reason))
        .collect();
    // -1.5 over 11 positions; -2.0 and -2.5 over 12, of which the better stays.
    assert_eq!(
        found,
        [
            (&[5, STOP][..], EndReason::Stop),
            (&[5, 8][..], EndReason::Length)
        ]
    );
    assert_eq!(answers[0].score, -1.5 / 11.0);
}

#[test]
fn the_length_that_divides_the_score_counts_the_prompt_and_no_stop_token() {
    for (prompt_length, penalty) in [(1, 1.0), (1, 2.0), (30, 0.5), (30, -1.0)] {
        let params = BeamParams {
            length_penalty: penalty,
            ..params(1)
        };
        let mut search = BeamSearch::new(params, vec![STOP], 5, prompt_length);
        assert_eq!(
            search.advance(&[candidates(&[(5, -1.0), (6, -2.0)])]),
            live(&[(0, 5)])
        );
        let SearchStep::Done(answers) = search.advance(&[candidates(&[(STOP, -1.0), (6, -2.0)])])
        else {
            panic!("nothing can beat it")
        };
        assert_eq!(
            answers[0].score,
            -2.0 / ((prompt_length + 1) as f32).powf(penalty)
        );
    }
}

#[test]
fn with_early_stopping_it_ends_when_enough_are_finished_and_without_when_none_can_be_better() {
    let step = |early_stopping, best_live| {
        let mut search = BeamSearch::new(
            BeamParams {
                early_stopping,
                ..params(2)
            },
            vec![STOP],
            9,
            1,
        );
        search.advance(&[candidates(&[(STOP, -3.0), (5, -3.1), (6, -3.2), (7, -9.0)])]);
        // The worst finished one, -3.1 - 0.2 over 2, against the best continuation over 2.
        search.advance(&[
            candidates(&[(STOP, -0.2), (8, -1.0)]),
            candidates(&[(9, best_live), (4, -8.0)]),
        ])
    };
    assert!(matches!(step(true, -0.01), SearchStep::Done(_)));
    assert!(
        matches!(step(false, -0.01), SearchStep::Live(_)),
        "a live beam leads, and may end better"
    );
}

#[test]
fn more_stop_tokens_look_at_more_candidates() {
    assert_eq!(BeamSearch::new(params(3), vec![], 9, 1).num_candidates(), 6);
    assert_eq!(
        BeamSearch::new(params(3), vec![1], 9, 1).num_candidates(),
        6
    );
    assert_eq!(
        BeamSearch::new(params(3), vec![1, 2, 2], 9, 1).num_candidates(),
        9
    );
}

/// A made-up distribution over the next token.
fn model(seed: u64, tokens: &[u32], vocabulary: u32) -> Vec<TokenLogprob> {
    let mut best: Vec<TokenLogprob> = (0..vocabulary)
        .map(|token_id| {
            let mut bytes = seed.to_le_bytes().to_vec();
            tokens
                .iter()
                .chain([&token_id])
                .for_each(|id| bytes.extend(id.to_le_bytes()));
            let number = u16::from_le_bytes(
                blake3::hash(&bytes).as_bytes()[..2]
                    .try_into()
                    .expect("two bytes"),
            );
            TokenLogprob {
                token_id,
                logprob: -0.001 - f32::from(number) / 16384.0,
            }
        })
        .collect();
    best.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    best
}

fn search(seed: u64, mut search: BeamSearch, vocabulary: u32) -> Vec<BeamAnswer> {
    let mut beams: Vec<Vec<u32>> = vec![Vec::new()];
    loop {
        let candidates: Vec<_> = beams
            .iter()
            .map(|tokens| {
                let mut best = model(seed, tokens, vocabulary);
                best.truncate(search.num_candidates());
                best
            })
            .collect();
        match search.advance(&candidates) {
            SearchStep::Done(answers) => return answers,
            SearchStep::Live(extensions) => {
                let extend =
                    |way: &Extension| [beams[way.parent].as_slice(), &[way.token_id]].concat();
                beams = extensions.iter().map(extend).collect();
            }
        }
    }
}

/// All answers with their scores.
fn exhaust(
    seed: u64,
    tokens: &mut Vec<u32>,
    sum: f32,
    vocabulary: u32,
    max: usize,
    penalty: f32,
) -> Vec<(f64, Vec<u32>)> {
    let mut all = Vec::new();
    for next in model(seed, tokens, vocabulary) {
        let sum = sum + next.logprob;
        let length = 1 + tokens.len() + usize::from(next.token_id != STOP);
        tokens.push(next.token_id);
        if next.token_id == STOP || tokens.len() == max {
            all.push((
                f64::from(sum) / (length as f64).powf(f64::from(penalty)),
                tokens.clone(),
            ));
        } else {
            all.extend(exhaust(seed, tokens, sum, vocabulary, max, penalty));
        }
        tokens.pop();
    }
    all
}

proptest! {
    /// With as many beams as there are answers nothing is cut off, and the search is exhaustive.
    #[test]
    fn a_wide_search_finds_the_best_answers(
        seed: u64, vocabulary in 2..5_u32, max in 1..5_usize, penalty in -1.0..2.0_f32,
    ) {
        let mut all = exhaust(seed, &mut Vec::new(), 0.0, vocabulary, max, penalty);
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let width = all.len() + 1;
        let params = BeamParams { width, num_answers: width.min(3), length_penalty: penalty, early_stopping: false };
        let answers = search(seed, BeamSearch::new(params, vec![STOP], max, 1), vocabulary);
        prop_assert_eq!(answers.len(), all.len().min(3));
        for (answer, (score, tokens)) in answers.iter().zip(&all) {
            prop_assert_eq!(&answer.token_ids, tokens);
            prop_assert_eq!(answer.score, *score as f32);
        }
    }

    /// One beam follows the best token of each step.
    #[test]
    fn a_search_with_one_beam_is_greedy(seed: u64, max in 1..8_usize) {
        let answers = search(seed, BeamSearch::new(params(1), vec![STOP], max, 1), 6);
        let mut greedy = Vec::new();
        while greedy.len() < max && greedy.last() != Some(&STOP) {
            greedy.push(model(seed, &greedy, 6)[0].token_id);
        }
        prop_assert_eq!(&answers[0].token_ids, &greedy);
    }
}
