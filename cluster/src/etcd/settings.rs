//! How to reach etcd.

use std::{fmt, time::Duration};

use crate::{RegistryError, bounds};

/// Where etcd is, who we are towards it, and how long its silence is borne.
#[derive(Clone)]
pub struct EtcdSettings {
    /// Addresses of its members, `http://host:port` or `https://host:port`; one is used at a time, the next when it fails.
    pub endpoints: Vec<String>,
    /// The cluster's name: several may share an etcd.
    pub cluster: String,
    /// User and password.
    pub user: Option<(String, String)>,
    /// The certificates (PEM) that etcd's must be signed by.
    pub ca_pem: Option<Vec<u8>>,
    /// This process's own certificate (PEM), with `key_pem`.
    pub cert_pem: Option<Vec<u8>>,
    /// The key of that certificate (PEM).
    pub key_pem: Option<Vec<u8>>,
    /// How long a process that does not renew its lease counts as there. etcd may choose longer.
    pub lease: Duration,
    /// How long an answer is waited for.
    pub request_timeout: Duration,
}

impl EtcdSettings {
    /// Life of a lease where nothing else is said: what is dead is noticed soon, and an etcd that stands still for a moment is not.
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(5);
    /// Wait for an answer where nothing else is said: three times an election among etcd's members.
    pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

    /// No user, no certificates, default times.
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        cluster: impl Into<String>,
    ) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            cluster: cluster.into(),
            user: None,
            ca_pem: None,
            cert_pem: None,
            key_pem: None,
            lease: Self::DEFAULT_LEASE,
            request_timeout: Self::DEFAULT_REQUEST_TIMEOUT,
        }
    }

    pub(super) fn check(&self) -> Result<(), RegistryError> {
        let refuse = |text: String| Err(RegistryError::Settings(text));
        if self.endpoints.is_empty() {
            return refuse("at least one etcd address is wanted, found none".into());
        }
        for endpoint in &self.endpoints {
            let is_https = endpoint.starts_with("https://");
            if !is_https && !endpoint.starts_with("http://") {
                return refuse(format!(
                    "an etcd address must begin with http:// or https://, found `{endpoint}`"
                ));
            }
            if is_https && self.ca_pem.is_none() {
                return refuse(format!(
                    "`{endpoint}` needs the certificates (PEM) that etcd's is signed by, found none"
                ));
            }
            if !is_https && self.has_certificates() {
                return refuse(format!(
                    "certificates are for https addresses, found `{endpoint}`"
                ));
            }
        }
        if self.cert_pem.is_some() != self.key_pem.is_some() {
            return refuse("a certificate and its key are wanted together, found one alone".into());
        }
        for (what, pem, wanted) in [
            ("the CA file", &self.ca_pem, "CERTIFICATE"),
            ("the certificate file", &self.cert_pem, "CERTIFICATE"),
            ("the key file", &self.key_pem, "PRIVATE KEY"),
        ] {
            let holds = |pem: &Vec<u8>| String::from_utf8_lossy(pem).contains(wanted);
            if pem.as_ref().is_some_and(|pem| !holds(pem)) {
                return refuse(format!("{what} must hold a {wanted} in PEM, found none"));
            }
        }
        if self.lease < Duration::from_secs(1) || self.lease > Duration::from_secs(3600) {
            return refuse(format!(
                "a lease must be of a second to an hour, found {:?}",
                self.lease
            ));
        }
        if self.request_timeout.is_zero() {
            return refuse("the time to wait for an answer must not be zero".into());
        }
        bounds::check_name(&self.cluster)
    }

    pub(super) fn has_certificates(&self) -> bool {
        self.ca_pem.is_some() || self.cert_pem.is_some()
    }
}

/// Without what must not be read in a log.
impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .field("cluster", &self.cluster)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.has_certificates())
            .field("lease", &self.lease)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}
