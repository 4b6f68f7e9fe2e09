//! Requests for articles that make no sense, or want more than there is.

use inkstone_proto::v1::{ComposeRequest, CompositionSampling, PictureSource};
use tonic::Code;

use super::{
    super::{
        client::{assert_refused, assert_wrong, compose, connect, picture, request},
        scripted::{Model, Scripted},
    },
    answer, refusal, uploads,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_requests_that_make_no_sense_are_refused_by_name() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let sampled = |set: fn(&mut CompositionSampling)| {
        let mut sampling = CompositionSampling::default();
        set(&mut sampling);
        sampling
    };
    let sampling = |set| ComposeRequest {
        sampling: Some(sampled(set)),
        ..request("Write.")
    };
    let with = |set: fn(&mut ComposeRequest)| {
        let mut request = request("Write.");
        set(&mut request);
        request
    };
    let mut broken = uploads(3);
    broken.pictures[1] = picture(b"BM is no picture".to_vec());
    let cases = [
        ("eleven pictures", uploads(11), "pictures", "10"),
        ("no instruction", request(""), "instruction", ""),
        ("white space alone", request(" \n\t　"), "instruction", ""),
        ("a broken picture", broken, "pictures[1]", ""),
        (
            "an empty picture",
            with(|it| it.pictures.push(picture(vec![]))),
            "pictures[0]",
            "",
        ),
        (
            "sixteen places",
            with(|it| it.picture_count = Some(16)),
            "picture_count",
            "15",
        ),
        (
            "seven beams",
            with(|it| it.num_beams = Some(7)),
            "num_beams",
            "6",
        ),
        (
            "no beam",
            with(|it| it.num_beams = Some(0)),
            "num_beams",
            "1",
        ),
        (
            "no token",
            with(|it| it.max_tokens = Some(0)),
            "max_tokens",
            "1",
        ),
        (
            "a book",
            with(|it| it.max_tokens = Some(8193)),
            "max_tokens",
            "8192",
        ),
        (
            "no segment",
            with(|it| it.max_segments = Some(0)),
            "max_segments",
            "1",
        ),
        (
            "61 segments",
            with(|it| it.max_segments = Some(61)),
            "max_segments",
            "60",
        ),
        (
            "uploads without any",
            with(|it| it.set_picture_source(PictureSource::Uploads)),
            "picture_source",
            "",
        ),
        (
            "a source that is none",
            with(|it| it.picture_source = 77),
            "picture_source",
            "",
        ),
        (
            "an order that is none",
            with(|it| it.captions = 77),
            "captions",
            "",
        ),
        (
            "two system texts",
            with(|it| (it.with_meta, it.system) = (true, "Be brief.".into())),
            "system",
            "",
        ),
        (
            "a long id",
            with(|it| it.request_id = "x".repeat(129)),
            "request_id",
            "128",
        ),
        (
            "cold",
            sampling(|it| it.temperature = Some(-0.1)),
            "sampling.temperature",
            "0",
        ),
        (
            "hot",
            sampling(|it| it.temperature = Some(10.1)),
            "sampling.temperature",
            "10",
        ),
        (
            "no number",
            sampling(|it| it.temperature = Some(f32::NAN)),
            "sampling.temperature",
            "",
        ),
        (
            "no top",
            sampling(|it| it.top_p = Some(0.0)),
            "sampling.top_p",
            "",
        ),
        (
            "over the top",
            sampling(|it| it.top_p = Some(1.5)),
            "sampling.top_p",
            "1",
        ),
        (
            "a reward for repeating",
            sampling(|it| it.repetition_penalty = Some(0.9)),
            "sampling.repetition_penalty",
            "1",
        ),
        (
            "later steps",
            with(|it| {
                it.step_sampling = Some(CompositionSampling {
                    top_p: Some(2.0),
                    ..CompositionSampling::default()
                })
            }),
            "step_sampling.top_p",
            "1",
        ),
    ];
    for (name, request, field, says) in cases {
        eprintln!("{name}");
        let status = refusal(&mut client, request).await;
        assert_wrong(&status, field, says);
    }
    let other = ComposeRequest {
        model: "another".to_owned(),
        ..request("Write.")
    };
    let status = refusal(&mut client, other).await;
    assert_refused(&status, Code::NotFound, "MODEL_NOT_FOUND");
    assert!(scripted.asked().is_empty(), "the model heard of none of it");
    let told = compose(&mut client, uploads(10)).await;
    assert_eq!(told.selected.len(), 2, "ten are not too many: {told:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_counts_above_what_there_is_are_lowered_with_a_word() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let more = ComposeRequest {
        picture_count: Some(5),
        ..uploads(2)
    };
    let told = compose(&mut client, more).await;
    assert_eq!(told.accepted.picture_count, Some(2));
    assert_eq!(told.warning_codes(), ["FEWER_PICTURES"]);
    assert!(told.warnings[0].text.contains('5'), "{told:#?}");
    assert_eq!(told.selected.len(), 2);
    // The model names two places where three are wanted.
    let told = compose(&mut client, uploads(3)).await;
    assert_eq!(told.warning_codes(), ["FEWER_PLACES"]);
    assert_eq!(told.selected.len(), 2);
    // Of more places than are wanted, the first are taken.
    let one = ComposeRequest {
        picture_count: Some(1),
        ..uploads(3)
    };
    let told = compose(&mut client, one).await;
    assert_eq!(told.places(), [1]);
    assert!(told.warnings.is_empty(), "{told:#?}");
}
