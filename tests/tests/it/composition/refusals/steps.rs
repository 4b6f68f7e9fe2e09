//! Steps by themselves.

use inkstone_proto::v1::{
    Caption, SearchImagesRequest, SelectImageRequest, StepParams, SuggestCaptionRequest,
    SuggestLocationsRequest,
};
use inkstone_tests::pictures::stripes;
use tonic::{Code, Status};

use super::{
    super::{
        client::{connect, picture},
        scripted::{Model, Scripted},
    },
    answer, uploads,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_steps_by_themselves_refuse_what_makes_no_sense() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let segments = || vec!["Title".to_owned(), "one".to_owned()];
    let mut statuses: Vec<(&str, Status)> = vec![];
    macro_rules! ask {
        ($name:literal, $call:ident, $message:expr) => {
            let answer = client.$call($message).await;
            statuses.push(($name, answer.map(drop).expect_err($name)));
        };
    }
    ask!(
        "no segments",
        suggest_locations,
        SuggestLocationsRequest::default()
    );
    ask!(
        "too many places",
        suggest_locations,
        SuggestLocationsRequest {
            segments: segments(),
            count: Some(16),
            ..SuggestLocationsRequest::default()
        }
    );
    ask!(
        "eleven pictures",
        suggest_locations,
        SuggestLocationsRequest {
            segments: segments(),
            pictures: uploads(11).pictures,
            ..SuggestLocationsRequest::default()
        }
    );
    ask!(
        "a place that is none",
        suggest_caption,
        SuggestCaptionRequest {
            segments: segments(),
            location: 2,
            ..SuggestCaptionRequest::default()
        }
    );
    ask!(
        "an earlier place that is none",
        suggest_caption,
        SuggestCaptionRequest {
            segments: segments(),
            location: 1,
            earlier: vec![Caption {
                location: 9,
                text: "x".to_owned()
            }],
            ..SuggestCaptionRequest::default()
        }
    );
    ask!(
        "no candidates",
        select_image,
        SelectImageRequest {
            segments: segments(),
            location: 1,
            ..SelectImageRequest::default()
        }
    );
    ask!(
        "eleven candidates",
        select_image,
        SelectImageRequest {
            segments: segments(),
            location: 1,
            candidates: uploads(11).pictures,
            ..SelectImageRequest::default()
        }
    );
    ask!(
        "a broken candidate",
        select_image,
        SelectImageRequest {
            segments: segments(),
            location: 1,
            candidates: vec![picture(stripes(1)), picture(b"none".to_vec())],
            ..SelectImageRequest::default()
        }
    );
    ask!(
        "two system texts",
        suggest_caption,
        SuggestCaptionRequest {
            params: Some(StepParams {
                with_meta: true,
                system: "x".to_owned(),
                ..StepParams::default()
            }),
            segments: segments(),
            location: 1,
            ..SuggestCaptionRequest::default()
        }
    );
    ask!(
        "an empty caption",
        search_images,
        SearchImagesRequest::default()
    );
    for (name, status) in statuses {
        let is_refused = matches!(status.code(), Code::InvalidArgument)
            || name == "an empty caption" && status.code() == Code::FailedPrecondition;
        assert!(is_refused, "{name}: {status:?}");
    }
    assert!(scripted.asked().is_empty(), "the model heard of none of it");
}
