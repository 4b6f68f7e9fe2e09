//! A composition is a thing of its own: connections break, readers come back, go away for good, or end it; articles live for a time.

use std::{collections::BTreeSet, time::Duration};

use inkstone_cluster::{GroupId, LanguageGroup, Members};
use inkstone_coordinator::Config;
use inkstone_proto::v1::{
    ArticleFinishReason, CancelRequest, ComposeEvent, ComposeRequest, DeleteArticleRequest,
    GetArticleRequest, PictureSource, ProvideCandidatesRequest, ResumeRequest,
    compose_event::Event,
};
use inkstone_tests::pictures::stripes;
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{
    client::{
        Client, Told, article, assert_refused, compose, compose_events, connect, follow,
        follow_until, next, of_tenant, picture, provided, request, resume,
    },
    scripted::{Asked, Model, Reply, Scripted, Step},
};
use crate::cluster_fixture::{Served, small_model};

/// Long enough that every break falls into it.
const PAUSE: Duration = Duration::from_millis(5);

fn slow_article() -> String {
    let line =
        |number: usize| format!("Paragraph {number} of a text that takes its time. 慢慢地写。");
    let lines: Vec<String> = (0..6).map(line).collect();
    lines.join("\n")
}

/// One paragraph, longer than any test takes.
fn endless() -> Reply {
    Reply::SaySlowly("It takes its time. ".repeat(800), 8 * PAUSE)
}

fn slowly(asked: &Asked) -> Reply {
    match asked.step() {
        Step::Article => Reply::SaySlowly(slow_article(), PAUSE),
        Step::Places => "<Seg1>，<Seg2>，<Seg4>".into(),
        Step::Choice => Reply::SaySlowly(": A".into(), PAUSE),
        Step::Caption(_) | Step::Edit => "a caption\"".into(),
    }
}

fn with_uploads() -> ComposeRequest {
    ComposeRequest {
        pictures: (0..3).map(|seed| picture(stripes(seed))).collect(),
        ..request("Write slowly.")
    }
}

/// Reads with a connection that breaks again and again, after so many events each time.
async fn read_in_pieces(client: &mut Client, lengths: &[usize]) -> Vec<ComposeEvent> {
    let stream = client.compose(with_uploads()).await.expect("it is taken");
    let mut stream = stream.into_inner();
    let mut lengths = lengths.iter().cycle();
    let mut events: Vec<ComposeEvent> = vec![];
    loop {
        for _ in 0..*lengths.next().expect("it goes on for ever") {
            match next(&mut stream).await {
                Some(event) => events.push(event),
                None => return events,
            }
        }
        drop(stream);
        let again = ResumeRequest {
            article_id: events[0].article_id.clone(),
            sequence: events.len() as u64,
        };
        let resumed = client.resume(again).await.expect("it is kept");
        stream = resumed.into_inner();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_resumed_after_any_event_tells_the_same_events() {
    let scripted = Scripted::start(Model::small(), &[], slowly).await;
    let client = connect(&scripted.address).await;
    let mut running = JoinSet::new();
    // Where connections break is drawn; the first reader's never does.
    let draws: [&[usize]; 5] = [&[usize::MAX], &[1], &[2, 7, 1, 19], &[13], &[31, 3]];
    for lengths in draws {
        let mut client = client.clone();
        running.spawn(async move {
            let events = read_in_pieces(&mut client, lengths).await;
            let id = events[0].article_id.clone();
            let kept = resume(&mut client, &id, 0).await;
            assert_eq!(events, kept, "what was heard is what is kept");
            for from in [1, kept.len() / 2, kept.len() - 1] {
                let tail = resume(&mut client, &id, from as u64).await;
                assert_eq!(tail, kept[from..], "from {from} on");
            }
            Told::of(&events)
        });
    }
    let all = running.join_all().await;
    assert!(all.iter().all(|told| *told == all[0]), "{all:#?}");
    assert_eq!(all[0].selected.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn composition_of_the_small_model_is_resumed_word_for_word() {
    let served = Served::start(small_model(), &[]);
    let mut client = connect(&served.address).await;
    let whole = Told::of(&compose_events(&mut client, with_uploads()).await);
    let pieces = read_in_pieces(&mut client, &[3, 1, 11]).await;
    assert_eq!(Told::of(&pieces), whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_is_read_by_several_at_once_and_a_slow_one_holds_up_nobody() {
    let scripted = Scripted::start(Model::small(), &[], slowly).await;
    let mut client = connect(&scripted.address).await;
    let stream = client.compose(with_uploads()).await.expect("it is taken");
    let mut slow = stream.into_inner();
    let first = next(&mut slow).await.expect("an event");
    let id = first.article_id.clone();
    let fast = resume(&mut client, &id, 0).await;
    // The slow one has read one event, and hears all others.
    let rest = follow(&mut slow, 1).await;
    assert_eq!(fast[1..], rest);
    // Nothing comes after the last one.
    let after = ResumeRequest {
        article_id: id,
        sequence: fast.len() as u64,
    };
    let ended = timeout(Duration::from_secs(30), async {
        match client.resume(after).await {
            Ok(stream) => stream
                .into_inner()
                .message()
                .await
                .map(|event| event.is_none()),
            Err(status) => Err(status),
        }
    });
    match ended.await.expect("it does not wait for what never comes") {
        Ok(is_over) => assert!(is_over, "there is no such event"),
        Err(status) => assert!(
            matches!(status.code(), Code::OutOfRange | Code::InvalidArgument),
            "{status:?}"
        ),
    }
}

/// A coordinator in this process, with settings that no flag has.
struct Coordinator {
    address: String,
    shutdown: CancellationToken,
}

impl Coordinator {
    async fn start((language, vision): &(String, String), set: impl FnOnce(&mut Config)) -> Self {
        let group = LanguageGroup {
            id: GroupId::new("group-0"),
            leader: language.parse().expect("an address"),
            epoch: None,
        };
        let mut config = Config::for_members(Members {
            language_groups: vec![group],
            vision_workers: vec![vision.parse().expect("an address")],
        })
        .expect("they can be");
        set(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let serving = inkstone_coordinator::serve(config, listener, shutdown.clone(), ready);
        tokio::spawn(serving);
        is_ready.await.expect("it begins");
        Self { address, shutdown }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_that_nobody_reads_is_abandoned() {
    const ABANDON_AFTER: Duration = Duration::from_secs(1);
    let script = |asked: &Asked| match asked.step() {
        Step::Article => endless(),
        step => panic!("{step:?} is not asked"),
    };
    let scripted = Scripted::without_coordinator(Model::small(), script).await;
    let coordinator = Coordinator::start(&scripted.worker_addresses, |config| {
        config.compose.abandon_after = ABANDON_AFTER;
    })
    .await;
    let mut client = connect(&coordinator.address).await;
    let begin = async |client: &mut Client| {
        let stream = client.compose(request("Write.")).await;
        let mut stream = stream.expect("it is taken").into_inner();
        let is_text = |event: &Event| matches!(event, Event::TextDelta(_));
        let events = follow_until(&mut stream, is_text).await;
        (events[0].article_id.clone(), stream)
    };
    let (read, mut reader) = begin(&mut client).await;
    let (abandoned, gone) = begin(&mut client).await;
    assert_eq!(scripted.num_running(), 2);
    drop(gone);
    // The one that is read goes on all the while.
    let started = Instant::now();
    while scripted.num_running() > 1 {
        next(&mut reader).await.expect("it goes on");
        assert!(
            started.elapsed() < 30 * ABANDON_AFTER,
            "it is not abandoned"
        );
    }
    assert!(started.elapsed() >= ABANDON_AFTER / 2, "it was given time");
    let events = resume(&mut client, &abandoned, 0).await;
    let told = Told::of(&events);
    assert_eq!(told.finish_reason(), ArticleFinishReason::Cancelled);
    assert!(told.selected.is_empty() && told.error.is_none());
    let is_composing = article(&mut client, &read).await.is_composing;
    assert!(is_composing, "the other is not ended");
    // Who comes back in time keeps it alive.
    let (back, gone) = begin(&mut client).await;
    drop(gone);
    sleep(ABANDON_AFTER / 3).await;
    let again = ResumeRequest {
        article_id: back.clone(),
        sequence: 0,
    };
    let stream = client.resume(again).await.expect("it is kept");
    let mut stream = stream.into_inner();
    let started = Instant::now();
    while started.elapsed() < 2 * ABANDON_AFTER {
        next(&mut stream).await.expect("it goes on");
    }
}

async fn cancel(client: &mut Client, id: &str) {
    let cancel = CancelRequest {
        article_id: id.to_owned(),
    };
    client.cancel(cancel).await.expect("it is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_is_cancelled_in_every_stage_and_what_is_there_is_kept() {
    // Each instruction hangs in the stage that it names.
    let script = |asked: &Asked| {
        let hangs = |stage: &str| asked.text.contains(&format!("Hang in {stage}."));
        match asked.step() {
            Step::Article if hangs("article") => Reply::Hang,
            Step::Article if asked.text.contains("Hang in the middle") => {
                Reply::SaySlowly(slow_article().repeat(9), Duration::from_millis(20))
            }
            // What hangs later is told to it by the text.
            Step::Article => {
                let (_, rest) = asked.text.rsplit_once("Hang in ").expect("it says where");
                let (stage, _) = rest.split_once('.').expect("it says where");
                format!("Hang in {stage}.\none\ntwo\nthree").as_str().into()
            }
            Step::Places if hangs("places") => Reply::Hang,
            Step::Places => "<Seg1>，<Seg3>".into(),
            Step::Caption(3) if hangs("captions") => Reply::Hang,
            Step::Caption(_) => "a caption\"".into(),
            Step::Choice if hangs("choices") && asked.text.contains("three") => Reply::Hang,
            Step::Choice => ": B".into(),
            Step::Edit => panic!("nothing is edited"),
        }
    };
    let scripted = Scripted::start(Model::small(), &[], script).await;
    let mut client = connect(&scripted.address).await;
    for stage in [
        "article",
        "the middle",
        "places",
        "captions",
        "searches",
        "choices",
    ] {
        let request = ComposeRequest {
            picture_source: PictureSource::Client.into(),
            ..request(&format!("Hang in {stage}."))
        };
        let stream = client.compose(request).await.expect("it is taken");
        let mut stream = stream.into_inner();
        let mut events: Vec<ComposeEvent> = vec![];
        let is_due = |events: &[ComposeEvent]| {
            let num = |is_it: fn(&Event) -> bool| {
                let events = events.iter().filter_map(|event| event.event.as_ref());
                events.filter(|event| is_it(event)).count()
            };
            match stage {
                "article" => num(|event| matches!(event, Event::Accepted(_))) > 0,
                "the middle" => num(|event| matches!(event, Event::SegmentClosed(_))) > 1,
                "places" => num(|event| matches!(event, Event::ArticleDone(_))) > 0,
                "searches" => {
                    num(|event| matches!(event, Event::CandidatesRequest(_))) > 1
                        && num(|event| matches!(event, Event::ImageSelected(_))) > 0
                }
                _ => num(|event| matches!(event, Event::ImageSelected(_))) > 0,
            }
        };
        while !is_due(&events) {
            let event = next(&mut stream).await.expect("it goes on");
            if let Some(Event::CandidatesRequest(search)) = &event.event
                && !(stage == "searches" && search.location == 3)
            {
                let first = search.location as usize * 4;
                let provide = ProvideCandidatesRequest {
                    article_id: event.article_id.clone(),
                    location: search.location,
                    pictures: (first..first + 3)
                        .map(|seed| provided(stripes(seed), ""))
                        .collect(),
                };
                client.provide_candidates(provide).await.expect("wanted");
            }
            events.push(event);
        }
        let id = events[0].article_id.clone();
        if stage == "choices" {
            // Its candidates have to be there for the other choice to run.
            while events.iter().all(|event| {
                !matches!(&event.event, Some(Event::Candidates(found)) if found.location == 3)
            }) {
                let event = next(&mut stream).await.expect("it goes on");
                if let Some(Event::CandidatesRequest(search)) = &event.event {
                    let provide = ProvideCandidatesRequest {
                        article_id: id.clone(),
                        location: search.location,
                        pictures: vec![provided(stripes(50), ""), provided(stripes(51), "")],
                    };
                    client.provide_candidates(provide).await.expect("wanted");
                }
                events.push(event);
            }
        }
        cancel(&mut client, &id).await;
        let first = events.len() as u64;
        events.extend(follow(&mut stream, first).await);
        let told = Told::of(&events);
        scripted.wait_until_idle().await;
        match stage {
            "article" => {
                let error = told.error.expect("there is nothing");
                assert_eq!(error.code, "CANCELLED");
            }
            "the middle" => {
                assert_eq!(told.finish_reason(), ArticleFinishReason::Cancelled);
                assert!(told.segments.len() >= 2 && told.places().is_empty());
            }
            "places" => {
                assert_eq!(told.finish_reason(), ArticleFinishReason::Stop);
                assert!(told.selected.is_empty());
            }
            _ => {
                let selected: Vec<u32> = told.selected.keys().copied().collect();
                assert_eq!(selected, [1], "{stage}: {told:#?}");
                assert_eq!(told.dropped[&3].reason, "CANCELLED", "{stage}");
            }
        }
        // Once more changes nothing.
        cancel(&mut client, &id).await;
        assert_eq!(resume(&mut client, &id, 0).await, events);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_is_forgotten_after_its_time_unless_it_is_touched() {
    let script = |asked: &Asked| match asked.step() {
        Step::Article => "Title\none".into(),
        step => panic!("{step:?} is not asked"),
    };
    let scripted = Scripted::start(Model::small(), &["--article-ttl", "2"], script).await;
    let mut client = connect(&scripted.address).await;
    let text_only = || ComposeRequest {
        picture_count: Some(0),
        ..request("Write.")
    };
    let events = compose_events(&mut client, text_only()).await;
    let told = Told::of(&events);
    assert_eq!(told.accepted.expires_after_seconds, 2);
    let left_alone = events[0].article_id.clone();
    let events = compose_events(&mut client, text_only()).await;
    let touched = events[0].article_id.clone();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        article(&mut client, &touched).await;
        sleep(Duration::from_millis(300)).await;
    }
    let request = GetArticleRequest {
        article_id: left_alone.clone(),
    };
    let status = client.get_article(request).await;
    assert_refused(
        &status.expect_err("it is forgotten"),
        Code::NotFound,
        "ARTICLE_NOT_FOUND",
    );
    let request = ResumeRequest {
        article_id: left_alone,
        sequence: 0,
    };
    let status = client.resume(request).await;
    assert_refused(
        &status.expect_err("it is forgotten"),
        Code::NotFound,
        "ARTICLE_NOT_FOUND",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_articles_of_one_tenant_take_no_room_from_another() {
    let script = |_: &Asked| "Title\none".into();
    let scripted = Scripted::start(Model::small(), &["--max-articles", "16"], script).await;
    let mut client = connect(&scripted.address).await;
    let mut ids = vec![];
    let status = loop {
        let text_only = ComposeRequest {
            picture_count: Some(0),
            ..request("Write.")
        };
        match client.compose(of_tenant(text_only, "greedy")).await {
            Ok(stream) => {
                let events = follow(&mut stream.into_inner(), 0).await;
                ids.push(events[0].article_id.clone());
            }
            Err(status) => break status,
        }
        assert!(ids.len() < 16, "one tenant has all of them");
    };
    assert_refused(&status, Code::ResourceExhausted, "ARTICLES_FULL");
    assert!(!ids.is_empty());
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    let told = compose(
        &mut client,
        ComposeRequest {
            picture_count: Some(0),
            ..request("Write.")
        },
    );
    assert_eq!(told.await.segments, ["Title", "one"], "another has room");
    // Who makes room has it.
    let delete = DeleteArticleRequest {
        article_id: ids[0].clone(),
    };
    let deleted = client.delete_article(of_tenant(delete, "greedy")).await;
    deleted.expect("it is there");
    let text_only = ComposeRequest {
        picture_count: Some(0),
        ..request("Write.")
    };
    let stream = client.compose(of_tenant(text_only, "greedy")).await;
    follow(&mut stream.expect("there is room").into_inner(), 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_deleted_while_it_runs_ends_and_frees_its_place() {
    let script = |_: &Asked| endless();
    let scripted = Scripted::start(Model::small(), &[], script).await;
    let mut client = connect(&scripted.address).await;
    let stream = client.compose(request("Write.")).await;
    let mut stream = stream.expect("it is taken").into_inner();
    let is_text = |event: &Event| matches!(event, Event::TextDelta(_));
    let events = follow_until(&mut stream, is_text).await;
    let id = events[0].article_id.clone();
    let delete = DeleteArticleRequest {
        article_id: id.clone(),
    };
    client.delete_article(delete).await.expect("it is there");
    scripted.wait_until_idle().await;
    // The stream ends, however it says so.
    let ended = timeout(Duration::from_secs(30), async {
        while let Ok(Some(_)) = stream.message().await {}
    });
    ended.await.expect("it ends");
    let request = GetArticleRequest { article_id: id };
    let status = client.get_article(request).await;
    assert_refused(
        &status.expect_err("it is gone"),
        Code::NotFound,
        "ARTICLE_NOT_FOUND",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_finishes_while_its_coordinator_drains() {
    let mut scripted = Scripted::start(Model::small(), &[], slowly).await;
    let mut client = connect(&scripted.address).await;
    let mut other = connect(&scripted.address).await;
    let stream = client.compose(with_uploads()).await.expect("it is taken");
    let mut stream = stream.into_inner();
    let is_text = |event: &Event| matches!(event, Event::TextDelta(_));
    let mut events = follow_until(&mut stream, is_text).await;
    let mut coordinator = scripted.coordinator.take().expect("it runs");
    coordinator.terminate();
    let started = Instant::now();
    // It may take a moment to hear of the signal.
    let status = loop {
        match other.compose(request("Write.")).await {
            Err(status) => break status,
            Ok(_) => assert!(started.elapsed() < Duration::from_secs(10)),
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let first = events.len() as u64;
    events.extend(follow(&mut stream, first).await);
    let told = Told::of(&events);
    assert_eq!(told.segments.len(), 6);
    drop((stream, client, other));
    let ended = coordinator.wait_for_end(Duration::from_secs(60));
    assert!(ended.success());
}
