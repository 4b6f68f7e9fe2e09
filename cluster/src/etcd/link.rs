//! A connection to one of etcd's members, and what its errors mean.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use tokio::time::timeout;

use super::settings::EtcdSettings;
use crate::RegistryError;

/// How often a connection is asked whether it is alive. A server takes it amiss (and cuts) below 5 seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long that answer is waited for.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A call that came to nothing.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) text: String,
    /// Asking again will not help.
    is_refusal: bool,
}

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_refusal: false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Error::GRpcStatus(status) = &error else {
            return Self::new(error.to_string());
        };
        let code = status.code() as i32;
        let mut text = status.message().to_owned();
        // What the transport says of itself is short; the reason is behind it.
        let mut source = std::error::Error::source(status);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        // INVALID_ARGUMENT (a wrong password too), PERMISSION_DENIED and UNAUTHENTICATED.
        Self {
            text,
            is_refusal: matches!(code, 3 | 7 | 16),
        }
    }
}

impl From<Failure> for RegistryError {
    fn from(failure: Failure) -> Self {
        match failure.is_refusal {
            true => Self::Settings(format!("etcd refused: {}", failure.text)),
            false => Self::Unavailable(failure.text),
        }
    }
}

/// A call, and an end of waiting for it.
pub(super) fn timed<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Failure>> {
    // The client's calls are large, and would make large what calls them.
    let call = Box::pin(call);
    async move {
        match timeout(limit, call).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Failure::new(format!("no answer within {limit:?}"))),
        }
    }
}

/// Makes connections, to one member after the other.
#[derive(Debug)]
pub(super) struct Link {
    settings: Arc<EtcdSettings>,
    next: usize,
}

impl Link {
    /// Begins with any of the members.
    pub(super) fn new(settings: Arc<EtcdSettings>) -> Self {
        Self {
            settings,
            next: rand::random_range(0..1024),
        }
    }

    /// A connection to the next member. Without a user it is not known yet whether the member is there.
    pub(super) async fn connect(&mut self) -> Result<Client, Failure> {
        let endpoints = &self.settings.endpoints;
        let endpoint = &endpoints[self.next % endpoints.len()];
        self.next = self.next.wrapping_add(1);
        let limit = self.settings.request_timeout;
        let options = options(&self.settings, true);
        timed(limit, Client::connect([endpoint], Some(options)))
            .await
            .map_err(|failure| Failure {
                text: format!("{endpoint}: {failure}"),
                ..failure
            })
    }
}

/// Whether connections can be made of these settings at all: addresses and certificates are read, nobody is called. To be
/// called within a runtime.
pub(super) async fn try_out(settings: &EtcdSettings) -> Result<(), RegistryError> {
    match Client::connect(&settings.endpoints, Some(options(settings, false))).await {
        Ok(_) => Ok(()),
        Err(error) => Err(RegistryError::Settings(format!(
            "the address or the certificates for etcd cannot be used: {}",
            Failure::from(error)
        ))),
    }
}

fn options(settings: &EtcdSettings, with_user: bool) -> ConnectOptions {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(settings.request_timeout)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        // A member that is cut off from the others says so, and does not show an old state for ever.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some((name, password)), true) = (&settings.user, with_user) {
        options = options.with_user(name, password);
    }
    if let Some(ca) = &settings.ca_pem {
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
        if let (Some(cert), Some(key)) = (&settings.cert_pem, &settings.key_pem) {
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        options = options.with_tls(tls);
    }
    options
}
