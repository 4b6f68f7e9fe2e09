//! Checkpoints in half precision computed as they are: `CHECKPOINT.bfloat16_arithmetic` and `.float16_arithmetic` say by how much
//! the reference itself moves away from float32, largest and root mean square. Three times that is the limit here.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use inkstone_model::tensor::DType;
use serde::Deserialize;
use serde_json::Value;

use super::{
    compare::differences, generation::Ready, models::Loaded, pictures::Pictures, report::Report,
    vision::numbered_pictures,
};

/// How many times the reference's own difference is let pass.
const LIMIT: f32 = 3.0;

const ARITHMETICS: [(&str, DType); 2] = [
    ("bfloat16_arithmetic", DType::BF16),
    ("float16_arithmetic", DType::F16),
];

/// Largest and root-mean-square difference, by what they are of.
#[derive(Debug, Deserialize)]
struct Figures {
    #[serde(flatten)]
    of: BTreeMap<String, Value>,
}

/// `full` is the same checkpoint in float32.
pub(super) fn run(report: &mut Report, full: &Ready<'_>, loaded: &Loaded) {
    let folder = full.folder;
    for (arithmetic, dtype) in ARITHMETICS {
        let name = format!("{}{arithmetic}", full.prefix);
        if folder.case(&name).is_none() {
            continue;
        }
        let Some((figures, half)) = report.prepare(&folder.name, &name, || {
            let figures: Figures = folder.case_as(&name)?;
            Ok((figures, Loaded::load(loaded.checkpoint.dir(), dtype)?))
        }) else {
            continue;
        };
        let pictures = Pictures::new(folder, &half.tower);
        let half = half.ready(folder, &pictures, full.prefix);
        for (of, figures) in &figures.of {
            let case = format!("{name}: {of}");
            let Ok(limits) = <(f32, f32)>::deserialize(figures) else {
                continue;
            };
            if of == "proj" {
                report.case(&folder.name, &case, || check_projected(full, &half, limits));
            } else if folder.has(&format!("{}{of}.logits", full.prefix)) {
                report.case(&folder.name, &case, || check_logits(&half, of, limits));
            } else {
                report.skip(&folder.name, &case, "unknown here");
            }
        }
        run_generation(report, &half, &name, &figures);
    }
}

fn check_logits(half: &Ready<'_>, case: &str, limits: (f32, f32)) -> Result<()> {
    let wanted = half.folder.f32(&format!("{}{case}.logits", half.prefix))?;
    let found = half.prefill(case, false)?.logits;
    check(&wanted.values, &found, limits)
}

/// All pictures, with tower and projector in half precision.
fn check_projected(full: &Ready<'_>, half: &Ready<'_>, limits: (f32, f32)) -> Result<()> {
    let is_tiled = full.pictures.geometry().hd.is_some();
    for request in numbered_pictures(full.folder, is_tiled)?.values() {
        let projected = |ready: &Ready<'_>| -> Result<_> {
            ready.group.project(&*ready.pictures.features(request)?)
        };
        check(&projected(full)?, &projected(half)?, limits)
            .with_context(|| request.file.clone())?;
    }
    Ok(())
}

fn check(wanted: &[f32], found: &[f32], (largest, mean): (f32, f32)) -> Result<()> {
    ensure!(
        wanted.len() == found.len(),
        "{} values, wanted {}",
        found.len(),
        wanted.len()
    );
    let (found_largest, found_mean) = differences(wanted, found);
    ensure!(
        found_largest <= LIMIT * largest && found_mean <= LIMIT * mean,
        "differs by {found_largest} at most and {found_mean} in root mean square; the reference by {largest} and {mean}, and {LIMIT} times that is let pass"
    );
    Ok(())
}

/// Tokens up to the first step at which the reference was not decided by more than two logits may be off together.
fn run_generation(report: &mut Report, half: &Ready<'_>, name: &str, figures: &Figures) {
    for case in half.generation_names() {
        let Some((largest, _)) = figures
            .of
            .get(&case)
            .and_then(|f| <(f32, f32)>::deserialize(f).ok())
        else {
            continue;
        };
        report.case(
            &half.folder.name,
            &format!("{name}: gen.{case}.tokens"),
            || half.check_decided_tokens(&case, 2.0 * LIMIT * largest),
        );
    }
}
