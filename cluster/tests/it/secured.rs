//! etcd that asks who we are, and shows who it is.

use std::time::Duration;

use futures::future::join_all;
use inkstone_cluster::{
    Deployment, Epoch, Phase, RegistryError,
    etcd::{EtcdSettings, connect},
};
use tokio::time::sleep;

use crate::fixture::{
    Certificates, Etcd, coordinator, elected, eventually, has_node, is_installed, put_group,
    settings, shows, vision, worker,
};

/// Lets in root, and `inkstone` to the cluster's own keys and to nothing else.
fn close(etcd: &mut Etcd) {
    for words in [
        &["user", "add", "root:top"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "inkstone:secret"],
        &["role", "add", "house"],
        &[
            "role",
            "grant-permission",
            "house",
            "readwrite",
            "--prefix=true",
            "/inkstone/v1/house/",
        ],
        &["user", "grant-role", "inkstone", "house"],
    ] {
        if etcd.try_ctl(words).is_none() && words != ["user", "grant-role", "root", "root"] {
            panic!("etcdctl {words:?} failed");
        }
    }
    // The role of root comes with authentication in some versions, and has to be there before in others.
    let _ = etcd.try_ctl(&["role", "add", "root"]);
    let _ = etcd.try_ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["auth", "enable"]);
    etcd.credentials = vec!["--user".into(), "root:top".into()];
}

fn as_user(url: &str, name: &str, password: &str) -> EtcdSettings {
    EtcdSettings {
        user: Some((name.into(), password.into())),
        ..settings(&[url])
    }
}

#[tokio::test]
async fn a_user_is_let_in_to_its_cluster_and_again_after_a_restart() {
    if !is_installed() {
        return;
    }
    let mut etcd = Etcd::start();
    close(&mut etcd);
    let registry = connect(as_user(&etcd.url, "inkstone", "secret")).unwrap();
    let announcement = registry.announce(worker("a", "1"));
    let candidacy = registry.campaign(coordinator("c"));
    let fence = elected(candidacy.fence()).await;
    registry
        .assign(fence, vec![put_group("g", &["a"], None)])
        .await
        .unwrap();
    shows(&registry, "the worker", |state| has_node(state, "a")).await;
    // What etcd gave for the password is worth nothing after this.
    etcd.down();
    eventually(registry.is_connected(), "away", |connected| !connected).await;
    etcd.up();
    eventually(registry.is_connected(), "back", |connected| *connected).await;
    let fence = elected(candidacy.fence()).await;
    registry
        .assign(fence, vec![put_group("h", &["a"], None)])
        .await
        .unwrap();
    announcement.set_status(vision(Epoch(1), Phase::Ready));
    shows(&registry, "the status", |state| !state.statuses.is_empty()).await;
    announcement.withdraw().await;
    shows(&registry, "nothing of it", |state| !has_node(state, "a")).await;
}

#[tokio::test]
async fn who_is_not_let_in_goes_on_without() {
    if !is_installed() {
        return;
    }
    let mut etcd = Etcd::start();
    close(&mut etcd);
    let elsewhere = EtcdSettings {
        cluster: "garden".into(),
        ..as_user(&etcd.url, "inkstone", "secret")
    };
    let registries = [
        as_user(&etcd.url, "inkstone", "guess"),
        as_user(&etcd.url, "stranger", "secret"),
        settings(&[&etcd.url]),
        elsewhere,
    ]
    .map(|settings| connect(settings).unwrap());
    let _announcements = registries
        .each_ref()
        .map(|registry| registry.announce(worker("a", "1")));
    let wanted = Deployment {
        model: None,
        language_replicas: 1,
        tensor_parallel: 1,
        vision_replicas: 1,
    };
    let refused = join_all(
        registries
            .iter()
            .map(|registry| registry.set_deployment(&wanted, None)),
    );
    for refused in refused.await {
        assert!(
            matches!(refused, Err(RegistryError::Unavailable(_))),
            "{refused:?}"
        );
    }
    for registry in &registries {
        assert!(!*registry.is_connected().borrow());
        assert!(registry.state().borrow().nodes.is_empty());
    }
    assert_eq!(
        etcd.ctl(&["get", "--prefix", "/inkstone/", "--keys-only"]),
        ""
    );
}

#[tokio::test]
async fn certificates_are_shown_and_asked_for() {
    if !is_installed() {
        return;
    }
    let mut etcd = Etcd::prepare("https");
    let certificates = Certificates::make(etcd.folder());
    let path = |file| certificates.path(file);
    etcd.require_certificates(&path("ca.pem"), &path("server.pem"), &path("server.key"));
    let flags = [
        ("--cacert", "ca.pem"),
        ("--cert", "client.pem"),
        ("--key", "client.key"),
    ];
    etcd.credentials = flags
        .iter()
        .flat_map(|(flag, file)| [(*flag).to_owned(), path(file)])
        .collect();
    etcd.up();

    let known = EtcdSettings {
        ca_pem: Some(certificates.read("ca.pem")),
        cert_pem: Some(certificates.read("client.pem")),
        key_pem: Some(certificates.read("client.key")),
        ..settings(&[&etcd.url])
    };
    let registry = connect(known.clone()).unwrap();
    let _announcement = registry.announce(worker("a", "1"));
    shows(&registry, "the worker", |state| has_node(state, "a")).await;

    let nameless = EtcdSettings {
        cert_pem: None,
        key_pem: None,
        ..known.clone()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let strangers = Certificates::make(elsewhere.path().to_owned());
    let suspicious = EtcdSettings {
        ca_pem: Some(strangers.read("ca.pem")),
        ..known.clone()
    };
    let stranger = EtcdSettings {
        cert_pem: Some(strangers.read("client.pem")),
        key_pem: Some(strangers.read("client.key")),
        ..known
    };
    let refused = [nameless, suspicious, stranger].map(|settings| connect(settings).unwrap());
    sleep(Duration::from_secs(2)).await;
    for registry in refused {
        assert!(!*registry.is_connected().borrow());
        assert!(registry.state().borrow().nodes.is_empty());
    }
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_with_a_reason() {
    let https = "https://127.0.0.1:1";
    let with_ca = |pem: &[u8]| EtcdSettings {
        ca_pem: Some(pem.to_vec()),
        ..settings(&[https])
    };
    let broken = b"-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n";
    let broken_key = b"-----BEGIN PRIVATE KEY-----\nbm90aGluZw==\n-----END PRIVATE KEY-----\n";
    for (settings, wanted) in [
        (settings(&[]), "at least one etcd address"),
        (
            settings(&["127.0.0.1:2379"]),
            "must begin with http:// or https://",
        ),
        (settings(&["http://not an address"]), "cannot be used"),
        (settings(&[https]), "needs the certificates (PEM)"),
        (with_ca(b"nothing"), "must hold a CERTIFICATE"),
        (
            EtcdSettings {
                cert_pem: Some(broken.to_vec()),
                key_pem: Some(broken_key.to_vec()),
                ..with_ca(broken)
            },
            "cannot be used",
        ),
        (
            EtcdSettings {
                cert_pem: Some(broken.to_vec()),
                ..with_ca(broken)
            },
            "wanted together",
        ),
        (
            EtcdSettings {
                endpoints: vec!["http://127.0.0.1:1".into()],
                ..with_ca(broken)
            },
            "certificates are for https",
        ),
        (
            EtcdSettings {
                cluster: "a/b".into(),
                ..settings(&["http://127.0.0.1:1"])
            },
            "a name must have",
        ),
        (
            EtcdSettings {
                lease: Duration::ZERO,
                ..settings(&["http://127.0.0.1:1"])
            },
            "a lease must be",
        ),
    ] {
        let error = connect(settings).err().expect(wanted);
        assert!(matches!(error, RegistryError::Settings(_)), "{error:?}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let secret = as_user("http://127.0.0.1:1", "inkstone", "secret");
    assert!(!format!("{secret:?}").contains("secret"));
}
