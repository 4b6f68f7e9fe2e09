//! What becomes of a request when what runs it is lost.

use super::*;
use crate::worker_client::BeamAnswer;

/// The group of an attempt says this.
fn said(attempt: u32, event: GenerationEvent) -> Event {
    Event::Generation(attempt, event)
}

fn batch(branch: u32, first_index: usize, ids: &[u32]) -> GenerationEvent {
    GenerationEvent::Tokens(TokenBatch {
        branch,
        first_index: first_index as u32,
        ids: ids.to_vec(),
        infos: ids.iter().map(|&id| info(id)).collect(),
    })
}

fn info(token_id: u32) -> TokenInfo {
    TokenInfo {
        token_id,
        logprob: Some(-f32::from((token_id % 11) as u16)),
        top: vec![],
    }
}

fn attempt_of(effects: &[Effect]) -> &Attempt {
    match effects {
        [.., Effect::Generate(attempt)] => attempt,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_group_is_left_and_another_asked_to_go_on() {
    for cause in [
        LossCause::Connection,
        LossCause::Silence,
        LossCause::NotServing,
        LossCause::Epoch,
        LossCause::Busy,
    ] {
        let mut state = running(&[]);
        apply(&mut state, tokens(0, "hello"));
        let effects = apply(&mut state, lost(0, cause));
        assert!(
            matches!(effects[0], Effect::Leave(left) if left == cause),
            "{effects:?}"
        );
        let attempt = attempt_of(&effects);
        assert!(attempt.is_move);
        let told = Resumed {
            branch: 0,
            ids: fake::encode("hello"),
            ended: false,
        };
        assert_eq!(attempt.resumed, [told]);
        assert_eq!((state.name(), state.attempt()), ("moving", Some(1)));
        apply(&mut state, accept());
        // The client was told that it started, and is not told again.
        let effects = apply(
            &mut state,
            said(1, GenerationEvent::Started { cached_tokens: 0 }),
        );
        assert!(effects.is_empty(), "{effects:?}");
        let ended = GenerationEvent::Ended {
            branch: 0,
            reason: EndReason::Stop,
        };
        let effects = apply(&mut state, said(1, ended));
        let [Effect::Emit(ChatEvent::Finished { usage, receipt, .. })] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!((receipt.num_moves, usage.cached_tokens), (1, 3));
    }
}

#[test]
fn what_an_attempt_says_that_was_given_up_is_passed_over() {
    let mut state = running(&[]);
    apply(&mut state, tokens(0, "hello"));
    apply(&mut state, lost(0, LossCause::Silence));
    let num = fake::encode("hello").len();
    // It is not dead, and goes on: before another group is found, and after.
    for _ in 0..2 {
        for event in [
            said(0, batch(0, num, &[7])),
            said(0, batch(0, 0, &[7])),
            end(EndReason::Stop),
            lost(0, LossCause::Connection),
        ] {
            let effects = apply(&mut state, event);
            assert!(effects.is_empty(), "{effects:?}");
        }
        if state.name() == "moving" {
            apply(&mut state, accept());
        }
    }
    assert_eq!((state.name(), state.attempt()), ("running", Some(1)));
    // The current one must say what is next.
    apply(&mut state, said(1, batch(0, num + 1, &[7])));
    assert_eq!(state.name(), "failed");
}

#[test]
fn pictures_that_are_gone_are_put_again_before_the_next_attempt() {
    for is_accepted in [false, true] {
        let mut state = if is_accepted {
            running(&[])
        } else {
            accepted(&[])
        };
        let effects = apply(&mut state, missing());
        let [Effect::Leave(LossCause::Features), Effect::PutPictures(_)] = &effects[..] else {
            panic!("{effects:?}");
        };
        let effects = apply(&mut state, Event::Rendered(prompt()));
        assert!(attempt_of(&effects).is_move);
        // The next group may say so when it is asked.
        let effects = apply(&mut state, lost(1, LossCause::Features));
        assert!(matches!(effects[1], Effect::PutPictures(_)), "{effects:?}");
        assert_eq!(state.attempt(), Some(2));
    }
}

#[test]
fn a_request_is_moved_only_so_often() {
    let mut state = running(&[]);
    for attempt in 0..RULE.max_moves {
        let effects = apply(&mut state, lost(attempt, LossCause::Connection));
        assert!(attempt_of(&effects).resumed.is_empty());
        apply(&mut state, accept());
    }
    let effects = apply(&mut state, lost(RULE.max_moves, LossCause::Connection));
    let [
        Effect::Fail(RequestError::RecoveryFailed {
            num_moves: 3,
            message,
            ..
        }),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!(message, "gone");
}

#[test]
fn what_was_complete_but_for_the_last_word_is_not_run_again() {
    let stop = fake::tokenizer().end_of_turn_id();
    let wanted = |ids: &[u32], reason| {
        let mut state = running(&[]);
        apply(&mut state, said(0, batch(0, 0, ids)));
        let effects = apply(&mut state, lost(0, LossCause::Connection));
        let [Effect::Emit(ChatEvent::Finished { end, usage, .. })] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(
            (end.reason, usage.completion_tokens),
            (reason, ids.len() as u32)
        );
        assert!(state.is_final());
    };
    wanted(&[40, stop], FinishReason::Stop);
    wanted(&[40; 100], FinishReason::Length);
}

#[test]
fn answers_that_ended_are_not_drawn_on() {
    let mut state = admitted_for(AnswerPlan::All { num_answers: 4 }, &["lo"]);
    apply(&mut state, Event::Rendered(prompt()));
    apply(&mut state, accept());
    let stop = fake::tokenizer().end_of_turn_id();
    let hello = fake::encode("hello");
    let ended = GenerationEvent::Ended {
        branch: 2,
        reason: EndReason::Length,
    };
    for event in [
        // By a stop string, which the group knows nothing of and goes on.
        batch(0, 0, &hello),
        batch(0, hello.len(), &[40]),
        batch(1, 0, &[40]),
        // By itself.
        batch(2, 0, &[41]),
        ended,
        // By its last token.
        batch(3, 0, &[42, stop]),
    ] {
        apply(&mut state, said(0, event));
    }
    let effects = apply(&mut state, lost(0, LossCause::NotServing));
    let told: Vec<_> = attempt_of(&effects)
        .resumed
        .iter()
        .map(|answer| (answer.branch, answer.ids.clone(), answer.ended))
        .collect();
    let wanted = [
        (0, vec![], true),
        (1, vec![40], false),
        (2, vec![], true),
        (3, vec![], true),
    ];
    assert_eq!(told, wanted);
    let ends = effects.iter().filter(|effect| {
        matches!(
            effect,
            Effect::Emit(ChatEvent::AnswerFinished { answer: 3, .. })
        )
    });
    assert_eq!(
        ends.count(),
        1,
        "the client is told of the one that was complete"
    );
}

#[test]
fn log_probabilities_of_the_prompt_are_told_once_over_two_attempts() {
    let logprobs = |attempt, first: u32, end: u32| {
        let tokens = (first..end).map(info).collect();
        said(attempt, GenerationEvent::PromptLogprobs { first, tokens })
    };
    let told = |effects: Vec<Effect>| -> Vec<u32> {
        let tokens = effects.into_iter().flat_map(|effect| match effect {
            Effect::Emit(ChatEvent::PromptLogprobs { first, tokens }) => {
                assert_eq!(tokens[0].token_id, first);
                tokens
            }
            other => panic!("{other:?}"),
        });
        tokens.map(|token| token.token_id).collect()
    };
    let mut state = running(&[]);
    assert_eq!(told(apply(&mut state, logprobs(0, 0, 2))), [0, 1]);
    let effects = apply(&mut state, lost(0, LossCause::Connection));
    assert!(!attempt_of(&effects).skip_prompt_logprobs);
    apply(&mut state, accept());
    apply(
        &mut state,
        said(1, GenerationEvent::Started { cached_tokens: 0 }),
    );
    assert_eq!(told(apply(&mut state, logprobs(1, 0, 1))), [0; 0]);
    assert_eq!(told(apply(&mut state, logprobs(1, 1, 4))), [2, 3]);
    assert_eq!(told(apply(&mut state, logprobs(1, 4, 7))), [4, 5, 6]);
    // Those of all seven positions are told: they are not asked for any more.
    let effects = apply(&mut state, lost(1, LossCause::Connection));
    assert!(attempt_of(&effects).skip_prompt_logprobs);
}

#[test]
fn many_log_probabilities_come_in_several_events_and_a_gap_is_a_fault() {
    let mut state = running(&[]);
    let tokens = (0..3000).map(info).collect();
    let all = GenerationEvent::PromptLogprobs { first: 0, tokens };
    assert_eq!(apply(&mut state, said(0, all)).len(), 3);
    let tokens = vec![info(3001)];
    let gap = GenerationEvent::PromptLogprobs {
        first: 3001,
        tokens,
    };
    apply(&mut state, said(0, gap));
    assert_eq!(state.name(), "failed");
}

/// The events that a client sees of these answers, told in turns of so many tokens, when groups are lost at these turns.
fn told(
    plan: AnswerPlan,
    texts: &[Vec<u32>],
    stops: &[String],
    turns: &[(usize, usize)],
    losses: &[usize],
) -> Vec<ChatEvent> {
    let stops: Vec<_> = stops.iter().map(String::as_str).collect();
    let mut state = admitted_for(plan, &stops);
    if let Lifecycle::Admitted(progress) = &mut state {
        progress.rule.max_moves = u32::MAX;
    }
    let mut seen = vec![];
    let mut next = apply(&mut state, Event::Rendered(prompt()));
    let mut told = vec![0; texts.len()];
    let mut is_told = vec![false; texts.len()];
    let mut turn = 0;
    let mut losses = losses.iter().copied().peekable();
    while !state.is_final() {
        // A group is asked; it starts from what it is told was drawn.
        let attempt = state.attempt().unwrap();
        for answer in &attempt_of(&next).resumed {
            let branch = answer.branch as usize;
            if answer.ended {
                is_told[branch] = true;
            } else {
                told[branch] = answer.ids.len();
                assert_eq!(answer.ids, texts[branch][..told[branch]]);
            }
        }
        apply(&mut state, accept());
        let mut effects = vec![said(attempt, GenerationEvent::Started { cached_tokens: 0 })];
        next = loop {
            let mut came = vec![];
            for event in effects.drain(..) {
                came.extend(apply(&mut state, event));
            }
            let mut again = None;
            for effect in came {
                match effect {
                    Effect::Emit(event) => seen.push(event),
                    Effect::Leave(_) => {}
                    other => again = Some(other),
                }
            }
            if let Some(Effect::Generate(attempt)) = again {
                break vec![Effect::Generate(attempt)];
            }
            if state.is_final() {
                break vec![];
            }
            if losses.next_if(|&loss| loss <= turn).is_some() {
                effects.push(lost(attempt, LossCause::Connection));
                continue;
            }
            // Whoever is next in turn, and has something to say, says it.
            let (branch, num) = turns.get(turn).copied().unwrap_or((turn, 3));
            turn += 1;
            let branch = branch % texts.len();
            if is_told[branch] {
                continue;
            }
            let (from, text) = (told[branch], &texts[branch]);
            let to = (from + num).min(text.len());
            told[branch] = to;
            if from < to {
                effects.push(said(attempt, batch(branch as u32, from, &text[from..to])));
            } else {
                is_told[branch] = true;
                effects.push(said(
                    attempt,
                    GenerationEvent::Ended {
                        branch: branch as u32,
                        reason: EndReason::Length,
                    },
                ));
            }
        };
    }
    seen
}

/// What the events come to, however they are cut; which answer came when is the groups' affair.
fn sum(events: &[ChatEvent]) -> (Vec<(String, Vec<u32>)>, Vec<ChatEvent>) {
    let mut answers = vec![(String::new(), vec![]); 4];
    let mut others = vec![];
    for event in events {
        match event {
            ChatEvent::Delta(delta) => {
                let answer = &mut answers[delta.answer as usize];
                answer.0 += &delta.text;
                answer.1.extend(&delta.token_ids);
            }
            ChatEvent::AnswerFinished { .. } => others.push(event.clone()),
            ChatEvent::Finished {
                end,
                usage,
                receipt,
            } => others.push(ChatEvent::Finished {
                end: end.clone(),
                usage: *usage,
                receipt: Receipt {
                    num_moves: 0,
                    ..receipt.clone()
                },
            }),
            ChatEvent::Started { .. } | ChatEvent::PromptLogprobs { .. } => {
                others.push(event.clone());
            }
        }
    }
    others.sort_by_key(|event| match event {
        ChatEvent::AnswerFinished { answer, .. } => *answer,
        ChatEvent::Finished { .. } => u32::MAX,
        _ => 0,
    });
    (answers, others)
}

proptest! {
    #[test]
    fn whenever_groups_are_lost_the_client_sees_what_it_would_have_seen(
        texts in prop::collection::vec("[abé。🙂]{0,10}", 1..4),
        stops in prop::collection::vec("[abé。]{1,3}", 0..3),
        turns in prop::collection::vec((0..4_usize, 1..4_usize), 0..30),
        losses in prop::collection::vec(0..40_usize, 0..8),
        chooses in any::<bool>(),
    ) {
        let texts: Vec<_> = texts.iter().map(|text| fake::encode(text)).collect();
        let num_answers = texts.len() as u32;
        let plan = match chooses && num_answers > 1 {
            true => AnswerPlan::Best { num_answers: num_answers - 1, num_drawn: num_answers },
            false => AnswerPlan::All { num_answers },
        };
        let mut losses = losses;
        losses.sort_unstable();
        let undisturbed = told(plan, &texts, &stops, &turns, &[]);
        let moved = told(plan, &texts, &stops, &turns, &losses);
        prop_assert_eq!(sum(&moved), sum(&undisturbed));
    }
}

#[test]
fn beams_begin_anew() {
    let beam = crate::worker_client::Beam {
        width: 2,
        num_answers: 1,
        length_penalty: 1.0,
        early_stopping: false,
    };
    let mut state = admitted_for(AnswerPlan::Beam(beam), &[]);
    apply(&mut state, Event::Rendered(prompt()));
    apply(&mut state, accept());
    apply(&mut state, started(0));
    let effects = apply(&mut state, lost(0, LossCause::Connection));
    assert!(attempt_of(&effects).resumed.is_empty());
    apply(&mut state, accept());
    let found = BeamAnswer {
        ids: fake::encode("hello"),
        score: -1.0,
        reason: EndReason::Length,
    };
    let effects = apply(&mut state, said(1, GenerationEvent::Beams(vec![found])));
    assert!(matches!(
        effects.last(),
        Some(Effect::Emit(ChatEvent::Finished { .. }))
    ));
}
