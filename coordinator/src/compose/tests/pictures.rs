//! Pictures of a composition: put once, checked when they come, put again where they are lost, and found by the client.

use inkstone_composition::procedure::DropReason;

use super::*;

#[tokio::test]
async fn uploads_are_put_once_and_named_by_their_bytes() {
    let world = World::new();
    world.says("article", "Title\nOne.\nTwo.");
    world.says("places", "<Seg1>，<Seg2>");
    world.says("choice-1", ":B");
    let events = world.compose(with_uploads(&["one", "two", "one"])).await;
    assert_eq!(events.source(), WantedSource::Uploads);
    let told = read(events).await;
    let Event::Accepted { request } = &told[0].event else {
        panic!("{:?}", told[0]);
    };
    let names: Vec<_> = request
        .pictures
        .iter()
        .map(|picture| picture.id.as_str())
        .collect();
    let name = |data: &str| blake3::hash(data.as_bytes()).to_hex().to_string();
    assert_eq!(names, [name("one"), name("two"), name("one")]);
    assert_eq!(world.cluster.vision_workers[0].uploads().len(), 2);
    let article = article_of(&told);
    let shown = article.segments()[1].illustration.as_ref().unwrap();
    assert_eq!(shown.picture().id.as_str(), name("two"));
}

#[tokio::test]
async fn a_corrupt_upload_is_named_and_nothing_is_kept() {
    let world = World::new();
    let refused = world.refusal(with_uploads(&["fine", "corrupt"])).await;
    let RequestError::PictureRefused(violations) = &refused else {
        panic!("{refused}");
    };
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].path, "pictures[1]");
    assert!(world.cluster.group().asked().is_empty());
    let kept = world
        .composer
        .with_store(|store, _| (store.num_articles(), store.picture_bytes()));
    assert_eq!(kept, (0, 0));
    let RequestError::Invalid(violations) = world.refusal(with_uploads(&[""])).await else {
        panic!("an empty picture is none");
    };
    assert_eq!(violations[0].path, "pictures[0]");
}

#[tokio::test]
async fn what_a_search_finds_that_is_no_picture_is_left_out() {
    let shelf = Shelf {
        num_corrupt: 3,
        ..Shelf::default()
    };
    let world = World::of(Some(Arc::new(shelf)), |_| {});
    world.tells_an_article();
    let told = read(world.compose(ask(PictureCount::Fixed(2))).await).await;
    let article = article_of(&told);
    let shown = article.segments()[1].illustration.as_ref().unwrap();
    let indices: Vec<_> = shown
        .candidates()
        .iter()
        .map(|picture| picture.index.as_deref().unwrap())
        .collect();
    assert_eq!(indices, ["shelf-3"]);
    // One candidate needs no choice.
    assert!(world.asked("choice-1").is_empty());
}

#[tokio::test]
async fn a_search_that_fails_costs_its_place_only() {
    let world = World::new();
    world.shelf.fails.store(true, Ordering::SeqCst);
    world.tells_an_article();
    let told = read(world.compose(ask(PictureCount::Fixed(2))).await).await;
    let dropped = told.iter().filter(|event| {
        matches!(&event.event, Event::LocationDropped { reason: DropReason::SourceFailed(why), .. }
            if why.contains("it fell"))
    });
    assert_eq!(dropped.count(), 2);
    assert_eq!(article_of(&told).segments().len(), 4);
}

#[tokio::test]
async fn features_that_are_lost_before_a_later_step_are_put_again_for_all_later_ones() {
    let world = World::new();
    let mut article = vec![
        Step::Text("Title\nOne."),
        Step::Pause(Duration::from_millis(300)),
    ];
    article.extend(say("\nTwo.\nThree."));
    world.plays("article", article);
    world.says("places", "<Seg1>，<Seg2>，<Seg3>");
    world.says("choice-1", ":B");
    world.says("choice-2", ":A");
    let mut events = world.compose(with_uploads(&["one", "two", "three"])).await;
    read_until(&mut events, |event| {
        matches!(event, Event::TextDelta { .. })
    })
    .await;
    let vision = &world.cluster.vision_workers[0];
    assert_eq!(vision.uploads().len(), 3);
    vision.evict_all();
    let rest: Vec<_> = timeout(PATIENCE, events.collect()).await.unwrap();
    let article = article_of(&rest);
    let pictures = article
        .segments()
        .iter()
        .filter(|segment| segment.illustration.is_some());
    assert_eq!(pictures.count(), 3);
    assert_eq!(world.asked("places").len(), 2, "it was refused once");
    assert_eq!(vision.uploads().len(), 6);
    assert_eq!(
        world.asked("choice-1").len(),
        1,
        "the pictures are there again"
    );
}

#[tokio::test]
async fn a_client_may_look_for_pictures_itself() {
    let world = World::without_source();
    world.tells_an_article();
    let ask = ComposeAsk {
        source: WantedSource::Client,
        ..ask(PictureCount::Fixed(2))
    };
    let mut events = world.compose(ask).await;
    assert_eq!(events.source(), WantedSource::Client);
    let id = events.article_id().clone();
    let provided = |data: &'static str| ProvidedPicture {
        data: Bytes::from_static(data.as_bytes()),
        index: Some(format!("mine-{data}")),
        author: Some("me".into()),
        ..ProvidedPicture::default()
    };
    let composer = &world.composer;
    let early = composer
        .provide(&nobody(), &id, 3, vec![provided("x")])
        .await;
    assert_eq!(
        early.err(),
        Some(ArticleError::PicturesNotWanted { place: 3 }.into())
    );
    let wants = |event: &Event| matches!(event, Event::CandidatesRequest { .. });
    read_until(&mut events, wants).await;
    let bad = vec![provided("fine"), provided("corrupt")];
    let refused = composer.provide(&nobody(), &id, 1, bad).await.unwrap_err();
    let RequestError::PictureRefused(violations) = &refused else {
        panic!("{refused}");
    };
    assert_eq!(violations[0].path, "pictures[1].data");
    let five = ["a", "b", "c", "d", "e"].map(provided);
    composer
        .provide(&nobody(), &id, 1, five.into())
        .await
        .unwrap();
    let again = composer.provide(&nobody(), &id, 1, vec![]).await;
    assert_eq!(
        again.err(),
        Some(ArticleError::PicturesNotWanted { place: 1 }.into())
    );
    let Event::CandidatesRequest { search, .. } = read_until(&mut events, wants).await else {
        panic!("it is that event");
    };
    assert_eq!(search.exclude, ["mine-a", "mine-b", "mine-c", "mine-d"]);
    composer.provide(&nobody(), &id, 3, vec![]).await.unwrap();
    let rest: Vec<_> = timeout(PATIENCE, events.collect()).await.unwrap();
    let article = article_of(&rest);
    let shown = article.segments()[1].illustration.as_ref().unwrap();
    assert_eq!(shown.picture().index.as_deref(), Some("mine-b"));
    assert_eq!(shown.picture().author.as_deref(), Some("me"));
    assert!(article.segments()[3].illustration.is_none());
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_not_waited_for_for_ever() {
    let world = World::of(None, |config| {
        config.compose.client_time = Duration::from_millis(100);
    });
    world.tells_an_article();
    let ask = ComposeAsk {
        source: WantedSource::Client,
        ..ask(PictureCount::Fixed(1))
    };
    let events = world.compose(ask).await;
    let told: Vec<_> = timeout(Duration::from_secs(600), events.collect())
        .await
        .unwrap();
    let dropped = told.iter().any(|event| {
        matches!(&event.event, Event::LocationDropped { reason, .. }
            if reason.to_string().contains("sent no pictures within 0.1 s"))
    });
    assert!(dropped);
}
