//! What is asked and told in runs where nothing goes wrong.

use super::world::{World, drive_in_order};
use crate::{
    ComposeRequest, Picture, PictureCount, PictureSource, Sampling, StepOrder, SystemText,
    procedure::{ComposeError, Event, FinishReason, Stage, Usage, Warning, Work},
    steps::places::Places,
    tests::{found, upload},
};

fn request(count: PictureCount) -> ComposeRequest {
    ComposeRequest {
        picture_count: count,
        ..ComposeRequest::of("Write about pictures.")
    }
}

fn with_uploads(names: &[&str]) -> ComposeRequest {
    ComposeRequest {
        pictures: names.iter().map(|name| upload(name)).collect(),
        ..ComposeRequest::of("Write about them.")
    }
}

fn names(pictures: &[(usize, &str)]) -> Vec<(usize, String)> {
    pictures
        .iter()
        .map(|(place, name)| (*place, (*name).to_owned()))
        .collect()
}

#[test]
fn a_text_ends_where_no_pictures_are_wanted() {
    let run = drive_in_order(request(PictureCount::None), &World::of(2, ""));
    let kinds: Vec<String> = run
        .events
        .iter()
        .map(|event| {
            serde_json::to_value(event).unwrap()["kind"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .filter(|kind| kind != "text_delta")
        .collect();
    let closed = "segment_closed";
    assert_eq!(
        kinds,
        ["accepted", closed, closed, closed, "article_done", "done"]
    );
    run.has(&Event::ArticleDone {
        num_segments: 3,
        finish: FinishReason::Stop,
        usage: Some(Usage {
            prompt_tokens: 3,
            output_tokens: 5,
        }),
    });
    assert_eq!(
        run.article().texts(),
        ["A title", "paragraph 1", "paragraph 2"]
    );
    let deltas = run.events.iter().filter_map(|event| match event {
        Event::TextDelta { text } => Some(text.as_str()),
        _ => None,
    });
    assert_eq!(
        deltas.collect::<String>(),
        "A title\nparagraph 1\n\nparagraph 2\n\n"
    );
    assert_eq!(run.generations.len(), 1);
}

#[test]
fn pictures_are_captioned_searched_and_chosen() {
    let run = drive_in_order(
        request(PictureCount::Fixed(2)),
        &World::of(4, "<Seg3>，<Seg1>。"),
    );
    run.has(&Event::Locations {
        places: Places {
            places: vec![1, 3],
            by_default: false,
        },
        raw: "<Seg3>，<Seg1>。".into(),
    });
    run.has(&Event::Caption {
        place: 1,
        text: "caption 1".into(),
    });
    run.has(&Event::ImageSelected {
        place: 1,
        candidate: 2,
        picture: found("1c"),
        raw: ": C".into(),
        by_default: false,
    });
    run.has(&Event::Progress {
        stage: Stage::Captions,
        done: 2,
        total: 2,
    });
    run.has(&Event::Progress {
        stage: Stage::Pictures,
        done: 2,
        total: 2,
    });
    assert_eq!(run.pictures(), names(&[(1, "1c"), (3, "3a")]));
    let illustration = run.article().segments()[1].illustration.as_ref().unwrap();
    assert_eq!(illustration.caption(), "caption 1");
    assert_eq!(illustration.candidates().len(), 4);
    assert_eq!(run.article().excluded().len(), 8);
}

#[test]
fn later_questions_tell_what_earlier_ones_gave() {
    let run = drive_in_order(
        request(PictureCount::Fixed(2)),
        &World::of(4, "<Seg1>，<Seg3>。"),
    );
    let caption = run.prompt(Work::Caption { place: 3 });
    assert!(caption.contains("现在<Seg1>后插入图像对应的标题是\"caption 1\"。给出适合在<Seg3>后"));
    let search = &run.searches[&Work::Search { place: 3 }];
    assert_eq!(
        search.exclude,
        ["index-1a", "index-1b", "index-1c", "index-1d"]
    );
    assert_eq!(search.caption, "caption 3");
    let choice = &run.generations[&Work::Choice { place: 3 }].prompt;
    let text = choice.to_string();
    assert!(text.contains(
        "A title\nparagraph 1\n<image>paragraph 2\nparagraph 3\n候选图像包括: A.<image>\nB"
    ));
    let first: Vec<&str> = choice.pictures().map(|id| id.as_str()).collect();
    assert_eq!(first, ["1c", "3a", "3b", "3c", "3d"]);
}

#[test]
fn with_at_once_no_question_tells_of_the_others() {
    let request = ComposeRequest {
        captions: StepOrder::AtOnce,
        choices: StepOrder::AtOnce,
        ..request(PictureCount::Fixed(3))
    };
    let run = drive_in_order(request, &World::of(4, "<Seg1>，<Seg2>，<Seg3>。"));
    assert!(run.most_at_once >= 3, "captions run side by side");
    assert!(!run.prompt(Work::Caption { place: 3 }).contains("现在"));
    let choice = &run.generations[&Work::Choice { place: 3 }].prompt;
    assert_eq!(choice.pictures().count(), 4);
    let search = &run.searches[&Work::Search { place: 3 }];
    assert_eq!(
        search.exclude.len(),
        8,
        "no picture is offered twice all the same"
    );
    assert_eq!(run.pictures(), names(&[(1, "1c"), (2, "2d"), (3, "3a")]));
}

#[test]
fn uploads_are_placed_once_each() {
    // The model lists places out of order, and more than there are pictures.
    let world = World::of(5, "<Seg4>，<Seg1>，<Seg2>，<Seg3>");
    let run = drive_in_order(with_uploads(&["x", "y", "z"]), &world);
    let places = &run.generations[&Work::Places].prompt;
    assert_eq!(places.pictures().count(), 3);
    assert!(
        places
            .to_string()
            .contains("<image> <image> <image> 给定文章")
    );
    assert!(places.to_string().contains("选择适合插入图像的3行"));
    assert!(run.searches.is_empty());
    let kinds: Vec<&Work> = run.generations.keys().collect();
    let choice = |place| Work::Choice { place };
    assert_eq!(
        kinds,
        [&Work::Article, &Work::Places, &choice(1), &choice(2)]
    );
    // (1 + 1) % 3 of x y z; then (2 + 1) % 2 of x y; then the one that is left.
    assert_eq!(run.pictures(), names(&[(1, "z"), (2, "y"), (3, "x")]));
    run.has(&Event::ImageSelected {
        place: 3,
        candidate: 0,
        picture: upload("x"),
        raw: String::new(),
        by_default: false,
    });
    let second = &run.generations[&Work::Choice { place: 2 }].prompt;
    let told: Vec<&str> = second.pictures().map(|id| id.as_str()).collect();
    assert_eq!(
        told,
        ["z", "x", "y"],
        "the chosen one, then the unused ones with new letters"
    );
    let group = run.article().segments()[1].illustration.as_ref().unwrap();
    assert_eq!(group.candidates(), [upload("z")]);
    assert_eq!(group.caption(), "");
}

#[test]
fn the_same_upload_twice_is_two_pictures() {
    let run = drive_in_order(with_uploads(&["x", "x"]), &World::of(3, "<Seg1>，<Seg2>"));
    assert_eq!(run.pictures(), names(&[(1, "x"), (2, "x")]));
}

#[test]
fn pictures_for_the_writing_alone_are_not_placed() {
    let request = ComposeRequest {
        picture_source: Some(PictureSource::Search),
        ..with_uploads(&["x", "y"])
    };
    let run = drive_in_order(request, &World::of(3, "<Seg2>"));
    assert_eq!(run.generations[&Work::Article].prompt.pictures().count(), 2);
    assert_eq!(run.generations[&Work::Places].prompt.pictures().count(), 0);
    assert_eq!(run.pictures(), names(&[(2, "2d")]));
}

#[test]
fn a_single_candidate_needs_no_choice() {
    let mut world = World::of(3, "<Seg1>");
    world.finds.insert(1, vec![found("only")]);
    let run = drive_in_order(request(PictureCount::Fixed(1)), &world);
    assert!(!run.generations.contains_key(&Work::Choice { place: 1 }));
    assert_eq!(run.pictures(), names(&[(1, "only")]));
}

#[test]
fn pictures_that_were_offered_before_or_are_too_many_are_left_out() {
    let mut world = World::of(3, "<Seg1>，<Seg2>");
    let many: Vec<Picture> = ["p", "p", "q", "r", "s", "t"].map(found).into();
    world.finds.insert(1, many);
    world.finds.insert(2, ["s", "t", "u"].map(found).into());
    let run = drive_in_order(request(PictureCount::Fixed(2)), &world);
    run.has(&Event::Candidates {
        place: 1,
        pictures: ["p", "q", "r", "s"].map(found).into(),
    });
    run.has(&Event::Candidates {
        place: 2,
        pictures: ["t", "u"].map(found).into(),
    });
}

#[test]
fn runs_are_asked_for_as_the_request_says() {
    let request = ComposeRequest {
        seed: 77,
        num_beams: 2,
        max_tokens: 500,
        sampling: Sampling {
            repetition_penalty: 1.2,
            ..Sampling::STANDARD
        },
        system: SystemText::Text("Be kind.".into()),
        ..request(PictureCount::Fixed(2))
    };
    let run = drive_in_order(request, &World::of(3, "<Seg1>，<Seg2>"));
    let article = &run.generations[&Work::Article];
    assert_eq!(
        (article.seed, article.num_beams, article.max_new_tokens),
        (77, 2, 500)
    );
    assert_eq!(article.sampling.repetition_penalty, 1.2);
    let mut seeds: Vec<u64> = run.generations.values().map(|run| run.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(
        seeds.len(),
        run.generations.len(),
        "each run draws its own numbers"
    );
    for (work, generation) in &run.generations {
        assert_eq!(generation.prompt.system(), Some("Be kind."));
        let (budget, has_form) = match work {
            Work::Article => (500, false),
            Work::Places => (200, true),
            Work::Caption { .. } => (200, false),
            Work::Choice { .. } => (10, true),
            Work::Search { .. } => panic!("a search is no run"),
        };
        assert_eq!(generation.max_new_tokens, budget);
        assert_eq!(generation.constraint.is_some(), has_form);
        if *work != Work::Article {
            assert_eq!(
                (generation.sampling, generation.num_beams),
                (Sampling::STANDARD, 1)
            );
        }
    }
}

#[test]
fn an_article_of_too_many_segments_is_ended() {
    let request = ComposeRequest {
        max_segments: 2,
        ..request(PictureCount::None)
    };
    let run = drive_in_order(request, &World::of(5, ""));
    assert_eq!(run.article().texts(), ["A title", "paragraph 1"]);
    assert_eq!(run.cancelled, [Work::Article], "the demo would let it run");
    run.has(&Event::Warning {
        warning: Warning::TooManySegments { limit: 2 },
    });
    run.has(&Event::ArticleDone {
        num_segments: 2,
        finish: FinishReason::Length,
        usage: None,
    });
}

#[test]
fn an_article_without_text_is_an_error() {
    let mut world = World::of(0, "");
    world.article = "\n \n".into();
    let run = drive_in_order(request(PictureCount::Automatic), &world);
    let error = ComposeError::Empty;
    run.has(&Event::Error {
        stage: Stage::Article,
        error,
    });
}

#[test]
fn a_one_line_article_may_have_a_picture() {
    let run = drive_in_order(request(PictureCount::Automatic), &World::of(0, "<Seg0>"));
    assert_eq!(run.pictures(), names(&[(0, "0b")]));
}

#[test]
fn events_survive_json() {
    let mut world = World::of(4, "<Seg1>，<Seg3>，<Seg4>");
    world.failing.insert(Work::Search { place: 1 });
    world.failing.insert(Work::Choice { place: 3 });
    let ended = drive_in_order(request(PictureCount::Fixed(5)), &world);
    world.failing.insert(Work::Article);
    let failed = drive_in_order(with_uploads(&["x"]), &world);
    for event in ended.events.iter().chain(&failed.events) {
        let json = serde_json::to_string(event).unwrap();
        assert_eq!(
            &serde_json::from_str::<Event>(&json).unwrap(),
            event,
            "{json}"
        );
    }
}
