//! What a user asks for: every option of the demo, checked once.

use serde::{Deserialize, Serialize};

use crate::{Picture, Release, Sampling, SystemText, procedure::Warning};

/// Pictures that may be sent along.
pub const MAX_PICTURES: usize = 10;
/// Pictures that an article may be asked to have.
pub const MAX_PICTURE_COUNT: usize = 15;
/// Pictures that one search brings.
pub const MAX_CANDIDATES: usize = 4;
/// Segments that are kept of a written article.
pub const MAX_SEGMENTS: usize = 60;
/// Bytes of an instruction; its tokens are held against the context apart from that.
const MAX_INSTRUCTION_BYTES: usize = 256 * 1024;
/// Bytes of a system text.
const MAX_SYSTEM_BYTES: usize = 64 * 1024;
/// Tokens of an article.
const MAX_TOKENS: usize = 8192;
const MAX_BEAMS: u32 = 6;

/// How many pictures an article gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureCount {
    /// Text only.
    None,
    /// As many as the model sees fit, or all that were sent.
    #[default]
    Automatic,
    /// 1 to [`MAX_PICTURE_COUNT`].
    Fixed(usize),
}

/// Where pictures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureSource {
    /// The pictures that were sent.
    Uploads,
    /// A search by caption. Pictures that were sent are for the writing alone.
    Search,
}

/// Whether the runs of a step wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOrder {
    /// Each is told what the earlier ones gave: the demo's procedure, word for word.
    #[default]
    InTurn,
    /// All side by side; none knows of the others.
    AtOnce,
}

/// A request for an article. Start from [`ComposeRequest::of`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComposeRequest {
    pub instruction: String,
    /// Shown to the model when it writes. At most [`MAX_PICTURES`].
    #[serde(default)]
    pub pictures: Vec<Picture>,
    #[serde(default)]
    pub picture_count: PictureCount,
    /// `None`: uploads where there are any, else a search.
    #[serde(default)]
    pub picture_source: Option<PictureSource>,
    #[serde(default)]
    pub system: SystemText,
    #[serde(default)]
    pub release: Release,
    /// Of the article.
    pub sampling: Sampling,
    /// Of the later steps. `None`: the demo's, or greedy where the article is.
    #[serde(default)]
    pub step_sampling: Option<Sampling>,
    pub seed: u64,
    /// Of the article. 1 to 6. With more than one its text comes in one piece.
    pub num_beams: u32,
    /// Of the article. 1 to 8192, less where the context has no room.
    pub max_tokens: usize,
    /// 1 to [`MAX_SEGMENTS`].
    pub max_segments: usize,
    #[serde(default)]
    pub captions: StepOrder,
    /// Uploads are always chosen in turn, since each is used once.
    #[serde(default)]
    pub choices: StepOrder,
}

impl ComposeRequest {
    /// An instruction with the demo's defaults, the number of pictures aside: the model decides it.
    pub fn of(instruction: impl Into<String>) -> Self {
        Self {
            instruction: instruction.into(),
            pictures: vec![],
            picture_count: PictureCount::Automatic,
            picture_source: None,
            system: SystemText::None,
            release: Release::Xc2,
            sampling: Sampling::STANDARD,
            step_sampling: None,
            seed: 8909,
            num_beams: 1,
            max_tokens: 4096,
            max_segments: MAX_SEGMENTS,
            captions: StepOrder::InTurn,
            choices: StepOrder::InTurn,
        }
    }

    /// Refuses what makes no sense, and settles what was left open.
    pub fn check(mut self) -> Result<CheckedRequest, Vec<Violation>> {
        let mut faults = Faults::default();
        self.find_faults(&mut faults);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        let mut warnings = vec![];
        if self.source() == PictureSource::Uploads && self.picture_count != PictureCount::None {
            let given = self.pictures.len();
            if let PictureCount::Fixed(wanted) = self.picture_count
                && wanted > given
            {
                warnings.push(Warning::FewerPictures { wanted, given });
            }
            self.picture_count = match self.picture_count {
                PictureCount::Fixed(wanted) => PictureCount::Fixed(wanted.min(given)),
                PictureCount::None | PictureCount::Automatic => PictureCount::Fixed(given),
            };
        }
        Ok(CheckedRequest {
            request: self,
            warnings,
        })
    }

    /// Where pictures come from.
    pub fn source(&self) -> PictureSource {
        self.picture_source.unwrap_or(if self.pictures.is_empty() {
            PictureSource::Search
        } else {
            PictureSource::Uploads
        })
    }

    /// How the steps after the article are drawn.
    pub fn later_sampling(&self) -> Sampling {
        self.step_sampling.unwrap_or(if self.sampling.is_greedy() {
            Sampling::GREEDY
        } else {
            Sampling::STANDARD
        })
    }

    fn find_faults(&self, faults: &mut Faults) {
        if self.instruction.trim().is_empty() {
            faults.add("instruction", "must say what to write, found nothing");
        }
        faults.at_most_bytes("instruction", &self.instruction, MAX_INSTRUCTION_BYTES);
        if let SystemText::Text(text) = &self.system {
            faults.at_most_bytes("system", text, MAX_SYSTEM_BYTES);
        }
        let given = self.pictures.len();
        if given > MAX_PICTURES {
            faults.add(
                "pictures",
                format!("must be at most {MAX_PICTURES}, found {given}"),
            );
        }
        if self.picture_source == Some(PictureSource::Uploads) && given == 0 {
            let wanted = "is uploads, which needs at least one picture, found none";
            faults.add("picture_source", wanted);
        }
        if let PictureCount::Fixed(count) = self.picture_count {
            faults.within("picture_count", count, 1, MAX_PICTURE_COUNT);
        }
        faults.within("num_beams", self.num_beams, 1, MAX_BEAMS);
        faults.within("max_tokens", self.max_tokens, 1, MAX_TOKENS);
        faults.within("max_segments", self.max_segments, 1, MAX_SEGMENTS);
        faults.sampling("sampling", &self.sampling);
        if let Some(sampling) = &self.step_sampling {
            faults.sampling("step_sampling", sampling);
        }
    }
}

/// A request that makes sense, with what its user should know.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedRequest {
    request: ComposeRequest,
    warnings: Vec<Warning>,
}

impl CheckedRequest {
    pub fn request(&self) -> &ComposeRequest {
        &self.request
    }

    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Something else that its user should know; told with the others, at the start.
    pub fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    pub(crate) fn into_parts(self) -> (ComposeRequest, Vec<Warning>) {
        (self.request, self.warnings)
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} {description}")]
pub struct Violation {
    pub path: String,
    pub description: String,
}

impl Sampling {
    /// What is wrong with it; `path` is where it stands.
    pub fn check(&self, path: &str) -> Vec<Violation> {
        let mut faults = Faults::default();
        faults.sampling(path, self);
        faults.0
    }
}

#[derive(Debug, Default)]
struct Faults(Vec<Violation>);

impl Faults {
    fn add(&mut self, path: &str, description: impl Into<String>) {
        self.0.push(Violation {
            path: path.to_owned(),
            description: description.into(),
        });
    }

    fn at_most_bytes(&mut self, path: &str, text: &str, most: usize) {
        if text.len() > most {
            let found = text.len();
            self.add(path, format!("must be at most {most} bytes, found {found}"));
        }
    }

    /// NaN is in no range.
    fn within<T: PartialOrd + Copy + std::fmt::Display>(
        &mut self,
        path: &str,
        found: T,
        least: T,
        most: T,
    ) {
        if !(least..=most).contains(&found) {
            self.add(
                path,
                format!("must be from {least} to {most}, found {found}"),
            );
        }
    }

    fn sampling(&mut self, path: &str, sampling: &Sampling) {
        let Sampling {
            temperature,
            top_p,
            top_k: _,
            repetition_penalty,
        } = *sampling;
        self.within(&format!("{path}.temperature"), temperature, 0.0, 10.0);
        self.within(
            &format!("{path}.repetition_penalty"),
            repetition_penalty,
            1.0,
            2.0,
        );
        if !(top_p > 0.0 && top_p <= 1.0) {
            let wanted = format!("must be above 0 and at most 1, found {top_p}");
            self.add(&format!("{path}.top_p"), wanted);
        }
    }
}
