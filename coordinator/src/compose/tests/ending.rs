//! How compositions end before their time: cancelled, abandoned, too slow, or with the coordinator.

use inkstone_composition::procedure::{ComposeError, FinishReason};

use super::*;

fn words() -> Step {
    Step::Repeat("word ".into(), Duration::from_millis(5))
}

#[tokio::test]
async fn cancelling_while_the_article_is_written_keeps_what_is_there() {
    let world = World::new();
    world.plays("article", vec![Step::Text("Title\nOne"), words()]);
    let mut events = world.compose(ask(PictureCount::Fixed(2))).await;
    let id = events.article_id().clone();
    read_until(&mut events, |event| {
        matches!(event, Event::SegmentClosed { .. })
    })
    .await;
    world.composer.cancel(&nobody(), &id).unwrap();
    let done = read_until(&mut events, |event| {
        matches!(event, Event::ArticleDone { .. })
    })
    .await;
    assert!(matches!(
        done,
        Event::ArticleDone {
            finish: FinishReason::Cancelled,
            ..
        }
    ));
    let told = read(world.composer.resume(&nobody(), &id, 0).unwrap()).await;
    assert_eq!(article_of(&told).texts()[0], "Title");
    let group = world.cluster.group();
    eventually("the group is told to end it", || group.num_running() == 0).await;
    // Once more does no harm.
    world.composer.cancel(&nobody(), &id).unwrap();
}

#[tokio::test]
async fn cancelling_before_anything_is_written_leaves_no_article() {
    let world = World::new();
    world.plays("article", vec![Step::Pause(PATIENCE)]);
    let events = world.compose(ask(PictureCount::Fixed(2))).await;
    let id = events.article_id().clone();
    world.composer.cancel(&nobody(), &id).unwrap();
    let told = read(events).await;
    let last = &told.last().unwrap().event;
    assert!(
        matches!(
            last,
            Event::Error {
                error: ComposeError::Cancelled,
                ..
            }
        ),
        "{last:?}"
    );
    let view = world.composer.article(&nobody(), &id).unwrap();
    assert!(view.article.is_none() && !view.is_composing);
    let refused = world
        .composer
        .export(&nobody(), &id, ExportFormat::Json)
        .await;
    assert_eq!(refused.unwrap_err(), ArticleError::NoArticle.into());
}

#[tokio::test]
async fn cancelling_a_later_stage_ends_it_and_keeps_the_text() {
    for stage in ["places", "caption-1", "search", "choice-1"] {
        let world = World::new();
        match stage {
            "search" => world.shelf.never_answers.store(true, Ordering::SeqCst),
            step => world.plays(step, vec![Step::Pause(PATIENCE)]),
        }
        world.tells_an_article();
        let mut events = world.compose(ask(PictureCount::Fixed(2))).await;
        let id = events.article_id().clone();
        read_until(&mut events, |event| {
            matches!(event, Event::ArticleDone { .. })
        })
        .await;
        let begun = || match stage {
            "search" => !world.shelf.searches().is_empty(),
            step => !world.asked(step).is_empty(),
        };
        eventually("the stage is reached", begun).await;
        world.composer.cancel(&nobody(), &id).unwrap();
        let rest: Vec<_> = events.collect().await;
        let article = article_of(&rest);
        assert_eq!(article.segments().len(), 4, "{stage}");
        assert!(article.segments()[1].illustration.is_none(), "{stage}");
        let group = world.cluster.group();
        eventually("nothing runs", || group.num_running() == 0).await;
    }
}

#[tokio::test]
async fn a_composition_that_nobody_reads_ends() {
    let world = World::with(|config| config.compose.abandon_after = Duration::from_millis(100));
    world.plays(
        "article",
        vec![Step::Text("Title\nOne"), Step::Pause(PATIENCE * 2)],
    );
    let mut events = world.compose(ask(PictureCount::Fixed(2))).await;
    let id = events.article_id().clone();
    read_until(&mut events, |event| {
        matches!(event, Event::SegmentClosed { .. })
    })
    .await;
    drop(events);
    let is_over = || {
        let view = world.composer.article(&nobody(), &id).unwrap();
        !view.is_composing
    };
    eventually("it is ended", is_over).await;
    let view = world.composer.article(&nobody(), &id).unwrap();
    assert_eq!(view.article.unwrap().texts(), ["Title", "One"]);
    let group = world.cluster.group();
    eventually("nothing runs", || group.num_running() == 0).await;
}

#[tokio::test]
async fn a_composition_that_is_read_is_not_abandoned() {
    let world = World::with(|config| config.compose.abandon_after = Duration::from_millis(100));
    let mut steps = vec![
        Step::Text("Title\nOne"),
        Step::Pause(Duration::from_millis(700)),
    ];
    steps.extend(say("."));
    world.plays("article", steps);
    let told = read(world.compose(ask(PictureCount::None)).await).await;
    assert_eq!(article_of(&told).texts(), ["Title", "One."]);
}

#[tokio::test]
async fn every_step_and_search_has_a_time_limit() {
    let world = World::with(|config| {
        config.compose.search_time = Duration::from_millis(100);
        config.compose.step_time = Duration::from_secs(2);
    });
    world.shelf.never_answers.store(true, Ordering::SeqCst);
    world.plays("caption-3", vec![Step::Pause(PATIENCE * 2)]);
    world.tells_an_article();
    let told = read(world.compose(ask(PictureCount::Fixed(2))).await).await;
    let reasons: Vec<String> = told
        .iter()
        .filter_map(|event| match &event.event {
            Event::LocationDropped { reason, .. } => Some(reason.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    let (search, caption) = (&reasons[0], &reasons[1]);
    assert!(
        search.contains("shelf did not answer within 0.1 s"),
        "{search}"
    );
    assert!(caption.contains("it took longer than 2 s"), "{caption}");
    assert_eq!(article_of(&told).segments().len(), 4);
}

#[tokio::test]
async fn a_coordinator_that_stops_lets_compositions_end_and_begins_none() {
    let world = World::new();
    let mut article = vec![
        Step::Text("Title\nOne"),
        Step::Pause(Duration::from_millis(100)),
    ];
    article.extend(say(".\nTwo.\nThree."));
    world.plays("article", article);
    world.tells_an_article();
    let events = world.compose(ask(PictureCount::Fixed(2))).await;
    let composer = world.composer.clone();
    let draining = tokio::spawn(async move {
        composer.dispatcher.drain(composer.drain()).await;
    });
    eventually("it is closed", || world.composer.closed.is_cancelled()).await;
    let refused = world.refusal(ask(PictureCount::None)).await;
    assert!(
        matches!(refused, RequestError::ShuttingDown { .. }),
        "{refused}"
    );
    let told = read(events).await;
    let pictures = kinds(&told);
    let pictures = pictures.iter().filter(|kind| *kind == "image_selected");
    assert_eq!(pictures.count(), 2, "later steps are let in");
    timeout(PATIENCE, draining).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_coordinator_that_must_stop_ends_compositions() {
    let world = World::with(|config| config.timeouts.drain = Duration::from_millis(100));
    world.plays("article", vec![Step::Text("Title\nOne"), words()]);
    let events = world.compose(ask(PictureCount::Fixed(2))).await;
    let composer = &world.composer;
    let draining = composer.dispatcher.drain(composer.drain());
    let (told, ()) = tokio::join!(read(events), draining);
    assert_eq!(article_of(&told).texts()[0], "Title");
}

#[tokio::test]
async fn a_call_that_ends_while_its_first_step_waits_leaves_nothing() {
    let world = World::new();
    world
        .cluster
        .group()
        .script_for("article", Script::NeverOpen);
    let mut hurried = caller("");
    hurried.deadline = Some(Instant::now() + Duration::from_millis(50));
    let refused = world
        .composer
        .compose(hurried, ask(PictureCount::None))
        .await;
    assert_eq!(refused.err(), Some(RequestError::DeadlineExceeded));
    assert_eq!(
        world.composer.with_store(|store, _| store.num_articles()),
        0
    );
    let group = world.cluster.group();
    eventually("nothing runs", || group.num_running() == 0).await;
}
