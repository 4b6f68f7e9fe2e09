//! A client whose worker is lost sees a pause: the same events, each token once, from wherever the answer goes on.

use super::*;
use crate::worker_client::{
    Constraint, Resumed, WorkerError,
    fake::{self, Script, Step, Tale},
};

/// Ways to lose a group.
fn losses() -> [WorkerError; 5] {
    [
        WorkerError::Unavailable("connection reset".into()),
        WorkerError::Silent("nothing for 2 s".into()),
        WorkerError::NotServing("the group is stopping".into()),
        WorkerError::EpochMismatch("another epoch".into()),
        WorkerError::FeaturesMissing,
    ]
}

/// Everything that a client sees, but for what differs from run to run.
#[derive(Debug, PartialEq)]
struct Seen {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    logprobs: Vec<Vec<Option<f32>>>,
    prompt_logprobs: Vec<(u32, u32)>,
    ends: Vec<wire::AnswerFinished>,
    finished: wire::Finished,
}

impl Seen {
    fn of(answer: &Answer) -> Self {
        let deltas = |index: u32| {
            let deltas = answer.deltas.iter();
            deltas.filter(move |delta| delta.answer == index)
        };
        let mut ends = answer.ends.clone();
        ends.sort_by_key(|end| end.answer);
        let prompt = answer.prompt_logprobs.iter().flat_map(|logprobs| {
            let positions = (logprobs.first..).zip(&logprobs.tokens);
            positions.map(|(position, info)| (position, info.token_id))
        });
        Self {
            texts: (0..4).map(|index| answer.text_of(index)).collect(),
            ids: (0..4)
                .map(|index| {
                    deltas(index)
                        .flat_map(|delta| delta.token_ids.clone())
                        .collect()
                })
                .collect(),
            logprobs: (0..4)
                .map(|index| {
                    let infos = deltas(index).flat_map(|delta| delta.logprobs.clone());
                    infos.map(|info| info.logprob).collect()
                })
                .collect(),
            prompt_logprobs: prompt.collect(),
            ends,
            finished: answer.finished().clone(),
        }
    }
}

/// Requests of all kinds, and how many events a group says for them.
fn requests() -> Vec<(&'static str, wire::ChatRequest)> {
    let sampled = |sampling| wire::ChatRequest {
        sampling: Some(sampling),
        ..question("hi")
    };
    let pictures = vec![
        picture_part(b"one"),
        picture_part(b"two"),
        text_part("what are these?"),
    ];
    vec![
        ("one", sampled(seeded_params())),
        (
            "several",
            sampled(wire::SamplingParams {
                n: Some(3),
                ..seeded_params()
            }),
        ),
        (
            "best of",
            sampled(wire::SamplingParams {
                n: Some(2),
                best_of: Some(3),
                ..seeded_params()
            }),
        ),
        (
            "log-probabilities",
            sampled(wire::SamplingParams {
                logprobs: true,
                prompt_logprobs: true,
                ..seeded_params()
            }),
        ),
        (
            "stop strings",
            wire::ChatRequest {
                stop: Some(wire::StopParams {
                    stop_strings: vec!["ld wo".into(), "zz".into()],
                    ..Default::default()
                }),
                ..sampled(wire::SamplingParams {
                    n: Some(2),
                    ..seeded_params()
                })
            },
        ),
        (
            "a form",
            wire::ChatRequest {
                constraint: Some(wire::Constraint {
                    form: Some(wire::constraint::Form::Regex(".*".into())),
                }),
                ..question("hi")
            },
        ),
        (
            "beams",
            wire::ChatRequest {
                beam: Some(wire::BeamParams {
                    width: 2,
                    ..Default::default()
                }),
                ..question("hi")
            },
        ),
        (
            "pictures",
            conversation(vec![message(wire::Role::User, pictures)]),
        ),
    ]
}

fn seeded_params() -> wire::SamplingParams {
    wire::SamplingParams {
        seed: Some(7),
        ..Default::default()
    }
}

fn tale() -> Tale {
    Tale::of(&["hello world word 🙂 hello", "word hello", "🙂 world"])
}

#[tokio::test]
async fn whenever_what_runs_it_is_lost_an_answer_is_what_it_would_have_been() {
    let cluster = FakeCluster::new(1, 1);
    let group = cluster.group();
    group.tell(tale());
    let change = |config: &mut Config| config.timeouts.recovery = PATIENCE;
    let coordinator = Coordinator::with(&cluster, change).await;
    for (kind, request) in requests() {
        let undisturbed = coordinator.chat(request.clone()).await.unwrap();
        let undisturbed = Seen::of(&Answer::read(undisturbed).await);
        for place in 0..20 {
            // Lost here, and once more a little later.
            let causes = losses();
            let num_asked = group.asked().len();
            let first = causes[place % causes.len()].clone();
            let second = causes[(place + 2) % causes.len()].clone();
            group.script(Script::TellUntil(place, first));
            group.script(Script::TellUntil(place % 3, second));
            let answer = coordinator.chat(request.clone()).await.unwrap();
            let answer = Answer::read(answer).await;
            assert_eq!(Seen::of(&answer), undisturbed, "{kind}, lost at {place}");
            let asked = group.asked().split_off(num_asked);
            let moves = answer.trailer("inkstone-moves").parse::<usize>().unwrap();
            assert_eq!(asked.len(), moves + 1, "{kind}, lost at {place}");
            for (index, asked) in asked.iter().enumerate() {
                assert_eq!(asked.first_in_line, index > 0);
                assert_eq!(asked.sampling, group.asked()[num_asked].sampling);
                if kind == "a form" {
                    let form = Constraint::Regex(".*".into());
                    assert_eq!(asked.sampling.constraint, Some(form));
                }
            }
            group.clear_scripts();
        }
    }
    assert_eq!(group.num_running(), 0);
}

#[tokio::test]
async fn another_group_goes_on_and_the_receipts_say_where() {
    let cluster = FakeCluster::new(2, 1);
    let coordinator = Coordinator::over(&cluster).await;
    for group in &cluster.groups {
        group.tell(Tale::of(&["hello world"]));
        group.play([Step::Text("hello"), Step::Pause(PATIENCE)]);
    }
    let mut answer = coordinator.chat(question("hi")).await.unwrap();
    let Some(Event::Started(started)) = next(&mut answer, 0).await.unwrap() else {
        panic!("the first event is Started");
    };
    next(&mut answer, 1).await.unwrap();
    let routing = started.routing.unwrap();
    let (lost, other) = match routing.group.as_str() {
        "0" => (0, 1),
        _ => (1, 0),
    };
    assert_eq!((routing.epoch, routing.moves), (1, 0));
    cluster.groups[other].clear_scripts();
    cluster.groups[lost].lose(WorkerError::Unavailable("killed".into()));
    cluster.groups[lost].set_away(true);
    let mut text = "hello".to_owned();
    let mut seq = 2;
    loop {
        match next(&mut answer, seq).await.unwrap() {
            Some(Event::Delta(delta)) => text += &delta.text,
            Some(Event::Finished(_)) => break,
            event => panic!("{event:?}"),
        }
        seq += 1;
    }
    assert_eq!(text, "hello world");
    assert_eq!(answer.message().await.unwrap(), None);
    let trailers = answer.trailers().await.unwrap().unwrap();
    assert_eq!(trailers.get("inkstone-group").unwrap(), &other.to_string());
    assert_eq!(trailers.get("inkstone-epoch").unwrap(), "1");
    assert_eq!(trailers.get("inkstone-moves").unwrap(), "1");
    let told = Resumed {
        branch: 0,
        ids: fake::encode("hello"),
        ended: false,
    };
    assert_eq!(cluster.groups[other].asked()[0].resumed, [told]);
    assert_eq!(
        cluster.groups[lost].num_running(),
        0,
        "the old attempt is dropped"
    );
}

#[tokio::test]
async fn where_there_is_no_group_a_running_answer_waits_for_one() {
    let cluster = FakeCluster::new(1, 1);
    let change = |config: &mut Config| config.timeouts.recovery = PATIENCE;
    let coordinator = Coordinator::with(&cluster, change).await;
    let group = cluster.group();
    group.tell(Tale::of(&["hello world"]));
    group.play([Step::Text("hello"), Step::Pause(PATIENCE)]);
    let mut answer = coordinator.chat(question("hi")).await.unwrap();
    for seq in 0..2 {
        next(&mut answer, seq).await.unwrap();
    }
    group.set_away(true);
    group.lose(WorkerError::Unavailable("killed".into()));
    // It comes back as another life, full at first.
    tokio::time::sleep(Duration::from_millis(700)).await;
    group.restart();
    group.script(Script::Refuse(WorkerError::Busy {
        message: "64 sequences wait".into(),
        retry_after: None,
    }));
    group.set_away(false);
    let Some(Event::Delta(delta)) = next(&mut answer, 2).await.unwrap() else {
        panic!("the answer goes on");
    };
    assert!(" world".starts_with(&delta.text), "{delta:?}");
    assert_eq!(group.asked().last().unwrap().epoch.0, 2);
}

#[tokio::test]
async fn past_the_time_to_recover_the_client_is_told_and_when_to_come_again() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let group = cluster.group();
    group.play([Step::Text("hello"), Step::Pause(PATIENCE)]);
    let answer = coordinator.chat(question("hi")).await.unwrap();
    let answer = tokio::spawn(Answer::read(answer));
    eventually("it runs", || group.num_running() == 1).await;
    group.set_away(true);
    group.lose(WorkerError::Unavailable("killed".into()));
    let answer = answer.await.unwrap();
    assert_eq!(answer.text(), "hello", "what was told stays");
    let status = answer.end.unwrap_err();
    check_error(&status, Code::Unavailable, "RECOVERY_FAILED");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
}

#[tokio::test]
async fn a_group_that_loses_every_attempt_is_not_asked_without_end() {
    let cluster = FakeCluster::new(1, 1);
    let change = |config: &mut Config| config.limits.max_moves = 3;
    let coordinator = Coordinator::with(&cluster, change).await;
    let group = cluster.group();
    for _ in 0..10 {
        let died = WorkerError::Unavailable("connection reset".into());
        group.play([Step::Event(started()), Step::Fail(died)]);
    }
    let answer = Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    let status = answer.end.unwrap_err();
    check_error(&status, Code::Unavailable, "RECOVERY_FAILED");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["moves"], "3");
    assert_eq!(group.asked().len(), 4);
}

fn started() -> crate::worker_client::GenerationEvent {
    crate::worker_client::GenerationEvent::Started { cached_tokens: 0 }
}

#[tokio::test]
async fn the_deadline_ends_the_wait_for_a_group() {
    let cluster = FakeCluster::new(1, 1);
    let change = |config: &mut Config| config.timeouts.recovery = PATIENCE;
    let coordinator = Coordinator::with(&cluster, change).await;
    let group = cluster.group();
    group.play([Step::Text("hello"), Step::Pause(PATIENCE)]);
    let request = with_deadline(question("hi"), Duration::from_secs(2));
    let answer = coordinator.chat(request).await.unwrap();
    let answer = tokio::spawn(Answer::read(answer));
    eventually("it runs", || group.num_running() == 1).await;
    group.set_away(true);
    group.lose(WorkerError::Unavailable("killed".into()));
    let status = answer.await.unwrap().end.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

#[tokio::test]
async fn a_request_whose_fault_is_its_own_is_not_moved() {
    let cluster = FakeCluster::new(2, 1);
    let coordinator = Coordinator::over(&cluster).await;
    for group in &cluster.groups {
        let fault = WorkerError::Faulty("logits are not finite".into());
        group.play([Step::Text("hello"), Step::Fail(fault)]);
    }
    let answer = Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    check_error(&answer.end.unwrap_err(), Code::Internal, "INTERNAL");
    let num_asked: usize = cluster.groups.iter().map(|group| group.asked().len()).sum();
    assert_eq!(num_asked, 1);
}

fn about_pictures() -> wire::ChatRequest {
    let parts = vec![picture_part(b"one"), picture_part(b"two"), text_part("?")];
    conversation(vec![message(wire::Role::User, parts)])
}

/// Begins an answer about pictures, and loses the group and the vision workers that hold them.
async fn losing_pictures(
    cluster: &FakeCluster,
    coordinator: &Coordinator,
) -> Streaming<wire::ChatResponse> {
    let group = cluster.group();
    group.tell(Tale::of(&["hello world"]));
    group.play([Step::Text("hello"), Step::Pause(PATIENCE)]);
    let mut answer = coordinator.chat(about_pictures()).await.unwrap();
    for seq in 0..2 {
        next(&mut answer, seq).await.unwrap();
    }
    // The request's task has seen the first tokens.
    tokio::time::sleep(Duration::from_millis(50)).await;
    for worker in &cluster.vision_workers {
        worker.evict_all();
    }
    group.restart();
    group.lose(WorkerError::Unavailable("killed".into()));
    answer
}

#[tokio::test]
async fn pictures_whose_worker_is_lost_are_put_again_in_the_middle_of_an_answer() {
    let cluster = FakeCluster::new(1, 2);
    let coordinator = Coordinator::over(&cluster).await;
    let mut answer = losing_pictures(&cluster, &coordinator).await;
    let Some(Event::Delta(delta)) = next(&mut answer, 2).await.unwrap() else {
        panic!("the answer goes on");
    };
    assert!(" world".starts_with(&delta.text), "{delta:?}");
    let workers = cluster.vision_workers.iter();
    let num_uploads: usize = workers.map(|worker| worker.uploads().len()).sum();
    assert_eq!(num_uploads, 4, "each twice");
}

#[tokio::test]
async fn past_the_room_for_pictures_only_their_loss_ends_an_answer() {
    let cluster = FakeCluster::new(1, 1);
    let change = |config: &mut Config| config.limits.max_kept_picture_bytes = 0;
    let coordinator = Coordinator::with(&cluster, change).await;
    let mut answer = losing_pictures(&cluster, &coordinator).await;
    let status = next(&mut answer, 2).await.unwrap_err();
    check_error(&status, Code::Unavailable, "VISION_UNAVAILABLE");
    assert!(
        status.message().contains("no room to keep them"),
        "{status:?}"
    );

    // Where the features are still there it goes on.
    let group = cluster.group();
    group.script(Script::TellUntil(
        1,
        WorkerError::Unavailable("killed".into()),
    ));
    let answer = coordinator.chat(about_pictures()).await.unwrap();
    let answer = Answer::read(answer).await;
    assert_eq!(answer.text(), "hello world");
    assert_eq!(answer.trailer("inkstone-moves"), "1");
}
