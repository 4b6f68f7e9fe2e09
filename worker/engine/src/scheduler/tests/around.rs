//! What the engine tells and refuses beside its plans: load, requests and outputs that cannot be, hashes, changes of the cache.

use super::{
    STOP, request,
    scenarios::script::{check, limits, parse_request, step},
};
use crate::*;

#[test]
fn the_load_counts_positions_that_wait_to_be_computed() {
    let mut scheduler = Scheduler::new(EngineLimits {
        num_blocks: 40,
        ..limits()
    });
    for words in [
        "1 a60 2",
        "2 a60+b30 4 n=2 resume=0:7 resume=1:8.9",
        "3 c40 1 batch",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        scheduler.submit(parse_request(&words)).expect("room");
    }
    let prefill = |scheduler: &Scheduler| scheduler.load().prefill_tokens;
    // 60; 90 and a token, and the second answer's part of its last block and two tokens; 40.
    assert_eq!(prefill(&scheduler), 60 + 91 + 12 + 40);
    step(&mut scheduler, &[]);
    assert_eq!(prefill(&scheduler), 20 + 91 + 12 + 40);
    assert!(scheduler.cancel(RequestId(3)));
    assert_eq!(prefill(&scheduler), 20 + 91 + 12);
    for _ in 0..20 {
        step(&mut scheduler, &[]);
    }
    assert_eq!(prefill(&scheduler), 0);
}

#[test]
fn what_cannot_be_taken_is_refused_with_the_limit() {
    check(
        "submit 1 a128 2
         submit 2 a0 2
         submit 2 a1 1 n=5
         submit 2 a100 4 n=2
         submit 2 a1 1
         submit 2 a1 1
         submit 3 a1 1
         submit 4 a1 1
         submit 5 a1 1
         submit 6 a1 1",
        "a sequence may grow to 130 tokens, the KV cache holds 128
         a request needs at least one prompt token and one token to draw
         5 answers or beams are wanted, the limit is 4
         2 sequences of up to 104 tokens want 16 blocks, the KV cache has 8
         a request of this name runs already
         4 requests wait already, the limit is 4",
    );
}

#[test]
fn an_output_for_another_sequence_is_refused() {
    let mut scheduler = Scheduler::new(limits());
    let prompt = vec![PromptSpan::Tokens(vec![1; 5])];
    scheduler.submit(request(1, prompt, 9)).expect("room");
    let plan = scheduler.plan().expect("work");
    let answer = Drawn::Tokens(vec![DrawnToken::plain(STOP)]);
    let output = StepOutput {
        drawn: vec![(SequenceId(9), answer)],
        ..StepOutput::default()
    };
    let error = scheduler
        .apply(&plan, &output)
        .expect_err("the wrong sequence");
    assert_eq!(
        error.to_string(),
        "step 1 should draw [1 draws 1], the executor gave [9 draws 1]"
    );
}

#[test]
fn plans_that_differ_anywhere_have_other_hashes() {
    let plan = |token, block, draw| StepPlan {
        step: 3,
        items: vec![StepItem {
            sequence: SequenceId(1),
            appended: token,
            start: 4,
            end: 5,
            draw,
            prompt_logprobs: false,
            block_table: vec![BlockId(block)].into(),
        }],
        ..StepPlan::default()
    };
    let best = Some(Draw {
        token_index: 2,
        kind: DrawKind::Candidates { count: 4 },
    });
    let base = plan(Some(1), 1, best).content_hash();
    assert_eq!(base, plan(Some(1), 1, best).content_hash());
    assert_ne!(base, plan(None, 1, best).content_hash());
    assert_ne!(base, plan(Some(1), 2, best).content_hash());
    assert_ne!(base, plan(Some(1), 1, None).content_hash());
    let copies = vec![BlockCopy {
        from: BlockId(1),
        to: BlockId(2),
    }];
    assert_ne!(
        base,
        StepPlan {
            copies,
            ..plan(Some(1), 1, best)
        }
        .content_hash()
    );
}

#[test]
fn changes_of_the_cache_tell_what_is_in_it() {
    use std::collections::HashSet;
    let mut scheduler = Scheduler::new(limits());
    let mut known = HashSet::new();
    let mut removed = 0;
    for id in 1..12_u32 {
        let ids = (0..40).map(|at| 1000 * (id % 5) + at).collect();
        let prompt = vec![PromptSpan::Tokens(ids)];
        scheduler
            .submit(request(u64::from(id), prompt, 20))
            .expect("room");
        for _ in 0..30 {
            step(&mut scheduler, &["5"; 9]);
            let changes = scheduler.take_cache_changes();
            assert!(!changes.is_incomplete);
            for change in changes.changes {
                match change {
                    CacheChange::Added(hash) => assert!(known.insert(hash)),
                    CacheChange::Removed(hash) => {
                        removed += 1;
                        assert!(known.remove(&hash));
                    }
                }
            }
            assert_eq!(known, scheduler.cached_hashes().collect());
        }
    }
    assert!(!known.is_empty() && removed > 0);
    // A coordinator names them alike.
    let ids: Vec<u32> = (0..40).map(|at| 1000 + at).collect();
    let hashes = inkstone_prefix::block_hashes([0; 32], &[inkstone_prefix::Span::Tokens(&ids)]);
    let held = |hash: &inkstone_prefix::PrefixHash| known.contains(&hash.short());
    assert_eq!(hashes.covered(39, held), 32);
}
