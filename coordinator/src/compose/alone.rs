//! The steps by themselves, for texts that no article is kept of. Their seed is the caller's as it is.

use std::{collections::HashMap, sync::Arc};

use inkstone_composition::{
    Asked, MAX_PICTURE_COUNT, MAX_PICTURES, Meter, PictureId, Sampling, TooLong,
    article::{MAX_ARTICLE_SEGMENTS, MAX_SEGMENT_BYTES},
    steps::{StepSettings, caption, choice, places},
};
use tokio::time::Instant;

use super::{
    Caller, Composer, SelectImage, SelectedImage, StepParams, SuggestCaption, SuggestLocations,
    SuggestedCaption, SuggestedLocations,
    begin::release_of,
    meter::ModelMeter,
    metrics::StepKind,
    pictures::{self, Upload},
    step::{self, StepCaller},
};
use crate::{
    error::{FieldViolation, RequestError},
    model::ServedModel,
    request::pictures::KnownPicture,
};

/// A step and on whose behalf it is asked.
struct Alone {
    caller: Caller,
    params: StepParams,
    model: Arc<ServedModel>,
    kind: StepKind,
    /// What its question may show.
    pictures: HashMap<PictureId, Arc<KnownPicture>>,
}

/// What the model said.
struct Answer {
    raw: String,
    is_shortened: bool,
}

impl Composer {
    /// After which segments pictures fit.
    pub(crate) async fn suggest_locations(
        &self,
        caller: Caller,
        ask: SuggestLocations,
    ) -> Result<SuggestedLocations, RequestError> {
        let SuggestLocations {
            params,
            segments,
            count,
            pictures,
        } = ask;
        let mut faults = self.faults_of(&segments);
        if let Some(count) = count
            && !(1..=MAX_PICTURE_COUNT).contains(&count)
        {
            let description = format!("must be from 1 to {MAX_PICTURE_COUNT}, found {count}");
            faults.push(FieldViolation::new("count", description));
        }
        at_most(&mut faults, "pictures", pictures.len(), MAX_PICTURES);
        let mut alone = self.alone(caller, params, StepKind::Places, faults)?;
        let uploads = Upload::of("pictures", pictures);
        let ids = self.put_for(&mut alone, uploads).await?;
        let segments: Arc<[String]> = segments.into();
        let asked = segments.clone();
        let answer = self.ask(alone, move |settings, meter| {
            let question = places::Question {
                segments: &asked,
                count,
                pictures: &ids,
            };
            question.ask(settings, meter)
        });
        let Answer { raw, is_shortened } = answer.await?;
        let question = places::Question {
            segments: &segments,
            count,
            pictures: &[],
        };
        Ok(SuggestedLocations {
            places: question.read(&raw),
            raw,
            is_shortened,
        })
    }

    /// What a picture after a segment should show.
    pub(crate) async fn suggest_caption(
        &self,
        caller: Caller,
        ask: SuggestCaption,
    ) -> Result<SuggestedCaption, RequestError> {
        let SuggestCaption {
            params,
            segments,
            location,
            earlier,
        } = ask;
        let mut faults = self.faults_of(&segments);
        check_location(&mut faults, location, segments.len());
        at_most(&mut faults, "earlier", earlier.len(), MAX_PICTURE_COUNT);
        for (index, (place, caption)) in earlier.iter().enumerate() {
            check_earlier(&mut faults, index, *place, location);
            let path = format!("earlier[{index}].text");
            check_bytes(&mut faults, path, caption, MAX_SEGMENT_BYTES);
        }
        let alone = self.alone(caller, params, StepKind::Caption, faults)?;
        let release = release_of(&alone.model);
        let answer = self.ask(alone, move |settings, meter| {
            let earlier: Vec<(usize, &str)> = earlier
                .iter()
                .map(|(place, caption)| (*place, caption.as_str()))
                .collect();
            let question = caption::Question {
                segments: &segments,
                place: location,
                earlier: &earlier,
            };
            question.ask(settings, meter)
        });
        let Answer { raw, is_shortened } = answer.await?;
        Ok(SuggestedCaption {
            caption: caption::read(&raw, release),
            raw,
            is_shortened,
        })
    }

    /// Which of some pictures fits after a segment. Where there is one, it does.
    pub(crate) async fn select_image(
        &self,
        caller: Caller,
        ask: SelectImage,
    ) -> Result<SelectedImage, RequestError> {
        let SelectImage {
            params,
            segments,
            location,
            earlier,
            candidates,
        } = ask;
        let mut faults = self.faults_of(&segments);
        check_location(&mut faults, location, segments.len());
        at_most(&mut faults, "earlier", earlier.len(), MAX_PICTURE_COUNT);
        for (index, (place, _)) in earlier.iter().enumerate() {
            check_earlier(&mut faults, index, *place, location);
        }
        at_most(&mut faults, "candidates", candidates.len(), MAX_PICTURES);
        if candidates.is_empty() {
            let description = "must have at least one picture, found none";
            faults.push(FieldViolation::new("candidates", description));
        }
        let mut alone = self.alone(caller, params, StepKind::Choice, faults)?;
        let num_candidates = candidates.len();
        let mut uploads = Upload::of("candidates", candidates);
        let (places, shown): (Vec<usize>, Vec<_>) = earlier.into_iter().unzip();
        uploads.extend(shown.into_iter().enumerate().map(|(index, data)| Upload {
            path: format!("earlier[{index}].picture"),
            data,
        }));
        let mut candidates = self.put_for(&mut alone, uploads).await?;
        let shown = candidates.split_off(num_candidates);
        if num_candidates == 1 {
            return Ok(SelectedImage {
                choice: choice::Choice {
                    candidate: 0,
                    by_default: false,
                },
                raw: String::new(),
                is_shortened: false,
            });
        }
        let answer = self.ask(alone, move |settings, meter| {
            let earlier: Vec<(usize, &PictureId)> = places.into_iter().zip(&shown).collect();
            let candidates: Vec<&PictureId> = candidates.iter().collect();
            let question = choice::Question {
                segments: &segments,
                place: location,
                earlier: &earlier,
                candidates: &candidates,
            };
            question.ask(settings, meter)
        });
        let Answer { raw, is_shortened } = answer.await?;
        Ok(SelectedImage {
            choice: choice::read(&raw, num_candidates),
            raw,
            is_shortened,
        })
    }

    fn faults_of(&self, segments: &[String]) -> Vec<FieldViolation> {
        let mut faults = vec![];
        if segments.is_empty() {
            let description = "must have at least one segment, found none";
            faults.push(FieldViolation::new("segments", description));
        }
        at_most(
            &mut faults,
            "segments",
            segments.len(),
            MAX_ARTICLE_SEGMENTS,
        );
        for (index, text) in segments.iter().enumerate().take(MAX_ARTICLE_SEGMENTS) {
            let path = format!("segments[{index}]");
            if text.contains(['\n', '\r']) {
                let description = "must be one line, found a line break";
                faults.push(FieldViolation::new(&path, description));
            }
            check_bytes(&mut faults, path, text, MAX_SEGMENT_BYTES);
        }
        let num_bytes: usize = segments.iter().map(String::len).sum();
        let limit = self.dispatcher.limits.max_text_bytes;
        if num_bytes > limit {
            let description = format!("has {num_bytes} bytes of text, limit is {limit}");
            faults.push(FieldViolation::new("segments", description));
        }
        faults
    }

    fn alone(
        &self,
        caller: Caller,
        params: StepParams,
        kind: StepKind,
        mut faults: Vec<FieldViolation>,
    ) -> Result<Alone, RequestError> {
        if let Some(sampling) = &params.sampling {
            let violations = sampling.check("params.sampling").into_iter();
            faults.extend(violations.map(FieldViolation::from));
        }
        let system = params.system.text().unwrap_or_default();
        check_bytes(
            &mut faults,
            "params.system".into(),
            system,
            MAX_SEGMENT_BYTES,
        );
        if !faults.is_empty() {
            return Err(RequestError::Invalid(faults));
        }
        let model = self.model(&params.model)?.clone();
        Ok(Alone {
            caller,
            params,
            model,
            kind,
            pictures: HashMap::new(),
        })
    }

    /// Puts pictures for a step and says what they are called, in order.
    async fn put_for(
        &self,
        alone: &mut Alone,
        uploads: Vec<Upload>,
    ) -> Result<Vec<PictureId>, RequestError> {
        let max_bytes = self.dispatcher.limits.max_picture_bytes;
        let hashed = pictures::hash(uploads, max_bytes).await?;
        let deadline = alone.caller.deadline;
        let known = pictures::put(&self.dispatcher, &alone.model, hashed, deadline).await?;
        let known = known.into_iter().map(|known| {
            let id = pictures::picture_id(&known.content);
            alone.pictures.insert(id.clone(), known);
            id
        });
        Ok(known.collect())
    }

    /// Asks the model; `question` is put in words and measured in another thread.
    async fn ask(
        &self,
        alone: Alone,
        question: impl FnOnce(&StepSettings<'_>, &dyn Meter) -> Result<Asked, TooLong> + Send + 'static,
    ) -> Result<Answer, RequestError> {
        let Alone {
            caller,
            params,
            model,
            kind,
            pictures,
        } = alone;
        let pictures = Arc::new(pictures);
        let measured = pictures.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let settings = StepSettings {
                system: params.system.text(),
                release: release_of(&model),
                sampling: params.sampling.unwrap_or(Sampling::STANDARD),
                seed: params.seed,
            };
            let meter = ModelMeter {
                model,
                picture_tokens: |id: &PictureId| {
                    measured
                        .get(id)
                        .map_or(0, |known| known.num_tokens() as usize)
                },
            };
            question(&settings, &meter)
        });
        let asked = asking
            .await
            .map_err(|error| RequestError::Internal(format!("asking: {error}")))?;
        let Asked {
            generation,
            is_shortened,
        } = asked.map_err(
            |TooLong { num_tokens, limit }| RequestError::PromptTooLong { num_tokens, limit },
        )?;
        let slots = generation.prompt.pictures();
        let slots = slots.filter_map(|id| pictures.get(id).cloned()).collect();
        let latest = Instant::now() + self.settings.step_time;
        let caller = StepCaller {
            tenant: caller.tenant,
            request_id: caller.request_id,
            deadline: Some(
                caller
                    .deadline
                    .map_or(latest, |deadline| deadline.min(latest)),
            ),
            goes_on: false,
        };
        let request = step::request(generation, slots, caller);
        let raw = step::answer(&self.dispatcher, request, kind).await?;
        Ok(Answer { raw, is_shortened })
    }
}

fn check_location(faults: &mut Vec<FieldViolation>, location: usize, num_segments: usize) {
    if location >= num_segments {
        let description =
            format!("must be the number of a segment, below {num_segments}, found {location}");
        faults.push(FieldViolation::new("location", description));
    }
}

fn check_earlier(faults: &mut Vec<FieldViolation>, index: usize, place: usize, location: usize) {
    if place >= location {
        let description = format!("must be before location {location}, found {place}");
        faults.push(FieldViolation::new(
            format!("earlier[{index}].location"),
            description,
        ));
    }
}

fn at_most(faults: &mut Vec<FieldViolation>, path: &str, found: usize, limit: usize) {
    if found > limit {
        let description = format!("must be at most {limit}, found {found}");
        faults.push(FieldViolation::new(path, description));
    }
}

fn check_bytes(faults: &mut Vec<FieldViolation>, path: String, text: &str, limit: usize) {
    let found = text.len();
    if found > limit {
        let description = format!("must be at most {limit} bytes, found {found}");
        faults.push(FieldViolation::new(path, description));
    }
}
