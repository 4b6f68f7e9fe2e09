//! Listings, events, what is held and what cannot be read.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const PREFIX: &str = "/inkstone/v1/house/";

fn view() -> View {
    View::new(Keys::new("house"))
}

/// A key without its prefix, its value, the revision of the write and its lease.
fn put(view: &mut View, key: &str, value: &str, revision: i64, lease: i64) {
    let key = format!("{PREFIX}{key}");
    view.put(&written(&key, value, revision, lease));
    view.advance(revision);
}

fn written<'a>(key: &'a str, value: &'a str, revision: i64, lease: i64) -> Written<'a> {
    Written {
        key: key.as_bytes(),
        value: value.as_bytes(),
        created: revision,
        modified: revision,
        lease,
    }
}

fn delete(view: &mut View, key: &str, hold: bool) {
    view.delete(format!("{PREFIX}{key}").as_bytes(), hold);
}

fn node(id: &str, incarnation: &str) -> String {
    let node = NodeRecord {
        id: NodeId::new(id),
        incarnation: incarnation.into(),
        host: "host".into(),
        address: "host:7000".parse().unwrap(),
        roles: BTreeSet::new(),
        devices: 1,
        device_kind: "cpu".into(),
        memory_bytes: 1,
        model: "m".into(),
        version: "0".into(),
    };
    serde_json::to_string(&node).unwrap()
}

const STATUS: &str = r#"{"language":null,"vision":null,"kept":[]}"#;

#[test]
fn an_epoch_is_the_revision_of_the_write() {
    let mut view = view();
    put(&mut view, "groups/g", r#"{"ranks":["a"]}"#, 7, 0);
    put(&mut view, "vision/a", "", 8, 0);
    let state = view.snapshot().state;
    assert_eq!(state.revision, Revision(8));
    assert_eq!(state.groups[&GroupId::new("g")].1, Epoch(7));
    assert_eq!(state.vision[&NodeId::new("a")], Epoch(8));
}

#[test]
fn what_cannot_be_read_is_skipped_and_what_could_be_is_kept() {
    let mut view = view();
    put(&mut view, "groups/g", r#"{"ranks":["a"]}"#, 7, 0);
    put(&mut view, "groups/g", "nonsense", 8, 0);
    put(&mut view, "groups/h", "nonsense", 9, 0);
    put(&mut view, "nodes/a", &node("b", "1"), 10, 1);
    put(
        &mut view,
        "groups/i",
        &"x".repeat(MAX_READ_BYTES + 1),
        11,
        0,
    );
    put(&mut view, "horses/h", "", 12, 0);
    let state = view.snapshot().state;
    assert_eq!(state.groups.len(), 1);
    assert_eq!(state.groups[&GroupId::new("g")].1, Epoch(7));
    assert!(state.nodes.is_empty());
    // In a listing too: the key is there.
    let key = format!("{PREFIX}groups/g");
    view.list([written(&key, "nonsense", 8, 0)], 13, false);
    assert_eq!(view.snapshot().state.groups.len(), 1);
    view.list([], 14, false);
    assert!(view.snapshot().state.groups.is_empty());
}

#[test]
fn a_process_that_is_held_is_shown_until_it_is_back_or_released() {
    let mut view = view();
    for id in ["a", "b"] {
        put(&mut view, &format!("nodes/{id}"), &node(id, "1"), 1, 1);
        put(&mut view, &format!("status/{id}"), STATUS, 1, 1);
    }
    put(&mut view, "groups/g", r#"{"ranks":["a"]}"#, 2, 0);
    view.list([], 5, true);
    let state = view.snapshot().state;
    assert_eq!((state.nodes.len(), state.statuses.len()), (2, 2));
    assert!(state.groups.is_empty(), "only processes are held");
    put(&mut view, "nodes/a", &node("a", "1"), 6, 2);
    put(&mut view, "status/a", STATUS, 6, 2);
    assert!(view.release());
    let state = view.snapshot().state;
    assert!(state.nodes.keys().eq([&NodeId::new("a")]));
    assert!(state.statuses.keys().eq([&NodeId::new("a")]));
    assert!(!view.release());
    delete(&mut view, "nodes/a", false);
    assert!(view.snapshot().state.nodes.is_empty());
}

#[test]
fn another_process_of_a_name_has_not_said_what_the_one_before_it_said() {
    let mut view = view();
    put(&mut view, "nodes/a", &node("a", "1"), 1, 1);
    put(&mut view, "status/a", STATUS, 1, 1);
    put(&mut view, "nodes/a", &node("a", "1"), 2, 2);
    assert_eq!(view.snapshot().state.statuses.len(), 1, "the same process");
    put(&mut view, "nodes/a", &node("a", "2"), 3, 3);
    assert!(view.snapshot().state.statuses.is_empty());
}

#[test]
fn whose_a_key_is_and_the_fence_are_seen() {
    let mut view = view();
    put(&mut view, "election/placer", r#""c""#, 4, 9);
    let snapshot = view.snapshot();
    assert_eq!(snapshot.state.placer, Some(NodeId::new("c")));
    let owner = Owner {
        created: 4,
        lease: 9,
    };
    assert_eq!(snapshot.owners[&Key::Placer], owner);
}

proptest! {
    /// Whatever is in etcd: reading it does not panic, and a listing shows what the events before it did.
    #[test]
    fn a_listing_and_the_events_before_it_show_the_same(
        writes in proptest::collection::vec(
            (0..6_usize, 0..3_usize, prop_oneof![Just(None), any::<u8>().prop_map(Some)]), 0..40,
        ),
    ) {
        let names = ["nodes/a", "status/a", "groups/g", "vision/a", "deployment", "election/placer"];
        let values = [node("a", "1"), r#"{"ranks":["a"]}"#.to_owned(), r#""c""#.to_owned()];
        let mut watched = view();
        let mut there = BTreeMap::new();
        for (revision, (name, value, is_put)) in (1..).zip(&writes) {
            let key = format!("{PREFIX}{}", names[*name]);
            // Only what can be read: what cannot be is another test's.
            let readable = matches!((*name, *value), (0, 0) | (2, 1) | (3, _) | (5, 2));
            if is_put.is_some() && readable {
                put(&mut watched, names[*name], &values[*value], revision, 1);
                there.insert(key, (value, revision));
            } else if is_put.is_none() {
                delete(&mut watched, names[*name], false);
                there.remove(&key);
            }
            watched.advance(revision);
        }
        let mut listed = view();
        let listing: Vec<_> = there
            .iter()
            .map(|(key, (value, revision))| written(key, &values[**value], *revision, 1))
            .collect();
        listed.list(listing, writes.len() as i64, false);
        prop_assert_eq!(watched.snapshot().state, listed.snapshot().state);
    }
}
