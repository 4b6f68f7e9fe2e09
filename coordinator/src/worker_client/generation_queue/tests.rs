//! What goes into a queue comes out, and only so much goes in.

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use inkstone_cluster::Epoch;
use proptest::prelude::*;

use super::*;
use crate::worker_client::{Beam, EndReason, Priority, Resumed, TokenInfo, fake};

fn generation(decoding: Decoding, max_new_tokens: u32) -> Generation {
    Generation {
        request_id: "r".into(),
        epoch: Epoch(1),
        prompt: [PromptPiece::Tokens(vec![1, 2, 3])].into(),
        sampling: fake::greedy(),
        decoding,
        max_new_tokens,
        stop_token_ids: vec![],
        priority: Priority::Interactive,
        cache_salt: Bytes::new(),
        prompt_logprobs: true,
        place: std::sync::Weak::new(),
        resumed: vec![],
        first_in_line: false,
    }
}

fn queue(branches: u32, max_new_tokens: u32) -> (GenerationWriter, GenerationStream) {
    generation_queue(&generation(Decoding::Sample { branches }, max_new_tokens))
}

fn batch(branch: u32, first_index: u32, ids: Vec<u32>) -> GenerationEvent {
    let infos = ids.iter().map(|&token_id| TokenInfo {
        token_id,
        logprob: Some(-1.0),
        top: vec![],
    });
    GenerationEvent::Tokens(TokenBatch {
        branch,
        first_index,
        infos: infos.collect(),
        ids,
    })
}

fn ended(branch: u32) -> GenerationEvent {
    GenerationEvent::Ended {
        branch,
        reason: EndReason::Length,
    }
}

fn read(stream: GenerationStream) -> Vec<Result<GenerationEvent, WorkerError>> {
    stream
        .collect::<Vec<_>>()
        .now_or_never()
        .expect("the request is over")
}

proptest! {
    #[test]
    fn whenever_it_is_read_every_token_of_every_branch_comes_in_order(
        steps in prop::collection::vec((0..3_u32, 1..40_u32, prop::bool::weighted(0.1)), 0..400),
    ) {
        let (writer, mut stream) = queue(3, 1_000_000);
        let mut written = vec![vec![]; 3];
        let mut events = vec![];
        for (branch, num, reads) in steps {
            let ids: Vec<_> = (0..num).map(|index| branch * 1000 + index).collect();
            let sofar: &mut Vec<u32> = &mut written[branch as usize];
            prop_assert!(writer.push(batch(branch, sofar.len() as u32, ids.clone())));
            sofar.extend(ids);
            while let Some(Some(event)) = reads.then(|| stream.next().now_or_never()).flatten() {
                events.push(event);
            }
        }
        for branch in 0..3 {
            prop_assert_eq!(writer.push(ended(branch)), branch < 2);
        }
        events.extend(read(stream));
        let mut seen = vec![vec![]; 3];
        for event in events {
            match event.unwrap() {
                GenerationEvent::Tokens(batch) => {
                    let sofar: &mut Vec<u32> = &mut seen[batch.branch as usize];
                    prop_assert_eq!(batch.first_index as usize, sofar.len());
                    prop_assert!(batch.ids.len() <= MAX_JOINED_TOKENS);
                    let told: Vec<_> = batch.infos.iter().map(|info| info.token_id).collect();
                    prop_assert_eq!(&told, &batch.ids);
                    sofar.extend(batch.ids);
                }
                GenerationEvent::Ended { branch, .. } => {
                    prop_assert_eq!(&seen[branch as usize], &written[branch as usize]);
                }
                other => panic!("{other:?}"),
            }
        }
        prop_assert_eq!(seen, written);
    }
}

#[test]
fn a_queue_that_is_not_read_holds_few_events() {
    let (writer, stream) = queue(2, 100_000);
    for index in 0..100_000 {
        for branch in 0..2 {
            writer.push(batch(branch, index, vec![7]));
        }
    }
    let num_waiting = stream.shared.lock().waiting.len();
    let most = KEPT_APART + 2 * 100_000 / MAX_JOINED_TOKENS + 2;
    assert!(num_waiting <= most, "{num_waiting} wait");
}

#[test]
fn a_leader_that_breaks_the_contract_ends_the_request_with_the_reason() {
    let tokens_of = |branch, first_index, num| batch(branch, first_index, vec![7; num]);
    let beams = || GenerationEvent::Beams(vec![]);
    let logprobs = |num| GenerationEvent::PromptLogprobs {
        first: 0,
        tokens: vec![
            TokenInfo {
                token_id: 1,
                logprob: None,
                top: vec![]
            };
            num
        ],
    };
    let started = || GenerationEvent::Started { cached_tokens: 0 };
    for (events, wanted) in [
        (vec![tokens_of(0, 1, 1)], "token 1 came, wanted token 0"),
        (
            vec![tokens_of(0, 0, 4), tokens_of(0, 3, 1)],
            "wanted token 4",
        ),
        (vec![tokens_of(0, 0, 11)], "11 tokens came, the limit is 10"),
        (vec![tokens_of(2, 0, 1)], "branch 2 of 2 is not running"),
        (vec![ended(1), ended(1)], "branch 1 of 2 is not running"),
        (vec![beams()], "beams came unasked"),
        (vec![logprobs(4)], "at most 3 were left"),
        (vec![started(), started()], "it started twice"),
    ] {
        let (writer, stream) = queue(2, 10);
        let num_good = events.len() - 1;
        for (index, event) in events.into_iter().enumerate() {
            assert_eq!(writer.push(event), index < num_good, "{wanted}");
        }
        assert!(!writer.push(tokens_of(0, 0, 1)), "nothing follows");
        let last = read(stream).pop().unwrap().unwrap_err();
        assert!(matches!(last, WorkerError::Faulty(_)), "{last:?}");
        assert!(last.to_string().contains(wanted), "{last}");
    }
}

#[test]
fn beams_are_the_last_word() {
    let beam = Beam {
        width: 2,
        num_answers: 2,
        length_penalty: 1.0,
        early_stopping: false,
    };
    let (writer, stream) = generation_queue(&generation(Decoding::Beam(beam), 10));
    assert!(writer.push(GenerationEvent::Started { cached_tokens: 0 }));
    assert!(!writer.push(GenerationEvent::Beams(vec![])));
    assert_eq!(read(stream).len(), 2);
}

#[test]
fn a_writer_that_vanishes_is_a_failure_unless_all_was_said() {
    let (writer, stream) = queue(1, 10);
    drop(writer);
    let last = read(stream).pop().unwrap().unwrap_err();
    assert!(matches!(last, WorkerError::Unavailable(_)), "{last:?}");

    let (writer, stream) = queue(1, 10);
    writer.push(ended(0));
    drop(writer);
    assert_eq!(read(stream), [Ok(ended(0))]);
}

#[test]
fn a_request_that_is_resumed_goes_on_where_it_was() {
    let resumed = |branch, num: usize, ended| Resumed {
        branch,
        ids: vec![7; num],
        ended,
    };
    let asked = Generation {
        resumed: vec![resumed(0, 4, false), resumed(1, 2, true)],
        ..generation(Decoding::Sample { branches: 3 }, 10)
    };
    for (event, wanted) in [
        (batch(0, 3, vec![8]), "token 3 came, wanted token 4"),
        (batch(0, 0, vec![8]), "token 0 came, wanted token 4"),
        (batch(0, 4, vec![8; 7]), "11 tokens came"),
        (batch(1, 2, vec![8]), "branch 1 of 3 is not running"),
        (ended(1), "branch 1 of 3 is not running"),
        (batch(2, 1, vec![8]), "token 1 came, wanted token 0"),
    ] {
        let (writer, stream) = generation_queue(&asked);
        assert!(!writer.push(event), "{wanted}");
        let last = read(stream).pop().unwrap().unwrap_err();
        assert!(last.to_string().contains(wanted), "{last}");
    }
    let (writer, stream) = generation_queue(&asked);
    assert!(writer.push(batch(0, 4, vec![8; 6])));
    assert!(writer.push(batch(2, 0, vec![9])));
    assert!(writer.push(ended(0)));
    assert!(
        !writer.push(ended(2)),
        "the one that ended before is not waited for"
    );
    assert_eq!(read(stream).len(), 4);
}
