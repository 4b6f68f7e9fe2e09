//! The distribution that tokens are drawn from: `sampling.N.probs` for given logits, tokens seen before and settings, however
//! the vocabulary is split.

use anyhow::{Context, Result, ensure};
use inkstone_model::sampling::{Candidate, RowSampling, SamplingParams, distribution, pick};
use serde::Deserialize;

use super::{compare::close, folder::Folder, report::Report};

/// Numbers of ranks that the vocabulary is split among.
const WORLD_SIZES: [usize; 3] = [1, 2, 4];

#[derive(Debug, Deserialize)]
struct Settings {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    repetition_penalty: f32,
}

pub(super) fn run(report: &mut Report, folder: &Folder) {
    for stem in folder.stems(".probs") {
        if let Some((group, _)) = stem.rsplit_once('.') {
            let name = format!("{stem}.probs");
            report.case(&folder.name, &name, || check(folder, group, &name));
        }
    }
}

fn check(folder: &Folder, group: &str, name: &str) -> Result<()> {
    let settings = folder
        .attribute(name, "settings")
        .context("which settings?")?;
    let settings = Settings::deserialize(settings)?;
    let params = SamplingParams {
        temperature: settings.temperature,
        top_k: settings.top_k,
        top_p: settings.top_p,
        repetition_penalty: settings.repetition_penalty,
        ..SamplingParams::default()
    };
    let logits = folder.f32(&format!("{group}.logits"))?;
    let seen = folder.ids(&format!("{group}.history"))?;
    let wanted = folder.f32(name)?;
    let row = RowSampling {
        params,
        seen: &seen,
        ..RowSampling::default()
    };
    for world_size in WORLD_SIZES {
        let mut found = vec![0.0; logits.values.len()];
        for (logits, found) in logits.rows().zip(found.chunks_exact_mut(logits.cols())) {
            for (id, probability) in distribution(&candidates(logits, &row, world_size), &params) {
                found[id as usize] = probability as f32;
            }
        }
        close(folder, name, &found).with_context(|| format!("{world_size} ranks"))?;
        let differ = wanted
            .values
            .iter()
            .zip(&found)
            .position(|(w, f)| (*w > 0.0) != (*f > 0.0));
        ensure!(
            differ.is_none(),
            "{name}: element {differ:?} is kept in one and not the other"
        );
    }
    Ok(())
}

/// What all ranks send of a row.
fn candidates(logits: &[f32], row: &RowSampling<'_>, world_size: usize) -> Vec<Candidate> {
    let width = logits.len().div_ceil(world_size);
    let slices = logits.chunks(width).enumerate();
    slices
        .flat_map(|(rank, slice)| pick(slice, (rank * width) as u32, row).tokens)
        .collect()
}
