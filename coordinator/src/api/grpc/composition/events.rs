//! What happens while an article comes about, as it goes over the wire.

use std::time::Duration;

use inkstone_composition::{
    ComposeRequest, PictureCount, Sampling,
    article::ArticleId,
    procedure::{ComposeError, DropReason, Event, FinishReason, Numbered, Stage, Usage, Warning},
    steps::places::Places,
};
use inkstone_proto::v1::{self as wire, compose_event as event};

use super::article::{article, count, picture};
use crate::compose::WantedSource;

/// What an event's reader is told that no event says.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) article_id: ArticleId,
    /// Where its pictures come from; `Default`: from nowhere.
    pub(super) source: WantedSource,
    /// How long the article is kept after it was last touched.
    pub(super) expires_after: Duration,
}

impl Told {
    pub(super) fn event(&self, numbered: Numbered) -> wire::ComposeEvent {
        let Numbered { sequence, event } = numbered;
        wire::ComposeEvent {
            article_id: self.article_id.0.clone(),
            sequence,
            event: Some(self.to_wire(event)),
        }
    }

    fn to_wire(&self, event: Event) -> event::Event {
        match event {
            Event::Accepted { request } => event::Event::Accepted(self.accepted(&request)),
            Event::TextDelta { text } => event::Event::TextDelta(wire::TextDelta { text }),
            Event::SegmentClosed { index, text } => {
                let index = count(index);
                event::Event::SegmentClosed(wire::SegmentClosed { index, text })
            }
            Event::ArticleDone {
                num_segments,
                finish,
                usage,
            } => event::Event::ArticleDone(article_done(num_segments, finish, usage)),
            Event::Locations { places, raw } => event::Event::Locations(locations(places, raw)),
            Event::Caption { place, text } => event::Event::Caption(wire::Caption {
                location: count(place),
                text,
            }),
            Event::CandidatesRequest { place, search } => {
                event::Event::CandidatesRequest(wire::CandidatesRequest {
                    location: count(place),
                    caption: search.caption,
                    exclude: search.exclude,
                })
            }
            Event::Candidates { place, pictures } => event::Event::Candidates(wire::Candidates {
                location: count(place),
                pictures: pictures.iter().map(picture).collect(),
            }),
            Event::LocationDropped { place, reason } => {
                event::Event::LocationDropped(wire::LocationDropped {
                    location: count(place),
                    reason: drop_code(&reason).to_owned(),
                    text: reason.to_string(),
                })
            }
            Event::ImageSelected {
                place,
                candidate,
                picture: selected,
                raw,
                by_default,
            } => event::Event::ImageSelected(wire::ImageSelected {
                location: count(place),
                candidate: count(candidate),
                picture: Some(picture(&selected)),
                raw,
                by_default,
            }),
            Event::Progress { stage, done, total } => {
                event::Event::Progress(wire::ComposeProgress {
                    stage: to_stage(stage).into(),
                    done: count(done),
                    total: count(total),
                })
            }
            Event::Warning { warning } => event::Event::Warning(to_warning(&warning)),
            Event::Done { article: done } => event::Event::Done(wire::ComposeDone {
                article: Some(article(&done)),
            }),
            Event::Error { stage, error } => event::Event::Error(wire::ComposeFailed {
                stage: to_stage(stage).into(),
                code: error_code(&error).to_owned(),
                text: error.to_string(),
            }),
        }
    }

    fn accepted(&self, request: &ComposeRequest) -> wire::ComposeAccepted {
        let pictures = request.pictures.iter();
        wire::ComposeAccepted {
            seed: request.seed,
            sampling: Some(sampling(request.sampling)),
            step_sampling: Some(sampling(request.later_sampling())),
            picture_source: match self.source {
                WantedSource::Default => wire::PictureSource::Unspecified,
                WantedSource::Uploads => wire::PictureSource::Uploads,
                WantedSource::Search => wire::PictureSource::Search,
                WantedSource::Client => wire::PictureSource::Client,
            }
            .into(),
            picture_count: match request.picture_count {
                PictureCount::None => Some(0),
                PictureCount::Automatic => None,
                PictureCount::Fixed(wanted) => Some(count(wanted)),
            },
            num_beams: request.num_beams,
            max_tokens: count(request.max_tokens),
            max_segments: count(request.max_segments),
            pictures: pictures
                .map(|picture| picture.id.as_str().to_owned())
                .collect(),
            expires_after_seconds: u32::try_from(self.expires_after.as_secs()).unwrap_or(u32::MAX),
        }
    }
}

fn sampling(sampling: Sampling) -> wire::CompositionSampling {
    wire::CompositionSampling {
        temperature: Some(sampling.temperature),
        top_p: Some(sampling.top_p),
        top_k: Some(sampling.top_k),
        repetition_penalty: Some(sampling.repetition_penalty),
    }
}

fn article_done(
    num_segments: usize,
    finish: FinishReason,
    usage: Option<Usage>,
) -> wire::ArticleDone {
    wire::ArticleDone {
        num_segments: count(num_segments),
        finish_reason: to_finish_reason(finish).into(),
        prompt_tokens: usage.map(|usage| count(usage.prompt_tokens)),
        completion_tokens: usage.map(|usage| count(usage.output_tokens)),
    }
}

pub(super) fn to_finish_reason(finish: FinishReason) -> wire::ArticleFinishReason {
    match finish {
        FinishReason::Stop => wire::ArticleFinishReason::Stop,
        FinishReason::Length => wire::ArticleFinishReason::Length,
        FinishReason::Cancelled => wire::ArticleFinishReason::Cancelled,
    }
}

pub(super) fn locations(places: Places, raw: String) -> wire::Locations {
    wire::Locations {
        locations: places.places.into_iter().map(count).collect(),
        raw,
        by_default: places.by_default,
    }
}

pub(super) fn to_warning(warning: &Warning) -> wire::ComposeWarning {
    wire::ComposeWarning {
        code: warning_code(warning).to_owned(),
        text: warning.to_string(),
    }
}

fn to_stage(stage: Stage) -> wire::ComposeStage {
    match stage {
        Stage::Article => wire::ComposeStage::Article,
        Stage::Locations => wire::ComposeStage::Locations,
        Stage::Captions => wire::ComposeStage::Captions,
        Stage::Pictures => wire::ComposeStage::Pictures,
    }
}

fn drop_code(reason: &DropReason) -> &'static str {
    match reason {
        DropReason::CaptionFailed(_) => "CAPTION_FAILED",
        DropReason::EmptyCaption => "EMPTY_CAPTION",
        DropReason::SourceFailed(_) => "SOURCE_FAILED",
        DropReason::NoCandidates => "NO_CANDIDATES",
        DropReason::Cancelled => "CANCELLED",
    }
}

fn warning_code(warning: &Warning) -> &'static str {
    match warning {
        Warning::NoPictureSource => "NO_PICTURE_SOURCE",
        Warning::FewerPictures { .. } => "FEWER_PICTURES",
        Warning::FewerPlaces { .. } => "FEWER_PLACES",
        Warning::TooManySegments { .. } => "TOO_MANY_SEGMENTS",
        Warning::ContextShortened { .. } => "CONTEXT_SHORTENED",
        Warning::LocationsFailed { .. } => "LOCATIONS_FAILED",
        Warning::ChoiceFailed { .. } => "CHOICE_FAILED",
    }
}

fn error_code(error: &ComposeError) -> &'static str {
    match error {
        ComposeError::PromptTooLong { .. } => "PROMPT_TOO_LONG",
        ComposeError::Failed { .. } => "FAILED",
        ComposeError::Empty => "EMPTY",
        ComposeError::Cancelled => "CANCELLED",
    }
}

#[cfg(test)]
mod tests;
