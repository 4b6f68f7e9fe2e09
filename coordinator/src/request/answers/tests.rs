//! Answers do not depend on each other's company.

use proptest::prelude::*;

use super::*;
use crate::worker_client::fake;

fn answers(plan: AnswerPlan, stop_strings: &[String]) -> Answers {
    let tokenizer = fake::tokenizer();
    let blank = Answer::new(
        tokenizer.stream_decoder(),
        stop_strings.to_vec(),
        tokenizer.stop_token_ids().into(),
    );
    Answers::new(plan, false, blank)
}

fn batch(branch: u32, first_index: usize, ids: &[u32]) -> TokenBatch {
    let infos = ids.iter().map(|&token_id| TokenInfo {
        token_id,
        logprob: Some(-f32::from(token_id as u16 % 7)),
        top: vec![],
    });
    TokenBatch {
        branch,
        first_index: first_index as u32,
        ids: ids.to_vec(),
        infos: infos.collect(),
    }
}

/// An answer as the client sees it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    text: String,
    token_ids: Vec<u32>,
    end: Option<AnswerEnd>,
    completion_tokens: u32,
    score: Option<f32>,
}

/// Puts the events together again.
fn see(events: Vec<ChatEvent>, num_answers: usize) -> Vec<Seen> {
    let mut seen = vec![Seen::default(); num_answers];
    for event in events {
        match event {
            ChatEvent::Delta(delta) => {
                let seen = &mut seen[delta.answer as usize];
                assert_eq!(seen.end, None, "nothing follows the end");
                seen.text += &delta.text;
                seen.token_ids.extend(delta.token_ids);
            }
            ChatEvent::AnswerFinished {
                answer,
                end,
                completion_tokens,
                score,
            } => {
                let seen = &mut seen[answer as usize];
                seen.end = Some(end);
                seen.completion_tokens = completion_tokens;
                seen.score = score;
            }
            other => panic!("{other:?}"),
        }
    }
    seen
}

/// Feeds the texts in turns of so many tokens, and ends each.
fn feed(answers: &mut Answers, texts: &[Vec<u32>], turns: &[(usize, usize)]) -> Vec<ChatEvent> {
    let mut events = vec![];
    let mut fed = vec![0_usize; texts.len()];
    let whole = (0..texts.len()).map(|branch| (branch, usize::MAX));
    for (branch, num) in turns.iter().copied().chain(whole) {
        let branch = branch % texts.len();
        let (text, from) = (&texts[branch], fed[branch]);
        let end = from.saturating_add(num).min(text.len());
        let batch = batch(branch as u32, from, &text[from..end]);
        let told = answers.tokens(batch, |event| events.push(event));
        told.expect("all is as it should be");
        fed[branch] = end;
    }
    for branch in 0..texts.len() {
        let told = answers.ended(branch as u32, EndReason::Length, |event| events.push(event));
        told.expect("all is as it should be");
    }
    events
}

proptest! {
    #[test]
    fn each_answer_is_what_it_is_alone(
        texts in prop::collection::vec("[abé。]{0,12}", 2..4),
        stops in prop::collection::vec("[abé。]{1,3}", 0..3),
        turns in prop::collection::vec((0..4_usize, 1..4_usize), 0..30),
    ) {
        let texts: Vec<_> = texts.iter().map(|text| fake::encode(text)).collect();
        let num_answers = texts.len() as u32;
        let mut together = answers(AnswerPlan::All { num_answers }, &stops);
        let events = feed(&mut together, &texts, &turns);
        let seen = see(events, texts.len());
        let mut num_tokens = 0;
        for (seen, text) in seen.iter().zip(&texts) {
            let mut alone = answers(AnswerPlan::All { num_answers: 1 }, &stops);
            let events = feed(&mut alone, std::slice::from_ref(text), &[]);
            let wanted = &see(events, 1)[0];
            prop_assert_eq!(&seen.text, &wanted.text);
            prop_assert_eq!(&seen.token_ids, &wanted.token_ids);
            prop_assert_eq!(seen.end.as_ref(), alone.end());
            prop_assert_eq!(seen.completion_tokens, alone.num_tokens());
            num_tokens += alone.num_tokens();
        }
        prop_assert_eq!(together.num_tokens(), num_tokens);
        prop_assert_eq!(together.end(), seen[0].end.as_ref());

        // The best of them are the same ones, in the order of their scores.
        let plan = AnswerPlan::Best { num_answers: num_answers - 1, num_drawn: num_answers };
        let mut chosen = answers(plan, &stops);
        let best = see(feed(&mut chosen, &texts, &turns), texts.len() - 1);
        let scores: Vec<_> = best.iter().map(|seen| seen.score.unwrap()).collect();
        prop_assert!(scores.is_sorted_by(|a, b| a >= b), "{:?}", scores);
        for best in &best {
            let is_there = seen.iter().any(|seen| {
                seen.text == best.text && seen.token_ids == best.token_ids && seen.end == best.end
            });
            prop_assert!(is_there, "{:?}", best);
        }
        prop_assert_eq!(chosen.end(), best[0].end.as_ref());
    }
}
