//! Model folders: everything that their numbers say about pictures, prompts, logits and generated tokens, with every
//! checkpoint they hold, on one rank and on as many as the heads allow.

use std::path::Path;

use anyhow::{Context, Result};
use inkstone_interface::tokenizer::Tokenizer;
use inkstone_model::{
    checkpoint::{Checkpoint, shard::check_width},
    clip::VisionModel,
    device::Device,
    load_options::LoadOptions,
    tensor::DType,
};

use super::{
    compare::close_rows,
    folder::{Folder, checkpoints, name_of},
    generation::Ready,
    group::Group,
    half_precision,
    pictures::Pictures,
    prompt,
    report::Report,
    sampling, tiles, vision,
};

/// Widths that are tried besides one rank.
const WORLD_SIZES: [usize; 2] = [2, 4];

pub(super) fn run(report: &mut Report, path: &Path) {
    let name = name_of(path);
    let Some(folder) = report.prepare(&name, "reading", || Folder::open(path)) else {
        return;
    };
    let checkpoints = checkpoints(path);
    if checkpoints.is_empty() {
        report.fail(&name, "all", "there is no checkpoint");
    }
    for (index, checkpoint) in checkpoints.iter().enumerate() {
        let prefix = format!("{}.", name_of(checkpoint).replace('-', "_"));
        let is_named = folder
            .tensor_names()
            .iter()
            .any(|name| name.starts_with(&prefix));
        let what = name_of(checkpoint);
        let Some(loaded) = report.prepare(&name, &what, || Loaded::load(checkpoint, DType::F32))
        else {
            continue;
        };
        if index == 0 && !is_named {
            run_main(report, &folder, &loaded);
        } else {
            run_other(report, &folder, &loaded, &prefix);
        }
    }
    sampling::run(report, &folder);
    skip_known(report, &folder);
    report.end_folder(&folder);
}

/// One checkpoint with its tower and one rank of the language model.
pub(super) struct Loaded {
    pub(super) checkpoint: Checkpoint,
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) tower: VisionModel,
    pub(super) group: Group,
}

impl Loaded {
    /// Loads all weights as `dtype`; the goldens were made with weights widened to float32.
    pub(super) fn load(path: &Path, dtype: DType) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let options = LoadOptions {
            device: Device::cpu(2),
            dtype: Some(dtype),
        };
        Ok(Self {
            tokenizer: prompt::tokenizer(path)?,
            tower: VisionModel::load(&checkpoint, &options, &|_| ())?,
            group: Group::load(&checkpoint, 1, Some(dtype))?,
            checkpoint,
        })
    }

    /// The checkpoint, ready for the cases whose names begin with `prefix`.
    pub(super) fn ready<'a>(
        &'a self,
        folder: &'a Folder,
        pictures: &'a Pictures<'a>,
        prefix: &'a str,
    ) -> Ready<'a> {
        Ready {
            folder,
            description: self.checkpoint.description(),
            group: &self.group,
            pictures,
            tokenizer: self.tokenizer.as_ref(),
            prefix,
        }
    }
}

fn run_main(report: &mut Report, folder: &Folder, loaded: &Loaded) {
    let variant = loaded.checkpoint.description().variant;
    let pictures = Pictures::new(folder, &loaded.tower);
    if variant.is_hd() {
        tiles::run(report, folder, loaded.tower.geometry());
    }
    vision::run(report, &pictures, folder);
    run_projector(report, folder, &pictures, &loaded.group);
    prompt::run(
        report,
        folder,
        variant,
        loaded.tokenizer.as_ref(),
        &pictures,
    );
    let ready = loaded.ready(folder, &pictures, "");
    run_language(report, &ready, loaded);
    for world_size in WORLD_SIZES {
        if check_width(world_size, loaded.checkpoint.config()).is_ok() {
            run_split(report, &ready, &loaded.checkpoint, world_size);
        }
    }
}

fn run_other(report: &mut Report, folder: &Folder, loaded: &Loaded, prefix: &str) {
    let pictures = Pictures::new(folder, &loaded.tower);
    let ready = loaded.ready(folder, &pictures, prefix);
    run_language(report, &ready, loaded);
}

fn run_language(report: &mut Report, ready: &Ready<'_>, loaded: &Loaded) {
    ready.run_logits(report, "");
    ready.run_generation(report);
    ready.run_chats(report);
    ready.run_ragged_batches(report);
    ready.run_beams(report);
    half_precision::run(report, ready, loaded);
}

/// All logits and one generation again on several ranks, with pictures if any case has them.
fn run_split(report: &mut Report, ready: &Ready<'_>, checkpoint: &Checkpoint, world_size: usize) {
    let folder = &ready.folder.name;
    let note = format!(" on {world_size} ranks");
    let Some(group) = report.prepare(folder, &note, || {
        Group::load(checkpoint, world_size, Some(DType::F32))
    }) else {
        return;
    };
    let split = Ready {
        group: &group,
        ..*ready
    };
    split.run_logits(report, &note);
    if let Some(name) = split.generation_to_repeat() {
        report.case(folder, &format!("gen.{name}.tokens{note}"), || {
            split.check_generation(&name)
        });
    }
}

/// `vision.N.proj`, or `N.proj` for tiled models: a picture's rows after the projector.
fn run_projector(report: &mut Report, folder: &Folder, pictures: &Pictures<'_>, group: &Group) {
    let is_tiled = pictures.geometry().hd.is_some();
    let numbered = vision::numbered_pictures(folder, is_tiled).unwrap_or_default();
    for (stem, request) in numbered {
        let name = format!("{stem}.proj");
        if folder.has(&name) {
            report.case(&folder.name, &name, || {
                let projected = group.project(&*pictures.features(&request)?)?;
                let width = group.config().hidden_size;
                close_rows(folder, &name, &projected, width).context("after the projector")
            });
        }
    }
}

/// Cases that are known and left out on purpose.
fn skip_known(report: &mut Report, folder: &Folder) {
    let known = [(
        "plora_effect",
        "tells how far logits move without Partial LoRA, which cannot be switched off",
    )];
    let cases = folder
        .case_names()
        .into_iter()
        .map(|name| format!("case {name}"));
    let tensors = folder.tensor_names().into_iter().map(str::to_owned);
    for name in tensors.chain(cases) {
        let plain = name.trim_start_matches("case ");
        if let Some((_, why)) = known.iter().find(|(start, _)| plain.starts_with(start)) {
            folder.note(&name);
            report.skip(&folder.name, &name, why);
        }
    }
}
