//! Rotary embedding beyond `max_position_embeddings`: one set of weights under several configs, `VARIANT.LENGTH.logits` for
//! prompts and `VARIANT.decode.*` for tokens generated across the limit, and tables at the sizes of the releases (`table.*`).

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use inkstone_interface::config::ModelConfig;
use inkstone_model::{
    checkpoint::Checkpoint,
    device::Device,
    ops::rotary::{RotaryAngles, RotarySpan},
    sampling::SamplingParams,
    tensor::DType,
};
use serde::Deserialize;
use tempfile::TempDir;

use super::{
    compare::{close, within, within_each},
    folder::{Folder, checkpoints, config_variants, name_of},
    group::{Group, Job, PromptInput},
    report::Report,
};

/// `max_position_embeddings` of the releases with dynamic scaling of factor 1, for the tables at their sizes.
const RELEASE_POSITIONS: f64 = 32768.0;

/// A case `VARIANT.decode`.
#[derive(Debug, Default, Deserialize)]
struct DecodeCase {
    /// The reference changes the base at every step past the limit while cached keys keep theirs; here the base stays.
    quirk: Option<bool>,
}

pub(super) fn run(report: &mut Report, path: &Path) {
    let name = name_of(path);
    let Some(folder) = report.prepare(&name, "reading", || Folder::open(path)) else {
        return;
    };
    for (variant, config) in config_variants(path) {
        for checkpoint in checkpoints(path) {
            let what = format!("config.{variant}.json");
            if let Some(group) = report.prepare(&name, &what, || load(&checkpoint, &config)) {
                run_variant(report, &folder, &variant, &group);
            }
        }
    }
    run_tables(report, &folder);
    report.end_folder(&folder);
}

/// The weights of a checkpoint under another config.
fn load(checkpoint: &Path, config: &Path) -> Result<Group> {
    let dir = TempDir::new()?;
    for entry in fs::read_dir(checkpoint)? {
        let file = entry?.path();
        let name = file.file_name().context("a file has a name")?;
        if name != "config.json" {
            fs::copy(&file, dir.path().join(name))?;
        }
    }
    fs::copy(config, dir.path().join("config.json"))?;
    Group::load(&Checkpoint::open(dir.path())?, 1, Some(DType::F32))
}

fn run_variant(report: &mut Report, folder: &Folder, variant: &str, group: &Group) {
    let start = format!("{variant}.");
    for stem in folder.stems(".logits") {
        let Some(what) = stem.strip_prefix(&start) else {
            continue;
        };
        let name = format!("{stem}.logits");
        match what.parse::<usize>() {
            Ok(length) => report.case(&folder.name, &name, || {
                let keep = folder.indices(&format!("{stem}.keep"))?;
                let prompt = prompt(folder, length)?;
                close(folder, &name, &group.prefill(&prompt, &keep, false)?.logits)
            }),
            Err(_) => run_decode(report, folder, &stem, group),
        }
    }
}

fn run_decode(report: &mut Report, folder: &Folder, stem: &str, group: &Group) {
    let Some(plan) = report.prepare(&folder.name, stem, || {
        DecodePlan::new(folder, stem, group.config())
    }) else {
        return;
    };
    if plan.num_comparable < plan.num_steps {
        let why = format!(
            "past the limit the reference changes the base under its cache; here it stays that of the prompt. {} of {} steps are compared",
            plan.num_comparable, plan.num_steps
        );
        report.skip(&folder.name, &format!("{stem}, later steps"), &why);
    }
    report.case(&folder.name, stem, || plan.check(folder, stem, group));
}

/// How much of a decode can be held against the reference.
struct DecodePlan {
    prompt_length: usize,
    num_steps: usize,
    num_comparable: usize,
}

impl DecodePlan {
    fn new(folder: &Folder, stem: &str, config: &ModelConfig) -> Result<Self> {
        let tokens = format!("{stem}.tokens");
        let note = folder
            .attribute(&tokens, "note")
            .and_then(|note| note.as_str());
        let prompt_length = note.and_then(|note| number_after(note, "prompt of"));
        let prompt_length = prompt_length
            .with_context(|| format!("{tokens} does not note its prompt's length"))?
            as usize;
        let num_steps = folder.ids(&tokens)?.len();
        let case: DecodeCase = match folder.case(stem) {
            Some(case) => Deserialize::deserialize(case)?,
            None => DecodeCase::default(),
        };
        // Step n sees the prompt and n tokens. The first is an ordinary pass over the prompt, whatever its length.
        let up_to_limit = (config.max_position_embeddings + 1).saturating_sub(prompt_length);
        let num_comparable = match case.quirk {
            Some(true) => up_to_limit.clamp(1, num_steps),
            _ => num_steps,
        };
        Ok(Self {
            prompt_length,
            num_steps,
            num_comparable,
        })
    }

    fn check(&self, folder: &Folder, stem: &str, group: &Group) -> Result<()> {
        let job = Job {
            inputs: prompt(folder, self.prompt_length)?,
            params: SamplingParams::default(),
            seen: Vec::new(),
            stop_ids: Vec::new(),
            max_new_tokens: self.num_comparable,
        };
        let found = group.generate(&[job])?.remove(0);
        let wanted = &folder.ids(&format!("{stem}.tokens"))?[..self.num_comparable];
        let differ = wanted.iter().zip(&found.tokens).position(|(w, f)| w != f);
        if let Some(step) = differ {
            bail!(
                "{stem}.tokens: at step {step} wanted {}, found {}",
                wanted[step],
                found.tokens[step]
            );
        }
        let name = format!("{stem}.logits");
        if !folder.has(&name) {
            return Ok(());
        }
        let mut golden = folder.f32(&name)?;
        golden.values.truncate(self.num_comparable * golden.cols());
        within(&golden, &found.logits, folder.atol(&name)?)
    }
}

/// The first `length` of the folder's ids.
fn prompt(folder: &Folder, length: usize) -> Result<Vec<PromptInput>> {
    let mut ids = folder.ids("ids")?;
    anyhow::ensure!(
        ids.len() >= length,
        "there are {} ids, wanted {length}",
        ids.len()
    );
    ids.truncate(length);
    Ok(vec![PromptInput::Tokens(ids)])
}

/// `table.*` at the positions `table.positions`; a dynamic table has one more row, for the last position of its length.
fn run_tables(report: &mut Report, folder: &Folder) {
    for stem in folder.stems(".cos") {
        report.case(&folder.name, &format!("{stem}.cos, .sin"), || {
            check_table(folder, &stem)
        });
    }
}

fn check_table(folder: &Folder, stem: &str) -> Result<()> {
    let plain = stem.split('.').next().unwrap_or(stem);
    let note = |name: &str| {
        folder
            .attribute(name, "note")
            .and_then(|note| note.as_str())
    };
    let size = note(&format!("{plain}.cos")).context("the plain table notes its sizes")?;
    let head_dim = number_after(size, "head size").context("which head size?")?;
    let mut base = number_after(size, "base").context("which base?")?;
    let mut positions = folder.indices(&format!("{plain}.positions"))?;
    if let Some(dynamic) = note(&format!("{stem}.cos")).filter(|note| note.starts_with("dynamic")) {
        let factor = number_after(dynamic, "factor").context("which factor?")?;
        let length = number_after(dynamic, "length of").context("which length?")?;
        let stretch = factor * length / RELEASE_POSITIONS - (factor - 1.0);
        base *= stretch.powf(head_dim / (head_dim - 2.0));
        positions.push(length as usize - 1);
    }
    let spans: Vec<_> = positions
        .iter()
        .map(|start| RotarySpan {
            num_rows: 1,
            start: *start,
            base,
            divisor: 1.0,
        })
        .collect();
    let angles = RotaryAngles::new(&Device::cpu(1), head_dim as usize, &spans)?;
    let (cos, sin) = angles.tables();
    for (what, table) in [("cos", cos), ("sin", sin)] {
        let name = format!("{stem}.{what}");
        let wanted = folder.f32(&name)?;
        let tolerance = |key: &str| {
            folder
                .attribute(&name, key)
                .and_then(|value| value.as_f64())
        };
        let at_0 = tolerance("atol_at_0").with_context(|| format!("{name} has no atol_at_0"))?;
        let per_position = tolerance("atol_per_position").unwrap_or(0.0);
        // The reference writes each half's angles twice.
        let halves = table.as_f32()?.chunks_exact(table.cols());
        let found: Vec<f32> = halves.flat_map(|half| [half, half].concat()).collect();
        let width = wanted.cols();
        within_each(&wanted, &found, |index| {
            (at_0 + per_position * positions[index / width] as f64) as f32
        })?;
    }
    Ok(())
}

/// The number that follows some words in a note.
fn number_after(note: &str, words: &str) -> Option<f64> {
    let (_, rest) = note.split_once(words)?;
    let number = rest.trim_start().split([' ', ',', ';', ':']).next()?;
    number.parse().ok()
}
