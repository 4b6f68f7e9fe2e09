//! The same request with the same seed gives the same article: on one rank and on two, alone and under load.

use inkstone_proto::v1::{ComposeRequest, PictureSource, StepOrder};
use inkstone_tests::{
    client::{ask, connect as connect_to_chat, greedy as greedy_chat, text, user},
    pictures::stripes,
};
use tokio::task::JoinSet;

use super::{
    client::{Client, Told, compose, connect, greedy, picture, request},
    pictures::{drawn_library, import},
};
use crate::cluster_fixture::{Served, small_model};

/// Requests of every kind.
fn requests() -> Vec<ComposeRequest> {
    let search = |request: ComposeRequest| ComposeRequest {
        picture_source: PictureSource::Search.into(),
        ..request
    };
    let outline = "Write an article about the garden from this outline:\n1. a red circle\n2. a white ring\n3. an orange star";
    vec![
        search(request(outline)),
        search(ComposeRequest {
            seed: Some(7),
            picture_count: Some(2),
            captions: StepOrder::AtOnce.into(),
            choices: StepOrder::AtOnce.into(),
            ..request("写一篇关于公园的文章，共三段。")
        }),
        ComposeRequest {
            pictures: (0..3).map(|seed| picture(stripes(seed))).collect(),
            seed: Some(11),
            ..request("Write an article with 4 paragraphs about the pictures.")
        },
        ComposeRequest {
            num_beams: Some(3),
            max_tokens: Some(120),
            ..search(request(
                "Write an article about the market with 2 paragraphs.",
            ))
        },
        ComposeRequest {
            with_meta: true,
            picture_count: Some(0),
            ..request("以“港口的一天”为题写一篇文章，共两段，写到一个红色圆形。")
        },
        search(greedy(
            "Write an article about the school with three paragraphs.",
        )),
    ]
}

async fn alone(client: &mut Client) -> Vec<Told> {
    let mut all = vec![];
    for request in requests() {
        all.push(compose(client, request).await);
    }
    all
}

/// All at once and twice, beside people who chat.
async fn under_load(address: &str) -> Vec<(usize, Told)> {
    let client = connect(address).await;
    let chat = connect_to_chat(address).await;
    let mut company = JoinSet::new();
    for number in 0..16 {
        let mut chat = chat.clone();
        company.spawn(async move {
            let question = format!(
                "Question {number}: what is it? {}",
                "word ".repeat(number * 9)
            );
            let request = greedy_chat(vec![user(vec![text(&question)])], 40);
            ask(&mut chat, request).await.expect("an answer");
        });
    }
    let mut running = JoinSet::new();
    for _ in 0..2 {
        for (number, request) in requests().into_iter().enumerate() {
            let mut client = client.clone();
            running.spawn(async move { (number, compose(&mut client, request).await) });
        }
    }
    let all = running.join_all().await;
    company.join_all().await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn composition_is_repeated_on_one_rank_and_on_two_alone_and_under_load() {
    let library = import(&drawn_library("replay"));
    let mut by_width = vec![];
    for width in ["1", "2"] {
        let arguments = ["--tensor-parallel", width, "--dtype", "f32", "--library"];
        let arguments = [&arguments[..], &[library.location()]].concat();
        let served = Served::start(small_model(), &arguments);
        let mut client = connect(&served.address).await;
        let first = alone(&mut client).await;
        for (number, told) in first.iter().enumerate() {
            assert!(told.error.is_none(), "request {number}: {told:#?}");
        }
        let loaded = under_load(&served.address).await;
        assert_eq!(loaded.len(), 2 * first.len());
        for (number, told) in loaded {
            assert_eq!(
                told, first[number],
                "request {number}, {width} ranks, under load"
            );
        }
        by_width.push(first);
    }
    let [one, two] = &by_width[..] else {
        unreachable!("two widths")
    };
    for (number, (one, two)) in one.iter().zip(two).enumerate() {
        assert_eq!(one, two, "request {number} on one rank and on two");
    }
    // They are articles of their own.
    let texts: std::collections::BTreeSet<&str> = one.iter().map(|told| &*told.text).collect();
    assert_eq!(texts.len(), one.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn composition_seeds_are_told_and_the_references_is_the_default() {
    let served = Served::start(small_model(), &[]);
    let mut client = connect(&served.address).await;
    let mut articles = vec![];
    for seed in [1, 1] {
        let request = ComposeRequest {
            seed: Some(seed),
            picture_count: Some(0),
            ..request("Write an article about the bridge with five paragraphs.")
        };
        let told = compose(&mut client, request).await;
        assert_eq!(told.accepted.seed, seed);
        articles.push(told.segments);
    }
    assert_eq!(articles[0], articles[1]);
    let request = ComposeRequest {
        picture_count: Some(0),
        ..request("Write an article about the bridge with five paragraphs.")
    };
    let told = compose(&mut client, request).await;
    assert_eq!(told.accepted.seed, 8909, "the reference's");
}
