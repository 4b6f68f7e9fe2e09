//! The steps by themselves, for texts that no article is kept of. Their seed is the caller's as it is. What they are asked was checked
//! where it came in.

use std::{collections::HashMap, sync::Arc};

use inkstone_composition::{
    Asked, Meter, PictureId, Sampling, TooLong,
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
use crate::{error::RequestError, model::ServedModel, request::pictures::KnownPicture};

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
        let mut alone = self.alone(caller, params, StepKind::Places)?;
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
        let alone = self.alone(caller, params, StepKind::Caption)?;
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
        let mut alone = self.alone(caller, params, StepKind::Choice)?;
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

    fn alone(
        &self,
        caller: Caller,
        params: StepParams,
        kind: StepKind,
    ) -> Result<Alone, RequestError> {
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
