//! Names of the parts of a cluster, as types of their own so that they cannot be mixed up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One tensor-parallel replica of the language model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(String);

impl GroupId {
    /// The group's name; any text that is the same for all its members.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A process of the cluster: a worker or a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(String);

impl NodeId {
    /// The process's name; any text that is its own.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Counts the lives of a group: what was planned or asked in another life is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Place of a shard in its group: 0, the leader, to world size - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub u32);

impl Rank {
    /// The rank that schedules and samples for its group.
    pub const LEADER: Self = Self(0);
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a process answers gRPC, `http://host:port`. `host:port` alone is read as that, and so is `[v6]:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeAddress(String);

/// A text that is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address must be host:port or http://host:port, found `{0}`")]
pub struct InvalidAddress(String);

impl NodeAddress {
    /// The address as a URI, `http://host:port`.
    pub fn as_uri(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let (host, port) = authority
            .rsplit_once(':')
            .ok_or_else(|| InvalidAddress(text.into()))?;
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        let unfit = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        match port.parse::<u16>() {
            Ok(1..) if !host.is_empty() && !bare_v6 && !host.contains(unfit) => {
                Ok(Self(format!("http://{authority}")))
            }
            _ => Err(InvalidAddress(text.into())),
        }
    }
}

impl TryFrom<String> for NodeAddress {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeAddress> for String {
    fn from(address: NodeAddress) -> Self {
        address.0
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_with_or_without_the_scheme() {
        for (text, uri) in [
            ("127.0.0.1:7000", "http://127.0.0.1:7000"),
            ("http://leader:7000", "http://leader:7000"),
            ("[::1]:7000", "http://[::1]:7000"),
        ] {
            assert_eq!(text.parse::<NodeAddress>().unwrap().as_uri(), uri);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_text_found() {
        for text in [
            "",
            "leader",
            "leader:",
            ":7000",
            "leader:0",
            "leader:70000",
            "::1:7000",
            "https://leader:7000",
            "http://leader:7000/",
            "le ader:7000",
        ] {
            let error = text.parse::<NodeAddress>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("found `{text}`")), "{error}");
        }
    }
}
