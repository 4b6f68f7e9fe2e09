//! What is told while an article comes about, and what the cluster is asked.

use inkstone_composition::{
    PictureSource as Source, Sampling,
    procedure::{FinishReason, Warning},
};
use proptest::prelude::*;

use super::*;
use crate::worker_client::{Constraint, Decoding, Priority};

#[tokio::test]
async fn an_article_comes_about_with_its_events_in_order() {
    let world = World::new();
    world.tells_an_article();
    let events = world.compose(ask(PictureCount::Fixed(2))).await;
    assert_eq!(events.source(), WantedSource::Search);
    assert_eq!(events.expires_after(), Duration::from_secs(3600));
    let told = read(events).await;
    let kinds = kinds(&told);
    let closed = "segment_closed";
    assert_eq!(
        kinds[..7],
        [
            "accepted",
            closed,
            closed,
            closed,
            closed,
            "article_done",
            "locations"
        ]
    );
    assert_eq!(kinds.last().unwrap(), "done");
    for kind in [
        "caption",
        "candidates_request",
        "candidates",
        "image_selected",
    ] {
        assert_eq!(
            kinds.iter().filter(|told| *told == kind).count(),
            2,
            "{kind}"
        );
    }
    let text: String = told
        .iter()
        .filter_map(|event| match &event.event {
            Event::TextDelta { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "Title\nOne.\n\nTwo.\nThree.");
    let article = article_of(&told);
    assert_eq!(article.texts(), ["Title", "One.", "Two.", "Three."]);
    let shown = |number: usize| article.segments()[number].illustration.as_ref().unwrap();
    assert_eq!(shown(1).caption(), "a red house");
    assert_eq!(shown(1).picture().index.as_deref(), Some("shelf-1"));
    assert_eq!(shown(1).picture().licence.as_deref(), Some("CC0"));
    // The first four are not offered again.
    assert_eq!(shown(3).picture().index.as_deref(), Some("shelf-4"));
    let searches = world.shelf.searches();
    assert_eq!(searches[1].caption, "a blue boat");
    assert_eq!(
        searches[1].exclude,
        ["shelf-0", "shelf-1", "shelf-2", "shelf-3"]
    );
    assert_eq!(world.cluster.group().num_running(), 0);
}

#[tokio::test]
async fn steps_are_requests_with_the_prompt_form_and_seed_that_the_procedure_says() {
    let world = World::new();
    world.tells_an_article();
    let asked = ask(PictureCount::Fixed(2));
    let told = world.composer.compose(caller("a tenant"), asked).await;
    read(told.unwrap()).await;
    let all = world.cluster.group().asked();
    assert_eq!(all.len(), 6);
    for generation in &all {
        assert_eq!(generation.cache_salt, Bytes::from_static(b"a tenant"));
        assert_eq!(generation.priority, Priority::Interactive);
        assert_eq!(generation.decoding, Decoding::Sample { branches: 1 });
        assert_eq!(
            generation.stop_token_ids,
            fake::tokenizer().stop_token_ids()
        );
        assert_eq!(
            generation.sampling.temperature,
            Sampling::STANDARD.temperature
        );
        assert_eq!(generation.sampling.repetition_penalty, 1.005);
    }
    let article = &world.asked("article")[0];
    assert_eq!(article.request_id, "call.article");
    assert_eq!(article.sampling.seed, 8909);
    assert_eq!(article.sampling.constraint, None);
    let places = &world.asked("places")[0];
    let form = places.sampling.constraint.clone();
    assert!(matches!(form, Some(Constraint::Regex(form)) if form.contains("<Seg(?:0|1|2|3)>")));
    assert_eq!(places.max_new_tokens, 200);
    // Its prompt goes on with the words that the answer begins with, and has one BOS.
    let tokenizer = fake::tokenizer();
    let ids: Vec<u32> = places
        .prompt
        .iter()
        .flat_map(|piece| match piece {
            crate::worker_client::PromptPiece::Tokens(ids) => ids.clone(),
            crate::worker_client::PromptPiece::Picture(_) => vec![],
        })
        .collect();
    assert_eq!(
        ids.iter().filter(|id| **id == tokenizer.bos_id()).count(),
        1
    );
    assert!(tokenizer.decode(&ids).ends_with("适合插入图像的行是"));
    let choice = &world.asked("choice-3")[0];
    // The picture that was chosen before, and four candidates.
    let pictures = choice.prompt.iter().filter(|piece| piece.num_tokens() > 0);
    let pictures = pictures
        .filter(|piece| matches!(piece, crate::worker_client::PromptPiece::Picture(_)))
        .count();
    assert_eq!(pictures, 5);
}

#[tokio::test]
async fn resuming_from_any_number_gives_the_same_rest() {
    let world = World::new();
    world.tells_an_article();
    let mut events = world.compose(ask(PictureCount::Fixed(2))).await;
    let id = events.article_id().clone();
    // One begins while the composition runs.
    read_until(&mut events, |event| {
        matches!(event, Event::SegmentClosed { .. })
    })
    .await;
    let early = world.composer.resume(&nobody(), &id, 0).unwrap();
    let (told, rest) = tokio::join!(read(early), events.collect::<Vec<_>>());
    assert!(told.ends_with(&rest));
    for from in 0..told.len() as u64 + 2 {
        let again = world.composer.resume(&nobody(), &id, from).unwrap();
        let again = read_from(again, from).await;
        assert_eq!(again, told.get(from as usize..).unwrap_or_default());
    }
}

#[tokio::test]
async fn a_composition_goes_on_when_its_client_goes_away() {
    let world = World::new();
    world.tells_an_article();
    let events = world.compose(ask(PictureCount::Fixed(2))).await;
    let id = events.article_id().clone();
    drop(events);
    let told = read(world.composer.resume(&nobody(), &id, 0).unwrap()).await;
    assert_eq!(article_of(&told).segments().len(), 4);
}

#[tokio::test]
async fn without_a_source_there_is_text_and_a_warning() {
    let world = World::without_source();
    world.says("article", "Title\nOne.");
    let events = world.compose(ask(PictureCount::Automatic)).await;
    assert_eq!(events.source(), WantedSource::Default);
    let told = read(events).await;
    let warning = Event::Warning {
        warning: Warning::NoPictureSource,
    };
    assert!(told.iter().any(|event| event.event == warning));
    assert_eq!(article_of(&told).segments().len(), 2);
    // Who wants none is not warned.
    world.says("article", "Title\nOne.");
    let told = read(world.compose(ask(PictureCount::None)).await).await;
    assert!(told.iter().all(|event| event.event != warning));
    let searching = ComposeAsk {
        source: WantedSource::Search,
        ..ask(PictureCount::Automatic)
    };
    let refused = world.refusal(searching).await;
    assert_eq!(refused, ArticleError::NoPictureSource.into());
}

#[tokio::test]
async fn beams_give_the_text_in_one_piece() {
    let world = World::new();
    world
        .cluster
        .group()
        .tell(fake::Tale::of(&["Title\nOne.\nTwo."]));
    let mut ask = ask(PictureCount::None);
    ask.request.num_beams = 3;
    let told = read(world.compose(ask).await).await;
    let texts = told
        .iter()
        .filter(|event| matches!(event.event, Event::TextDelta { .. }));
    assert_eq!(texts.count(), 1);
    assert_eq!(article_of(&told).texts(), ["Title", "One.", "Two."]);
    let asked = &world.asked("article")[0];
    assert!(matches!(asked.decoding, Decoding::Beam(beam) if beam.width == 3));
    assert_eq!(asked.sampling.temperature, 0.0);
}

#[tokio::test]
async fn a_step_that_is_sent_away_comes_again() {
    let world = World::new();
    let busy = || {
        Script::Refuse(WorkerError::Busy {
            message: "full".into(),
            retry_after: Some(Duration::from_millis(20)),
        })
    };
    world.cluster.group().script_for("places", busy());
    world.cluster.group().script_for("places", busy());
    world.tells_an_article();
    let told = read(world.compose(ask(PictureCount::Fixed(2))).await).await;
    assert_eq!(
        kinds(&told)
            .iter()
            .filter(|kind| *kind == "image_selected")
            .count(),
        2
    );
    assert_eq!(world.asked("places").len(), 3);

    // What keeps the first step from running is the answer to the call, and nothing is kept.
    world.cluster.group().script_for("article", busy());
    let refused = world.refusal(ask(PictureCount::Automatic)).await;
    assert!(
        matches!(refused, RequestError::ClusterFull { .. }),
        "{refused}"
    );
    assert_eq!(
        world.composer.with_store(|store, _| store.num_articles()),
        1
    );
}

#[tokio::test]
async fn a_step_does_not_come_again_for_ever() {
    let world = World::with(|config| config.compose.shed_patience = Duration::from_millis(600));
    for _ in 0..10 {
        let busy = Script::Refuse(WorkerError::Busy {
            message: "full".into(),
            retry_after: Some(Duration::from_millis(200)),
        });
        world.cluster.group().script_for("places", busy);
    }
    world.tells_an_article();
    let told = read(world.compose(ask(PictureCount::Fixed(2))).await).await;
    assert!(kinds(&told).contains(&"warning".to_owned()));
    assert_eq!(article_of(&told).segments().len(), 4);
    let num_asked = world.asked("places").len();
    assert!((2..=4).contains(&num_asked), "{num_asked}");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let world = World::new();
    let mut wrong = ask(PictureCount::Fixed(16));
    wrong.request.num_beams = 9;
    let RequestError::Invalid(violations) = world.refusal(wrong).await else {
        panic!("it is invalid");
    };
    let paths: Vec<_> = violations.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["picture_count", "num_beams"]);
    let other = ComposeAsk {
        model: "other".into(),
        ..ask(PictureCount::None)
    };
    let refused = world.refusal(other).await;
    assert!(matches!(refused, RequestError::ModelNotFound { .. }));
    let mut long = ask(PictureCount::None);
    long.request.instruction = "文".repeat(2000);
    let refused = world.refusal(long).await;
    assert!(
        matches!(refused, RequestError::PromptTooLong { limit: 2000, .. }),
        "{refused}"
    );
    assert_eq!(
        world.composer.with_store(|store, _| store.num_articles()),
        0
    );
}

#[tokio::test]
async fn an_article_that_breaks_off_fails_with_the_reason() {
    let world = World::new();
    let fault = Step::Fail(WorkerError::Faulty("a bug".into()));
    world.plays("article", vec![Step::Text("Title\n"), fault]);
    let told = read(world.compose(ask(PictureCount::None)).await).await;
    let Some(Event::Error { error, .. }) = told.last().map(|last| &last.event) else {
        panic!("{told:?}");
    };
    assert!(error.to_string().contains("a bug"), "{error}");
}

#[test]
fn pictures_come_from_where_they_are_wanted() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let wanted = prop_oneof![
        Just(WantedSource::Default),
        Just(WantedSource::Uploads),
        Just(WantedSource::Search),
        Just(WantedSource::Client),
    ];
    let counts = prop_oneof![
        Just(PictureCount::None),
        Just(PictureCount::Automatic),
        (1usize..16).prop_map(PictureCount::Fixed),
    ];
    let _entered = runtime.enter();
    let worlds = [World::without_source(), World::new()];
    let upload = crate::request::pictures::Picture {
        path: "pictures[0]".into(),
        data: Bytes::from_static(b"x"),
        content: blake3::hash(b"x"),
        known: None,
    };
    proptest!(|(wanted in wanted, count in counts, has_search: bool, has_upload: bool)| {
        let world = &worlds[usize::from(has_search)];
        let composer = &world.composer;
        let uploads = if has_upload { vec![upload.clone()] } else { vec![] };
        let request = ask(count).request;
        let model = composer.model("").unwrap();
        match composer.settle(request, wanted, &uploads, model) {
            Ok((checked, source)) => {
                let request = checked.request();
                match source {
                    WantedSource::Default => prop_assert_eq!(request.picture_count, PictureCount::None),
                    WantedSource::Uploads => prop_assert!(has_upload && request.source() == Source::Uploads),
                    WantedSource::Search => prop_assert!(has_search && request.source() == Source::Search),
                    WantedSource::Client => prop_assert_eq!((wanted, request.source()), (WantedSource::Client, Source::Search)),
                }
            }
            Err(RequestError::Article(ArticleError::NoPictureSource)) => {
                prop_assert!(!has_search && wanted == WantedSource::Search);
            }
            Err(_) => prop_assert!(wanted == WantedSource::Uploads && !has_upload),
        }
    });
}

#[tokio::test]
async fn a_reader_that_reads_nothing_holds_nobody_up() {
    let world = World::new();
    world.tells_an_article();
    let slow = world.compose(ask(PictureCount::Fixed(2))).await;
    let id = slow.article_id().clone();
    let quick = world.composer.resume(&nobody(), &id, 0).unwrap();
    let told = read(quick).await;
    assert_eq!(read(slow).await, told);
    let finish = told.iter().find_map(|event| match event.event {
        Event::ArticleDone { finish, .. } => Some(finish),
        _ => None,
    });
    assert_eq!(finish, Some(FinishReason::Stop));
}
