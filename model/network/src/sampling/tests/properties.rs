//! Whatever is asked of a row, and however the vocabulary is split, the answer is the same.

use proptest::{collection::vec, option, prelude::*};

use super::*;

const NUM_IDS: usize = 384;

/// Everything a row is sampled with, owned.
#[derive(Clone, Debug)]
struct Settings {
    params: SamplingParams,
    seen: Vec<u32>,
    generated: Vec<(u32, u32)>,
    logit_bias: Vec<(u32, f32)>,
    banned: Vec<u32>,
    allowed: Option<TokenMask>,
    draw: RowDraw,
}

impl Settings {
    fn row(&self) -> RowSampling<'_> {
        RowSampling {
            params: self.params,
            seen: &self.seen,
            generated: &self.generated,
            logit_bias: &self.logit_bias,
            banned: &self.banned,
            allowed: self.allowed.as_ref(),
            draw: self.draw,
        }
    }
}

fn id() -> impl Strategy<Value = u32> {
    // Some lie outside the vocabulary.
    0..NUM_IDS as u32 + 20
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let cut = (
        prop_oneof![Just(0.0_f32), 0.2..2.0_f32],
        prop_oneof![Just(0_u32), 1..60_u32],
        prop_oneof![Just(1.0_f32), 0.1..1.0_f32],
        prop_oneof![Just(0.0_f32), 0.001..0.9_f32],
    );
    let penalties = (
        prop_oneof![Just(1.0_f32), 0.8..1.6_f32],
        prop_oneof![Just(0.0_f32), -1.0..1.0_f32],
        prop_oneof![Just(0.0_f32), -1.0..1.0_f32],
    );
    (cut, penalties, any::<u64>(), option::of(0..6_u32)).prop_map(
        |((temperature, top_k, top_p, min_p), penalties, seed, num_logprobs)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty: penalties.0,
            presence_penalty: penalties.1,
            frequency_penalty: penalties.2,
            seed,
            num_logprobs,
        },
    )
}

fn draw() -> impl Strategy<Value = RowDraw> {
    prop_oneof![
        (0..1000_u64, 0..4_u64, 1..5_u64).prop_map(|(token_index, first_branch, branches)| {
            RowDraw::Tokens {
                token_index,
                first_branch,
                branches,
            }
        }),
        (1..20_u32).prop_map(|count| RowDraw::Candidates { count }),
        id().prop_map(|token_id| RowDraw::Score { token_id }),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let mask =
        vec(any::<u64>(), NUM_IDS / 64).prop_map(|words| TokenMask::from_words(words, NUM_IDS));
    (
        params(),
        vec(id(), 0..30),
        vec((id(), 1..5_u32), 0..10),
        vec((id(), -5.0..5.0_f32), 0..6),
        vec(id(), 0..6),
        option::of(mask),
        draw(),
    )
        .prop_map(
            |(params, seen, generated, logit_bias, banned, allowed, draw)| Settings {
                params,
                seen,
                generated,
                logit_bias,
                banned,
                allowed,
                draw,
            },
        )
}

/// Nothing in them makes a token likelier than its logit says.
fn settings_that_lower() -> impl Strategy<Value = Settings> {
    settings().prop_map(|mut settings| {
        let params = &mut settings.params;
        params.repetition_penalty = params.repetition_penalty.max(1.0);
        params.presence_penalty = params.presence_penalty.abs();
        params.frequency_penalty = params.frequency_penalty.abs();
        for (_, bias) in &mut settings.logit_bias {
            *bias = -bias.abs();
        }
        settings.allowed = None;
        settings
    })
}

/// Ids as they are, numbers to what rounding of the sum may change.
#[track_caller]
pub(super) fn assert_same(found: &RowResult, wanted: &RowResult) {
    fn ids_and_logprobs(result: &RowResult) -> (Vec<u32>, Vec<f32>) {
        let tops = |tokens: &[TokenLogprob]| -> Vec<(u32, Option<f32>)> {
            tokens.iter().map(|t| (t.id, Some(t.logprob))).collect()
        };
        let of_token = |token: &SampledToken| {
            let mut all = vec![(token.id, token.logprob)];
            all.extend(tops(&token.top_logprobs));
            all
        };
        let all: Vec<_> = match result {
            RowResult::Tokens(tokens) => tokens.iter().flat_map(of_token).collect(),
            RowResult::Candidates(tokens) => tops(tokens),
            RowResult::Score(token) => of_token(token),
        };
        let ids = all.iter().map(|(id, _)| *id).collect();
        (ids, all.into_iter().filter_map(|(_, l)| l).collect())
    }
    let (found, wanted) = (ids_and_logprobs(found), ids_and_logprobs(wanted));
    assert_eq!(found.0, wanted.0);
    assert_eq!(found.1.len(), wanted.1.len());
    assert!(largest_difference(&found.1, &wanted.1) < 1e-4);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(400)
    })]

    #[test]
    fn any_split_gives_the_same_answer(settings in settings(), salt in any::<u64>()) {
        // Enough values that few tie, and some that do.
        let logits: Vec<f32> = (0..NUM_IDS)
            .map(|i| (uniform(salt, 1, i as u64) * 6000.0).round() as f32 / 500.0 - 6.0)
            .collect();
        let row = settings.row();
        let alone = answer_sliced(&logits, &row, 1);
        for num_ranks in [2, 3, 4] {
            let sliced = answer_sliced(&logits, &row, num_ranks);
            match (&sliced, &alone) {
                (Ok(sliced), Ok(alone)) => assert_same(sliced, alone),
                _ => assert_eq!(&sliced, &alone),
            }
        }
        if let (RowDraw::Score { token_id }, Err(error)) = (row.draw, &alone) {
            prop_assert_eq!(error, &SampleError::UnknownToken { token_id });
            prop_assert!(token_id as usize >= NUM_IDS);
        }
    }

    #[test]
    fn the_best_logits_settle_a_row_or_say_that_they_do_not(
        settings in settings_that_lower(),
        salt in any::<u64>(),
        share in 0.0..1.0_f32,
    ) {
        let logits: Vec<f32> = (0..NUM_IDS)
            .map(|i| (uniform(salt, 2, i as u64) * 6000.0).round() as f32 / 500.0 - 6.0)
            .collect();
        let row = settings.row();
        let Some(num_wanted) = Candidates::num_wanted(&row) else {
            let takes_all = settings.params.top_k == 0 && !settings.params.is_greedy();
            let is_score = matches!(row.draw, RowDraw::Score { .. });
            prop_assert!(takes_all || is_score);
            return Ok(());
        };
        let wanted = answer_sliced(&logits, &row, 1);
        let answer = |count: usize| {
            let parts = [0..150, 150..NUM_IDS].map(|slice| {
                let part = tensor(&logits[slice.clone()], 1);
                let best = best_logits(&part, count).unwrap();
                Candidates::pick_among(&best[0], slice.start as u32, &row)
            });
            let [Some(first), Some(second)] = parts else { return None };
            Some(merge(&[first, second], &row))
        };
        let check = |found: Result<RowResult, SampleError>| match (&found, &wanted) {
            (Ok(found), Ok(wanted)) => assert_same(found, wanted),
            _ => assert_eq!(found, wanted),
        };
        if let Some(found) = answer((num_wanted as f32 * share) as usize) {
            check(found);
        }
        // No more tokens are held back here than are asked for beyond those that are wanted.
        check(answer(num_wanted).expect("settled"));
    }

    #[test]
    fn what_is_drawn_is_allowed(settings in settings(), salt in any::<u64>()) {
        let logits = logits(NUM_IDS, salt);
        let row = settings.row();
        let ids: Vec<u32> = match answer_sliced(&logits, &row, 2) {
            Ok(RowResult::Tokens(tokens)) => tokens.iter().map(|token| token.id).collect(),
            Ok(RowResult::Candidates(tokens)) => tokens.iter().map(|token| token.id).collect(),
            Ok(RowResult::Score(_)) | Err(_) => Vec::new(),
        };
        for id in ids {
            prop_assert!(!settings.banned.contains(&id));
            prop_assert!(settings.allowed.as_ref().is_none_or(|mask| mask.allows(id)));
        }
    }

    #[test]
    fn a_message_of_any_numbers_is_read_or_refused(message in vec(any::<f32>(), 0..40)) {
        let mut unread = message.as_slice();
        while !unread.is_empty() && Candidates::decode(&mut unread).is_ok() {}
    }
}
