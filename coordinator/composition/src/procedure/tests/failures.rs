//! What goes wrong costs as little as it can, and is told.

use super::world::{Run, World, drive, drive_in_order, in_order};
use crate::{
    ComposeRequest, PictureCount,
    procedure::{ComposeError, DropReason, Event, FinishReason, Stage, Warning, Work},
    steps::places::Places,
    tests::{CharMeter, upload},
};

fn request() -> ComposeRequest {
    ComposeRequest {
        picture_count: PictureCount::Fixed(2),
        ..ComposeRequest::of("Write.")
    }
}

fn run_without(failing: Work) -> Run {
    let mut world = World::of(4, "<Seg1>，<Seg3>");
    world.failing.insert(failing);
    drive_in_order(request(), &world)
}

fn places_of(run: &Run) -> Vec<usize> {
    run.pictures().into_iter().map(|(place, _)| place).collect()
}

#[test]
fn an_article_that_fails_is_an_error() {
    let run = run_without(Work::Article);
    let error = ComposeError::Failed {
        reason: "no group".into(),
    };
    run.has(&Event::Error {
        stage: Stage::Article,
        error,
    });
}

#[test]
fn an_article_without_places_stays_without_pictures() {
    let run = run_without(Work::Places);
    assert!(places_of(&run).is_empty());
    let reason = "no group".into();
    run.has(&Event::Warning {
        warning: Warning::LocationsFailed { reason },
    });
}

#[test]
fn a_source_that_fails_costs_its_place() {
    let run = run_without(Work::Search { place: 1 });
    let reason = DropReason::SourceFailed("library is gone".into());
    run.has(&Event::LocationDropped { place: 1, reason });
    assert_eq!(places_of(&run), [3]);
    // The caption was made, and the next question tells it.
    assert!(run.prompt(Work::Caption { place: 3 }).contains("caption 1"));
    assert!(
        run.prompt(Work::Choice { place: 3 })
            .contains("paragraph 1\nparagraph 2")
    );
}

#[test]
fn a_source_without_pictures_costs_its_place() {
    let mut world = World::of(4, "<Seg1>，<Seg3>");
    world.finds.insert(3, vec![]);
    let run = drive_in_order(request(), &world);
    run.has(&Event::LocationDropped {
        place: 3,
        reason: DropReason::NoCandidates,
    });
    assert_eq!(places_of(&run), [1]);
}

#[test]
fn a_caption_that_fails_or_is_empty_costs_its_place() {
    let run = run_without(Work::Caption { place: 1 });
    let reason = DropReason::CaptionFailed("no group".into());
    run.has(&Event::LocationDropped { place: 1, reason });
    assert_eq!(places_of(&run), [3]);
    let mut world = World::of(4, "<Seg1>，<Seg3>");
    world
        .answers
        .insert(Work::Caption { place: 1 }, " \"".into());
    let run = drive_in_order(request(), &world);
    run.has(&Event::LocationDropped {
        place: 1,
        reason: DropReason::EmptyCaption,
    });
    assert_eq!(places_of(&run), [3]);
    assert!(!run.prompt(Work::Caption { place: 3 }).contains("现在"));
}

#[test]
fn a_choice_that_fails_or_is_no_letter_falls_on_the_first() {
    let run = run_without(Work::Choice { place: 1 });
    let warning = Warning::ChoiceFailed {
        place: 1,
        reason: "no group".into(),
    };
    run.has(&Event::Warning { warning });
    assert_eq!(run.pictures()[0], (1, "1a".into()));
    let mut world = World::of(4, "<Seg1>，<Seg3>");
    world
        .answers
        .insert(Work::Choice { place: 1 }, "：最".into());
    let run = drive_in_order(request(), &world);
    assert_eq!(run.pictures()[0], (1, "1a".into()));
    let told = run.events.iter().find_map(|event| match event {
        Event::ImageSelected {
            place: 1,
            raw,
            by_default,
            ..
        } => Some((raw.as_str(), *by_default)),
        _ => None,
    });
    assert_eq!(told, Some(("：最", true)));
    let illustration = run.article().segments()[1].illustration.as_ref().unwrap();
    assert!(illustration.by_default());
}

#[test]
fn uploads_survive_a_letter_that_is_none() {
    // The demo crashes.
    let mut world = World::of(4, "<Seg1>，<Seg3>");
    world
        .answers
        .insert(Work::Choice { place: 1 }, ": Z".into());
    let request = ComposeRequest {
        pictures: vec![upload("x"), upload("y")],
        ..ComposeRequest::of("Write.")
    };
    let run = drive_in_order(request, &world);
    assert_eq!(run.pictures(), [(1, "x".into()), (3, "y".into())]);
}

#[test]
fn places_that_did_not_parse_are_spread_and_told() {
    let run = drive_in_order(request(), &World::of(4, "行首"));
    run.has(&Event::Locations {
        places: Places {
            places: vec![2, 4],
            by_default: true,
        },
        raw: "行首".into(),
    });
    assert_eq!(places_of(&run), [2, 4]);
}

#[test]
fn fewer_places_than_wanted_are_told() {
    let run = drive_in_order(request(), &World::of(4, "<Seg2>"));
    run.has(&Event::Warning {
        warning: Warning::FewerPlaces {
            wanted: 2,
            found: 1,
        },
    });
    assert_eq!(places_of(&run), [2]);
}

#[test]
fn more_pictures_than_uploads_are_told() {
    let request = ComposeRequest {
        pictures: vec![upload("x")],
        picture_count: PictureCount::Fixed(3),
        ..ComposeRequest::of("Write.")
    };
    let run = drive_in_order(request, &World::of(4, "<Seg2>"));
    run.has(&Event::Warning {
        warning: Warning::FewerPictures {
            wanted: 3,
            given: 1,
        },
    });
    assert_eq!(run.pictures(), [(2, "x".into())]);
}

#[test]
fn an_instruction_that_does_not_fit_is_an_error_with_the_numbers() {
    let mut world = World::of(1, "");
    world.meter = CharMeter {
        context: 100,
        picture: 256,
    };
    let request = ComposeRequest::of("x".repeat(200));
    let run = drive_in_order(request, &world);
    let error = ComposeError::PromptTooLong {
        num_tokens: 200,
        limit: 84,
    };
    run.has(&Event::Error {
        stage: Stage::Article,
        error,
    });
    assert!(run.generations.is_empty());
}

#[test]
fn an_article_that_outgrows_the_context_is_told_in_part() {
    let mut world = World::of(0, "<Seg5>，<Seg30>");
    let paragraphs = (1..40).map(|number| format!("{number} {}\n", "x".repeat(80)));
    world.article = format!("A title\n{}", paragraphs.collect::<String>());
    world.meter = CharMeter {
        context: 1600,
        picture: 100,
    };
    let run = drive_in_order(request(), &world);
    assert_eq!(places_of(&run), [5, 30]);
    let shortened = |stage, place| Event::Warning {
        warning: Warning::ContextShortened { stage, place },
    };
    run.has(&shortened(Stage::Locations, None));
    run.has(&shortened(Stage::Captions, Some(30)));
    run.has(&shortened(Stage::Pictures, Some(30)));
    assert!(!run.events.contains(&shortened(Stage::Captions, Some(5))));
}

#[test]
fn questions_that_cannot_be_made_to_fit_have_defaults() {
    let mut world = World::of(4, "<Seg1>");
    world.meter = CharMeter {
        context: 120,
        picture: 256,
    };
    let run = drive_in_order(request(), &world);
    // Places and captions want 200 tokens.
    let drops = run
        .events
        .iter()
        .filter(|event| matches!(event, Event::LocationDropped { .. }));
    assert_eq!(drops.count(), 2);
    assert!(places_of(&run).is_empty());
    world.meter = CharMeter {
        context: 700,
        picture: 256,
    };
    let run = drive_in_order(request(), &world);
    assert_eq!(
        run.pictures(),
        [(1, "1a".into())],
        "four candidates are too many to look at"
    );
}

#[test]
fn what_is_there_is_kept_when_the_user_wants_no_more() {
    let world = World::of(3, "<Seg1>，<Seg2>");
    let run = drive(request(), &world, &mut in_order, Some(0));
    let error = ComposeError::Cancelled;
    run.has(&Event::Error {
        stage: Stage::Article,
        error,
    });
    let run = drive(request(), &world, &mut in_order, Some(3));
    assert_eq!(run.cancelled, [Work::Article]);
    run.has(&Event::ArticleDone {
        num_segments: 2,
        finish: FinishReason::Cancelled,
        usage: None,
    });
    assert_eq!(run.article().texts(), ["A title", "paragraph 1"]);
    let total = drive_in_order(request(), &world);
    let with_pictures = (0..60).map(|after| drive(request(), &world, &mut in_order, Some(after)));
    let with_one: Vec<Run> = with_pictures
        .filter(|run| matches!(run.events.last(), Some(Event::Done { .. })))
        .filter(|run| places_of(run) == [1])
        .collect();
    assert!(!with_one.is_empty());
    for run in with_one {
        run.has(&Event::LocationDropped {
            place: 2,
            reason: DropReason::Cancelled,
        });
        assert_eq!(run.pictures()[0], total.pictures()[0]);
    }
}
