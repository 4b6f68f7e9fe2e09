//! Who a process is to the rest of its cluster.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
};

use anyhow::ensure;
use inkstone_cluster::{NodeAddress, NodeId};

use crate::arguments::RegistryArguments;

/// A process's name, and what tells it from earlier ones of the name.
pub(crate) struct Identity {
    pub(crate) id: NodeId,
    pub(crate) incarnation: String,
    /// The machine.
    pub(crate) host: String,
    /// Where others reach it.
    pub(crate) address: NodeAddress,
}

impl Identity {
    /// Of a process that listens on `listens_on`.
    pub(crate) fn of(
        arguments: &RegistryArguments,
        listens_on: SocketAddr,
    ) -> anyhow::Result<Self> {
        let (host, incarnation) = (host_name(), random_name());
        let id = arguments
            .node_name
            .clone()
            .unwrap_or_else(|| format!("{host}-{}", &incarnation[..8]));
        inkstone_cluster::check_name(&id)?;
        let address = match &arguments.advertise {
            Some(address) => address.parse()?,
            None => {
                ensure!(
                    !listens_on.ip().is_unspecified(),
                    "{listens_on} is all addresses of this machine: say with --advertise HOST:PORT where others reach it"
                );
                listens_on.to_string().parse()?
            }
        };
        Ok(Self {
            id: NodeId::new(id),
            incarnation,
            host,
            address,
        })
    }
}

/// As the kernel knows it.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// 16 characters that no other process has.
pub(crate) fn random_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_from_process_to_process() {
        assert_ne!(random_name(), random_name());
        assert_eq!(random_name().len(), 16);
    }
}
