//! Requests off the wire: what is left out, what is asked for, and nonsense.

use super::*;
use crate::config::Limits;

fn limits() -> Limits {
    Limits {
        max_picture_bytes: 100,
        ..Limits::default()
    }
}

fn picture(data: &[u8]) -> wire::Picture {
    wire::Picture {
        source: Some(wire::picture::Source::Data(Bytes::copy_from_slice(data))),
    }
}

fn message() -> wire::ComposeRequest {
    wire::ComposeRequest {
        instruction: "Write about the sea.".into(),
        ..Default::default()
    }
}

/// The paths of the faults, in order.
#[track_caller]
fn faults(message: wire::ComposeRequest) -> Vec<String> {
    match compose(message, &limits()) {
        Err(RequestError::Invalid(faults)) => faults.into_iter().map(|fault| fault.path).collect(),
        other => panic!("not refused as invalid: {other:?}"),
    }
}

#[track_caller]
fn check_fault(message: wire::ComposeRequest, path: &str, description: &str) {
    match compose(message, &limits()) {
        Err(RequestError::Invalid(faults)) => {
            let faults: Vec<_> = faults
                .iter()
                .map(|fault| (fault.path.as_str(), fault.description.as_str()))
                .collect();
            assert_eq!(faults, [(path, description)]);
        }
        other => panic!("not refused as invalid: {other:?}"),
    }
}

#[test]
fn what_is_left_out_is_as_in_the_reference() {
    let ask = compose(message(), &limits()).unwrap();
    assert_eq!(ask.request, ComposeRequest::of("Write about the sea."));
    assert_eq!(ask.source, WantedSource::Default);
    assert!(ask.uploads.is_empty());
    assert_eq!(ask.model, "");
}

#[test]
fn every_field_says_what_it_says() {
    let sampling = wire::CompositionSampling {
        temperature: Some(0.0),
        top_p: Some(0.5),
        top_k: Some(7),
        repetition_penalty: Some(1.5),
    };
    let message = wire::ComposeRequest {
        model: "small".into(),
        pictures: vec![picture(b"one"), picture(b"two")],
        picture_count: Some(1),
        picture_source: wire::PictureSource::Uploads.into(),
        sampling: Some(sampling),
        // What a message of its own leaves out is the reference's, not that of the other one.
        step_sampling: Some(wire::CompositionSampling {
            top_k: Some(1),
            ..Default::default()
        }),
        seed: Some(0),
        num_beams: Some(6),
        max_tokens: Some(8192),
        max_segments: Some(60),
        system: "Be brief.".into(),
        captions: wire::StepOrder::AtOnce.into(),
        choices: wire::StepOrder::InTurn.into(),
        ..message()
    };
    let ask = compose(message, &limits()).unwrap();
    assert_eq!(ask.uploads, [&b"one"[..], b"two"]);
    assert_eq!(ask.source, WantedSource::Uploads);
    assert_eq!(ask.model, "small");
    let wanted = ComposeRequest {
        picture_count: PictureCount::Fixed(1),
        picture_source: Some(PictureSource::Uploads),
        system: SystemText::Text("Be brief.".into()),
        sampling: Sampling {
            temperature: 0.0,
            top_p: 0.5,
            top_k: 7,
            repetition_penalty: 1.5,
        },
        step_sampling: Some(Sampling {
            top_k: 1,
            ..Sampling::STANDARD
        }),
        seed: 0,
        num_beams: 6,
        max_tokens: 8192,
        max_segments: 60,
        captions: StepOrder::AtOnce,
        choices: StepOrder::InTurn,
        ..ComposeRequest::of("Write about the sea.")
    };
    assert_eq!(ask.request, wanted);
}

#[test]
fn pictures_may_be_none_and_the_system_text_the_releases_own() {
    let message = wire::ComposeRequest {
        picture_count: Some(0),
        picture_source: wire::PictureSource::Client.into(),
        with_meta: true,
        ..message()
    };
    let ask = compose(message, &limits()).unwrap();
    assert_eq!(ask.request.picture_count, PictureCount::None);
    assert_eq!(ask.request.system, SystemText::Release);
    assert_eq!(ask.source, WantedSource::Client);
}

#[test]
fn an_empty_instruction_says_nothing() {
    for instruction in ["", " \n\t", "\u{3000}"] {
        let message = wire::ComposeRequest {
            instruction: instruction.into(),
            ..message()
        };
        let wanted = "must say what to write, found nothing";
        check_fault(message, "instruction", wanted);
    }
}

#[test]
fn values_that_nobody_knows_are_refused_by_their_number() {
    let source = wire::ComposeRequest {
        picture_source: 9,
        ..message()
    };
    check_fault(source, "picture_source", "unknown value 9");
    let captions = wire::ComposeRequest {
        captions: -1,
        ..message()
    };
    check_fault(captions, "captions", "unknown value -1");
    let choices = wire::ComposeRequest {
        choices: 3,
        ..message()
    };
    check_fault(choices, "choices", "unknown value 3");
}

#[test]
fn a_number_that_is_none_is_in_no_range() {
    for wrong in [f32::NAN, f32::INFINITY, -0.5, 10.5] {
        let sampling = wire::CompositionSampling {
            temperature: Some(wrong),
            top_p: Some(wrong),
            top_k: None,
            repetition_penalty: Some(wrong),
        };
        let message = wire::ComposeRequest {
            sampling: Some(sampling),
            step_sampling: Some(sampling),
            ..message()
        };
        let mut paths = faults(message);
        paths.sort();
        let wanted = [
            "sampling.repetition_penalty",
            "sampling.temperature",
            "sampling.top_p",
            "step_sampling.repetition_penalty",
            "step_sampling.temperature",
            "step_sampling.top_p",
        ];
        assert_eq!(paths, wanted, "{wrong}");
    }
}

#[test]
fn ten_pictures_are_the_most() {
    let with = |count: usize| wire::ComposeRequest {
        pictures: vec![picture(b"data"); count],
        ..message()
    };
    assert_eq!(compose(with(10), &limits()).unwrap().uploads.len(), 10);
    check_fault(with(11), "pictures", "has 11 pictures, limit is 10");
}

#[test]
fn pictures_without_bytes_or_with_too_many_are_named() {
    let message = wire::ComposeRequest {
        pictures: vec![
            picture(b"data"),
            picture(b""),
            wire::Picture { source: None },
            picture(&[0; 101]),
        ],
        ..message()
    };
    assert_eq!(
        faults(message),
        ["pictures[1]", "pictures[2]", "pictures[3]"]
    );
}

#[test]
fn uploads_are_wanted_and_there_are_none() {
    let message = wire::ComposeRequest {
        picture_source: wire::PictureSource::Uploads.into(),
        ..message()
    };
    assert_eq!(faults(message), ["picture_source"]);
}

#[test]
fn two_system_texts_are_one_too_many() {
    let message = wire::ComposeRequest {
        with_meta: true,
        system: "Be brief.".into(),
        ..message()
    };
    check_fault(message, "system", "cannot be together with with_meta");
}

#[test]
fn all_faults_are_told_together() {
    let message = wire::ComposeRequest {
        instruction: String::new(),
        pictures: vec![picture(b"")],
        picture_count: Some(16),
        picture_source: 7,
        seed: Some(u64::MAX),
        num_beams: Some(0),
        max_tokens: Some(8193),
        max_segments: Some(61),
        with_meta: true,
        system: "x".into(),
        captions: 5,
        choices: 5,
        ..Default::default()
    };
    let mut paths = faults(message);
    paths.sort();
    let wanted = [
        "captions",
        "choices",
        "instruction",
        "max_segments",
        "max_tokens",
        "num_beams",
        "picture_count",
        "picture_source",
        "pictures[0]",
        "system",
    ];
    assert_eq!(paths, wanted);
}

#[test]
fn a_thousand_faults_are_not_all_told() {
    let message = wire::ComposeRequest {
        pictures: vec![picture(b""); 1000],
        ..message()
    };
    assert_eq!(faults(message).len(), 16);
}
