//! Model folders: everything that their numbers say about pictures, prompts, logits and generated tokens, with every
//! checkpoint they hold.

use std::path::Path;

use anyhow::Context;
use inkstone_model::{
    checkpoint::Checkpoint, clip::VisionModel, device::Device, load_options::LoadOptions,
    tensor::DType,
};

use super::{
    folder::{Folder, checkpoints, name_of},
    pictures::Pictures,
    prompt,
    report::Report,
    tiles, vision,
};

pub(super) fn run(report: &mut Report, path: &Path) {
    let name = name_of(path);
    let Some(folder) = report.prepare(&name, "reading", || Folder::open(path)) else {
        return;
    };
    let loaded = report.prepare(&name, "loading", || {
        let main = checkpoints(path).into_iter().next();
        let checkpoint = Checkpoint::open(&main.context("there is a checkpoint")?)?;
        let tokenizer = prompt::tokenizer(checkpoint.dir())?;
        let tower = VisionModel::load(&checkpoint, &in_f32(2), &|_| ())?;
        Ok((checkpoint, tokenizer, tower))
    });
    let Some((checkpoint, tokenizer, tower)) = loaded else {
        return;
    };
    let variant = checkpoint.description().variant;
    let pictures = Pictures::new(&folder, &tower);
    if variant.is_hd() {
        tiles::run(report, &folder, tower.geometry());
    }
    vision::run(report, &pictures, &folder);
    prompt::run(report, &folder, variant, tokenizer.as_ref(), &pictures);
    report.end_folder(&folder);
}

/// Weights widened to float32, as the goldens were made.
pub(super) fn in_f32(num_threads: usize) -> LoadOptions {
    LoadOptions {
        device: Device::cpu(num_threads),
        dtype: Some(DType::F32),
    }
}
