//! How pictures come to vision workers and into prompts.

use super::*;
use crate::worker_client::{
    PlacedPicture, PromptPiece,
    fake::{self, CORRUPT, PICTURE_TOKENS},
};

fn with_pictures(pictures: &[&[u8]]) -> wire::ChatRequest {
    let mut parts: Vec<_> = pictures.iter().map(|data| picture_part(data)).collect();
    parts.push(text_part("what is this?"));
    conversation(vec![message(wire::Role::User, parts)])
}

fn pictures_asked_for(cluster: &FakeCluster, request: usize) -> Vec<PlacedPicture> {
    let asked = cluster.group().asked()[request].prompt.clone();
    let pieces = asked.iter();
    pieces
        .filter_map(|piece| match piece {
            PromptPiece::Picture(picture) => Some(picture.clone()),
            PromptPiece::Tokens(_) => None,
        })
        .collect()
}

#[tokio::test]
async fn pictures_count_in_the_prompt_and_are_named_by_their_worker() {
    let cluster = FakeCluster::new(1, 3);
    let coordinator = Coordinator::over(&cluster).await;
    let request = with_pictures(&[b"one", b"two"]);
    let answer = Answer::read(coordinator.chat(request).await.unwrap()).await;
    assert_eq!(answer.started.picture_tokens, 2 * PICTURE_TOKENS);
    assert_eq!(
        answer.finished().usage.unwrap().picture_tokens,
        2 * PICTURE_TOKENS
    );
    let placed = pictures_asked_for(&cluster, 0);
    assert_eq!(placed.len(), 2);
    for (picture, data) in placed.iter().zip(["one", "two"]) {
        let mut workers = cluster.vision_workers.iter();
        let worker = workers
            .find(|worker| worker.address == picture.worker)
            .unwrap();
        let mut uploads = worker.uploads().into_iter();
        assert!(uploads.any(|upload| upload.data == data && upload.hd_num == 0));
    }
}

#[tokio::test]
async fn the_same_picture_goes_to_the_same_worker() {
    let cluster = FakeCluster::new(1, 3);
    let coordinator = Coordinator::over(&cluster).await;
    for _ in 0..3 {
        let request = with_pictures(&[b"one"]);
        Answer::read(coordinator.chat(request).await.unwrap()).await;
    }
    let mut counts: Vec<_> = cluster
        .vision_workers
        .iter()
        .map(|worker| worker.uploads().len())
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 3]);
}

#[tokio::test]
async fn every_corrupt_picture_is_named() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let broken = [CORRUPT, b" more"].concat();
    let mut request = with_pictures(&[b"fine", CORRUPT]);
    request
        .messages
        .push(message(wire::Role::Assistant, vec![text_part("a cat")]));
    request.messages.push(message(
        wire::Role::User,
        vec![text_part("and this?"), picture_part(&broken)],
    ));
    let status = coordinator.refusal(request).await;
    check_error(&status, Code::InvalidArgument, "PICTURE_REFUSED");
    let paths = [
        "messages[0].parts[1].picture",
        "messages[2].parts[1].picture",
    ];
    assert_eq!(field_paths(&status), paths);
    assert!(
        status.message().contains("unexpected end of file"),
        "{status:?}"
    );
    assert!(cluster.group().asked().is_empty());
}

#[tokio::test]
async fn a_worker_that_is_away_is_passed_over() {
    let cluster = FakeCluster::new(1, 2);
    let coordinator = Coordinator::over(&cluster).await;
    let request = || with_pictures(&[b"one"]);
    Answer::read(coordinator.chat(request()).await.unwrap()).await;
    let first = pictures_asked_for(&cluster, 0)[0].worker.clone();
    let mut workers = cluster.vision_workers.iter();
    workers
        .find(|worker| worker.address == first)
        .unwrap()
        .set_away();
    Answer::read(coordinator.chat(request()).await.unwrap()).await;
    assert_ne!(pictures_asked_for(&cluster, 1)[0].worker, first);
}

#[tokio::test]
async fn without_a_vision_worker_pictures_are_unavailable_and_text_is_not() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.vision_workers[0].set_away();
    let status = coordinator.refusal(with_pictures(&[b"one"])).await;
    check_error(&status, Code::Unavailable, "VISION_UNAVAILABLE");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    Answer::read(coordinator.chat(question("hi")).await.unwrap())
        .await
        .finished();
}

#[tokio::test]
async fn evicted_features_are_put_again_only_so_often() {
    let cluster = FakeCluster::new(1, 1);
    let change = |config: &mut Config| config.limits.max_moves = 2;
    let coordinator = Coordinator::with(&cluster, change).await;
    let worker = &cluster.vision_workers[0];
    worker.evict_at_once();
    let status = coordinator.refusal(with_pictures(&[b"one"])).await;
    check_error(&status, Code::Unavailable, "VISION_UNAVAILABLE");
    assert_eq!(worker.uploads().len(), 3);
    assert_eq!(cluster.group().asked().len(), 3);
}

#[tokio::test]
async fn after_putting_evicted_features_again_the_answer_comes() {
    use crate::worker_client::{WorkerError, fake::Script};
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster
        .group()
        .script(Script::Refuse(WorkerError::FeaturesMissing));
    let answer = coordinator.chat(with_pictures(&[b"one"])).await.unwrap();
    assert_eq!(Answer::read(answer).await.text(), "hello");
    assert_eq!(cluster.vision_workers[0].uploads().len(), 2);
    // The leader may also see it after it took the sequence on.
    cluster
        .group()
        .play([fake::Step::Fail(WorkerError::FeaturesMissing)]);
    let answer = coordinator.chat(with_pictures(&[b"one"])).await.unwrap();
    assert_eq!(Answer::read(answer).await.text(), "hello");
    assert_eq!(cluster.vision_workers[0].uploads().len(), 4);
}
