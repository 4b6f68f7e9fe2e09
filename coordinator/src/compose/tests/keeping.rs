//! What is kept, for whom, and for how long.

use super::*;
use crate::article_error::Full;

#[tokio::test]
async fn another_tenants_article_is_not_found() {
    let world = World::new();
    let (id, article) = world.article().await;
    let other = Bytes::from_static(b"other");
    let composer = &world.composer;
    let wanted = RequestError::from(ArticleError::NotFound { wanted: id.clone() });
    assert_eq!(composer.resume(&other, &id, 0).err(), Some(wanted.clone()));
    assert_eq!(composer.cancel(&other, &id).err(), Some(wanted.clone()));
    assert_eq!(composer.article(&other, &id).err(), Some(wanted.clone()));
    assert_eq!(composer.delete(&other, &id).err(), Some(wanted.clone()));
    let shown = article.segments()[1].illustration.as_ref().unwrap();
    let picture = &shown.picture().id;
    assert_eq!(
        composer.picture(&other, &id, picture).err(),
        Some(wanted.clone())
    );
    let exported = composer.export(&other, &id, ExportFormat::Zip).await;
    assert_eq!(exported.err(), Some(wanted.clone()));
    let changed = composer.change(caller("other"), &id, article.revision(), Change::Undo);
    assert_eq!(changed.await.err(), Some(wanted));
    let (media_type, data) = composer.picture(&nobody(), &id, picture).unwrap();
    assert_eq!(
        (media_type.as_str(), &data[..]),
        ("image/png", &b"picture 1"[..])
    );
}

#[tokio::test]
async fn an_article_expires_and_its_pictures_with_it() {
    let world = World::with(|config| config.compose.article_ttl = Duration::from_millis(500));
    let (id, _) = world.article().await;
    let kept = || {
        let kept = |store: &ArticleStore<_>| (store.num_articles(), store.picture_bytes());
        world.composer.with_store(|store, _| kept(store))
    };
    eventually("it is forgotten", || kept() == (0, 0)).await;
    let wanted = id.clone();
    let gone = world.composer.article(&nobody(), &id).err();
    assert_eq!(gone, Some(ArticleError::NotFound { wanted }.into()));
}

#[tokio::test]
async fn there_is_room_for_so_many_articles() {
    let world = World::with(|config| config.compose.max_articles_per_tenant = 1);
    let (id, _) = world.article().await;
    let refused = world.refusal(ask(PictureCount::None)).await;
    let full = Full::TenantArticles { limit: 1 };
    assert!(
        matches!(&refused, RequestError::Article(ArticleError::Full { full: found, .. }) if *found == full),
        "{refused}"
    );
    assert_eq!(refused.reason(), "ARTICLES_FULL");
    world.says("article", "Title\nOne.");
    let other = world
        .composer
        .compose(caller("other"), ask(PictureCount::None))
        .await;
    read(other.unwrap()).await;
    world.composer.delete(&nobody(), &id).unwrap();
    world.says("article", "Title\nOne.");
    read(world.compose(ask(PictureCount::None)).await).await;
}

#[tokio::test]
async fn pictures_past_the_room_for_them_are_refused_or_left_out() {
    // Each picture of the shelf has nine bytes.
    let world = World::with(|config| config.compose.max_picture_bytes = 20);
    let large = with_uploads(&["a picture that is larger than that"]);
    let refused = world.refusal(large).await;
    assert_eq!(refused.reason(), "ARTICLES_FULL");
    world.tells_an_article();
    let told = read(world.compose(ask(PictureCount::Fixed(2))).await).await;
    let found: Vec<usize> = told
        .iter()
        .filter_map(|event| match &event.event {
            Event::Candidates { pictures, .. } => Some(pictures.len()),
            _ => None,
        })
        .collect();
    assert_eq!(found, [2]);
    let dropped = told.iter().find_map(|event| match &event.event {
        Event::LocationDropped { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    assert!(dropped.unwrap().contains("more than 20 bytes"));
}

#[tokio::test]
async fn deleting_ends_the_composition() {
    let world = World::new();
    world.plays(
        "article",
        vec![Step::Text("Title\nOne"), Step::Pause(PATIENCE)],
    );
    let events = world.compose(ask(PictureCount::None)).await;
    let id = events.article_id().clone();
    world.composer.delete(&nobody(), &id).unwrap();
    assert!(world.composer.article(&nobody(), &id).is_err());
    // Who reads sees the end.
    read(events).await;
    let group = world.cluster.group();
    eventually("nothing runs", || group.num_running() == 0).await;
}
