//! The flags by which a process finds its cluster's registry.

use std::path::PathBuf;

use clap::Args;

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
