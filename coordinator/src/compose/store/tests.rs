//! Limits, time and tenants, without a runtime.

use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn settings() -> ComposeSettings {
    ComposeSettings {
        article_ttl: HOUR,
        abandon_after: Duration::from_secs(60),
        max_articles: 4,
        max_articles_per_tenant: 2,
        max_picture_bytes: 100,
        max_picture_bytes_per_tenant: 60,
        ..ComposeSettings::default()
    }
}

fn id(name: &str) -> ArticleId {
    ArticleId(name.into())
}

fn tenant(name: &'static str) -> Bytes {
    Bytes::from_static(name.as_bytes())
}

/// A store, and the time at which it begins.
fn store() -> (ArticleStore<&'static str>, Instant) {
    (ArticleStore::new(settings()), Instant::now())
}

fn open(
    store: &mut ArticleStore<&'static str>,
    who: &'static str,
    name: &'static str,
    now: Instant,
) {
    store.open(tenant(who), id(name), name, now).unwrap();
}

#[test]
fn articles_are_their_tenants() {
    let (mut store, now) = store();
    open(&mut store, "a", "x", now);
    assert_eq!(store.get(&tenant("a"), &id("x"), now), Some("x"));
    assert_eq!(store.get(&tenant("b"), &id("x"), now), None);
    assert_eq!(store.remove(&tenant("b"), &id("x")), None);
    assert_eq!(store.remove(&tenant("a"), &id("x")), Some("x"));
    assert_eq!(store.get(&tenant("a"), &id("x"), now), None);
}

#[test]
fn there_are_so_many_at_most_of_each_tenant_and_of_all() {
    let (mut store, now) = store();
    for (who, name) in [("a", "1"), ("a", "2"), ("b", "3")] {
        open(&mut store, who, name, now);
    }
    let refused = store.open(tenant("a"), id("4"), "4", now);
    assert_eq!(refused, Err(Full::TenantArticles { limit: 2 }));
    open(&mut store, "b", "4", now);
    let refused = store.open(tenant("c"), id("5"), "5", now);
    assert_eq!(refused, Err(Full::Articles { limit: 4 }));
    store.remove(&tenant("a"), &id("1"));
    open(&mut store, "c", "5", now);
}

#[test]
fn pictures_take_room_until_their_article_is_gone() {
    let (mut store, now) = store();
    open(&mut store, "a", "1", now);
    open(&mut store, "b", "2", now);
    store.take_bytes(&id("1"), 60).unwrap();
    let refused = store.take_bytes(&id("1"), 1);
    assert_eq!(refused, Err(Full::TenantPictureBytes { limit: 60 }));
    let refused = store.take_bytes(&id("2"), 41);
    assert_eq!(refused, Err(Full::PictureBytes { limit: 100 }));
    store.take_bytes(&id("2"), 40).unwrap();
    assert_eq!(store.picture_bytes(), 100);
    store.remove(&tenant("a"), &id("1"));
    assert_eq!(store.picture_bytes(), 40);
    assert_eq!(
        store.take_bytes(&id("2"), usize::MAX),
        Err(Full::PictureBytes { limit: 100 })
    );
    // One that is gone is kept by nobody.
    store.take_bytes(&id("1"), 1000).unwrap();
    assert_eq!(store.picture_bytes(), 40);
}

#[test]
fn an_article_is_kept_for_its_time_after_it_was_last_touched() {
    let (mut store, now) = store();
    open(&mut store, "a", "x", now);
    store.ended(&id("x"), now);
    let nearly = now + HOUR - Duration::from_millis(1);
    assert_eq!(store.sweep(nearly).expired, Vec::<&str>::new());
    store.get(&tenant("a"), &id("x"), nearly);
    assert!(store.sweep(now + HOUR).expired.is_empty());
    // Another tenant's touch is none.
    store.get(&tenant("b"), &id("x"), now + HOUR);
    assert_eq!(store.sweep(nearly + HOUR).expired, ["x"]);
    assert_eq!(store.num_articles(), 0);
}

#[test]
fn what_is_being_composed_or_read_is_not_forgotten() {
    let (mut store, now) = store();
    open(&mut store, "a", "composing", now);
    open(&mut store, "a", "read", now);
    store.ended(&id("read"), now);
    store.reader_came(&id("read"));
    let late = now + 2 * HOUR;
    assert!(store.sweep(late).expired.is_empty());
    store.reader_left(&id("read"), late);
    assert!(store.sweep(late).expired.is_empty());
    assert_eq!(store.sweep(late + HOUR).expired, ["read"]);
    store.ended(&id("composing"), late + HOUR);
    assert_eq!(store.sweep(late + 2 * HOUR).expired, ["composing"]);
}

#[test]
fn a_composition_that_nobody_reads_is_told_once_as_abandoned() {
    let (mut store, now) = store();
    let secs = |secs| now + Duration::from_secs(secs);
    open(&mut store, "a", "x", now);
    store.reader_came(&id("x"));
    store.reader_came(&id("x"));
    store.reader_left(&id("x"), secs(10));
    assert!(store.sweep(secs(100)).abandoned.is_empty());
    store.reader_left(&id("x"), secs(110));
    assert!(store.sweep(secs(169)).abandoned.is_empty());
    assert_eq!(store.sweep(secs(170)).abandoned, ["x"]);
    assert!(store.sweep(secs(300)).abandoned.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens, the counts are those of what is there, and no limit is passed.
    #[test]
    fn the_books_are_right(steps in prop::collection::vec((0u8..7, 0usize..6, 0usize..3, 0usize..50), 0..60)) {
        let names = ["0", "1", "2", "3", "4", "5"];
        let tenants = ["a", "b", "c"];
        let (mut store, mut now) = store();
        for (what, name, who, amount) in steps {
            let (name, who) = (names[name], tenants[who]);
            match what {
                0 | 1 => {
                    if !store.entries.contains_key(&id(name)) {
                        let _ = store.open(tenant(who), id(name), name, now);
                    }
                }
                2 => drop(store.take_bytes(&id(name), amount)),
                3 => store.ended(&id(name), now),
                4 => drop(store.remove(&tenant(who), &id(name))),
                5 => store.reader_left(&id(name), now),
                _ => {
                    now += Duration::from_secs(amount as u64 * 120);
                    store.sweep(now);
                }
            }
            let total: usize = store.entries.values().map(|entry| entry.picture_bytes).sum();
            prop_assert_eq!(store.picture_bytes, total);
            prop_assert!(total <= 100 && store.entries.len() <= 4);
            for (tenant, held) in &store.tenants {
                let theirs = || store.entries.values().filter(|entry| entry.tenant == *tenant);
                prop_assert_eq!(held.articles, theirs().count());
                prop_assert_eq!(held.picture_bytes, theirs().map(|entry| entry.picture_bytes).sum::<usize>());
                prop_assert!((1..=2).contains(&held.articles) && held.picture_bytes <= 60);
            }
        }
    }
}
