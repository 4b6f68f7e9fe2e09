use inkstone_engine::{BlockCopy, BlockId, Draw, DrawKind, Drawn, Fork, Start};
use inkstone_model::{sampling::SamplingParams, synthesize::Preset};

use super::*;
use crate::executor::{PictureDigest, SequenceSampling};

mod engine;

const STOP: u32 = 2;
const VOCABULARY: usize = 92_544;

fn settings(answer_tokens: Option<usize>) -> SimulatedSettings {
    let preset = Preset::Vl7b;
    SimulatedSettings {
        cost: CostModel::new(
            &preset.config(),
            &preset.structure().partial_lora,
            1,
            Accelerator::H100_SXM,
        ),
        vocab_size: VOCABULARY,
        num_blocks: 1024,
        answer_tokens,
    }
}

fn executor(answer_tokens: Option<usize>) -> (SimulatedExecutor, Clock) {
    let clock = Clock::paused();
    let executor = SimulatedExecutor::new(settings(answer_tokens), clock.clone());
    (executor, clock)
}

fn setup(id: u64, seed: u64, prompt: Vec<PromptPart>) -> Arc<RequestSetup> {
    Arc::new(RequestSetup {
        id: RequestId(id),
        prompt,
        sampling: SequenceSampling {
            params: SamplingParams {
                seed,
                ..SamplingParams::default()
            },
            logit_bias: Vec::new(),
            min_new_tokens: 0,
            constraint: None,
        },
        stop_token_ids: vec![STOP],
        resumed: Vec::new(),
    })
}

fn text(num_tokens: u32) -> Vec<PromptPart> {
    vec![PromptPart::Tokens((300..300 + num_tokens).collect())]
}

fn blocks(end: usize) -> Vec<BlockId> {
    (0..end.div_ceil(BLOCK_TOKENS) as u32)
        .map(BlockId)
        .collect()
}

fn item(
    sequence: u64,
    appended: Option<u32>,
    rows: Range<usize>,
    token: Option<usize>,
) -> StepItem {
    StepItem {
        sequence: SequenceId(sequence),
        appended,
        start: rows.start,
        end: rows.end,
        draw: token.map(|token_index| Draw {
            token_index,
            kind: DrawKind::Tokens {
                first_branch: 0,
                branches: 1,
            },
        }),
        prompt_logprobs: false,
        block_table: blocks(rows.end).into(),
    }
}

fn started(request: u64, sequence: u64) -> Vec<Start> {
    vec![Start {
        request: RequestId(request),
        sequence: SequenceId(sequence),
        branch: 0,
    }]
}

fn step(executor: &mut SimulatedExecutor, plan: StepPlan) -> StepOutput {
    executor.start(Arc::new(plan)).unwrap();
    executor.finish().unwrap()
}

fn only_token(output: &StepOutput) -> u32 {
    match output.drawn.as_slice() {
        [(_, Drawn::Tokens(tokens))] => tokens[0].token_id,
        other => panic!("wanted one token, found {other:?}"),
    }
}

/// The tokens of an answer to a prompt of 20 tokens.
fn answer(seed: u64, answer_tokens: Option<usize>, count: usize) -> Vec<u32> {
    let (mut executor, _) = executor(answer_tokens);
    executor.admit(setup(1, seed, text(20))).unwrap();
    let plan = StepPlan {
        step: 1,
        started: started(1, 1),
        items: vec![item(1, None, 0..20, Some(0))],
        ..StepPlan::default()
    };
    let mut tokens = vec![only_token(&step(&mut executor, plan))];
    while tokens.len() < count {
        let end = 20 + tokens.len();
        let last = tokens.last().copied();
        let plan = StepPlan {
            step: tokens.len() as u64 + 1,
            items: vec![item(1, last, end - 1..end, Some(tokens.len()))],
            ..StepPlan::default()
        };
        tokens.push(only_token(&step(&mut executor, plan)));
    }
    tokens
}

#[test]
fn the_same_request_draws_the_same_tokens_and_another_draws_others() {
    let tokens = answer(7, None, 32);
    assert_eq!(tokens, answer(7, None, 32));
    assert_ne!(tokens, answer(8, None, 32));
}

#[test]
fn tokens_are_pieces_of_text_below_the_vocabulary() {
    let tokens = answer(7, None, 64);
    assert!(
        tokens
            .iter()
            .all(|&id| (259..VOCABULARY as u32).contains(&id) && id != STOP)
    );
    for vocab_size in [1, 2, 5, 300, 1024] {
        let source = TokenSource::new(vocab_size, None);
        let at = DrawAt {
            token_index: 0,
            position: 20,
            kind: DrawKind::Candidates { count: 8 },
        };
        let setup = setup(1, 3, text(20));
        let Drawn::Candidates(candidates) = source.draw(&setup, at) else {
            panic!("wanted candidates");
        };
        assert!(
            candidates
                .iter()
                .all(|c| (c.token_id as usize) < vocab_size)
        );
    }
}

#[test]
fn an_answer_stops_at_its_length_and_not_before() {
    let tokens = answer(7, Some(5), 5);
    assert_eq!(tokens.iter().position(|&id| id == STOP), Some(4));
}

#[test]
fn an_answer_goes_on_where_it_was_cut() {
    let whole = answer(7, None, 10);
    let (mut executor, _) = executor(None);
    let mut prompt = text(20);
    prompt.push(PromptPart::Tokens(whole[..6].to_vec()));
    executor.admit(setup(1, 7, prompt)).unwrap();
    let plan = StepPlan {
        step: 1,
        started: started(1, 1),
        items: vec![item(1, None, 0..26, Some(0))],
        ..StepPlan::default()
    };
    assert_eq!(only_token(&step(&mut executor, plan)), whole[6]);
}

#[test]
fn branches_part_at_their_first_token() {
    let (mut executor, _) = executor(None);
    executor.admit(setup(1, 7, text(20))).unwrap();
    let mut first = item(1, None, 0..20, Some(0));
    first.draw = Some(Draw {
        token_index: 0,
        kind: DrawKind::Tokens {
            first_branch: 0,
            branches: 3,
        },
    });
    let plan = StepPlan {
        step: 1,
        started: started(1, 1),
        items: vec![first],
        ..StepPlan::default()
    };
    let output = step(&mut executor, plan);
    let [(_, Drawn::Tokens(tokens))] = output.drawn.as_slice() else {
        panic!("wanted tokens, found {output:?}");
    };
    assert_eq!(tokens.len(), 3);
    assert_eq!(tokens[0].token_id, answer(7, None, 1)[0]);
    assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2] && tokens[0] != tokens[2]);
    let plan = StepPlan {
        step: 2,
        forks: vec![Fork {
            parent: SequenceId(1),
            child: SequenceId(2),
            branch: 1,
        }],
        copies: vec![BlockCopy {
            from: BlockId(1),
            to: BlockId(9),
        }],
        items: vec![
            item(1, Some(tokens[0].token_id), 20..21, Some(1)),
            item(2, Some(tokens[1].token_id), 20..21, Some(1)),
        ],
        ..StepPlan::default()
    };
    assert_eq!(step(&mut executor, plan).drawn.len(), 2);
}

#[test]
fn candidates_differ_and_become_less_likely() {
    let (mut executor, _) = executor(None);
    executor.admit(setup(1, 7, text(20))).unwrap();
    let mut best = item(1, None, 0..20, Some(0));
    best.draw = Some(Draw {
        token_index: 0,
        kind: DrawKind::Candidates { count: 10 },
    });
    let plan = StepPlan {
        step: 1,
        started: started(1, 1),
        items: vec![best],
        ..StepPlan::default()
    };
    let output = step(&mut executor, plan);
    let [(_, Drawn::Candidates(candidates))] = output.drawn.as_slice() else {
        panic!("wanted candidates, found {output:?}");
    };
    let mut ids: Vec<u32> = candidates.iter().map(|c| c.token_id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10);
    assert!(
        candidates
            .windows(2)
            .all(|two| two[0].logprob > two[1].logprob)
    );
}

#[test]
fn a_step_takes_the_time_of_the_cost_model_and_an_idle_accelerator_none() {
    let (mut executor, clock) = executor(None);
    executor.admit(setup(1, 7, text(20))).unwrap();
    let plan = StepPlan {
        step: 1,
        started: started(1, 1),
        items: vec![item(1, None, 0..20, Some(0))],
        ..StepPlan::default()
    };
    let mut work = StepWork::default();
    work.add_rows(0, 20, 1);
    let takes = executor.settings.cost.step_time(&work);
    assert_eq!(clock.now(), Duration::ZERO);
    step(&mut executor, plan);
    assert_eq!(clock.now(), takes);
    let later = takes + Duration::from_secs(1);
    clock.wait_until(later);
    let plan = StepPlan {
        step: 2,
        released: vec![SequenceId(1)],
        retired: vec![RequestId(1)],
        ..StepPlan::default()
    };
    step(&mut executor, plan);
    assert_eq!(clock.now(), later);
}

#[test]
fn pictures_are_counted_where_they_stand() {
    let prompt = vec![
        PromptPart::Tokens(vec![300; 10]),
        PromptPart::Picture {
            digest: PictureDigest([1; 32]),
            num_tokens: 100,
        },
        PromptPart::Tokens(vec![301; 5]),
    ];
    let request = Request::new(setup(1, 7, prompt));
    assert_eq!(request.prompt_tokens, 115);
    assert_eq!(request.picture_rows(0..115), 100);
    assert_eq!(request.picture_rows(0..10), 0);
    assert_eq!(request.picture_rows(5..20), 10);
    assert_eq!(request.picture_rows(100..120), 10);
    let source = TokenSource::new(VOCABULARY, None);
    assert_eq!(request.score(0, &source).unwrap().token_id, 300);
    assert!(request.score(9, &source).is_none());
    assert!(request.score(109, &source).is_none());
    assert_eq!(request.score(110, &source).unwrap().token_id, 301);
    assert!(request.score(114, &source).is_none());
}

#[test]
fn a_plan_that_a_rank_could_not_run_is_refused() {
    let draws_early = item(1, None, 0..10, Some(0));
    let beyond = item(1, None, 0..21, None);
    let unknown = item(9, None, 0..10, None);
    let mut no_blocks = item(1, None, 0..20, Some(0));
    no_blocks.block_table = no_blocks.block_table[1..].to_vec().into();
    for wrong in [draws_early, beyond, unknown, no_blocks] {
        let (mut executor, _) = executor(None);
        executor.admit(setup(1, 7, text(20))).unwrap();
        let plan = StepPlan {
            step: 1,
            started: started(1, 1),
            items: vec![wrong.clone()],
            ..StepPlan::default()
        };
        assert!(executor.start(Arc::new(plan)).is_err(), "{wrong}");
    }
}

#[test]
fn a_step_is_finished_before_the_next_begins() {
    let (mut executor, _) = executor(None);
    executor.start(Arc::new(StepPlan::default())).unwrap();
    assert!(executor.start(Arc::new(StepPlan::default())).is_err());
    executor.finish().unwrap();
    assert!(executor.finish().is_err());
}
