//! What the scripted model is: a vocabulary, a description and sizes.

use std::path::Path;

use inkstone_interface::{
    description::ModelDescription, picture_geometry::PictureGeometry, tokenizer::Tokenizer,
};
use inkstone_model::{checkpoint::Checkpoint, synthesize::Preset};

use crate::cluster_fixture::small_model;

/// Which vocabulary is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Vocabulary {
    /// The small checkpoint's.
    Small,
    /// The published one, where it is at hand.
    Real,
}

impl Vocabulary {
    /// The bytes of `tokenizer.model`; none where it is not at hand, which is said.
    pub(in super::super) fn read(self) -> Option<Vec<u8>> {
        let file = match self {
            Self::Small => Path::new(small_model()).join("tokenizer.model"),
            Self::Real => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
                let beside = ["../shared", "../../shared"].map(|shared| {
                    let shared = root.join(shared);
                    shared.join("tokenizer/tokenizer.model")
                });
                let named = std::env::var_os("INKSTONE_TOKENIZER").map(Into::into);
                let found = beside.iter().find(|file| file.exists());
                named.unwrap_or_else(|| found.unwrap_or(&beside[0]).clone())
            }
        };
        let bytes = std::fs::read(&file).ok();
        if bytes.is_none() {
            eprintln!("skipped: {} is absent", file.display());
        }
        bytes
    }
}

/// What the scripted model is.
pub(in super::super) struct Model {
    pub(in super::super) tokenizer: Tokenizer,
    pub(super) tokenizer_model: Vec<u8>,
    pub(super) description: ModelDescription,
    pub(super) context: usize,
    pub(super) picture_tokens: u32,
}

impl Model {
    /// A composition model with this vocabulary; none where it is not at hand.
    pub(in super::super) fn with(vocabulary: Vocabulary) -> Option<Self> {
        let tokenizer_model = vocabulary.read()?;
        let tokenizer = Tokenizer::from_model_bytes(&tokenizer_model).expect("it is one");
        let small = Checkpoint::open(Path::new(small_model())).expect("it ships");
        let mut description = small.description().clone();
        description.name = "scripted".into();
        if vocabulary == Vocabulary::Real {
            description.config = Preset::Composition7b.config();
            description.picture = PictureGeometry {
                side: 224,
                patch_size: 14,
                hd: None,
            };
        }
        description.max_prompt_tokens = 4096;
        let picture_tokens = match vocabulary {
            Vocabulary::Small => 64,
            Vocabulary::Real => 256,
        };
        Some(Self {
            tokenizer,
            tokenizer_model,
            description,
            context: 4096,
            picture_tokens,
        })
    }

    pub(in super::super) fn small() -> Self {
        Self::with(Vocabulary::Small).expect("the small checkpoint is in the repository")
    }

    /// The same with another context.
    pub(in super::super) fn with_context(mut self, context: usize) -> Self {
        self.context = context;
        self.description.max_prompt_tokens = context;
        self
    }
}
