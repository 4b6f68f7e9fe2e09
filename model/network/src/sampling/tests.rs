//! Sampling against the reference's distributions, and the promise that the number of ranks changes nothing.

use std::{borrow::Cow, thread, time::Duration};

use super::*;
use crate::{
    collectives::{LocalCollective, SingleCollective},
    device::Device,
    goldens::{Goldens, largest_difference},
};

mod properties;
mod settings;

/// Logits without structure, a few of which tie.
fn logits(num_ids: usize, salt: u64) -> Vec<f32> {
    let value = |i| ((uniform(salt, 0, i as u64) * 400.0).round() / 25.0) as f32 - 8.0;
    (0..num_ids).map(value).collect()
}

/// A tensor of so many rows on the CPU.
fn tensor(logits: &[f32], num_rows: usize) -> Tensor {
    on(&Device::cpu(1), logits, num_rows)
}

fn on(device: &Device, logits: &[f32], num_rows: usize) -> Tensor {
    Tensor::from_f32(device, &[num_rows, logits.len() / num_rows], logits).unwrap()
}

fn row(params: SamplingParams, seen: &[u32]) -> RowSampling<'_> {
    RowSampling {
        params,
        seen,
        draw: one_token(5),
        ..RowSampling::default()
    }
}

fn one_token(token_index: u64) -> RowDraw {
    RowDraw::Tokens {
        token_index,
        first_branch: 0,
        branches: 1,
    }
}

/// Answers a row whose logits are spread over `num_ranks` slices of unequal length.
fn answer_sliced(
    logits: &[f32],
    row: &RowSampling<'_>,
    num_ranks: usize,
) -> Result<RowResult, SampleError> {
    let border = |rank: usize| logits.len() * rank * rank / (num_ranks * num_ranks);
    let part = |rank| {
        let (start, end) = (border(rank), border(rank + 1));
        pick(&logits[start..end], start as u32, row)
    };
    let parts: Vec<_> = (0..num_ranks).map(part).collect();
    merge(&parts, row)
}

/// The same for a row that draws one token.
fn sample_sliced(
    logits: &[f32],
    row: &RowSampling<'_>,
    num_ranks: usize,
) -> Result<SampledToken, SampleError> {
    answer_sliced(logits, row, num_ranks).map(the_token)
}

fn the_token(result: RowResult) -> SampledToken {
    match result {
        RowResult::Tokens(mut tokens) if tokens.len() == 1 => tokens.remove(0),
        other => panic!("one token was wanted, found {other:?}"),
    }
}

fn random(top_k: u32, top_p: f32) -> SamplingParams {
    SamplingParams {
        temperature: 0.9,
        top_k,
        top_p,
        repetition_penalty: 1.1,
        seed: 17,
        num_logprobs: Some(3),
        ..SamplingParams::default()
    }
}

#[test]
fn distributions_are_those_of_the_reference() {
    for folder in [
        "xc2-vl-tiny",
        "xc2-comp-tiny",
        "xc2-4khd-tiny",
        "xc2d5-tiny",
    ] {
        let Some(goldens) = Goldens::open(folder) else {
            continue;
        };
        for stem in goldens.stems(".probs") {
            let name = format!("{stem}.probs");
            let settings = &goldens.manifest["tensors"][&name]["settings"];
            let setting = |name: &str| settings[name].as_f64().unwrap();
            let params = SamplingParams {
                temperature: setting("temperature") as f32,
                top_k: setting("top_k") as u32,
                top_p: setting("top_p") as f32,
                repetition_penalty: setting("repetition_penalty") as f32,
                ..SamplingParams::default()
            };
            let seen = goldens.ids("sampling.history");
            let (shape, logits) = goldens.f32("sampling.logits");
            let mut found = vec![0.0; logits.len()];
            for (logits, found) in logits.chunks(shape[1]).zip(found.chunks_mut(shape[1])) {
                let part = pick(logits, 0, &row(params, &seen));
                for (id, probability) in distribution(&part.tokens, &params) {
                    found[id as usize] = probability as f32;
                }
            }
            goldens.assert_close(&name, &found);
            let wanted = goldens.f32(&name).1;
            let is_kept = |p: &f32| *p > 0.0;
            assert!(
                found.iter().map(is_kept).eq(wanted.iter().map(is_kept)),
                "{name}"
            );
        }
    }
}

#[test]
fn the_number_of_ranks_does_not_change_the_token() {
    let seen = [3, 3, 77, 500, 9999];
    let greedy = SamplingParams {
        repetition_penalty: 1.3,
        num_logprobs: Some(2),
        ..SamplingParams::default()
    };
    for salt in 0..40 {
        let logits = logits(1000, salt);
        for params in [
            greedy,
            random(0, 1.0),
            random(40, 1.0),
            random(0, 0.7),
            random(40, 0.7),
        ] {
            let row = row(params, &seen);
            let alone = sample_sliced(&logits, &row, 1).unwrap();
            for num_ranks in [2, 3, 4] {
                let sliced = sample_sliced(&logits, &row, num_ranks).unwrap();
                assert_eq!(sliced.id, alone.id);
                let ids = |token: &SampledToken| {
                    token.top_logprobs.iter().map(|t| t.id).collect::<Vec<_>>()
                };
                assert_eq!(ids(&sliced), ids(&alone));
                let (sliced, alone) = (sliced.logprob.unwrap(), alone.logprob.unwrap());
                assert!((sliced - alone).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn the_lowest_id_wins_a_tie() {
    let mut logits = vec![0.0; 100];
    logits[31] = 4.0;
    logits[72] = 4.0;
    for num_ranks in [1, 2, 4] {
        let row = row(SamplingParams::default(), &[]);
        assert_eq!(sample_sliced(&logits, &row, num_ranks).unwrap().id, 31);
    }
}

#[test]
fn seen_tokens_are_penalised_once() {
    let logits = [2.0, -2.0, 3.0, 0.0];
    let penalised = penalise(&logits, 10, &[10, 11, 10, 9, 14, 13], 2.0);
    assert_eq!(*penalised, [1.0, -4.0, 3.0, 0.0]);
    assert!(matches!(
        penalise(&logits, 10, &[1, 14], 2.0),
        Cow::Borrowed(_)
    ));
}

#[test]
fn logprobs_are_those_of_the_model() {
    let logits = logits(300, 1);
    let params = SamplingParams {
        temperature: 0.3,
        ..random(5, 0.5)
    };
    let token = sample_sliced(&logits, &row(params, &[1, 2]), 3).unwrap();
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let wanted: Vec<f32> = [token.id]
        .into_iter()
        .chain(token.top_logprobs.iter().map(|top| top.id))
        .map(|id| (f64::from(logits[id as usize]) - sum.ln()) as f32)
        .collect();
    let found: Vec<f32> = token
        .logprob
        .into_iter()
        .chain(token.top_logprobs.iter().map(|top| top.logprob))
        .collect();
    assert!(largest_difference(&found, &wanted) < 1e-5);
    assert!(found[1] >= found[2] && found[2] >= found[3]);
}

#[test]
fn logits_that_are_not_numbers_fail_their_row_only() {
    let mut logits = logits(200, 2);
    logits[150] = f32::NAN;
    logits[20] = f32::INFINITY;
    logits.extend(self::logits(200, 3));
    let rows = [row(random(10, 0.9), &[]); 2];
    let tokens = sample(&tensor(&logits, rows.len()), 0, &rows, &SingleCollective)
        .unwrap()
        .unwrap();
    assert_eq!(tokens[0], Err(SampleError::NotFinite { count: 2 }));
    assert!(tokens[1].is_ok());
}

/// Rows that the best logits settle, rows that they cannot, and rows that are fetched whole, on every device.
#[test]
fn a_gpu_that_tells_its_best_logits_alone_changes_no_answer() {
    let (num_rows, num_ids) = (6, 3000);
    let mut logits = logits(num_rows * num_ids, 11);
    // Most of what is best may not be drawn any more.
    let mut by_logit: Vec<u32> = (0..num_ids as u32).collect();
    by_logit.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    let banned = &by_logit[..900];
    logits[5 * num_ids + 7] = f32::NAN;
    let greedy = SamplingParams {
        num_logprobs: Some(4),
        ..SamplingParams::default()
    };
    let rows = [
        RowSampling {
            banned,
            ..row(greedy, &[])
        },
        row(random(40, 0.8), &[4, 400, 2999]),
        row(random(0, 0.8), &[4]),
        row(greedy, &[9]),
        RowSampling {
            draw: RowDraw::Candidates { count: 6 },
            ..row(random(0, 1.0), &[4, 400])
        },
        row(random(40, 0.8), &[]),
    ];
    let answer = |device: &Device| {
        let parts = pick_rows(&on(device, &logits, num_rows), 0, &rows).unwrap();
        let answers = parts.iter().zip(&rows);
        answers
            .map(|(part, row)| merge(std::slice::from_ref(part), row))
            .collect::<Vec<_>>()
    };
    let wanted = answer(&Device::cpu(1));
    assert_eq!(wanted[5], Err(SampleError::NotFinite { count: 1 }));
    for (name, device) in crate::ops::cuda::gpus() {
        for (at, (found, wanted)) in answer(&device).iter().zip(&wanted).enumerate() {
            match (found, wanted) {
                (Ok(found), Ok(wanted)) => properties::assert_same(found, wanted),
                _ => assert_eq!(found, wanted, "row {at} on {name}"),
            }
        }
    }
}

#[test]
fn parameters_out_of_range_are_refused() {
    let wrong = [
        SamplingParams {
            temperature: -1.0,
            ..SamplingParams::default()
        },
        SamplingParams {
            top_p: 0.0,
            ..SamplingParams::default()
        },
        SamplingParams {
            repetition_penalty: f32::NAN,
            ..SamplingParams::default()
        },
    ];
    for params in wrong {
        assert!(matches!(
            params.validate(),
            Err(SampleError::Parameter { .. })
        ));
        let outcome = sample_sliced(&[1.0, 2.0], &row(params, &[]), 1);
        assert!(matches!(outcome, Err(SampleError::Parameter { .. })));
    }
}

#[test]
fn ranks_send_candidates_and_the_leader_chooses() {
    let (num_ids, num_ranks) = (600, 3);
    let all: Vec<Vec<f32>> = (0..4).map(|salt| logits(num_ids, salt)).collect();
    let kinds = [
        SamplingParams::default(),
        random(0, 0.8),
        random(7, 1.0),
        random(0, 1.0),
    ];
    let rows = kinds.map(|params| row(params, &[4, 400]));
    let wanted: Vec<_> = all
        .iter()
        .zip(&rows)
        .map(|(logits, row)| sample_sliced(logits, row, 1).unwrap().id)
        .collect();

    let sample_as = |end: LocalCollective| {
        let width = num_ids / num_ranks;
        let start = end.rank() * width;
        let slices = all.iter().flat_map(|logits| &logits[start..start + width]);
        let slices: Vec<f32> = slices.copied().collect();
        sample(&tensor(&slices, rows.len()), start as u32, &rows, &end).unwrap()
    };
    let ends = LocalCollective::group(num_ranks, Duration::from_secs(20));
    let outcomes: Vec<_> = thread::scope(|scope| {
        let sample_as = &sample_as;
        let ranks: Vec<_> = ends
            .into_iter()
            .map(|end| scope.spawn(move || sample_as(end)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let leader = outcomes[0].as_ref().unwrap();
    let ids: Vec<_> = leader
        .iter()
        .map(|result| the_token(result.clone().unwrap()).id)
        .collect();
    assert_eq!(ids, wanted);
    assert!(outcomes[1].is_none() && outcomes[2].is_none());
}

#[test]
fn candidates_survive_the_message() {
    let logits = logits(50, 9);
    let parts = [random(0, 0.5), random(3, 0.5), SamplingParams::default()]
        .map(|params| pick(&logits, 92_000, &row(params, &[])));
    let mut message = Vec::new();
    parts.iter().for_each(|part| part.encode(&mut message));
    let mut unread = message.as_slice();
    for part in &parts {
        assert_eq!(Candidates::decode(&mut unread).unwrap(), *part);
    }
    assert!(unread.is_empty());
    let mut short = &message[..message.len() - 1];
    let outcome: Vec<_> = (0..3).map(|_| Candidates::decode(&mut short)).collect();
    assert!(matches!(outcome[2], Err(SampleError::Malformed(_))));
}

#[test]
fn a_draw_depends_on_seed_branch_and_index_alone() {
    let draws = |seed, branch| {
        (0..1000)
            .map(|index| uniform(seed, branch, index))
            .collect::<Vec<_>>()
    };
    assert_eq!(draws(1, 0), draws(1, 0));
    assert_ne!(draws(1, 0), draws(2, 0));
    assert_ne!(draws(1, 0), draws(1, 1));
    let mean = draws(3, 2).iter().sum::<f64>() / 1000.0;
    assert!((mean - 0.5).abs() < 0.05, "{mean}");
    assert!(draws(4, 0).iter().all(|point| (0.0..1.0).contains(point)));
    // Fixed for ever: a request that moves between versions goes on with the same numbers.
    assert_eq!(uniform(42, 0, 7).to_bits(), 0x3fe5_9390_6a62_ee3a);
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_likely() {
    let probabilities = [(3, 0.25), (8, 0.5), (9, 0.25)];
    let mut counts = [0; 3];
    for index in 0..4000 {
        let id = draw::token_at(&probabilities, uniform(6, 0, index)).unwrap();
        counts[probabilities
            .iter()
            .position(|&(other, _)| other == id)
            .unwrap()] += 1;
    }
    for (count, (_, p)) in counts.into_iter().zip(probabilities) {
        assert!((f64::from(count) / 4000.0 - p).abs() < 0.03, "{counts:?}");
    }
}
