//! What is sent arrives, and what is not as the leader made it is refused.

use super::*;

fn plan() -> StepPlan {
    StepPlan {
        step: 9,
        released: vec![SequenceId(3)],
        retired: vec![RequestId(2)],
        started: vec![Start {
            request: RequestId(5),
            sequence: SequenceId(5),
            branch: 2,
        }],
        forks: vec![Fork {
            parent: SequenceId(4),
            child: SequenceId(6),
            branch: 1,
        }],
        copies: vec![BlockCopy {
            from: BlockId(1),
            to: BlockId(8),
        }],
        items: vec![
            StepItem {
                sequence: SequenceId(4),
                appended: Some(17),
                start: 40,
                end: 41,
                draw: Some(Draw {
                    token_index: 3,
                    kind: DrawKind::Tokens {
                        first_branch: 2,
                        branches: 1,
                    },
                }),
                prompt_logprobs: false,
                block_table: vec![BlockId(2), BlockId(7), BlockId(1)].into(),
            },
            StepItem {
                sequence: SequenceId(6),
                appended: Some(0),
                start: 40,
                end: 41,
                draw: Some(Draw {
                    token_index: 3,
                    kind: DrawKind::Candidates { count: 6 },
                }),
                prompt_logprobs: false,
                block_table: vec![BlockId(2), BlockId(7), BlockId(8)].into(),
            },
            StepItem {
                sequence: SequenceId(5),
                appended: None,
                start: 16,
                end: 64,
                draw: None,
                prompt_logprobs: true,
                block_table: vec![BlockId(9)].into(),
            },
        ],
    }
}

fn step_of(response: &mut wire::JoinResponse) -> &mut wire::StepPlan {
    match response.message.as_mut() {
        Some(Message::Step(step)) => step,
        other => panic!("wanted a step, found {other:?}"),
    }
}

#[test]
fn a_plan_arrives_as_it_was_sent() {
    let sent = RankCommand::Step(Arc::new(plan()));
    let RankCommand::Step(arrived) = from_wire(to_wire(&sent, 6), 6).unwrap() else {
        panic!("wanted a step");
    };
    assert_eq!(*arrived, plan());
}

#[test]
fn a_plan_of_another_epoch_is_refused() {
    let sent = to_wire(&RankCommand::Step(Arc::new(plan())), 6);
    assert_eq!(
        from_wire(sent, 7).unwrap_err(),
        PlanStreamError::Epoch {
            wanted: 7,
            found: 6
        }
    );
}

#[test]
fn a_plan_that_was_changed_on_the_way_is_refused() {
    type Change = fn(&mut wire::StepPlan);
    let changes: [Change; 8] = [
        |plan| plan.items[0].block_table[1] = 8,
        |plan| plan.items[0].appended = None,
        |plan| plan.items[2].prompt_logprobs = false,
        |plan| plan.items[1].draw = None,
        |plan| plan.copies.extend([3, 4]),
        |plan| plan.copies[0] = 2,
        |plan| plan.forks[0].branch = 2,
        |plan| plan.retired.clear(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut sent = to_wire(&RankCommand::Step(Arc::new(plan())), 6);
        change(step_of(&mut sent));
        let refused = from_wire(sent, 6);
        assert!(
            matches!(refused, Err(PlanStreamError::Hash { step: 9, .. })),
            "change {number}: {refused:?}"
        );
    }
}

#[test]
fn a_request_arrives_as_it_was_sent() {
    let setup = RequestSetup {
        resumed: vec![vec![4, 5], Vec::new(), vec![6]],
        id: RequestId(8),
        prompt: vec![
            PromptPart::Tokens(vec![1, 5, 9]),
            PromptPart::Picture {
                digest: PictureDigest([7; 32]),
                num_tokens: 1225,
            },
        ],
        sampling: SequenceSampling {
            params: SamplingParams {
                temperature: 0.5,
                top_k: 7,
                top_p: 0.25,
                min_p: 0.125,
                repetition_penalty: 1.5,
                presence_penalty: -0.5,
                frequency_penalty: 2.0,
                seed: 77,
                num_logprobs: Some(3),
            },
            logit_bias: vec![(4, -1.0), (9, 100.0)],
            min_new_tokens: 6,
            constraint: Some(ConstraintForm::Regex("[ab]+".to_owned())),
        },
        stop_token_ids: vec![2, 92_542],
    };
    let sent = to_wire(&RankCommand::Admit(Arc::new(setup.clone())), 6);
    let RankCommand::Admit(arrived) = from_wire(sent, 6).unwrap() else {
        panic!("wanted a request");
    };
    assert_eq!(arrived.id, setup.id);
    assert_eq!(arrived.prompt, setup.prompt);
    assert_eq!(arrived.sampling, setup.sampling);
    assert_eq!(arrived.stop_token_ids, setup.stop_token_ids);
    assert_eq!(arrived.resumed, setup.resumed);
}

#[test]
fn sampling_out_of_range_is_refused() {
    let change = |change: fn(&mut wire::SamplingSettings)| {
        let mut settings = sampling_to_wire(&SequenceSampling::default());
        change(&mut settings);
        sampling_from_wire(settings)
    };
    assert!(change(|_| {}).is_ok());
    assert!(change(|settings| settings.top_p = 2.0).is_err());
    assert!(change(|settings| settings.min_p = -0.5).is_err());
    assert!(change(|settings| settings.presence_penalty = f32::NAN).is_err());
    let endless = |settings: &mut wire::SamplingSettings| {
        let bias = f32::INFINITY;
        settings
            .logit_bias
            .push(wire::LogitBias { token_id: 3, bias });
    };
    assert!(change(endless).is_err());
    assert!(
        change(|settings| settings.constraint = Some(wire::Constraint { form: None })).is_err()
    );
}
