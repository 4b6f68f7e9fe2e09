//! Steps by themselves off the wire.

use inkstone_composition::SystemText;

use super::*;

fn limits() -> Limits {
    Limits {
        max_picture_bytes: 100,
        ..Limits::default()
    }
}

fn picture(data: &'static [u8]) -> wire::Picture {
    wire::Picture {
        source: Some(wire::picture::Source::Data(Bytes::from_static(data))),
    }
}

fn three() -> Vec<String> {
    ["A title", "first", "second"].map(str::to_owned).into()
}

fn paths<T: std::fmt::Debug>(read: Result<T, RequestError>) -> Vec<String> {
    match read {
        Err(RequestError::Invalid(faults)) => faults.into_iter().map(|fault| fault.path).collect(),
        other => panic!("not refused as invalid: {other:?}"),
    }
}

fn placed(location: u32, data: &'static [u8]) -> wire::PlacedImage {
    wire::PlacedImage {
        location,
        picture: Some(picture(data)),
    }
}

#[test]
fn places_are_asked_for_with_the_defaults() {
    let message = wire::SuggestLocationsRequest {
        segments: three(),
        ..Default::default()
    };
    let ask = locations(message, &limits()).unwrap();
    assert_eq!(ask.segments, three());
    assert_eq!((ask.count, ask.pictures.len()), (None, 0));
    assert_eq!(ask.params.sampling, None);
    assert_eq!(ask.params.seed, 8909);
    assert_eq!(ask.params.system, SystemText::None);
}

#[test]
fn what_steps_have_in_common_is_checked_like_a_whole_composition() {
    let params = wire::StepParams {
        model: "m".into(),
        sampling: Some(wire::CompositionSampling {
            temperature: Some(f32::NAN),
            ..Default::default()
        }),
        seed: Some(3),
        with_meta: true,
        system: "x".into(),
    };
    let message = wire::SuggestLocationsRequest {
        params: Some(params),
        segments: three(),
        ..Default::default()
    };
    assert_eq!(
        paths(locations(message, &limits())),
        ["params.system", "params.sampling.temperature"]
    );
    let message = wire::SuggestLocationsRequest {
        params: Some(wire::StepParams {
            system: "x".repeat(64 * 1024 + 1),
            ..Default::default()
        }),
        segments: three(),
        ..Default::default()
    };
    assert_eq!(paths(locations(message, &limits())), ["params.system"]);
}

#[test]
fn places_that_make_no_sense_are_refused() {
    let message = wire::SuggestLocationsRequest {
        segments: vec!["a\nb".into(), " ".into(), "ok".into()],
        count: Some(0),
        pictures: vec![picture(b"data"); 11],
        ..Default::default()
    };
    let wanted = ["segments[0]", "segments[1]", "count", "pictures"];
    assert_eq!(paths(locations(message, &limits())), wanted);
    let empty = wire::SuggestLocationsRequest {
        count: Some(16),
        ..Default::default()
    };
    assert_eq!(paths(locations(empty, &limits())), ["segments", "count"]);
    let long = wire::SuggestLocationsRequest {
        segments: vec!["x".into(); 201],
        ..Default::default()
    };
    assert_eq!(paths(locations(long, &limits())), ["segments"]);
}

#[test]
fn a_caption_is_asked_for_a_place_that_is_there() {
    let message = |location: u32, earlier: Vec<wire::Caption>| wire::SuggestCaptionRequest {
        segments: three(),
        location,
        earlier,
        ..Default::default()
    };
    let earlier = |location: u32, text: &str| wire::Caption {
        location,
        text: text.to_owned(),
    };
    let ask = caption(message(2, vec![earlier(1, "a sea")]), &limits()).unwrap();
    assert_eq!(
        (ask.location, ask.earlier),
        (2, vec![(1, "a sea".to_owned())])
    );
    assert_eq!(paths(caption(message(3, vec![]), &limits())), ["location"]);
    let late = vec![earlier(1, "a sea"), earlier(2, "")];
    assert_eq!(
        paths(caption(message(2, late), &limits())),
        ["earlier[1].location", "earlier[1].text"]
    );
    let many = vec![earlier(0, "x"); 16];
    assert_eq!(paths(caption(message(1, many), &limits())), ["earlier"]);
}

#[test]
fn a_choice_is_among_one_to_ten() {
    let message = |candidates: usize| wire::SelectImageRequest {
        segments: three(),
        location: 2,
        earlier: vec![placed(0, b"zero"), placed(1, b"one")],
        candidates: vec![picture(b"data"); candidates],
        ..Default::default()
    };
    let ask = choice(message(10), &limits()).unwrap();
    assert_eq!(ask.candidates.len(), 10);
    let earlier: Vec<_> = ask.earlier.iter().map(|(place, _)| *place).collect();
    assert_eq!(earlier, [0, 1]);
    assert_eq!(paths(choice(message(0), &limits())), ["candidates"]);
    assert_eq!(paths(choice(message(11), &limits())), ["candidates"]);
    let hollow = wire::SelectImageRequest {
        segments: three(),
        location: 1,
        earlier: vec![
            placed(1, b"late"),
            wire::PlacedImage {
                location: 0,
                picture: None,
            },
        ],
        candidates: vec![picture(b"")],
        ..Default::default()
    };
    assert_eq!(
        paths(choice(hollow, &limits())),
        ["earlier[0].location", "earlier[1].picture", "candidates[0]"]
    );
}

#[test]
fn a_search_has_a_caption_and_a_bound() {
    let message = |caption: &str, max_pictures: Option<u32>| wire::SearchImagesRequest {
        caption: caption.to_owned(),
        max_pictures,
        exclude: vec!["7".into()],
        ..Default::default()
    };
    let ask = search(message("a sea", None)).unwrap();
    assert_eq!((ask.max_pictures, ask.article), (4, None));
    assert_eq!(ask.exclude, ["7"]);
    assert_eq!(search(message("a sea", Some(16))).unwrap().max_pictures, 16);
    for wrong in [0, 17] {
        assert_eq!(
            paths(search(message(" ", Some(wrong)))),
            ["caption", "max_pictures"]
        );
    }
    let endless = wire::SearchImagesRequest {
        article_id: "x".repeat(257),
        exclude: vec![String::new(); 4097],
        ..message("a sea", None)
    };
    assert_eq!(paths(search(endless)), ["article_id", "exclude"]);
}
