//! Requests of every kind that must survive a fault, each with the answer that it gets when nothing happens.

use std::sync::Arc;

use inkstone_proto::v1::{ChatRequest, Constraint, SamplingParams, constraint::Form};
use tokio::task::JoinSet;

use crate::{
    client::{connect, greedy, picture, text, user},
    load::{Progress, Spoken, follow},
    pictures::stripes,
};

/// A request and the answer that it gets undisturbed.
#[derive(Debug)]
pub struct Case {
    /// What kind it is, for messages.
    pub kind: &'static str,
    /// What is asked.
    pub request: ChatRequest,
    /// What is answered.
    pub right: Spoken,
}

/// Bytes of a stop string: long, so that what is held back of it spans many tokens, and a fault falls into it.
const STOP_BYTES: usize = 72;

/// Asks `count` different questions, each for answers of `max_tokens` tokens, of a cluster in which nothing happens.
pub async fn record(address: &str, count: usize, max_tokens: u32) -> Vec<Arc<Case>> {
    let mut running = JoinSet::new();
    for index in 0..count {
        let address = address.to_owned();
        running.spawn(async move { (index, record_one(&address, index, max_tokens).await) });
    }
    let mut cases = running.join_all().await;
    cases.sort_by_key(|(index, _)| *index);
    cases.into_iter().map(|(_, case)| Arc::new(case)).collect()
}

async fn record_one(address: &str, index: usize, max_tokens: u32) -> Case {
    let (kind, mut request) = request(index, max_tokens);
    let mut right = ask(address, &request).await;
    if kind == "stop string" {
        let stop = request.stop.as_mut().expect("it is set");
        stop.stop_strings = vec![late_part(&right.answers[&0].text)];
        right = ask(address, &request).await;
        assert_ne!(right.answers[&0].stop_string, "", "it is met");
    }
    Case {
        kind,
        request,
        right,
    }
}

async fn ask(address: &str, request: &ChatRequest) -> Spoken {
    let stream = connect(address).await.chat(request.clone()).await;
    let stream = stream.expect("nothing is wrong with it").into_inner();
    let followed = follow(stream, &Progress::default()).await;
    followed.spoken.expect("nothing happens")
}

/// The part of a text that is seen first as late as possible.
fn late_part(text: &str) -> String {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let part = |start: usize| {
        let mut end = (start + STOP_BYTES).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        &text[start..end]
    };
    let is_long = |start: &&usize| **start + STOP_BYTES <= text.len();
    let is_new = |start: &&usize| text.find(part(**start)) == Some(**start);
    let mut late = starts.iter().rev().filter(is_long);
    let start = late.find(is_new).expect("the answer is long enough");
    part(*start).to_owned()
}

/// One of many requests, and its kind.
fn request(index: usize, max_tokens: u32) -> (&'static str, ChatRequest) {
    let words = [
        "circle", "red", "left", "圆", "seven", "of", "below", "word",
    ];
    let pick = |at: usize| words[(index * 7 + at * (index + 3)) % words.len()];
    let length = 6 + index % 9;
    let question: Vec<&str> = (0..length).map(pick).collect();
    let question = format!("{index}: {}", question.join(" "));
    let alone = |max_tokens| greedy(vec![user(vec![text(&question)])], max_tokens);
    let about = |pictures: usize, max_tokens| {
        let pictures = (0..pictures).map(|number| picture(stripes(index * 2 + number)));
        let mut parts: Vec<_> = pictures.collect();
        parts.push(text(&question));
        greedy(vec![user(parts)], max_tokens)
    };
    let seeded = SamplingParams {
        temperature: Some(1.0),
        top_k: Some(40),
        top_p: Some(0.95),
        seed: Some(index as u64),
        ..SamplingParams::default()
    };
    match index % 8 {
        0 => ("greedy", alone(max_tokens)),
        1 => ("seeded", with(alone(max_tokens), seeded)),
        2 => {
            let two = SamplingParams {
                n: Some(2),
                ..seeded
            };
            ("two answers", with(alone(max_tokens), two))
        }
        3 => {
            let diverse = SamplingParams {
                top_p: Some(1.0),
                ..seeded
            };
            ("stop string", with(alone(max_tokens), diverse))
        }
        4 => ("constrained", constrained(with(alone(max_tokens), seeded))),
        5 => ("one picture", about(1, max_tokens)),
        6 => ("two pictures", with(about(2, max_tokens), seeded)),
        _ => {
            let penalised = SamplingParams {
                repetition_penalty: Some(1.2),
                presence_penalty: Some(0.5),
                frequency_penalty: Some(0.3),
                logprobs: true,
                ..seeded
            };
            ("penalties", with(alone(max_tokens), penalised))
        }
    }
}

fn with(mut request: ChatRequest, sampling: SamplingParams) -> ChatRequest {
    request.sampling = Some(sampling);
    request
}

/// Lines of small letters, more of them than there is room for.
fn constrained(mut request: ChatRequest) -> ChatRequest {
    request.constraint = Some(Constraint {
        form: Some(Form::Regex("([a-z]{2,9} [a-z]{1,9}[.]){400}".into())),
    });
    let stop = request.stop.as_mut().expect("greedy sets it");
    stop.ignore_eos = false;
    request
}
