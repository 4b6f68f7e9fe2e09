//! What is connected to, and what is not.

use super::{
    server::{Server, answer, png},
    *,
};

#[tokio::test]
async fn without_an_entry_nothing_private_is_connected_to() {
    let server = Server::answering(answer("200 OK", &[], &png(4, 4))).await;
    let port = server.address.port();
    let resolver = FakeResolver::default()
        .with("inside.example", &[&["127.0.0.1"]])
        .with("mapped.example", &[&["::ffff:127.0.0.1"]]);
    let fetcher = fetcher_with(settings(&[]), Arc::new(resolver));
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "inside.example",
        "inside.example.",
        "mapped.example",
        "169.254.169.254",
        "nowhere.example",
    ] {
        let error = fetcher
            .get_picture(&format!("http://{host}:{port}/"))
            .await
            .expect_err(host);
        assert!(
            matches!(error, FetchError::NoPublicAddress { .. }),
            "{host}: {error}"
        );
    }
    assert_eq!(server.num_connections(), 0);
}

/// Strangers learn neither which names we know nor what addresses they have.
#[tokio::test]
async fn an_inside_name_and_an_unknown_one_are_told_alike() {
    let resolver = FakeResolver::default().with("db.internal", &[&["10.2.3.4"]]);
    let fetcher = fetcher_with(settings(&[]), Arc::new(resolver));
    let mut told = Vec::new();
    for host in ["db.internal", "xx.internal"] {
        let error = fetcher.get_picture(&format!("http://{host}/")).await;
        told.push(error.expect_err(host).to_string().replace(host, "HOST"));
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(
        told[0],
        "host HOST has no public address, and pictures are fetched from public addresses only"
    );
}

/// The name leads to a host that is allowed when it is looked up, and to another a moment later.
#[tokio::test]
async fn a_name_that_changes_its_mind_gains_nothing() {
    let redirect = answer("302 Found", &[("Location", "/again")], b"");
    let allowed = Server::answering(redirect).await;
    let port = allowed.address.port();
    let resolver =
        FakeResolver::default().with("rebind.example", &[&["127.0.0.1"], &["127.0.0.2"]]);
    let resolver = Arc::new(resolver);
    let fetcher = fetcher_with(settings(&["127.0.0.1"]), resolver.clone());
    let inside = tokio::net::TcpListener::bind(("127.0.0.2", port))
        .await
        .expect("the same port of another address");
    let url = format!("http://rebind.example:{port}/");
    let error = fetcher.get_picture(&url).await.expect_err("a rebind");
    assert_eq!(
        error,
        FetchError::NoPublicAddress {
            host: "rebind.example".to_owned()
        }
    );
    // Once for each stop: between the look at an address and the connection there is no other look-up.
    assert_eq!(resolver.asked(), ["rebind.example", "rebind.example"]);
    assert_eq!(allowed.num_connections(), 1);
    let nobody = tokio::time::timeout(Duration::from_millis(50), inside.accept()).await;
    assert!(nobody.is_err(), "the inside host was connected to");
}

#[tokio::test]
async fn of_several_addresses_only_those_that_pass_are_tried() {
    let server = Server::answering(answer("200 OK", &[], &png(4, 4))).await;
    let port = server.address.port();
    let inside = tokio::net::TcpListener::bind(("127.0.0.2", port))
        .await
        .expect("the same port of another address");
    let resolver = FakeResolver::default().with(
        "mixed.example",
        &[&["127.0.0.2", "fe80::1", "0.0.0.0", "127.0.0.1"]],
    );
    let fetcher = fetcher_with(settings(&["127.0.0.1"]), Arc::new(resolver));
    let url = format!("http://mixed.example:{port}/");
    fetcher.get_picture(&url).await.expect("a picture");
    let nobody = tokio::time::timeout(Duration::from_millis(50), inside.accept()).await;
    assert!(
        nobody.is_err(),
        "an address that is refused was connected to"
    );
}

#[tokio::test]
async fn a_second_address_is_tried_where_the_first_is_silent_about_it() {
    let server = Server::answering(answer("200 OK", &[], &png(4, 4))).await;
    let resolver = FakeResolver::default().with("two.example", &[&["127.0.0.9", "127.0.0.1"]]);
    let fetcher = fetcher_with(settings(&["127.0.0.0/8"]), Arc::new(resolver));
    let url = format!("http://two.example:{}/", server.address.port());
    fetcher.get_picture(&url).await.expect("a picture");
}

#[tokio::test]
async fn a_named_host_is_fetched_from_and_its_neighbour_is_not() {
    let server = Server::answering(answer("200 OK", &[], &png(4, 4))).await;
    let port = server.address.port();
    let resolver = FakeResolver::default()
        .with("pictures.internal", &[&["127.0.0.1"]])
        .with("db.internal", &[&["127.0.0.1"]]);
    let fetcher = fetcher_with(settings(&["pictures.internal"]), Arc::new(resolver));
    let url = format!("http://pictures.internal:{port}/");
    fetcher.get_picture(&url).await.expect("a picture");
    let url = format!("http://db.internal:{port}/");
    fetcher.get_picture(&url).await.expect_err("not named");
    let asked = server.asked.lock().expect("a log").clone();
    let host = format!("host: pictures.internal:{port}\r\n");
    assert!(asked[0].to_lowercase().contains(&host), "{asked:?}");
}

#[tokio::test]
async fn a_host_that_refuses_is_told_without_its_address() {
    let server = Server::answering(Vec::new()).await;
    let port = server.address.port();
    drop(server);
    let resolver = FakeResolver::default().with("gone.example", &[&["127.0.0.1"]]);
    let fetcher = fetcher_with(settings(&["gone.example"]), Arc::new(resolver));
    let url = format!("http://gone.example:{port}/");
    let error = fetcher.get_picture(&url).await.expect_err("gone");
    assert_eq!(
        error.to_string(),
        format!("cannot connect to gone.example on port {port}")
    );
}

/// Never says anything.
struct SilentResolver;

#[async_trait]
impl Resolver for SilentResolver {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_name_server_is_not_waited_for_without_end() {
    let roots = RootCertStore::empty();
    let fetcher = GuardedFetcher::with_parts(settings(&[]), Arc::new(SilentResolver), roots);
    let error = fetcher.get_picture("http://slow.example/").await;
    assert_eq!(
        error,
        Err(FetchError::TimedOut {
            wait: Wait::Connect,
            limit: Duration::from_secs(5)
        })
    );
}

#[tokio::test]
async fn the_systems_resolver_knows_this_machine() {
    let found = SystemResolver::default().resolve("localhost").await;
    let found = found.expect("addresses");
    assert!(
        !found.is_empty() && found.iter().all(IpAddr::is_loopback),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_fetcher_of_this_machine_stays_out_of_it() {
    let server = Server::answering(answer("200 OK", &[], &png(4, 4))).await;
    let fetcher = GuardedFetcher::new(FetchSettings::default());
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("http://{host}:{}/", server.address.port());
        let error = fetcher.get_picture(&url).await;
        let host = host.to_owned();
        assert_eq!(error, Err(FetchError::NoPublicAddress { host }));
    }
    assert_eq!(server.num_connections(), 0);
}
