//! Where pictures come from: a provider that speaks as the demo's service did, a library, the client; and what becomes of places when
//! a source goes away in the middle, or is none.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use inkstone_proto::v1::{
    ComposeRequest, PictureSource, ProvideCandidatesRequest, SearchImagesRequest,
    compose_event::Event,
};
use inkstone_tests::pictures::stripes;
use serde_json::json;
use tonic::Code;

use super::{
    client::{
        Told, assert_refused, assert_wrong, compose, compose_events, connect, follow,
        follow_and_provide, follow_until, get_picture, provided, request,
    },
    pictures::{drawn_library, import, run},
    scripted::{Asked, Model, Reply, Scripted, Step},
    web::{self, Answer, Web},
};

/// Three places, whose captions say which they are.
fn answer(asked: &Asked) -> Reply {
    match asked.step() {
        Step::Article => "Title\none\ntwo\nthree\nfour".into(),
        Step::Places => "<Seg1>，<Seg2>，<Seg4>".into(),
        Step::Caption(place) => format!("a red circle of place {place}, {}\"", "红".repeat(60))
            .as_str()
            .into(),
        Step::Choice => ": B".into(),
        Step::Edit => panic!("nothing is edited"),
    }
}

fn searched() -> ComposeRequest {
    ComposeRequest {
        picture_source: PictureSource::Search.into(),
        ..request("Write.")
    }
}

/// Names four pictures of its own for each search.
fn names_four(address: std::net::SocketAddr, search: usize) -> Answer {
    let numbers = || 4 * search..4 * search + 4;
    let urls = numbers().map(|number| format!("http://{address}/pictures/{number}.bmp"));
    let indices = numbers().map(|number| format!("index-{number}"));
    let body = json!({ "data": {
        "image_urls": urls.collect::<Vec<_>>(),
        "indices": indices.collect::<Vec<_>>(),
    } });
    Answer::Ok("application/json", body.to_string().into_bytes())
}

fn picture_at(path: &str) -> Option<Vec<u8>> {
    let number = path.strip_prefix("/pictures/")?.strip_suffix(".bmp")?;
    Some(stripes(number.parse().ok()?))
}

async fn with_provider(web: &Web, arguments: &[&str]) -> Scripted {
    let url = format!("http://{}/image/similar", web.address);
    let all = [&["--picture-provider", &*url], arguments].concat();
    Scripted::start(Model::small(), &all, answer).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_asks_a_provider_as_the_demo_did() {
    let searches = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&searches);
    let web = Web::start(move |asked, address| match &*asked.path {
        "/image/similar" => names_four(address, counted.fetch_add(1, Ordering::Relaxed)),
        // Some pictures are not there, are none, or lead inside.
        "/pictures/1.bmp" => Answer::Status(404, None),
        "/pictures/6.bmp" => Answer::Ok("image/bmp", b"not at all".to_vec()),
        "/pictures/7.bmp" => {
            let location = "http://169.254.169.254/latest/meta-data".to_owned();
            Answer::Status(302, Some(("Location", location)))
        }
        path => match picture_at(path) {
            Some(picture) => Answer::Ok("text/html", picture),
            None => Answer::Status(404, None),
        },
    })
    .await;
    let scripted = with_provider(&web, &["--allow-private-host", "127.0.0.1"]).await;
    let mut client = connect(&scripted.address).await;
    let events = compose_events(&mut client, searched()).await;
    let told = Told::of(&events);
    assert_eq!(told.selected.len(), 3, "{told:#?}");
    let indices = |place: u32| -> Vec<&str> {
        let found = told.candidates[&place].iter();
        found.map(|one| &*one.index).collect()
    };
    assert_eq!(indices(1), ["index-0", "index-2", "index-3"]);
    assert_eq!(indices(2), ["index-4", "index-5"]);
    assert_eq!(indices(4), ["index-8", "index-9", "index-10", "index-11"]);
    // The second of those that are there.
    let chosen = told.selected[&1].picture.clone().expect("a picture");
    assert_eq!(chosen.index, "index-2");
    assert_eq!(
        chosen.media_type, "image/bmp",
        "of the bytes, not of what is said"
    );
    assert!(chosen.source.contains("/pictures/2.bmp"), "{chosen:?}");
    let (_, data) = get_picture(&mut client, &events[0].article_id, &chosen.id)
        .await
        .expect("it is kept");
    assert_eq!(data, stripes(2));

    let asked = web.asked();
    let searches: Vec<&web::Asked> = asked.iter().filter(|it| it.method == "POST").collect();
    assert_eq!(searches.len(), 3, "one for each place");
    let mut excluded: Vec<String> = vec![];
    for (search, place) in searches.iter().zip([1, 2, 4]) {
        assert_eq!(search.path, "/image/similar");
        let says_json = search.header("content-type");
        assert!(says_json.is_some_and(|it| it.starts_with("application/json")));
        let body = search.json();
        let caption = body["caption"].as_str().expect("a caption");
        assert_eq!(caption.chars().count(), 53, "its first characters");
        assert!(caption.starts_with(&format!("a red circle of place {place}, 红")));
        assert_eq!(body["need_idxs"], true);
        let exclude: BTreeSet<&str> = body["exclude"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|index| index.as_str().expect("a string"))
            .collect();
        let offered = excluded.iter().map(|index| &**index);
        assert!(
            offered.into_iter().all(|index| exclude.contains(index)),
            "{body}"
        );
        excluded.extend(indices(place).into_iter().map(str::to_owned));
    }
}

/// It answers once, and breaks off, fails, or says nonsense from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_loses_the_places_that_are_left_when_a_provider_goes_away() {
    type Failure = fn() -> Answer;
    let failures: [(&str, Failure); 4] = [
        ("it breaks off", || Answer::Break),
        ("it fails", || Answer::Status(503, None)),
        ("it says nonsense", || {
            Answer::Ok("text/html", b"<html>".to_vec())
        }),
        ("it has moved inside", || {
            let location = "http://169.254.169.254/latest/meta-data".to_owned();
            Answer::Status(302, Some(("Location", location)))
        }),
    ];
    for (name, failure) in failures {
        let searches = AtomicUsize::new(0);
        let web = Web::start(move |asked, address| match picture_at(&asked.path) {
            Some(picture) => Answer::Ok("image/bmp", picture),
            None => match searches.fetch_add(1, Ordering::Relaxed) {
                0 => names_four(address, 0),
                _ => failure(),
            },
        })
        .await;
        let scripted = with_provider(&web, &["--allow-private-host", "127.0.0.1"]).await;
        let mut client = connect(&scripted.address).await;
        let told = compose(&mut client, searched()).await;
        assert_eq!(
            told.selected.keys().collect::<Vec<_>>(),
            [&1],
            "{name}: {told:#?}"
        );
        for place in [2, 4] {
            let dropped = &told.dropped[&place];
            assert_eq!(dropped.reason, "SOURCE_FAILED", "{name}");
            assert!(!dropped.text.is_empty(), "{name}: it says why");
        }
        assert_eq!(told.segments.len(), 5, "{name}: the text is whole");
    }
}

/// The provider is the operator's choice; the pictures that it names may not be inside without leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_fetches_nothing_from_private_addresses_without_leave() {
    let web = Web::start(|asked, address| match picture_at(&asked.path) {
        Some(picture) => Answer::Ok("image/bmp", picture),
        None => names_four(address, 0),
    })
    .await;
    let scripted = with_provider(&web, &[]).await;
    let mut client = connect(&scripted.address).await;
    let told = compose(&mut client, searched()).await;
    assert!(told.selected.is_empty(), "{told:#?}");
    assert_eq!(told.dropped.len(), 3, "{told:#?}");
    for dropped in told.dropped.values() {
        let is_reason = ["SOURCE_FAILED", "NO_CANDIDATES"].contains(&&*dropped.reason);
        assert!(is_reason, "{dropped:?}");
    }
    let asked = web.asked();
    assert!(asked.iter().all(|it| it.method == "POST"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_loses_the_places_that_are_left_when_a_library_goes_away() {
    let library = import(&drawn_library("a library that goes away"));
    let folder = library.path().to_owned();
    // When the second caption is asked for, the first search may run; when the third is, that of the second place may.
    let script = move |asked: &Asked| {
        if asked.step() == Step::Caption(4) {
            std::thread::sleep(Duration::from_millis(1500));
            for entry in fs::read_dir(&folder).expect("it is there") {
                let path = entry.expect("readable").path();
                let _ = match path.is_dir() {
                    true => fs::remove_dir_all(&path),
                    false => fs::remove_file(&path),
                };
            }
        }
        answer(asked)
    };
    let arguments = ["--library", library.location()];
    let scripted = Scripted::start(Model::small(), &arguments, script).await;
    let mut client = connect(&scripted.address).await;
    let told = compose(&mut client, searched()).await;
    let places: Vec<u32> = told.dropped.keys().copied().collect();
    assert!(places.contains(&4), "{told:#?}");
    assert!(told.selected.contains_key(&1), "{told:#?}");
    for dropped in told.dropped.values() {
        assert_eq!(dropped.reason, "SOURCE_FAILED", "{dropped:?}");
        assert!(!dropped.text.is_empty());
    }
    assert_eq!(told.segments.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_libraries_carry_authors_and_licences_and_offer_nothing_twice() {
    let folder = drawn_library("authors");
    let library = import(&folder);
    // Importing again adds nothing, and what is there is found in either language.
    let location = library.location();
    let from = folder.path().to_str().expect("UTF-8");
    run(&["library", "import", from, "--library", location]);
    let shown = run(&["library", "show", "--library", location]);
    assert!(shown.contains("192"), "{shown}");
    for caption in ["a blue star", "一个蓝色星形"] {
        let found = run(&["library", "search", "--library", location, caption]);
        assert!(found.contains("blue star"), "{found}");
    }
    let scripted = Scripted::start(Model::small(), &["--library", location], answer).await;
    let mut client = connect(&scripted.address).await;
    let told = compose(&mut client, searched()).await;
    assert_eq!(told.selected.len(), 3, "{told:#?}");
    let all: Vec<_> = told.candidates.values().flatten().collect();
    let ids: BTreeSet<&str> = all.iter().map(|one| &*one.index).collect();
    assert_eq!(ids.len(), all.len(), "none is offered twice");
    for one in all {
        assert_eq!((&*one.author, &*one.licence), ("Lin", "CC BY 4.0"));
        assert!(
            one.source.starts_with("https://pictures.example/"),
            "{one:?}"
        );
    }
    // For no article, the pictures come along.
    let search = SearchImagesRequest {
        caption: "黑色圆环".to_owned(),
        max_pictures: Some(2),
        ..SearchImagesRequest::default()
    };
    let found = client.search_images(search.clone()).await;
    let found = found.expect("there is a library").into_inner().pictures;
    assert_eq!(found.len(), 2);
    assert!(
        found
            .iter()
            .all(|one| one.caption.contains("black ring") && !one.data.is_empty())
    );
    let index = |number: usize| found[number].info.clone().expect("it says which").index;
    let others = SearchImagesRequest {
        exclude: vec![index(0), index(1)],
        ..search
    };
    let others = client.search_images(others).await;
    let others = others.expect("there is a library").into_inner().pictures;
    let others = others
        .iter()
        .map(|one| one.info.clone().expect("it says which").index);
    assert!(
        others
            .into_iter()
            .all(|other| other != index(0) && other != index(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_without_a_source_says_so() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let status = client.compose(searched()).await;
    let status = status.expect_err("there is none");
    assert_refused(&status, Code::FailedPrecondition, "NO_PICTURE_SOURCE");
    let search = SearchImagesRequest {
        caption: "a red circle".to_owned(),
        ..SearchImagesRequest::default()
    };
    let status = client.search_images(search).await;
    let status = status.expect_err("there is none");
    assert_refused(&status, Code::FailedPrecondition, "NO_PICTURE_SOURCE");
    // Where nothing is said it is text alone, with a word about it.
    let told = compose(&mut client, request("Write.")).await;
    assert_eq!(told.warning_codes(), ["NO_PICTURE_SOURCE"], "{told:#?}");
    assert!(told.places().is_empty() && told.segments.len() == 5);
    // Who wants none is told nothing.
    let none = ComposeRequest {
        picture_count: Some(0),
        ..request("Write.")
    };
    assert!(compose(&mut client, none).await.warnings.is_empty());
}

/// A client finds nothing, one picture twice, too many, rubbish, and pictures for places that are none.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_takes_from_a_client_what_is_of_use() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let of_client = || ComposeRequest {
        picture_source: PictureSource::Client.into(),
        ..request("Write.")
    };
    let events = follow_and_provide(&mut client, of_client(), |place, search| match place {
        1 => vec![],
        // One is there twice.
        2 => vec![
            provided(stripes(1), "b"),
            provided(stripes(1), "b"),
            provided(stripes(2), "d"),
        ],
        _ => {
            assert!(search.exclude.contains(&"b".to_owned()), "{search:?}");
            (10..30).map(|seed| provided(stripes(seed), "")).collect()
        }
    })
    .await;
    let told = Told::of(&events);
    assert_eq!(told.dropped[&1].reason, "NO_CANDIDATES");
    let found = told.candidates[&2].iter();
    let found: Vec<&str> = found.map(|one| &*one.index).collect();
    assert_eq!(found, ["b", "d"], "{told:#?}");
    assert_eq!(
        told.candidates[&4].len(),
        4,
        "no more than the letters A to D"
    );
    assert_eq!(told.selected[&2].candidate, 1);

    // For a place that nobody asked about, or not any more.
    let stream = client.compose(of_client()).await.expect("it is taken");
    let mut stream = stream.into_inner();
    let is_asked = |event: &Event| matches!(event, Event::CandidatesRequest(_));
    let events = follow_until(&mut stream, is_asked).await;
    let id = events[0].article_id.clone();
    let provide = |location: u32| ProvideCandidatesRequest {
        article_id: id.clone(),
        location,
        pictures: vec![provided(stripes(40 + location as usize), "")],
    };
    for location in [0, 3, 4, 99] {
        let status = client.provide_candidates(provide(location)).await;
        let status = status.expect_err("nobody asked");
        assert_refused(&status, Code::FailedPrecondition, "PICTURES_NOT_WANTED");
    }
    // What is no picture is refused by name, and others may come instead.
    for rubbish in [b"GIF89a and nothing".to_vec(), vec![]] {
        let mut broken = provide(1);
        broken.pictures.push(provided(rubbish, "a"));
        let status = client.provide_candidates(broken).await;
        assert_wrong(&status.expect_err("it is none"), "pictures[1]", "");
    }
    client.provide_candidates(provide(1)).await.expect("wanted");
    let status = client.provide_candidates(provide(1)).await;
    assert_refused(
        &status.expect_err("they are there"),
        Code::FailedPrecondition,
        "PICTURES_NOT_WANTED",
    );
    // The others are provided as they are asked for.
    let first = events.len() as u64;
    let rest = tokio::spawn(async move { follow(&mut stream, first).await });
    for location in [2, 4] {
        while client.provide_candidates(provide(location)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let rest = rest.await.expect("no panic");
    let told = Told::of(&[events, rest].concat());
    assert_eq!(told.selected.len(), 3);
}
