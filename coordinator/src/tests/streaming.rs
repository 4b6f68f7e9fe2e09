//! What a client sees of an answer that goes well.

use std::time::Duration;

use inkstone_proto::v1 as wire;

use super::*;
use crate::worker_client::{
    EndReason, PromptPiece,
    fake::{self, Step},
};

#[tokio::test]
async fn events_come_in_order_and_numbered() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.group().play([
        Step::Text("hello"),
        Step::Pause(Duration::from_millis(20)),
        Step::Text(" world"),
        Step::Tokens(vec![fake::tokenizer().end_of_turn_id()]),
        Step::End(EndReason::Stop),
    ]);
    let answer = Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    assert_eq!(answer.started.model, "fake-vl");
    assert_eq!(answer.started.picture_tokens, 0);
    assert_eq!(answer.text(), "hello world");
    let mut ids = fake::encode("hello world");
    ids.push(fake::tokenizer().end_of_turn_id());
    assert_eq!(answer.token_ids(), ids);
    let finished = answer.finished();
    assert_eq!(finished.reason(), wire::FinishReason::Stop);
    assert_eq!(finished.stop_string, "");
    let usage = finished.usage.unwrap();
    assert_eq!(usage.prompt_tokens, answer.started.prompt_tokens);
    assert_eq!(usage.completion_tokens as usize, ids.len());
    coordinator.stop().await.unwrap();
}

#[tokio::test]
async fn the_leader_gets_the_prompt_and_the_defaults() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let answer = Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    let asked = &cluster.group().asked()[0];
    let [PromptPiece::Tokens(ids)] = &asked.prompt[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(ids.len(), answer.started.prompt_tokens as usize);
    let text = fake::tokenizer().decode(ids);
    assert!(
        text.ends_with("user\nhi[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n"),
        "{text}"
    );
    assert_eq!(asked.sampling.temperature, 1.0);
    assert_eq!(asked.sampling.top_k, 50);
    assert_eq!(asked.sampling.top_p, 0.8);
    assert_eq!(asked.sampling.repetition_penalty, 1.005);
    let room = fake::MAX_SEQUENCE_TOKENS - ids.len();
    assert_eq!(asked.max_new_tokens as usize, room.min(1024));
    assert_eq!(asked.stop_token_ids, fake::tokenizer().stop_token_ids());
}

#[tokio::test]
async fn what_the_caller_sets_reaches_the_leader() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let request = wire::ChatRequest {
        request_id: "mine".into(),
        model: "fake-vl".into(),
        sampling: Some(wire::SamplingParams {
            temperature: Some(0.0),
            top_k: Some(0),
            top_p: Some(1.0),
            repetition_penalty: Some(1.0),
            seed: Some(7),
            ..Default::default()
        }),
        stop: Some(wire::StopParams {
            max_tokens: Some(3),
            ignore_eos: true,
            ..Default::default()
        }),
        prompt: Some(wire::PromptParams {
            omit_default_system: true,
            ..Default::default()
        }),
        ..question("hi")
    };
    let mut answer = coordinator.chat(request).await.unwrap();
    let first = answer.message().await.unwrap().unwrap();
    assert_eq!(first.request_id, "mine");
    let asked = &cluster.group().asked()[0];
    assert_eq!(asked.request_id, "mine");
    assert_eq!(asked.sampling.temperature, 0.0);
    assert_eq!(asked.sampling.top_k, 0);
    assert_eq!(asked.sampling.seed, 7);
    assert_eq!(asked.max_new_tokens, 3);
    assert!(asked.stop_token_ids.is_empty());
}

#[tokio::test]
async fn requests_without_a_seed_get_different_ones() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    for _ in 0..2 {
        Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    }
    let asked = cluster.group().asked();
    assert_ne!(asked[0].sampling.seed, asked[1].sampling.seed);
    assert_ne!(asked[0].request_id, asked[1].request_id);
}

#[tokio::test]
async fn a_character_is_held_back_until_it_is_whole() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let ids = fake::encode("🙂");
    let mut steps = vec![];
    for id in &ids {
        steps.push(Step::Tokens(vec![*id]));
    }
    steps.push(Step::End(EndReason::Length));
    cluster.group().play(steps);
    let answer = Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    let texts: Vec<_> = answer
        .deltas
        .iter()
        .map(|delta| delta.text.as_str())
        .collect();
    assert_eq!(texts, ["", "", "", "🙂"]);
    assert_eq!(answer.finished().reason(), wire::FinishReason::Length);
}

#[tokio::test]
async fn a_stop_string_over_several_tokens_ends_the_answer_and_the_sequence() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.group().play([
        Step::Text("hello"),
        Step::Text(" world"),
        Step::Repeat("word ".into(), Duration::from_millis(10)),
    ]);
    let request = wire::ChatRequest {
        stop: Some(wire::StopParams {
            stop_strings: vec!["never".into(), "lo wor".into()],
            ..Default::default()
        }),
        ..question("hi")
    };
    let answer = Answer::read(coordinator.chat(request).await.unwrap()).await;
    assert_eq!(answer.text(), "hel");
    assert_eq!(answer.finished().reason(), wire::FinishReason::Stop);
    assert_eq!(answer.finished().stop_string, "lo wor");
    eventually("the sequence ends", || cluster.group().num_running() == 0).await;
}

#[tokio::test]
async fn the_least_busy_group_answers() {
    let cluster = FakeCluster::new(2, 1);
    let coordinator = Coordinator::over(&cluster).await;
    for group in &cluster.groups {
        group.play([Step::Text("hello"), Step::Repeat("word ".into(), PATIENCE)]);
    }
    let mut first = coordinator.chat(question("hi")).await.unwrap();
    next(&mut first, 0).await.unwrap();
    let mut second = coordinator.chat(question("hi")).await.unwrap();
    next(&mut second, 0).await.unwrap();
    let running: Vec<_> = cluster
        .groups
        .iter()
        .map(|group| group.num_running())
        .collect();
    assert_eq!(running, [1, 1]);
}
