//! What a request is answered does not depend on who else is there: every answer of a crowded server, short of memory and with
//! small steps, is the one that the request gets alone.

use std::{collections::BTreeMap, time::Duration};

use inkstone_proto::v1::{
    BeamParams, ChatRequest, ChatResponse, ChoiceList, Constraint, SamplingParams,
    chat_response::Event, chat_service_client::ChatServiceClient, constraint::Form,
};
use inkstone_tests::{
    client::{ask, assistant, connect, greedy, picture, text, user},
    pictures::stripes,
};
use tokio::{task::JoinSet, time::sleep};
use tonic::{Code, Streaming, transport::Channel};

use crate::cluster_fixture::{Served, small_model, tiny_model};

const REQUESTS: usize = 64;
const MAX_TOKENS: u32 = 24;

/// Token ids by answer, and positions found in the cache.
#[derive(Debug, Default, PartialEq)]
struct Answers {
    token_ids: BTreeMap<u32, Vec<u32>>,
    text: BTreeMap<u32, String>,
    cached: u32,
}

/// Asks until it is taken: pictures come faster than they are looked at.
async fn open(
    client: &mut ChatServiceClient<Channel>,
    request: &ChatRequest,
) -> Streaming<ChatResponse> {
    loop {
        match client.chat(request.clone()).await {
            Ok(response) => return response.into_inner(),
            Err(status) if status.code() == Code::ResourceExhausted => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(status) => panic!("{status:?}"),
        }
    }
}

async fn collect(mut client: ChatServiceClient<Channel>, request: ChatRequest) -> Answers {
    let mut stream = open(&mut client, &request).await;
    let mut answers = Answers::default();
    while let Some(response) = stream.message().await.expect("it goes on") {
        match response.event.expect("an event") {
            Event::Started(started) => answers.cached = started.cached_prompt_tokens,
            Event::Delta(delta) => {
                let ids = answers.token_ids.entry(delta.answer).or_default();
                ids.extend(delta.token_ids);
                *answers.text.entry(delta.answer).or_default() += &delta.text;
            }
            _ => {}
        }
    }
    answers
}

/// Numbers that look random and are the same in every run.
fn mixed(index: usize, salt: usize) -> usize {
    (index.wrapping_mul(0x9E37_79B9) ^ salt.wrapping_mul(0x85EB_CA6B)).wrapping_mul(0xC2B2_AE35)
        >> 7
}

/// One of many kinds of requests; some have a beginning in common.
fn request(index: usize) -> ChatRequest {
    let words = ["red", "7", "Kreis", "圆", "who", "is", "left", "of"];
    let length = 1 + mixed(index, 1) % 60;
    let question: Vec<&str> = (0..length)
        .map(|at| words[mixed(index / 3, at) % words.len()])
        .collect();
    let mut parts: Vec<_> = (0..mixed(index, 2) % 3)
        .map(|number| picture(stripes(mixed(index / 2, number) % 5)))
        .collect();
    parts.push(text(&question.join(" ")));
    let mut messages = vec![user(parts)];
    if index.is_multiple_of(5) {
        messages.push(assistant("It is."));
        messages.push(user(vec![text("Again?")]));
    }
    let mut request = greedy(messages, 1 + mixed(index, 4) as u32 % MAX_TOKENS);
    let seeded = SamplingParams {
        temperature: Some(0.9),
        top_k: Some(20),
        seed: Some(index as u64),
        ..SamplingParams::default()
    };
    match index % 8 {
        1 => request.sampling = Some(seeded),
        2 => {
            request.sampling = Some(SamplingParams {
                n: Some(3),
                presence_penalty: Some(0.5),
                ..seeded
            });
        }
        3 => {
            request.sampling = Some(SamplingParams {
                repetition_penalty: Some(1.2),
                frequency_penalty: Some(0.3),
                ..seeded
            });
        }
        4 => {
            request.sampling = None;
            request.beam = Some(BeamParams {
                width: 3,
                num_answers: Some(2),
                ..BeamParams::default()
            });
        }
        5 => {
            let choices = ["yes", "no", "a red circle"].map(str::to_owned).to_vec();
            let stop = request.stop.as_mut().expect("greedy sets it");
            (stop.ignore_eos, stop.max_tokens) = (false, Some(MAX_TOKENS));
            request.constraint = Some(Constraint {
                form: Some(Form::Choices(ChoiceList { choices })),
            });
        }
        _ => {}
    }
    request
}

async fn alone(address: &str) -> Vec<Answers> {
    let client = connect(address).await;
    let mut answers = Vec::with_capacity(REQUESTS);
    for index in 0..REQUESTS {
        answers.push(collect(client.clone(), request(index)).await);
    }
    answers
}

/// All at once, beside others that go away in the middle of their answers.
async fn in_company(address: &str) -> Vec<Answers> {
    let client = connect(address).await;
    let mut running = JoinSet::new();
    for index in 0..REQUESTS {
        let other = client.clone();
        running.spawn(async move { (index, collect(other, request(index)).await) });
        if index.is_multiple_of(4) {
            let mut fickle = client.clone();
            running.spawn(async move {
                let mut stream = open(&mut fickle, &request(index + REQUESTS)).await;
                for _ in 0..index % 7 {
                    let _ = stream.message().await;
                }
                (usize::MAX, Answers::default())
            });
        }
    }
    let mut answers: BTreeMap<usize, Answers> = BTreeMap::new();
    while let Some(done) = running.join_next().await {
        let (index, answer) = done.expect("it does not panic");
        answers.insert(index, answer);
    }
    answers.remove(&usize::MAX);
    answers.into_values().collect()
}

async fn same_in_company(model: &str, width: &str) {
    let quiet = Served::start(model, &["--tensor-parallel", width]);
    let alone = alone(&quiet.address).await;
    drop(quiet);
    // Room for a few requests at a time, and chunks that are no multiple of a block.
    let crowded = [
        "--tensor-parallel",
        width,
        "--kv-cache-tokens",
        "2304",
        "--max-step-tokens",
        "75",
    ];
    let crowded = Served::start(model, &crowded);
    let together = in_company(&crowded.address).await;
    assert_eq!(together.len(), REQUESTS);
    for (index, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert_eq!(together.token_ids, alone.token_ids, "request {index}");
        assert_eq!(together.text, alone.text, "request {index}");
    }
    let hits = together.iter().filter(|answers| answers.cached > 0);
    assert!(hits.count() > 0, "no prompt had its beginning in the cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_do_not_depend_on_company() {
    same_in_company(tiny_model(), "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_do_not_depend_on_company_on_two_ranks() {
    same_in_company(tiny_model(), "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_small_model_do_not_depend_on_company() {
    same_in_company(small_model(), "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_small_model_do_not_depend_on_company_on_two_ranks() {
    same_in_company(small_model(), "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_question_about_a_picture_computes_the_question_only() {
    let served = Served::start(tiny_model(), &[]);
    let mut client = connect(&served.address).await;
    let about = |seed: usize, question: &str| {
        greedy(vec![user(vec![picture(stripes(seed)), text(question)])], 4)
    };
    let first = ask(&mut client, about(1, "What is it?"))
        .await
        .expect("an answer");
    assert_eq!(first.started.cached_prompt_tokens, 0);
    let second = ask(&mut client, about(1, "Where?"))
        .await
        .expect("an answer");
    let pictures = second.started.picture_tokens;
    assert!(
        second.started.cached_prompt_tokens >= pictures,
        "{} positions of {pictures} of the picture were found",
        second.started.cached_prompt_tokens
    );
    // One pixel's difference is another picture.
    let mut other = stripes(1);
    *other.last_mut().expect("it has pixels") ^= 1;
    let request = greedy(vec![user(vec![picture(other), text("Where?")])], 4);
    let other = ask(&mut client, request).await.expect("an answer");
    assert!(other.started.cached_prompt_tokens < pictures);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_nothing() {
    let served = Served::start(tiny_model(), &[]);
    let client = connect(&served.address).await;
    let request = || {
        let question = "How many circles are there, and which of them is red? ".repeat(4);
        greedy(vec![user(vec![text(&question)])], 2)
    };
    let cached = async |tenant: &'static str| {
        let mut asked = tonic::Request::new(request());
        asked
            .metadata_mut()
            .insert("inkstone-tenant", tenant.parse().expect("ASCII"));
        let stream = client.clone().chat(asked).await.expect("it is taken");
        let answer = inkstone_tests::client::collect(stream.into_inner()).await;
        answer.expect("an answer").started.cached_prompt_tokens
    };
    assert_eq!(cached("one").await, 0);
    assert_eq!(cached("two").await, 0);
    assert!(cached("one").await > 0);
}
