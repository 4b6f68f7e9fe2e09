//! What several tests need: the tokenizers at hand, meters, pictures. Tests of the words of each step are beside it, tests of
//! the article, the procedure and the export in their folders.

mod answers;
mod limits;
mod markers;
mod options;
mod prompts;
mod segments;
mod small_model;
mod specification;

use std::path::{Path, PathBuf};

use inkstone_interface::tokenizer::Tokenizer;

use crate::{Meter, Picture, PictureId, Piece, Prompt, Release, Sampling, steps::StepSettings};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[expect(clippy::print_stderr, reason = "a test that skips must say so")]
fn read_or_say(file: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok();
    if bytes.is_none() {
        eprintln!("skipped: {} is absent", file.display());
    }
    bytes
}

fn load(file: &Path) -> Option<Tokenizer> {
    read_or_say(file).map(|bytes| Tokenizer::from_model_bytes(&bytes).unwrap())
}

/// The tokenizer of the small checkpoint, which is in the repository.
pub(crate) fn small_tokenizer() -> Tokenizer {
    let file = Path::new(WORKSPACE).join("model/pretrained/inkstone-small/tokenizer.model");
    load(&file).expect("the small checkpoint is in the repository")
}

/// The real tokenizer: `$INKSTONE_TOKENIZER`, or `shared/tokenizer` beside the workspace.
fn real_tokenizer() -> Option<Tokenizer> {
    let beside = || Path::new(WORKSPACE).join("../shared/tokenizer/tokenizer.model");
    let workspace_of_branch =
        || Path::new(WORKSPACE).join("../../shared/tokenizer/tokenizer.model");
    let named = std::env::var_os("INKSTONE_TOKENIZER").map(PathBuf::from);
    let file = named.unwrap_or_else(|| {
        let beside = beside();
        if beside.exists() {
            beside
        } else {
            workspace_of_branch()
        }
    });
    load(&file)
}

/// A token for every character of a text, and so many for a picture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CharMeter {
    pub(crate) context: usize,
    pub(crate) picture: usize,
}

impl CharMeter {
    /// Room for everything.
    pub(crate) const WIDE: Self = Self {
        context: 1_000_000,
        picture: 256,
    };
}

impl Meter for CharMeter {
    fn context_tokens(&self) -> usize {
        self.context
    }

    fn num_tokens(&self, prompt: &Prompt) -> usize {
        let texts: usize = prompt
            .user()
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.chars().count(),
                Piece::Picture(_) => self.picture,
            })
            .sum();
        let system = prompt.system().map_or(0, |text| text.chars().count());
        texts + system + prompt.answer_prefix().chars().count()
    }
}

pub(crate) const SETTINGS: StepSettings<'_> = StepSettings {
    system: None,
    release: Release::Xc2,
    sampling: Sampling::STANDARD,
    seed: 1,
};

pub(crate) fn id(name: &str) -> PictureId {
    PictureId::new(name)
}

pub(crate) fn upload(name: &str) -> Picture {
    Picture::uploaded(name, "image/png")
}

/// A picture of a library.
pub(crate) fn found(name: &str) -> Picture {
    Picture {
        index: Some(format!("index-{name}")),
        source: Some(format!("https://pictures.example/{name}")),
        author: Some("Lin".into()),
        licence: Some("CC BY 4.0".into()),
        ..Picture::uploaded(name, "image/jpeg")
    }
}

pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}
