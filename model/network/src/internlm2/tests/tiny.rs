//! A tiny model of random weights, which needs no golden checkpoint.

use tempfile::TempDir;

use super::*;
use crate::{
    synthesize::{Preset, SynthesizeOptions, synthesize},
    tensor::DType,
};

/// The model's folder, written once for as many devices as a test has.
pub(in crate::internlm2) struct Tiny(TempDir);

impl Tiny {
    pub(in crate::internlm2) fn write() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("model");
        synthesize(Preset::Tiny, 0, &dir, SynthesizeOptions::default(), &|_| ()).unwrap();
        Self(folder)
    }

    /// The model in bf16.
    pub(in crate::internlm2) fn load(&self, device: Device) -> LanguageModel {
        let options = LoadOptions {
            device,
            dtype: Some(DType::BF16),
        };
        let checkpoint = Checkpoint::open(&self.0.path().join("model")).unwrap();
        LanguageModel::load(&checkpoint, Shard::SINGLE, &options, &|_| {}).unwrap()
    }
}
