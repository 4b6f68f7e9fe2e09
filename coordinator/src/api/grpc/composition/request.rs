//! A request for an article off the wire, every field checked once; all faults are reported together. What makes no sense to the
//! procedure is for [`ComposeRequest::check`] to say, whose words are told beside ours.

use bytes::Bytes;
use inkstone_composition::{
    ComposeRequest, MAX_PICTURES, Picture, PictureCount, PictureSource, Sampling, StepOrder,
    SystemText,
};
use inkstone_proto::v1 as wire;

use crate::{
    api::grpc::{chat_request::picture_data, faults::Faults},
    compose::{ComposeAsk, WantedSource},
    config::Limits,
    error::RequestError,
};

/// Checks a request. Its pictures come as bytes beside it; they have no names yet.
pub(super) fn compose(
    message: wire::ComposeRequest,
    limits: &Limits,
) -> Result<ComposeAsk, RequestError> {
    let mut faults = Faults::default();
    let num_pictures = message.pictures.len();
    faults.at_most("pictures", num_pictures, MAX_PICTURES, "pictures");
    let uploads = pictures(&mut faults, "pictures", message.pictures, limits);
    let source = source(&mut faults, message.picture_source);
    let defaults = ComposeRequest::of(message.instruction);
    let request = ComposeRequest {
        picture_count: match message.picture_count {
            None => PictureCount::Automatic,
            Some(0) => PictureCount::None,
            Some(count) => PictureCount::Fixed(count as usize),
        },
        picture_source: match source {
            WantedSource::Default => None,
            WantedSource::Uploads => Some(PictureSource::Uploads),
            WantedSource::Search | WantedSource::Client => Some(PictureSource::Search),
        },
        system: system(&mut faults, "", message.with_meta, message.system),
        sampling: sampling(message.sampling.unwrap_or_default()),
        step_sampling: message.step_sampling.map(sampling),
        seed: message.seed.unwrap_or(defaults.seed),
        num_beams: message.num_beams.unwrap_or(defaults.num_beams),
        max_tokens: match message.max_tokens {
            Some(max_tokens) => max_tokens as usize,
            None => defaults.max_tokens,
        },
        max_segments: match message.max_segments {
            Some(max_segments) => max_segments as usize,
            None => defaults.max_segments,
        },
        captions: order(&mut faults, "captions", message.captions),
        choices: order(&mut faults, "choices", message.choices),
        ..defaults
    };
    // The pictures' names are not known before a vision worker has them; for the check any will do.
    let stand_ins = (0..num_pictures.min(MAX_PICTURES))
        .map(|number| Picture::uploaded(number.to_string(), String::new()));
    let checked = ComposeRequest {
        pictures: stand_ins.collect(),
        ..request.clone()
    };
    for violation in checked.check().err().unwrap_or_default() {
        faults.add(violation.path, violation.description);
    }
    faults.none()?;
    Ok(ComposeAsk {
        model: message.model,
        request,
        uploads,
        source,
    })
}

/// Those that have bytes; the others are faults.
pub(super) fn pictures(
    faults: &mut Faults,
    path: &str,
    pictures: Vec<wire::Picture>,
    limits: &Limits,
) -> Vec<Bytes> {
    let pictures = pictures.into_iter().enumerate();
    let pictures = pictures.filter_map(|(index, picture)| {
        let path = format!("{path}[{index}]");
        faults.picture(&path, picture_data(picture), limits)
    });
    pictures.collect()
}

/// What is not given is as in the reference. Ranges are for others to check.
pub(super) fn sampling(sampling: wire::CompositionSampling) -> Sampling {
    let standard = Sampling::STANDARD;
    Sampling {
        temperature: sampling.temperature.unwrap_or(standard.temperature),
        top_p: sampling.top_p.unwrap_or(standard.top_p),
        top_k: sampling.top_k.unwrap_or(standard.top_k),
        repetition_penalty: sampling
            .repetition_penalty
            .unwrap_or(standard.repetition_penalty),
    }
}

/// `prefix` is the path of what has the two fields.
pub(super) fn system(
    faults: &mut Faults,
    prefix: &str,
    with_meta: bool,
    text: String,
) -> SystemText {
    match (with_meta, text.is_empty()) {
        (true, true) => SystemText::Release,
        (true, false) => {
            let description = "cannot be together with with_meta";
            faults.add(format!("{prefix}system"), description);
            SystemText::None
        }
        (false, true) => SystemText::None,
        (false, false) => SystemText::Text(text),
    }
}

fn source(faults: &mut Faults, source: i32) -> WantedSource {
    match wire::PictureSource::try_from(source) {
        Ok(wire::PictureSource::Unspecified) => WantedSource::Default,
        Ok(wire::PictureSource::Uploads) => WantedSource::Uploads,
        Ok(wire::PictureSource::Search) => WantedSource::Search,
        Ok(wire::PictureSource::Client) => WantedSource::Client,
        Err(_) => {
            faults.add("picture_source", format!("unknown value {source}"));
            WantedSource::Default
        }
    }
}

fn order(faults: &mut Faults, path: &str, order: i32) -> StepOrder {
    match wire::StepOrder::try_from(order) {
        Ok(wire::StepOrder::Unspecified | wire::StepOrder::InTurn) => StepOrder::InTurn,
        Ok(wire::StepOrder::AtOnce) => StepOrder::AtOnce,
        Err(_) => {
            faults.add(path, format!("unknown value {order}"));
            StepOrder::InTurn
        }
    }
}

#[cfg(test)]
mod tests;
