//! The flags by which a process finds its cluster's registry.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use inkstone_cluster::{
    Registry,
    etcd::{self, EtcdSettings},
};

/// Where the cluster's members are written down.
#[derive(Args, Clone, Debug)]
pub(crate) struct RegistryArguments {
    /// etcd's addresses, `http://HOST:PORT` or `https://HOST:PORT`; not given: members are named by flags.
    #[arg(
        long,
        env = "INKSTONE_REGISTRY",
        value_name = "URLS",
        value_delimiter = ','
    )]
    pub(crate) registry: Vec<String>,
    /// Name of the cluster: several may share an etcd.
    #[arg(
        long,
        env = "INKSTONE_CLUSTER",
        value_name = "NAME",
        default_value = "inkstone"
    )]
    pub(crate) cluster: String,
    /// etcd user.
    #[arg(
        long,
        env = "INKSTONE_REGISTRY_USER",
        value_name = "NAME",
        requires = "registry_password_file"
    )]
    pub(crate) registry_user: Option<String>,
    /// File with the etcd user's password.
    #[arg(long, env = "INKSTONE_REGISTRY_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) registry_password_file: Option<PathBuf>,
    /// File with the certificates (PEM) that etcd's must be signed by.
    #[arg(long, env = "INKSTONE_REGISTRY_CA", value_name = "FILE")]
    pub(crate) registry_ca: Option<PathBuf>,
    /// File with this process's own certificate (PEM) towards etcd.
    #[arg(
        long,
        env = "INKSTONE_REGISTRY_CERT",
        value_name = "FILE",
        requires = "registry_key"
    )]
    pub(crate) registry_cert: Option<PathBuf>,
    /// File with the key (PEM) of that certificate.
    #[arg(
        long,
        env = "INKSTONE_REGISTRY_KEY",
        value_name = "FILE",
        requires = "registry_cert"
    )]
    pub(crate) registry_key: Option<PathBuf>,
    /// Seconds after which a process that does not renew its lease counts as gone.
    #[arg(
        long,
        env = "INKSTONE_LEASE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 5
    )]
    pub(crate) lease_seconds: u64,
    /// This process's name in the cluster; not given: made from the host's name and a random number.
    #[arg(long, env = "INKSTONE_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Where others reach this process; not given: the address it listens on.
    #[arg(long, env = "INKSTONE_ADVERTISE", value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
}

impl RegistryArguments {
    /// The registry that was named, if any. It need not answer yet.
    pub(crate) fn connect(&self) -> anyhow::Result<Option<Arc<dyn Registry>>> {
        if self.registry.is_empty() {
            return Ok(None);
        }
        let read = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        let user = match (&self.registry_user, read(&self.registry_password_file)?) {
            (Some(name), Some(password)) => {
                let password = String::from_utf8(password).context("the password is not UTF-8")?;
                // Editors end a file with a line break that is no part of the password.
                Some((
                    name.clone(),
                    password.trim_end_matches(['\r', '\n']).to_owned(),
                ))
            }
            _ => None,
        };
        let settings = EtcdSettings {
            user,
            ca_pem: read(&self.registry_ca)?,
            cert_pem: read(&self.registry_cert)?,
            key_pem: read(&self.registry_key)?,
            lease: Duration::from_secs(self.lease_seconds),
            ..EtcdSettings::new(self.registry.iter().cloned(), &self.cluster)
        };
        let registry = etcd::connect(settings).context("cannot use the registry")?;
        Ok(Some(registry))
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
