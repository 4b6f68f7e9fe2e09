//! Prompts of a model folder: the ids and pictures that its cases give, and how they come about from the cases' texts.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use inkstone_interface::{
    chat_template::PICTURE_PLACEHOLDER,
    description::Variant,
    prompt::{BosPlacement, PromptBuilder, PromptPart, RenderedPrompt},
    tokenizer::{MODEL_FILE, Tokenizer},
};
use serde_json::Value;

use super::{
    compare::{equal, same},
    folder::{Folder, Golden, real_tokenizer},
    group::PromptInput,
    pictures::{PictureRequest, Pictures},
    report::Report,
    tiles::{files_of, picture_cases},
};

/// What stands at a picture's positions in a golden list of ids.
const PICTURE_ID: i32 = -1;

/// A prompt with its pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Prompt {
    pub(super) parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Tokens(Vec<u32>),
    Picture {
        request: PictureRequest,
        num_tokens: usize,
    },
}

impl Prompt {
    /// The prompt of a case, from its ids and the pictures it names.
    pub(super) fn of_case(folder: &Folder, case: &str, pictures: &Pictures<'_>) -> Result<Self> {
        let ids = folder.i32(&format!("{case}.ids"))?;
        let mut requests = requests_of(folder, case, &ids, pictures)?.into_iter();
        let mut prompt = Self::default();
        for run in ids
            .values
            .chunk_by(|a, b| (*a == PICTURE_ID) == (*b == PICTURE_ID))
        {
            let mut left = run.len();
            if run[0] != PICTURE_ID {
                let id =
                    |id: &i32| u32::try_from(*id).with_context(|| format!("{case} has id {id}"));
                prompt
                    .parts
                    .push(Part::Tokens(run.iter().map(id).collect::<Result<_>>()?));
                continue;
            }
            while left > 0 {
                let request = requests.next().context("more places than pictures")?;
                let num_tokens = pictures.num_tokens(&request)?;
                left = left.checked_sub(num_tokens).with_context(|| {
                    format!(
                        "{} takes {num_tokens} places, {left} are left",
                        request.file
                    )
                })?;
                prompt.parts.push(Part::Picture {
                    request,
                    num_tokens,
                });
            }
        }
        ensure!(requests.next().is_none(), "more pictures than places");
        Ok(prompt)
    }

    /// A rendered prompt with its pictures in.
    pub(super) fn of_rendered(
        rendered: RenderedPrompt,
        requests: &[PictureRequest],
        pictures: &Pictures<'_>,
    ) -> Result<Self> {
        let part = |part| {
            Ok(match part {
                PromptPart::Tokens(ids) => Part::Tokens(ids),
                PromptPart::Picture { index } => {
                    let request = requests.get(index).context("a place without a picture")?;
                    Part::Picture {
                        num_tokens: pictures.num_tokens(request)?,
                        request: request.clone(),
                    }
                }
            })
        };
        let parts = rendered.parts.into_iter().map(part);
        Ok(Self {
            parts: parts.collect::<Result<_>>()?,
        })
    }

    /// The prompt with its pictures encoded.
    pub(super) fn inputs(&self, pictures: &Pictures<'_>) -> Result<Vec<PromptInput>> {
        let input = |part: &Part| {
            Ok(match part {
                Part::Tokens(ids) => PromptInput::Tokens(ids.clone()),
                Part::Picture { request, .. } => PromptInput::Picture(pictures.features(request)?),
            })
        };
        self.parts.iter().map(input).collect()
    }

    /// Positions in all.
    pub(super) fn num_tokens(&self) -> usize {
        self.ids().len()
    }

    pub(super) fn has_pictures(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Picture { .. }))
    }

    /// Ids of text tokens, for a penalty that counts the prompt.
    pub(super) fn text_ids(&self) -> Vec<u32> {
        let ids = self.ids().into_iter();
        ids.filter_map(|id| u32::try_from(id).ok()).collect()
    }

    fn ids(&self) -> Vec<i32> {
        let ids = |part: &Part| match part {
            Part::Tokens(ids) => ids.iter().map(|id| *id as i32).collect(),
            Part::Picture { num_tokens, .. } => vec![PICTURE_ID; *num_tokens],
        };
        self.parts.iter().flat_map(ids).collect()
    }
}

/// Names of the cases that have ids.
pub(super) fn prompt_names(folder: &Folder) -> Vec<String> {
    folder.stems(".ids")
}

/// The pictures that a case names. Where it names none and has places for one, it is the folder's picture of that many tokens.
fn requests_of(
    folder: &Folder,
    case: &str,
    ids: &Golden<i32>,
    pictures: &Pictures<'_>,
) -> Result<Vec<PictureRequest>> {
    let num_places = ids.values.iter().filter(|id| **id == PICTURE_ID).count();
    let named = folder.case(case).map(|case| requests(case, pictures));
    match named {
        Some(requests) if !requests.is_empty() || num_places == 0 => Ok(requests),
        None if num_places == 0 => Ok(Vec::new()),
        _ => {
            let cases = picture_cases(folder)?;
            let picture = cases
                .into_values()
                .find(|picture| picture.tokens == num_places);
            let picture = picture.context("the case names no picture, and none fits its places")?;
            let (file, hd_num) = (picture.file, picture.hd_num);
            Ok(vec![PictureRequest { file, hd_num }])
        }
    }
}

/// The pictures of a case as it asks for them.
pub(super) fn requests(case: &Value, pictures: &Pictures<'_>) -> Vec<PictureRequest> {
    let files = files_of(case);
    let asked = case["hd_num"].as_u64().map(|hd_num| hd_num as u32);
    let hd_num = asked.unwrap_or_else(|| pictures.geometry().hd_num(None, files.len()));
    let request = |file| PictureRequest { file, hd_num };
    files.into_iter().map(request).collect()
}

/// The tokenizer of a checkpoint: its own, or the real one.
pub(super) fn tokenizer(checkpoint: &Path) -> Result<Option<Tokenizer>> {
    if checkpoint.join(MODEL_FILE).is_file() {
        return Ok(Some(Tokenizer::read(checkpoint)?));
    }
    let Some(file) = real_tokenizer() else {
        return Ok(None);
    };
    Ok(Some(Tokenizer::from_model_bytes(&fs::read(file)?)?))
}

/// Holds what the cases say in words against their ids.
pub(super) fn run(
    report: &mut Report,
    folder: &Folder,
    variant: Variant,
    tokenizer: Option<&Tokenizer>,
    pictures: &Pictures<'_>,
) {
    for case in prompt_names(folder) {
        let name = format!("{case}.ids");
        report.case(&folder.name, &name, || {
            check_places(folder, &case, pictures)
        });
        let has_text = folder
            .case(&case)
            .is_some_and(|case| case["prompt"].is_string());
        match tokenizer {
            _ if !has_text => (),
            None => report.skip(
                &folder.name,
                &format!("{name} from text"),
                "no tokenizer.model",
            ),
            Some(tokenizer) => report.case(&folder.name, &format!("{name} from text"), || {
                check_text(folder, &case, variant, tokenizer, pictures)
            }),
        }
    }
}

/// The mask and the count agree with the ids, and the pictures fill their places.
fn check_places(folder: &Folder, case: &str, pictures: &Pictures<'_>) -> Result<()> {
    let prompt = Prompt::of_case(folder, case, pictures)?;
    let ids = folder.i32(&format!("{case}.ids"))?;
    equal(&ids, &prompt.ids())?;
    let mask = format!("{case}.im_mask");
    if folder.has(&mask) {
        let found: Vec<u8> = ids
            .values
            .iter()
            .map(|id| u8::from(*id == PICTURE_ID))
            .collect();
        equal(&folder.u8(&mask)?, &found)?;
    }
    let counted = folder.case(case).and_then(|case| case["tokens"].as_u64());
    if let Some(wanted) = counted {
        same("tokens", wanted, prompt.num_tokens() as u64)?;
    }
    Ok(())
}

fn check_text(
    folder: &Folder,
    name: &str,
    variant: Variant,
    tokenizer: &Tokenizer,
    pictures: &Pictures<'_>,
) -> Result<()> {
    let ids = folder.i32(&format!("{name}.ids"))?;
    let case = folder.case(name).context("there is a case of that name")?;
    let text = case["prompt"].as_str().context("its prompt is text")?;
    let requests = requests_of(folder, name, &ids, pictures)?;
    let is_unplaced = !requests.is_empty() && !text.contains(PICTURE_PLACEHOLDER);
    ensure!(
        !is_unplaced || variant == Variant::Xc2d5,
        "a picture has no place"
    );
    let mut builder = PromptBuilder::new(tokenizer, bos_placement(case, tokenizer, &ids.values)?);
    if is_unplaced {
        builder.picture();
    }
    for (place, stretch) in text.split(PICTURE_PLACEHOLDER).enumerate() {
        if place > 0 {
            builder.picture();
        }
        builder.trusted(stretch);
    }
    let prompt = Prompt::of_rendered(builder.finish(), &requests, pictures)?;
    equal(&ids, &prompt.ids())
}

/// The rule that a case names; a text-only case that names none begins with one `<s>` or two.
fn bos_placement(case: &Value, tokenizer: &Tokenizer, ids: &[i32]) -> Result<BosPlacement> {
    let bos = tokenizer.bos_id() as i32;
    Ok(match case["bos"].as_str() {
        Some("once") => BosPlacement::Once,
        Some("before every text part") => BosPlacement::EveryText,
        Some(other) => bail!("the rule for <s> is unknown here: {other:?}"),
        None if ids.starts_with(&[bos, bos]) => BosPlacement::Twice,
        None => BosPlacement::Once,
    })
}
