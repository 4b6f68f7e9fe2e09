//! TLS: who is believed, and that nobody is led out of it.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use super::{
    server::{Server, answer, png},
    *,
};

/// Serves `answer` by TLS, with a certificate for `name`.
async fn serving(name: &str, answer: Vec<u8>) -> (Server, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let certificate = cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .expect("a certificate");
    let answer = Arc::new(answer);
    let server = Server::start_at(
        "127.0.0.1".parse().expect("an address"),
        Some(TlsAcceptor::from(Arc::new(config))),
        move |mut connection, _| {
            let answer = answer.clone();
            async move {
                let _ = connection.write_all(&answer).await;
                let _ = connection.shutdown().await;
            }
        },
    )
    .await;
    (server, certificate)
}

fn fetcher(trusted: Option<CertificateDer<'static>>) -> GuardedFetcher {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted);
    let resolver = FakeResolver::default()
        .with("safe.example", &[&["127.0.0.1"]])
        .with("other.example", &[&["127.0.0.1"]]);
    GuardedFetcher::with_parts(settings(&["127.0.0.1"]), Arc::new(resolver), roots)
}

#[tokio::test]
async fn a_picture_comes_by_tls() {
    let picture = answer("200 OK", &[], &png(4, 4));
    let (server, certificate) = serving("safe.example", picture).await;
    let url = format!("https://safe.example:{}/", server.address.port());
    let picture = fetcher(Some(certificate)).get_picture(&url).await;
    assert_eq!(picture.expect("a picture").data, png(4, 4));
}

#[tokio::test]
async fn a_certificate_of_nobody_or_for_another_host_is_not_believed() {
    let picture = answer("200 OK", &[], &png(4, 4));
    let (server, certificate) = serving("safe.example", picture).await;
    let port = server.address.port();
    for (host, trusted) in [("safe.example", None), ("other.example", Some(certificate))] {
        let url = format!("https://{host}:{port}/");
        let error = fetcher(trusted).get_picture(&url).await;
        let host = host.to_owned();
        assert_eq!(error, Err(FetchError::Tls { host, port }));
    }
    assert!(server.asked.lock().expect("a log").is_empty());
}

#[tokio::test]
async fn a_host_that_knows_no_tls_is_told_apart() {
    let server = Server::answering(answer("400 Bad Request", &[], b"")).await;
    let port = server.address.port();
    let url = format!("https://safe.example:{port}/");
    // It waits for more of a question that it does not understand, and is left.
    let hurried = FetchSettings {
        connect_timeout: Duration::from_millis(500),
        ..settings(&["127.0.0.1"])
    };
    let resolver = FakeResolver::default().with("safe.example", &[&["127.0.0.1"]]);
    let fetcher = fetcher_with(hurried, Arc::new(resolver));
    let error = fetcher.get_picture(&url).await.expect_err("no TLS");
    assert!(
        matches!(error, FetchError::Tls { .. } | FetchError::TimedOut { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn https_is_never_left_for_http() {
    let plain = Server::answering(answer("200 OK", &[], &png(4, 4))).await;
    let redirect = answer("301 Moved", &[("Location", &plain.url(""))], b"");
    let (server, certificate) = serving("safe.example", redirect).await;
    let url = format!("https://safe.example:{}/", server.address.port());
    let error = fetcher(Some(certificate)).get_picture(&url).await;
    assert_eq!(error, Err(FetchError::Downgrade));
    assert_eq!(plain.num_connections(), 0);
}

#[tokio::test]
async fn http_may_lead_to_https() {
    let picture = answer("200 OK", &[], &png(4, 4));
    let (server, certificate) = serving("safe.example", picture).await;
    let location = format!("https://safe.example:{}/", server.address.port());
    let start = Server::answering(answer("301 Moved", &[("Location", &location)], b"")).await;
    let picture = fetcher(Some(certificate)).get_picture(&start.url("")).await;
    assert_eq!(picture.expect("a picture").url, location);
}
