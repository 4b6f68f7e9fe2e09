//! What servers may answer, and what they may not.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    server::{Server, answer, png},
    *,
};
use crate::header::PictureFault;

async fn fetched(answer: Vec<u8>) -> Result<FetchedPicture, FetchError> {
    let server = Server::answering(answer).await;
    local_fetcher().get_picture(&server.url("a.png")).await
}

#[tokio::test]
async fn a_picture_comes_with_type_and_size() {
    let data = png(31, 17);
    let server = Server::answering(answer("200 OK", &[], &data)).await;
    let url = server.url("a/b.png?c=d#part");
    let picture = local_fetcher().get_picture(&url).await.expect("a picture");
    assert_eq!(picture.data, data);
    assert_eq!(picture.header.media_type, "image/png");
    assert_eq!((picture.header.width, picture.header.height), (31, 17));
    let asked = server.asked.lock().expect("a log")[0].to_lowercase();
    assert!(
        asked.starts_with("get /a/b.png?c=d http/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.contains("accept-encoding: identity\r\n"), "{asked}");
    for unwanted in ["cookie", "referer", "authorization", "forwarded"] {
        assert!(!asked.contains(unwanted), "{asked}");
    }
}

#[tokio::test]
async fn bodies_in_chunks_and_to_the_end_of_the_connection_are_read() {
    let data = png(4, 4);
    let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for piece in data.chunks(7) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
    assert_eq!(fetched(chunked).await.expect("chunks").data, data);
    let to_the_end = [b"HTTP/1.0 200 OK\r\n\r\n", &data[..]].concat();
    assert_eq!(fetched(to_the_end).await.expect("all").data, data);
}

#[tokio::test]
async fn the_bytes_say_what_a_body_is_and_not_its_declared_type() {
    let page = answer(
        "200 OK",
        &[("Content-Type", "image/png")],
        b"<!doctype html><html>",
    );
    let error = fetched(page).await.expect_err("a page");
    assert!(
        matches!(
            error,
            FetchError::Picture(PictureFault::UnknownFormat { .. })
        ),
        "{error}"
    );
    let declared_a_page = answer("200 OK", &[("Content-Type", "text/html")], &png(4, 4));
    let picture = fetched(declared_a_page).await.expect("a picture");
    assert_eq!(picture.header.media_type, "image/png");
    let error = fetched(answer("200 OK", &[], b"")).await;
    assert!(matches!(error, Err(FetchError::Picture(_))), "{error:?}");
}

#[tokio::test]
async fn only_status_200_has_a_picture() {
    for (status, found) in [
        ("404 No", 404),
        ("500 Oh", 500),
        ("206 Part", 206),
        ("204 None", 204),
    ] {
        let error = fetched(answer(status, &[], &png(4, 4))).await;
        assert_eq!(error, Err(FetchError::Status { found }));
    }
}

#[tokio::test]
async fn pixels_are_limited_by_the_header() {
    let mut data = png(4, 4);
    data[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    let error = fetched(answer("200 OK", &[], &data)).await;
    assert_eq!(
        error,
        Err(FetchError::Picture(PictureFault::TooManyPixels {
            width: 0x4000,
            height: 0x4000,
            limit: 40_000_000
        }))
    );
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_at_once() {
    // No byte of the body ever comes: only the declaration can be what is refused.
    let server = Server::start(|mut connection, _| async move {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n";
        let _ = connection.write_all(head).await;
        std::future::pending::<()>().await;
    })
    .await;
    let error = local_fetcher().get_picture(&server.url("")).await;
    assert_eq!(
        error,
        Err(FetchError::TooManyBytes {
            declared: Some(104_857_600),
            limit: 1 << 20
        })
    );
}

#[tokio::test]
async fn a_body_of_100_mb_is_left_at_the_limit() {
    let num_sent = Arc::new(AtomicUsize::new(0));
    let sent = num_sent.clone();
    let server = Server::start(move |mut connection, _| {
        let sent = sent.clone();
        async move {
            let mut piece = png(4, 4);
            piece.resize(1 << 16, 0);
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while sent.load(Ordering::SeqCst) < 100 << 20
                && connection.write_all(&piece).await.is_ok()
            {
                sent.fetch_add(piece.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let error = local_fetcher().get_picture(&server.url("")).await;
    let limit = 1 << 20;
    let declared = None;
    assert_eq!(error, Err(FetchError::TooManyBytes { declared, limit }));
    // The rest is what sockets hold.
    let num_sent = num_sent.load(Ordering::SeqCst);
    assert!(num_sent < 32 << 20, "{num_sent} bytes were sent");
}

#[tokio::test]
async fn a_length_that_lies_is_found_out() {
    let data = png(4, 4);
    let mut short = answer("200 OK", &[], &data);
    short.truncate(short.len() - 10);
    let found = data.len() - 10;
    assert_eq!(fetched(short).await, Err(FetchError::CutShort { found }));
    // What comes after the declared length is not read.
    let mut long = answer("200 OK", &[], &data);
    long.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(fetched(long).await.expect("a picture").data, data);
    let twice = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 700\r\n\r\n",
        &data[..],
    ];
    assert_eq!(fetched(twice.concat()).await, Err(FetchError::NotHttp));
}

#[tokio::test]
async fn a_chunk_that_is_cut_short_is_found_out() {
    let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n".to_vec();
    chunked.extend_from_slice(&png(4, 4));
    let error = fetched(chunked).await;
    assert!(
        matches!(error, Err(FetchError::CutShort { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn compressed_bodies_are_refused_and_never_unpacked() {
    // A few bytes that would be a gigabyte.
    let bomb =
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xed\xc1\x01\x0d\0\0\0\xc2\xa0\xf7Om\x0f\x07\x14\0\0\0";
    for name in ["gzip", "br", "deflate", "x-new"] {
        let error = fetched(answer("200 OK", &[("Content-Encoding", name)], bomb)).await;
        let found = name.to_owned();
        assert_eq!(error, Err(FetchError::Encoded { found }));
    }
    let error = fetched(answer("200 OK", &[], bomb)).await;
    assert!(
        matches!(
            error,
            Err(FetchError::Picture(PictureFault::UnknownFormat { .. }))
        ),
        "{error:?}"
    );
    let plain = answer("200 OK", &[("Content-Encoding", "identity")], &png(4, 4));
    fetched(plain).await.expect("a picture");
}

#[tokio::test]
async fn a_head_without_end_is_left_at_the_limit() {
    for field in [
        "X: y\r\n".to_owned(),
        format!("X: {}\r\n", "y".repeat(4000)),
        "y".repeat(4000),
    ] {
        let field = Arc::new(field);
        let server = Server::start(move |mut connection, _| {
            let field = field.clone();
            async move {
                let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nX: y").await;
                while connection.write_all(field.as_bytes()).await.is_ok() {}
            }
        })
        .await;
        let error = local_fetcher().get_picture(&server.url("")).await;
        assert_eq!(error, Err(FetchError::HeadTooLarge { limit: 32 << 10 }));
    }
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    for greeting in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "220 mail ready\r\n",
        "\0\0\0\0\0\0\0",
    ] {
        assert_eq!(
            fetched(greeting.as_bytes().to_vec()).await,
            Err(FetchError::NotHttp),
            "{greeting}"
        );
    }
    let error = fetched(Vec::new()).await;
    assert_eq!(error, Err(FetchError::CutShort { found: 0 }));
}

#[tokio::test]
async fn a_protocol_of_the_servers_choice_is_refused() {
    let switch = answer("101 Switching Protocols", &[("Upgrade", "h2c")], b"");
    let error = fetched(switch).await.expect_err("another protocol");
    assert!(
        matches!(
            error,
            FetchError::Status { found: 101 } | FetchError::NotHttp
        ),
        "{error}"
    );
}

fn hurried() -> FetchSettings {
    FetchSettings {
        idle_timeout: Duration::from_millis(300),
        total_timeout: Duration::from_millis(900),
        ..settings(&["127.0.0.1"])
    }
}

/// Sends `start`, and then `drop` again and again.
async fn dripping(start: &'static [u8], drop: &'static [u8], every: Duration) -> Server {
    Server::start(move |mut connection, _| async move {
        let _ = connection.write_all(start).await;
        while connection.write_all(drop).await.is_ok() {
            tokio::time::sleep(every).await;
        }
    })
    .await
}

#[tokio::test]
async fn whoever_drips_is_left_when_the_time_is_over() {
    let often = Duration::from_millis(30);
    let body = dripping(b"HTTP/1.1 200 OK\r\n\r\n\x89PNG\r\n\x1a\n", b"\0", often).await;
    let informed = dripping(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", often).await;
    for (server, wait) in [(&body, Wait::Whole), (&informed, Wait::Answer)] {
        let fetcher = fetcher_with(hurried(), Arc::default());
        let start = Instant::now();
        let error = fetcher.get_picture(&server.url("")).await;
        assert!(
            matches!(error, Err(FetchError::TimedOut { wait: found, .. }) if found == wait),
            "{error:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn whoever_falls_silent_is_left_sooner() {
    for start in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n\x89PNG\r\n\x1a\n",
    ] {
        let server = Server::start(move |mut connection, _| async move {
            let _ = connection.write_all(start).await;
            std::future::pending::<()>().await;
        })
        .await;
        let fetcher = fetcher_with(hurried(), Arc::default());
        let error = fetcher.get_picture(&server.url("")).await;
        assert_eq!(
            error,
            Err(FetchError::TimedOut {
                wait: Wait::Answer,
                limit: Duration::from_millis(300)
            })
        );
    }
}

#[tokio::test]
async fn a_fetch_that_is_dropped_closes_its_connection() {
    let (closed, mut was_closed) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |mut connection, _| {
        let closed = closed.clone();
        async move {
            let ended = connection.read(&mut [0; 16]).await;
            let _ = closed.send(matches!(ended, Ok(0) | Err(_))).await;
        }
    })
    .await;
    let fetcher = local_fetcher();
    let url = server.url("");
    let fetch = tokio::time::timeout(Duration::from_millis(200), fetcher.get_picture(&url));
    assert!(fetch.await.is_err());
    let closed = tokio::time::timeout(Duration::from_secs(10), was_closed.recv()).await;
    assert_eq!(closed.expect("soon"), Some(true));
}

#[tokio::test]
async fn no_more_pictures_than_allowed_are_on_their_way() {
    let running = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let counted = running.clone();
    let server = Server::start(move |mut connection, _| {
        let counted = counted.clone();
        async move {
            let now = counted.0.fetch_add(1, Ordering::SeqCst) + 1;
            counted.1.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            counted.0.fetch_sub(1, Ordering::SeqCst);
            let _ = connection
                .write_all(&answer("200 OK", &[], &png(4, 4)))
                .await;
        }
    })
    .await;
    let limited = FetchSettings {
        max_concurrent: 2,
        ..settings(&["127.0.0.1"])
    };
    let fetcher = fetcher_with(limited, Arc::default());
    let url = server.url("");
    let all = (0..6).map(|_| fetcher.get_picture(&url));
    for picture in futures::future::join_all(all).await {
        picture.expect("a picture");
    }
    assert_eq!(running.1.load(Ordering::SeqCst), 2);
}
