//! Steps by themselves, and searches, off the wire.

use bytes::Bytes;
use inkstone_composition::{
    ComposeRequest, MAX_PICTURE_COUNT, MAX_PICTURES, Sampling,
    article::{MAX_ARTICLE_SEGMENTS, MAX_GROUP, MAX_SEGMENT_BYTES},
};
use inkstone_proto::v1 as wire;

use super::{changes, request};
use crate::{
    api::grpc::{chat_request::picture_data, faults::Faults},
    compose::{SearchImages, SelectImage, StepParams, SuggestCaption, SuggestLocations},
    config::Limits,
    error::RequestError,
};

/// Pictures of one search where the caller does not say.
const DEFAULT_SEARCH: u32 = 4;
/// Pictures that a caller may not want: more than an article can have been offered.
const MAX_EXCLUDED: usize = 4096;

pub(super) fn locations(
    message: wire::SuggestLocationsRequest,
    limits: &Limits,
) -> Result<SuggestLocations, RequestError> {
    let mut faults = Faults::default();
    let params = params(&mut faults, message.params);
    let segments = segments(&mut faults, message.segments, limits);
    if let Some(count) = message.count {
        within(&mut faults, "count", count, MAX_PICTURE_COUNT as u32);
    }
    let num_pictures = message.pictures.len();
    faults.at_most("pictures", num_pictures, MAX_PICTURES, "pictures");
    let pictures = request::pictures(&mut faults, "pictures", message.pictures, limits);
    faults.none()?;
    Ok(SuggestLocations {
        params,
        segments,
        count: message.count.map(|count| count as usize),
        pictures,
    })
}

pub(super) fn caption(
    message: wire::SuggestCaptionRequest,
    limits: &Limits,
) -> Result<SuggestCaption, RequestError> {
    let mut faults = Faults::default();
    let params = params(&mut faults, message.params);
    let segments = segments(&mut faults, message.segments, limits);
    let location = location(&mut faults, message.location, &segments);
    let num_earlier = message.earlier.len();
    faults.at_most("earlier", num_earlier, MAX_PICTURE_COUNT, "captions");
    let earlier = message.earlier.into_iter().enumerate();
    let earlier = earlier.map(|(number, caption)| {
        let path = format!("earlier[{number}]");
        is_earlier(&mut faults, &path, caption.location, message.location);
        text(&mut faults, &format!("{path}.text"), &caption.text);
        (caption.location as usize, caption.text)
    });
    let earlier = earlier.collect();
    faults.none()?;
    Ok(SuggestCaption {
        params,
        segments,
        location,
        earlier,
    })
}

pub(super) fn choice(
    message: wire::SelectImageRequest,
    limits: &Limits,
) -> Result<SelectImage, RequestError> {
    let mut faults = Faults::default();
    let params = params(&mut faults, message.params);
    let segments = segments(&mut faults, message.segments, limits);
    let location = location(&mut faults, message.location, &segments);
    let num_earlier = message.earlier.len();
    faults.at_most("earlier", num_earlier, MAX_PICTURE_COUNT, "pictures");
    let earlier = message.earlier.into_iter().enumerate();
    let earlier: Vec<(usize, Bytes)> = earlier
        .filter_map(|(number, placed)| {
            let path = format!("earlier[{number}]");
            is_earlier(&mut faults, &path, placed.location, message.location);
            let data = placed.picture.map(picture_data).unwrap_or_default();
            let data = faults.picture(&format!("{path}.picture"), data, limits)?;
            Some((placed.location as usize, data))
        })
        .collect();
    let num_candidates = message.candidates.len();
    if !(1..=MAX_PICTURES).contains(&num_candidates) {
        let description = format!("must be 1 to {MAX_PICTURES} pictures, found {num_candidates}");
        faults.add("candidates", description);
    }
    let candidates = request::pictures(&mut faults, "candidates", message.candidates, limits);
    faults.none()?;
    Ok(SelectImage {
        params,
        segments,
        location,
        earlier,
        candidates,
    })
}

pub(super) fn search(message: wire::SearchImagesRequest) -> Result<SearchImages, RequestError> {
    let mut faults = Faults::default();
    text(&mut faults, "caption", &message.caption);
    let article = match message.article_id.is_empty() {
        true => None,
        false => Some(changes::article_id(&mut faults, message.article_id)),
    };
    let max_pictures = message.max_pictures.unwrap_or(DEFAULT_SEARCH);
    within(&mut faults, "max_pictures", max_pictures, MAX_GROUP as u32);
    faults.at_most("exclude", message.exclude.len(), MAX_EXCLUDED, "names");
    for (number, name) in message.exclude.iter().enumerate() {
        let path = format!("exclude[{number}]");
        faults.at_most(&path, name.len(), changes::MAX_ORIGIN_BYTES, "bytes");
    }
    faults.none()?;
    Ok(SearchImages {
        caption: message.caption,
        article,
        max_pictures: max_pictures as usize,
        exclude: message.exclude,
    })
}

/// What steps have in common is held to what a whole composition's is.
fn params(faults: &mut Faults, params: Option<wire::StepParams>) -> StepParams {
    let params = params.unwrap_or_default();
    let defaults = ComposeRequest::of("a step by itself has no instruction");
    let system = request::system(faults, "params.", params.with_meta, params.system);
    let sampling = params.sampling.map(request::sampling);
    let step = ComposeRequest {
        system: system.clone(),
        sampling: sampling.unwrap_or(Sampling::STANDARD),
        ..defaults.clone()
    };
    for violation in step.check().err().unwrap_or_default() {
        faults.add(format!("params.{}", violation.path), violation.description);
    }
    StepParams {
        model: params.model,
        sampling,
        seed: params.seed.unwrap_or(defaults.seed),
        system,
    }
}

fn segments(faults: &mut Faults, segments: Vec<String>, limits: &Limits) -> Vec<String> {
    let num_segments = segments.len();
    if !(1..=MAX_ARTICLE_SEGMENTS).contains(&num_segments) {
        let description = format!("must be 1 to {MAX_ARTICLE_SEGMENTS}, found {num_segments}");
        faults.add("segments", description);
    }
    for (number, segment) in segments.iter().enumerate() {
        text(faults, &format!("segments[{number}]"), segment);
    }
    let num_bytes = segments.iter().map(String::len).sum();
    faults.at_most("segments", num_bytes, limits.max_text_bytes, "bytes");
    segments
}

/// A segment or a caption: one line that says something.
fn text(faults: &mut Faults, path: &str, text: &str) {
    if text.trim().is_empty() {
        faults.add(path, "must not be empty");
    } else if text.contains(['\n', '\r']) {
        faults.add(path, "must be one line, found a line break");
    }
    faults.at_most(path, text.len(), MAX_SEGMENT_BYTES, "bytes");
}

fn location(faults: &mut Faults, location: u32, segments: &[String]) -> usize {
    let location = location as usize;
    let num_segments = segments.len();
    if num_segments > 0 && location >= num_segments {
        let description = format!("must be below {num_segments}, found {location}");
        faults.add("location", description);
    }
    location
}

/// Of what stands later nothing is told.
fn is_earlier(faults: &mut Faults, path: &str, found: u32, location: u32) {
    if found >= location {
        let description = format!("must be below location ({location}), found {found}");
        faults.add(format!("{path}.location"), description);
    }
}

fn within(faults: &mut Faults, path: &str, found: u32, most: u32) {
    if !(1..=most).contains(&found) {
        faults.add(path, format!("must be from 1 to {most}, found {found}"));
    }
}

#[cfg(test)]
mod tests;
