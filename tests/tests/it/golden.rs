//! The numbers of the reference implementation: every case found under `$INKSTONE_GOLDENS`, or under `tests/goldens`, is run
//! against the crates. No case is named here: folders are told apart by what they hold, cases by the patterns of their
//! names, and tolerances come from the manifests. `tests/goldens/README.md` says what the patterns are.

mod beam;
mod compare;
mod folder;
mod generation;
mod group;
mod half_precision;
mod logits;
mod models;
mod pictures;
mod preprocess;
mod prompt;
mod report;
mod rope;
mod sampling;
mod sequence;
mod sha256;
mod tiles;
mod tokenizer;
mod units;
mod vision;

use std::path::Path;

use folder::{FolderKind, folders, name_of, unknown_folders};
use report::Report;

#[test]
fn every_folder_is_of_a_known_kind() {
    let mut report = Report::new("folders");
    for folder in unknown_folders() {
        report.skip(&name_of(&folder), "all", "the folder is of no known kind");
    }
    report.case("root", "golden data", || {
        anyhow::ensure!(
            !folder::all().is_empty(),
            "{} holds no golden folder",
            folder::root().display()
        );
        Ok(())
    });
    report.finish();
}

#[test]
fn tokenizer_gives_the_reference_ids_and_texts() {
    run_all("tokenizer", FolderKind::Tokenizer, tokenizer::run);
}

#[test]
fn pictures_become_the_reference_pixels() {
    run_all("preprocess", FolderKind::Preprocess, preprocess::run);
}

#[test]
fn single_scale_models_compute_what_the_reference_does() {
    run_all("single-scale models", FolderKind::SingleScale, models::run);
}

#[test]
fn tiled_models_compute_what_the_reference_does() {
    run_all("tiled models", FolderKind::Tiled, models::run);
}

#[test]
fn single_operations_compute_what_the_reference_does() {
    run_all("units", FolderKind::Units, units::run);
}

#[test]
fn positions_past_the_limit_are_rotated_as_the_reference_does() {
    run_all("rope", FolderKind::Rope, rope::run);
}

/// Runs all folders of a kind; that there is none is said, and no failure.
fn run_all(title: &'static str, kind: FolderKind, run: fn(&mut Report, &Path)) {
    let mut report = Report::new(title);
    let folders = folders(kind);
    if folders.is_empty() {
        report.skip("root", title, "there is no such folder");
    }
    for folder in &folders {
        run(&mut report, folder);
    }
    report.finish();
}
