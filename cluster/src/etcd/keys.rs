//! Where things are in etcd: `/inkstone/v1/{cluster}/…`. See `docs/registry.md`.

use crate::{Epoch, GroupId, NodeId, bounds};

/// What a key is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Node(NodeId),
    Status(NodeId),
    Coordinator(NodeId),
    Draining(NodeId),
    Deployment,
    Group(GroupId),
    Vision(NodeId),
    Placer,
    NcclId(GroupId, Epoch),
}

impl Key {
    /// Whether the key says that a process is there: it goes with the process's lease.
    pub(super) fn is_presence(&self) -> bool {
        matches!(self, Self::Node(_) | Self::Status(_) | Self::Coordinator(_))
    }
}

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// Ends with a slash.
    prefix: String,
}

impl Keys {
    pub(super) fn new(cluster: &str) -> Self {
        Self {
            prefix: format!("/inkstone/v1/{cluster}/"),
        }
    }

    /// What all keys begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The first text behind all that begin with the prefix.
    pub(super) fn end(&self) -> String {
        let stem = self.prefix.trim_end_matches('/');
        // '0' follows '/'.
        format!("{stem}0")
    }

    /// The key as it is written.
    pub(super) fn text(&self, key: &Key) -> String {
        let prefix = &self.prefix;
        match key {
            Key::Node(id) => format!("{prefix}nodes/{id}"),
            Key::Status(id) => format!("{prefix}status/{id}"),
            Key::Coordinator(id) => format!("{prefix}coordinators/{id}"),
            Key::Draining(id) => format!("{prefix}draining/{id}"),
            Key::Deployment => format!("{prefix}deployment"),
            Key::Group(id) => format!("{prefix}groups/{id}"),
            Key::Vision(id) => format!("{prefix}vision/{id}"),
            Key::Placer => format!("{prefix}election/placer"),
            Key::NcclId(group, epoch) => format!("{prefix}nccl/{group}/{epoch}"),
        }
    }

    /// What a key is about; none for keys that we do not know, whoever wrote them.
    pub(super) fn parse(&self, key: &[u8]) -> Option<Key> {
        let path = str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        match path {
            "deployment" => return Some(Key::Deployment),
            "election/placer" => return Some(Key::Placer),
            _ => {}
        }
        let (kind, rest) = path.split_once('/')?;
        if kind == "nccl" {
            let (group, epoch) = rest.split_once('/')?;
            bounds::check_name(group).ok()?;
            return Some(Key::NcclId(GroupId::new(group), Epoch(epoch.parse().ok()?)));
        }
        bounds::check_name(rest).ok()?;
        let node = || NodeId::new(rest);
        Some(match kind {
            "nodes" => Key::Node(node()),
            "status" => Key::Status(node()),
            "coordinators" => Key::Coordinator(node()),
            "draining" => Key::Draining(node()),
            "groups" => Key::Group(GroupId::new(rest)),
            "vision" => Key::Vision(node()),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_key_is_read_as_it_was_written() {
        let keys = Keys::new("house");
        let node = || NodeId::new("node-1");
        for (key, text) in [
            (Key::Node(node()), "nodes/node-1"),
            (Key::Status(node()), "status/node-1"),
            (Key::Coordinator(node()), "coordinators/node-1"),
            (Key::Draining(node()), "draining/node-1"),
            (Key::Deployment, "deployment"),
            (Key::Group(GroupId::new("group-0")), "groups/group-0"),
            (Key::Vision(node()), "vision/node-1"),
            (Key::Placer, "election/placer"),
            (Key::NcclId(GroupId::new("g"), Epoch(7)), "nccl/g/7"),
        ] {
            let written = keys.text(&key);
            assert_eq!(written, format!("/inkstone/v1/house/{text}"));
            assert_eq!(keys.parse(written.as_bytes()), Some(key));
        }
    }

    #[test]
    fn what_is_no_key_of_the_cluster_is_none() {
        let keys = Keys::new("house");
        for text in [
            "/inkstone/v1/house/",
            "/inkstone/v1/house",
            "/inkstone/v1/houses/nodes/a",
            "/inkstone/v1/house/nodes/",
            "/inkstone/v1/house/nodes/a/b",
            "/inkstone/v1/house/nodes",
            "/inkstone/v1/house/horses/a",
            "/inkstone/v1/house/nccl/g",
            "/inkstone/v1/house/nccl/g/-1",
            "/inkstone/v1/house/nccl//1",
            "nodes/a",
            "",
        ] {
            assert_eq!(keys.parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(keys.parse(b"/inkstone/v1/house/nodes/\xff"), None);
    }

    #[test]
    fn the_range_holds_the_cluster_and_nothing_else() {
        let keys = Keys::new("house");
        let range = keys.prefix().to_owned()..keys.end();
        assert!(range.contains(&keys.text(&Key::Deployment)));
        assert!(range.contains(&"/inkstone/v1/house/\u{10ffff}".to_owned()));
        assert!(!range.contains(&Keys::new("house-2").text(&Key::Deployment)));
        assert!(!range.contains(&Keys::new("hous").text(&Key::Deployment)));
    }

    proptest! {
        #[test]
        fn no_key_makes_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut key = b"/inkstone/v1/house/".to_vec();
            key.extend(tail);
            let keys = Keys::new("house");
            if let Some(parsed) = keys.parse(&key) {
                // An epoch may be written with leading zeros; all else comes back as it was.
                prop_assert!(matches!(parsed, Key::NcclId(..)) || keys.text(&parsed).as_bytes() == key);
            }
        }
    }
}
