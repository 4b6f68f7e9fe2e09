//! Requests: what is refused, what is settled.

use super::upload;
use crate::{
    ComposeRequest, PictureCount, PictureSource, Sampling, SystemText, procedure::Warning,
};

#[track_caller]
fn check_refused(request: ComposeRequest, wanted: &str) {
    let violations = request.check().unwrap_err();
    let found: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert_eq!(found, [wanted]);
}

fn with_uploads(count: usize) -> ComposeRequest {
    ComposeRequest {
        pictures: (0..count).map(|at| upload(&at.to_string())).collect(),
        ..ComposeRequest::of("Write.")
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_field() {
    // The demo drops the eleventh.
    check_refused(with_uploads(11), "pictures must be at most 10, found 11");
    let empty = ComposeRequest::of(" \n\u{3000}");
    check_refused(empty, "instruction must say what to write, found nothing");
    let request = || ComposeRequest::of("Write.");
    for (request, wanted) in [
        (
            ComposeRequest {
                picture_count: PictureCount::Fixed(0),
                ..request()
            },
            "picture_count must be from 1 to 15, found 0",
        ),
        (
            ComposeRequest {
                picture_count: PictureCount::Fixed(16),
                ..request()
            },
            "picture_count must be from 1 to 15, found 16",
        ),
        (
            ComposeRequest {
                num_beams: 7,
                ..request()
            },
            "num_beams must be from 1 to 6, found 7",
        ),
        (
            ComposeRequest {
                max_tokens: 0,
                ..request()
            },
            "max_tokens must be from 1 to 8192, found 0",
        ),
        (
            ComposeRequest {
                max_segments: 61,
                ..request()
            },
            "max_segments must be from 1 to 60, found 61",
        ),
        (
            ComposeRequest {
                picture_source: Some(PictureSource::Uploads),
                ..request()
            },
            "picture_source is uploads, which needs at least one picture, found none",
        ),
        (
            ComposeRequest {
                sampling: Sampling {
                    temperature: f32::NAN,
                    ..Sampling::STANDARD
                },
                ..request()
            },
            "sampling.temperature must be from 0 to 10, found NaN",
        ),
        (
            ComposeRequest {
                step_sampling: Some(Sampling {
                    top_p: 0.0,
                    ..Sampling::STANDARD
                }),
                ..request()
            },
            "step_sampling.top_p must be above 0 and at most 1, found 0",
        ),
        (
            ComposeRequest {
                sampling: Sampling {
                    repetition_penalty: 2.5,
                    ..Sampling::STANDARD
                },
                ..request()
            },
            "sampling.repetition_penalty must be from 1 to 2, found 2.5",
        ),
    ] {
        check_refused(request, wanted);
    }
    let huge = ComposeRequest {
        system: SystemText::Text("x".repeat(70_000)),
        ..ComposeRequest::of("x".repeat(300_000))
    };
    assert_eq!(huge.check().unwrap_err().len(), 2);
}

#[test]
fn uploads_decide_how_many_pictures_there_are() {
    let count = |request: ComposeRequest| {
        let checked = request.check().unwrap();
        (checked.request().picture_count, checked.warnings().to_vec())
    };
    assert_eq!(count(with_uploads(3)), (PictureCount::Fixed(3), vec![]));
    let more = ComposeRequest {
        picture_count: PictureCount::Fixed(5),
        ..with_uploads(3)
    };
    let warning = Warning::FewerPictures {
        wanted: 5,
        given: 3,
    };
    assert_eq!(count(more), (PictureCount::Fixed(3), vec![warning]));
    let fewer = ComposeRequest {
        picture_count: PictureCount::Fixed(2),
        ..with_uploads(3)
    };
    assert_eq!(count(fewer), (PictureCount::Fixed(2), vec![]));
    let none = ComposeRequest {
        picture_count: PictureCount::None,
        ..with_uploads(3)
    };
    assert_eq!(count(none), (PictureCount::None, vec![]));
    let searched = ComposeRequest {
        picture_source: Some(PictureSource::Search),
        ..with_uploads(3)
    };
    assert_eq!(count(searched), (PictureCount::Automatic, vec![]));
}

#[test]
fn later_steps_are_drawn_as_in_the_demo_unless_all_is_greedy() {
    let mut request = ComposeRequest::of("Write.");
    request.sampling.repetition_penalty = 1.5;
    assert_eq!(request.later_sampling(), Sampling::STANDARD);
    request.sampling = Sampling::GREEDY;
    assert_eq!(request.later_sampling(), Sampling::GREEDY);
    let own = Sampling {
        top_k: 1,
        ..Sampling::STANDARD
    };
    request.step_sampling = Some(own);
    assert_eq!(request.later_sampling(), own);
}

#[test]
fn a_request_survives_json() {
    let request = ComposeRequest {
        picture_count: PictureCount::Fixed(2),
        system: SystemText::Release,
        ..with_uploads(2)
    };
    let json = serde_json::to_string(&request).unwrap();
    assert_eq!(
        serde_json::from_str::<ComposeRequest>(&json).unwrap(),
        request
    );
}
