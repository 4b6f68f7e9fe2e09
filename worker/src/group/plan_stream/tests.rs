//! What is sent arrives, and what is not as the leader made it is refused.

use super::*;

fn plan() -> StepPlan {
    StepPlan {
        step: 9,
        items: vec![
            StepItem {
                sequence: SequenceId(4),
                work: Work::Decode {
                    token_id: 17,
                    position: 40,
                    token_index: 3,
                },
                block_table: vec![BlockId(2), BlockId(7), BlockId(1)],
            },
            StepItem {
                sequence: SequenceId(5),
                work: Work::Prefill {
                    start: 16,
                    end: 64,
                    samples: true,
                },
                block_table: vec![BlockId(9)],
            },
        ],
        released: vec![SequenceId(3)],
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
    let mut sent = to_wire(&RankCommand::Step(Arc::new(plan())), 6);
    step_of(&mut sent).items[0].block_table[1] = 8;
    assert!(matches!(
        from_wire(sent, 6),
        Err(PlanStreamError::Hash { step: 9, .. })
    ));
}

#[test]
fn a_sequence_arrives_as_it_was_sent() {
    let setup = SequenceSetup {
        id: SequenceId(8),
        prompt: vec![PromptPart::Tokens(vec![1, 5, 9])],
        sampling: SamplingParams {
            seed: 77,
            ..SamplingParams::default()
        },
    };
    let sent = to_wire(&RankCommand::Admit(Arc::new(setup)), 6);
    let RankCommand::Admit(arrived) = from_wire(sent, 6).unwrap() else {
        panic!("wanted a sequence");
    };
    assert_eq!(arrived.id, SequenceId(8));
    assert_eq!(arrived.prompt_tokens(), 3);
    assert_eq!(arrived.sampling.seed, 77);
}

#[test]
fn sampling_out_of_range_is_refused() {
    let mut settings = sampling_to_wire(&SamplingParams::default());
    settings.top_p = 2.0;
    assert!(sampling_from_wire(&settings).is_err());
}
