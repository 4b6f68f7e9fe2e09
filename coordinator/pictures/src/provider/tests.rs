use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::fetcher::tests::{
    local_fetcher,
    server::{Server, answer, png},
};

fn provider(endpoint: &Server) -> HttpProvider {
    let settings = ProviderSettings {
        answer_timeout: Duration::from_secs(5),
        ..ProviderSettings::default()
    };
    let fetcher = Arc::new(local_fetcher());
    HttpProvider::new(&endpoint.url("image/similar"), fetcher, settings).expect("an endpoint")
}

fn search(exclude: &[&str], max_pictures: usize) -> Search {
    Search {
        caption: "a wooden bridge over a stream".to_owned(),
        exclude: exclude.iter().map(|index| (*index).to_owned()).collect(),
        max_pictures,
    }
}

/// An endpoint that offers pictures `(index, address)`.
async fn offering(offers: &[(Value, String)]) -> Server {
    let (indices, urls): (Vec<_>, Vec<_>) = offers.iter().cloned().unzip();
    let body = json!({"data": {"image_urls": urls, "indices": indices}});
    Server::answering(answer("200 OK", &[], body.to_string().as_bytes())).await
}

/// `/SIDE` is a square picture of that side; everything else is not there. Tells how many were asked for at once.
async fn gallery() -> (Server, Arc<AtomicUsize>) {
    let most = Arc::new(AtomicUsize::new(0));
    let (running, shared) = (Arc::new(AtomicUsize::new(0)), most.clone());
    let server = Server::start(move |mut connection, question| {
        let (running, most) = (running.clone(), shared.clone());
        async move {
            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            let path = question.split(' ').nth(1).expect("a path");
            let answer = match path.trim_start_matches('/').parse() {
                Ok(side) => answer("200 OK", &[], &png(side, side)),
                Err(_) => answer("404 Not Found", &[], b"no"),
            };
            let _ = connection.write_all(&answer).await;
        }
    })
    .await;
    (server, most)
}

fn indices(found: &[FoundPicture]) -> Vec<&str> {
    found.iter().map(|picture| &*picture.index).collect()
}

#[tokio::test]
async fn what_is_found_says_where_it_is_from() {
    let (gallery, _) = gallery().await;
    let endpoint = offering(&[
        (json!(12), gallery.url("3")),
        (json!("b"), gallery.url("5")),
    ])
    .await;
    let found = provider(&endpoint)
        .search(&search(&["7", "c"], 4))
        .await
        .expect("pictures");
    let first = FoundPicture {
        index: "12".to_owned(),
        data: png(3, 3).into(),
        media_type: "image/png".to_owned(),
        caption: String::new(),
        source: Some(gallery.url("3")),
        author: None,
        licence: None,
    };
    assert_eq!(found[0], first);
    assert_eq!(indices(&found), ["12", "b"]);
    let asked = endpoint.asked.lock().expect("a log")[0].clone();
    let (head, body) = asked.split_once("\r\n\r\n").expect("a body");
    assert!(
        head.starts_with("POST /image/similar HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.to_lowercase()
            .contains("content-type: application/json")
    );
    assert_eq!(
        serde_json::from_str::<Value>(body).expect("JSON"),
        json!({
            "caption": "a wooden bridge over a stream",
            "exclude": [7, "c"],
            "need_idxs": true,
        })
    );
}

#[tokio::test]
async fn pictures_that_fail_are_skipped_and_the_next_take_their_place() {
    let (gallery, _) = gallery().await;
    let endpoint = offering(&[
        (json!(1), gallery.url("gone")),
        (json!(2), gallery.url("2")),
        // Where the provider may point, but nobody goes.
        (
            json!(3),
            "http://169.254.169.254/latest/meta-data/".to_owned(),
        ),
        (json!(4), "file:///etc/passwd".to_owned()),
        (json!(5), String::new()),
        (json!(6), gallery.url("6")),
        (json!(7), gallery.url("7")),
        (json!(8), gallery.url("8")),
    ])
    .await;
    let found = provider(&endpoint).search(&search(&[], 3)).await;
    assert_eq!(indices(&found.expect("pictures")), ["2", "6", "7"]);
}

#[tokio::test]
async fn no_picture_at_all_is_an_answer() {
    let endpoint = offering(&[]).await;
    let found = provider(&endpoint).search(&search(&[], 4)).await;
    assert_eq!(found, Ok(Vec::new()));
    // What the caller excludes is none that it named.
    let endpoint = offering(&[(json!(1), "http://10.0.0.1/".to_owned())]).await;
    let found = provider(&endpoint).search(&search(&["1"], 4)).await;
    assert_eq!(found, Ok(Vec::new()));
}

#[tokio::test]
async fn pictures_that_all_fail_are_no_answer_and_nothing_is_told_of_why() {
    let private = "http://10.0.0.1/".to_owned();
    let endpoint = offering(&[(json!(1), private.clone()), (json!(2), private)]).await;
    let found = provider(&endpoint).search(&search(&[], 4)).await;
    let error = found.expect_err("none came");
    let wanted = "picture source HTTP provider cannot be reached: none of the 2 pictures that it named could be fetched";
    assert_eq!(error.to_string(), wanted);
}

#[tokio::test]
async fn four_are_fetched_at_a_time_and_no_more_than_wanted() {
    let (gallery, most) = gallery().await;
    let offers: Vec<_> = (1..=12)
        .map(|side| (json!(side), gallery.url(&side.to_string())))
        .collect();
    let endpoint = offering(&offers).await;
    let found = provider(&endpoint).search(&search(&[], 6)).await;
    assert_eq!(
        indices(&found.expect("pictures")),
        ["1", "2", "3", "4", "5", "6"]
    );
    assert_eq!(most.load(Ordering::SeqCst), 4);
    assert_eq!(gallery.num_connections(), 6);
}

#[tokio::test]
async fn what_is_excluded_or_offered_twice_comes_once_or_never() {
    let (gallery, _) = gallery().await;
    let offers = [7, 2, 2, 3].map(|side| (json!(side), gallery.url(&side.to_string())));
    let endpoint = offering(&offers).await;
    let found = provider(&endpoint).search(&search(&["7"], 4)).await;
    assert_eq!(indices(&found.expect("pictures")), ["2", "3"]);
}

#[track_caller]
fn check_reason(found: &Result<Vec<FoundPicture>, SourceError>, wanted: &str) {
    let error = found.as_ref().expect_err(wanted).to_string();
    assert!(error.contains(wanted), "{error}, wanted {wanted}");
    assert!(!error.contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_answers_otherwise_is_unavailable() {
    for (answer, wanted) in [
        (answer("500 Oh", &[], b""), "wanted status 200, found 500"),
        (
            answer("302 Found", &[("Location", "http://10.0.0.1/")], b""),
            "wanted status 200, found 302",
        ),
        (
            answer("200 OK", &[], b"<html>"),
            "wanted JSON with data.image_urls",
        ),
        (
            answer(
                "200 OK",
                &[],
                br#"{"data":{"image_urls":["a"],"indices":[]}}"#,
            ),
            "wanted as many data.indices as data.image_urls, found 0 and 1",
        ),
        (
            answer("200 OK", &[("Content-Encoding", "gzip")], b"\x1f\x8b"),
            "without content encoding, found \"gzip\"",
        ),
        (
            answer("200 OK", &[], &vec![b' '; (1 << 20) + 1]),
            "body has 1048577 bytes, limit is 1048576",
        ),
        (b"220 hello\r\n".to_vec(), "not HTTP/1.1"),
    ] {
        let endpoint = Server::answering(answer).await;
        let found = provider(&endpoint).search(&search(&[], 4)).await;
        check_reason(&found, wanted);
    }
    let endpoint = Server::answering(Vec::new()).await;
    let provider = provider(&endpoint);
    drop(endpoint);
    let found = provider.search(&search(&[], 4)).await;
    check_reason(&found, "no connection to its endpoint");
}

#[tokio::test]
async fn an_endpoint_that_falls_silent_is_left() {
    let endpoint = Server::start(|connection, _| async move {
        std::future::pending::<()>().await;
        drop(connection);
    })
    .await;
    let mut provider = provider(&endpoint);
    provider.settings.answer_timeout = Duration::from_millis(200);
    let found = provider.search(&search(&[], 4)).await;
    check_reason(&found, "took longer than 200ms");
}

/// A slow picture costs itself, not those that came.
#[tokio::test]
async fn what_came_in_time_counts() {
    let (gallery, _) = gallery().await;
    let silent = Server::start(|connection, _| async move {
        std::future::pending::<()>().await;
        drop(connection);
    })
    .await;
    let endpoint = offering(&[
        (json!(1), silent.url("")),
        (json!(2), gallery.url("2")),
        (json!(3), gallery.url("3")),
    ])
    .await;
    let mut provider = provider(&endpoint);
    provider.settings.pictures_timeout = Duration::from_secs(1);
    let found = provider.search(&search(&[], 3)).await;
    assert_eq!(indices(&found.expect("pictures")), ["2", "3"]);
}

#[test]
fn an_endpoint_must_be_a_url_without_credentials() {
    for wrong in ["", "similar", "ftp://host/", "http://me:secret@host/"] {
        let fetcher = Arc::new(local_fetcher());
        assert!(HttpProvider::new(wrong, fetcher, ProviderSettings::default()).is_err());
    }
}
