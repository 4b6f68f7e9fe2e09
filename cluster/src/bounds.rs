//! What may be written into a registry: names, sizes, and how much at once. The same for every registry, so that what works in one
//! process works on many.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{Change, RegistryError};

/// Longest name of a node, a group or a cluster.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest value. What is larger does not belong into a registry.
pub const MAX_VALUE_BYTES: usize = 4096;
/// Most changes of one [`assign`](crate::Registry::assign): etcd takes 128 operations and as many conditions in a transaction.
pub const MAX_CHANGES: usize = 120;

/// Whether a text can be the name of a node, a group or a cluster: it becomes a part of keys.
pub fn check_name(name: &str) -> Result<(), RegistryError> {
    let unfit = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    let problem = if name.is_empty() {
        "found an empty one".to_owned()
    } else if name.len() > MAX_NAME_BYTES {
        format!("found one of {} bytes", name.len())
    } else if name.contains(unfit) {
        format!("found `{}`", name.escape_debug())
    } else {
        return Ok(());
    };
    Err(RegistryError::Settings(format!(
        "a name must have 1 to {MAX_NAME_BYTES} bytes without slashes, spaces and control characters, {problem}"
    )))
}

/// A value as it is written.
pub(crate) fn encode(what: &str, value: &impl Serialize) -> Result<Vec<u8>, RegistryError> {
    let text = serde_json::to_vec(value)
        .map_err(|error| RegistryError::Settings(format!("{what} cannot be written: {error}")))?;
    if text.len() > MAX_VALUE_BYTES {
        return Err(RegistryError::Settings(format!(
            "{what} must have at most {MAX_VALUE_BYTES} bytes, found {}",
            text.len()
        )));
    }
    Ok(text)
}

/// Whether these changes can be one write.
pub(crate) fn check_changes(changes: &[Change]) -> Result<(), RegistryError> {
    if changes.len() > MAX_CHANGES {
        return Err(RegistryError::Settings(format!(
            "at most {MAX_CHANGES} changes can be made at once, found {}",
            changes.len()
        )));
    }
    let mut groups = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    for change in changes {
        let (name, is_new) = match change {
            Change::PutGroup { group, .. } | Change::RemoveGroup { group, .. } => {
                (group.as_str(), groups.insert(group))
            }
            Change::PutVision { node } | Change::RemoveVision { node } => {
                (node.as_str(), nodes.insert(node))
            }
        };
        check_name(name)?;
        if let Change::PutGroup { assignment, .. } = change {
            for node in &assignment.ranks {
                check_name(node.as_str())?;
            }
            encode("a group's assignment", assignment)?;
        }
        if !is_new {
            return Err(RegistryError::Settings(format!(
                "changes made at once must be about different things, found `{name}` twice"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, GroupAssignment, GroupId, NodeId};

    fn remove(group: &str) -> Change {
        Change::RemoveGroup {
            group: GroupId::new(group),
            expected: Epoch(1),
        }
    }

    fn put(group: &str, ranks: usize) -> Change {
        Change::PutGroup {
            group: GroupId::new(group),
            assignment: GroupAssignment {
                ranks: vec![NodeId::new("a-node-with-a-name"); ranks],
            },
            expected: None,
        }
    }

    #[test]
    fn a_name_is_one_part_of_a_key() {
        for name in ["a", "group-0", "knoten-ü", "a.b:7000"] {
            assert_eq!(check_name(name), Ok(()));
        }
        for (name, wanted) in [
            ("", "found an empty one"),
            ("a/b", "found `a/b`"),
            ("a b", "found `a b`"),
            ("a\n", "found `a\\n`"),
            (&"a".repeat(129), "found one of 129 bytes"),
        ] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.ends_with(wanted), "{error}");
        }
    }

    #[test]
    fn changes_of_one_thing_twice_or_of_too_much_are_refused() {
        assert_eq!(check_changes(&[put("a", 64), remove("b")]), Ok(()));
        let many: Vec<_> = (0..=MAX_CHANGES).map(|i| remove(&i.to_string())).collect();
        for (changes, wanted) in [
            (vec![put("a", 1), remove("a")], "found `a` twice"),
            (vec![remove("a/b")], "found `a/b`"),
            (vec![put("a", 400)], "at most 4096 bytes"),
            (many, "at most 120 changes can be made at once, found 121"),
        ] {
            let error = check_changes(&changes).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
