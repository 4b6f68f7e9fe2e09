//! Each setting on its own, against numbers worked out by hand or by the plain definition.

use super::{penalties::Columns, *};

/// The only part when the vocabulary is whole.
fn answer(logits: &[f32], row: &RowSampling<'_>) -> Result<RowResult, SampleError> {
    answer_sliced(logits, row, 1)
}

fn probabilities(logits: &[f32], row: &RowSampling<'_>) -> Vec<(u32, f64)> {
    distribution(&pick(logits, 0, row).tokens, &row.params)
}

fn hot() -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        ..SamplingParams::default()
    }
}

/// What a beam search of transformers 4.33 has for every token: softmax first, then penalties.
fn reference_beam_scores(logits: &[f32], row: &RowSampling<'_>) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let mut scores: Vec<f64> = logits.iter().map(|&l| f64::from(l) - sum.ln()).collect();
    for (id, score) in scores.iter_mut().enumerate() {
        let id = id as u32;
        if row.seen.contains(&id) {
            *score *= f64::from(row.params.repetition_penalty);
        }
        if let Some((_, times)) = row.generated.iter().find(|(other, _)| *other == id) {
            *score -= f64::from(row.params.presence_penalty);
            *score -= f64::from(row.params.frequency_penalty) * f64::from(*times);
        }
        for (_, bias) in row.logit_bias.iter().filter(|(other, _)| *other == id) {
            *score += f64::from(*bias);
        }
        let is_allowed = row.allowed.is_none_or(|mask| mask.allows(id));
        if row.banned.contains(&id) || !is_allowed {
            *score = f64::NEG_INFINITY;
        }
    }
    scores
}

#[test]
fn min_p_is_a_share_of_the_most_likely_token() {
    let logits = [0.5_f32, 0.24, 0.25, 0.01].map(f32::ln);
    let kept = |params: SamplingParams| {
        let row = RowSampling {
            params,
            ..RowSampling::default()
        };
        let ids = probabilities(&logits, &row).into_iter().map(|(id, _)| id);
        ids.collect::<Vec<_>>()
    };
    let min_p = |min_p| SamplingParams { min_p, ..hot() };
    assert_eq!(kept(min_p(0.0)), [0, 1, 2, 3]);
    assert_eq!(kept(min_p(0.1)), [0, 1, 2]);
    assert_eq!(kept(min_p(0.49)), [0, 2]);
    assert_eq!(kept(min_p(1.0)), [0]);
    // After the temperature: at 2 the last token is a seventh as likely as the first.
    let warm = SamplingParams {
        temperature: 2.0,
        ..min_p(0.1)
    };
    assert_eq!(kept(warm), [0, 1, 2, 3]);
    // After top-p, which counts the tokens that min-p would have taken away.
    let both = SamplingParams {
        top_p: 0.74,
        ..min_p(0.4)
    };
    assert_eq!(kept(both), [0, 2]);
    let sum: f64 = probabilities(
        &logits,
        &RowSampling {
            params: both,
            ..RowSampling::default()
        },
    )
    .iter()
    .map(|(_, p)| p)
    .sum();
    assert!((sum - 1.0).abs() < 1e-12);
}

#[test]
fn presence_frequency_and_bias_are_added_after_the_repetition_penalty() {
    let logits = [2.0, -2.0, 3.0, 0.0, 1.0];
    let row = RowSampling {
        params: SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SamplingParams::default()
        },
        seen: &[10, 11],
        generated: &[(11, 3), (13, 1), (99, 5)],
        logit_bias: &[(12, -1.0), (10, 4.0), (9, 7.0)],
        ..RowSampling::default()
    };
    let scores = penalties::scores(&logits, Columns::From(10), &row);
    assert_eq!(*scores, [5.0, -5.25, 2.0, -0.75, 1.0]);
}

#[test]
fn without_settings_nothing_is_copied() {
    let row = RowSampling {
        seen: &[1],
        generated: &[(1, 2)],
        ..RowSampling::default()
    };
    assert!(matches!(
        penalties::scores(&[1.0, 2.0], Columns::From(0), &row),
        Cow::Borrowed(_)
    ));
}

#[test]
fn banned_and_masked_tokens_are_never_drawn() {
    let logits = logits(300, 4);
    let mut mask = TokenMask::none(300);
    [3, 64, 65, 127, 128, 191, 299]
        .into_iter()
        .for_each(|id| mask.allow(id));
    let banned = [65, 299];
    for params in [SamplingParams::default(), hot(), random(2, 0.9)] {
        for token_index in 0..200 {
            let row = RowSampling {
                params,
                banned: &banned,
                allowed: Some(&mask),
                draw: one_token(token_index),
                ..RowSampling::default()
            };
            let id = the_token(answer(&logits, &row).unwrap()).id;
            assert!(mask.allows(id) && !banned.contains(&id), "{id}");
        }
    }
}

#[test]
fn a_row_in_which_nothing_is_allowed_fails_alone() {
    let mask = TokenMask::none(100);
    let mut only = TokenMask::none(100);
    only.allow(42);
    let of = |allowed, params| RowSampling {
        params,
        allowed: Some(allowed),
        ..RowSampling::default()
    };
    let search = RowSampling {
        draw: RowDraw::Candidates { count: 4 },
        ..of(&mask, SamplingParams::default())
    };
    let banned = RowSampling {
        banned: &[42],
        ..of(&only, random(3, 0.5))
    };
    let rows = [
        of(&mask, SamplingParams::default()),
        of(&only, random(0, 0.5)),
        of(&mask, random(5, 1.0)),
        of(&mask, random(0, 1.0)),
        search,
        banned,
    ];
    let logits = logits(rows.len() * 100, 8);
    let results = sample(&tensor(&logits, rows.len()), 0, &rows, &SingleCollective)
        .unwrap()
        .unwrap();
    for (index, result) in results.into_iter().enumerate() {
        match index {
            1 => assert_eq!(the_token(result.unwrap()).id, 42),
            _ => assert_eq!(result, Err(SampleError::NothingAllowed)),
        }
    }
}

#[test]
fn branches_draw_from_one_row_each_with_its_own_numbers() {
    let logits = logits(500, 12);
    let of = |params, first_branch, branches| {
        let row = RowSampling {
            params,
            draw: RowDraw::Tokens {
                token_index: 0,
                first_branch,
                branches,
            },
            ..RowSampling::default()
        };
        answer(&logits, &row).unwrap().tokens().to_vec()
    };
    let params = random(0, 1.0);
    let together = of(params, 0, 8);
    let apart: Vec<_> = (0..8).flat_map(|branch| of(params, branch, 1)).collect();
    assert_eq!(together, apart);
    let mut ids: Vec<_> = together.iter().map(|token| token.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() > 4, "branches are alike: {ids:?}");
    let greedy = of(SamplingParams::default(), 0, 3);
    assert!(greedy.iter().all(|token| *token == greedy[0]));
}

#[test]
fn candidates_of_a_beam_search_are_those_of_the_reference() {
    let mut mask = TokenMask::from_words(vec![u64::MAX; 7], 400);
    mask.allow(401);
    for salt in 0..20 {
        let logits = logits(400, salt);
        let best = (0..400).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        let best = best.unwrap() as u32;
        let row = RowSampling {
            params: SamplingParams {
                repetition_penalty: 1.5,
                presence_penalty: 0.11,
                frequency_penalty: 0.07,
                ..SamplingParams::default()
            },
            seen: &[best, 5, 5, 200],
            generated: &[(best, 2), (200, 1)],
            logit_bias: &[(17, 6.03)],
            banned: &[18],
            allowed: Some(&mask),
            draw: RowDraw::Candidates { count: 10 },
        };
        let RowResult::Candidates(found) = answer(&logits, &row).unwrap() else {
            panic!("candidates were asked for");
        };
        let scores = reference_beam_scores(&logits, &row);
        let mut wanted: Vec<u32> = (0..400).collect();
        // Logits tie in tens of thousandths; their sums do not.
        let score = |id: u32| (scores[id as usize] * 1e5).round();
        wanted.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        let ids: Vec<u32> = found.iter().map(|token| token.id).collect();
        assert_eq!(ids, wanted[..10]);
        for token in found {
            let difference = f64::from(token.logprob) - scores[token.id as usize];
            assert!(difference.abs() < 1e-4, "{difference}");
        }
    }
}

#[test]
fn a_vocabulary_smaller_than_the_candidates_comes_whole() {
    let row = RowSampling {
        draw: RowDraw::Candidates { count: 10 },
        ..RowSampling::default()
    };
    let RowResult::Candidates(found) = answer(&[1.0, 3.0, 2.0], &row).unwrap() else {
        panic!("candidates were asked for");
    };
    let ids: Vec<u32> = found.iter().map(|token| token.id).collect();
    assert_eq!(ids, [1, 2, 0]);
}

#[test]
fn a_given_token_is_scored_as_the_model_sees_it() {
    let logits = logits(300, 5);
    let row = |token_id, num_logprobs| RowSampling {
        params: SamplingParams {
            num_logprobs,
            ..random(4, 0.5)
        },
        seen: &[123],
        banned: &[123],
        draw: RowDraw::Score { token_id },
        ..RowSampling::default()
    };
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let wanted = f64::from(logits[123]) - sum.ln();
    for (num_logprobs, num_top) in [(None, 0), (Some(0), 0), (Some(2), 2)] {
        let RowResult::Score(token) = answer(&logits, &row(123, num_logprobs)).unwrap() else {
            panic!("a score was asked for");
        };
        assert_eq!(token.id, 123);
        assert!((f64::from(token.logprob.unwrap()) - wanted).abs() < 1e-5);
        assert_eq!(token.top_logprobs.len(), num_top);
    }
    assert_eq!(
        answer(&logits, &row(300, None)),
        Err(SampleError::UnknownToken { token_id: 300 })
    );
}

#[test]
fn extreme_settings_neither_panic_nor_forbid() {
    let logits = logits(50, 6);
    let extreme = SamplingParams {
        temperature: 1e-40,
        repetition_penalty: 1e-38,
        presence_penalty: f32::MAX,
        frequency_penalty: f32::MAX,
        min_p: 1e-45,
        ..SamplingParams::default()
    };
    let row = RowSampling {
        params: extreme,
        seen: &[1, 2, 3],
        generated: &[(2, u32::MAX)],
        logit_bias: &[(3, f32::MAX), (3, f32::MAX), (4, f32::MIN)],
        ..RowSampling::default()
    };
    let token = the_token(answer(&logits, &row).unwrap());
    assert!(token.id < 50);
    let search = RowSampling {
        draw: RowDraw::Candidates { count: 50 },
        ..row
    };
    let result = answer(&logits, &search).unwrap();
    assert!(matches!(result, RowResult::Candidates(tokens) if tokens.len() == 50));
}

#[test]
fn a_bias_that_is_no_number_is_refused() {
    for bias in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let row = RowSampling {
            logit_bias: &[(0, 1.0), (1, bias)],
            ..RowSampling::default()
        };
        let outcome = answer(&[1.0, 2.0], &row);
        assert!(matches!(
            outcome,
            Err(SampleError::Parameter {
                name: "logit_bias",
                ..
            })
        ));
    }
}

#[test]
fn a_mask_has_a_bit_for_each_token_and_no_more() {
    let mask = TokenMask::from_words(vec![u64::MAX; 4], 130);
    assert_eq!((mask.num_tokens(), mask.num_allowed()), (130, 130));
    assert!(mask.allows(129) && !mask.allows(130) && !mask.allows(u32::MAX));
    let mut mask = TokenMask::from_words(vec![1 << 63], 130);
    mask.allow(129);
    mask.allow(130);
    assert_eq!(mask.ids().collect::<Vec<_>>(), [63, 129]);
    assert_eq!(mask.words().len(), 3);
}
