//! The way from stop to stop.

use tokio::io::AsyncWriteExt;

use super::{
    server::{Server, answer, png},
    *,
};

async fn redirecting(status: &'static str, location: String) -> Server {
    let location = Arc::new(location);
    Server::start(move |mut connection, _| {
        let location = location.clone();
        async move {
            let answer = answer(status, &[("Location", &location)], b"moved");
            let _ = connection.write_all(&answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn every_kind_of_redirect_is_followed_to_the_picture() {
    let end = Server::answering(answer("200 OK", &[], &png(4, 4))).await;
    for status in ["301 A", "302 B", "303 C", "307 D", "308 E"] {
        let start = redirecting(status, end.url("end.png")).await;
        let picture = local_fetcher().get_picture(&start.url("")).await;
        assert_eq!(picture.expect(status).url, end.url("end.png"));
    }
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_refused_before_it_is_connected_to() {
    let inside = tokio::net::TcpListener::bind("127.0.0.3:0")
        .await
        .expect("bound");
    let port = inside.local_addr().expect("bound").port();
    for location in [
        format!("http://127.0.0.3:{port}/"),
        format!("//127.0.0.3:{port}/"),
        format!("http://[::ffff:127.0.0.3]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".to_owned(),
    ] {
        let start = redirecting("302 Found", location.clone()).await;
        let error = local_fetcher().get_picture(&start.url("")).await;
        let error = error.expect_err(&location);
        assert!(
            matches!(error, FetchError::NoPublicAddress { .. }),
            "{location}: {error}"
        );
    }
    let nobody = tokio::time::timeout(Duration::from_millis(50), inside.accept()).await;
    assert!(nobody.is_err(), "the inside host was connected to");
}

#[tokio::test]
async fn a_redirect_to_another_scheme_or_with_a_password_is_refused() {
    for (location, wanted) in [
        ("file:///etc/passwd", "found scheme \"file\""),
        ("data:image/png;base64,AAAA", "found scheme \"data\""),
        (
            "http://me:secret@example.org/",
            "holds a user name or a password",
        ),
        ("http://", "not a URL"),
    ] {
        let start = redirecting("301 Moved", location.to_owned()).await;
        let error = local_fetcher().get_picture(&start.url("")).await;
        let error = error.expect_err(location).to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// Each stop leads to the next until `num_redirects` are behind.
async fn chain(num_redirects: usize) -> Server {
    Server::start(move |mut connection, question| async move {
        let step: usize = question["GET /".len()..]
            .split(' ')
            .next()
            .and_then(|step| step.parse().ok())
            .expect("a step");
        let answer = if step == num_redirects {
            answer("200 OK", &[], &png(4, 4))
        } else {
            answer("302 Found", &[("Location", &format!("/{}", step + 1))], b"")
        };
        let _ = connection.write_all(&answer).await;
    })
    .await
}

#[tokio::test]
async fn five_redirects_are_followed_and_a_sixth_is_not() {
    let server = chain(5).await;
    local_fetcher()
        .get_picture(&server.url("0"))
        .await
        .expect("five");
    let server = chain(6).await;
    let error = local_fetcher().get_picture(&server.url("0")).await;
    assert_eq!(error, Err(FetchError::TooManyRedirects { limit: 5 }));
    assert_eq!(server.num_connections(), 6);
}

#[tokio::test]
async fn a_redirect_without_location_leads_nowhere() {
    let server = Server::answering(answer("302 Found", &[], &png(4, 4))).await;
    let error = local_fetcher().get_picture(&server.url("")).await;
    assert_eq!(error, Err(FetchError::NoLocation { status: 302 }));
}
