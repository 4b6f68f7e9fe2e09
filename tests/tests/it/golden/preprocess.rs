//! Picture files to the pixels and values that the single-scale towers take, at every size found. Lossless files must come out
//! exactly. Decoders of lossy formats may differ a little: there our decoder is held to a small difference, and resizing is
//! tried on the reference's own pixels, exactly.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use inkstone_interface::picture_geometry::PictureGeometry;
use inkstone_model::clip::preprocess::{
    DecodeLimits, PreparedPicture, RgbPicture, decode_picture, prepare,
};
use serde::Deserialize;

use super::{
    compare::{close, equal, same},
    folder::{Folder, name_of},
    report::Report,
    sha256::sha256,
};

/// Largest difference of a channel, and largest mean difference, between two decoders of a lossy file.
const LOSSY_LARGEST: u8 = 16;
const LOSSY_MEAN: f64 = 1.0;

#[derive(Deserialize)]
struct PictureCase {
    size: [u32; 2],
    /// `sha256_SIDE` and `sum_SIDE` of the resized pixels.
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
}

pub(super) fn run(report: &mut Report, path: &Path) {
    let name = name_of(path);
    let Some(folder) = report.prepare(&name, "reading", || Folder::open(path)) else {
        return;
    };
    for file in folder.case_names() {
        run_picture(report, &folder, file);
    }
    run_full(report, &folder);
    report.end_folder(&folder);
}

fn run_picture(report: &mut Report, folder: &Folder, file: &str) {
    let stem = stem_of(file);
    let source = report.prepare(&folder.name, file, || {
        let case: PictureCase = folder.case_as(file)?;
        let found = read_picture(&folder.path.join("images").join(file))?;
        same("size", case.size, [found.width(), found.height()])?;
        Ok((case, found))
    });
    let Some((case, found)) = source else { return };
    let decoded = format!("{stem}.decoded");
    let mut source = found.clone();
    if folder.has(&decoded) {
        report.case(&folder.name, &decoded, || {
            check_decoded(&folder.u8(&decoded)?.values, found.pixels())
        });
        if let Ok(golden) = folder.u8(&decoded) {
            source = RgbPicture::new(found.width(), found.height(), golden.values);
        }
    }
    for side in sides(folder, &stem, &case) {
        let Some(prepared) = report.prepare(&folder.name, file, || {
            Ok(prepare(&source, &PictureGeometry::square(side), 1)?)
        }) else {
            continue;
        };
        run_side(report, folder, &stem, side, &case, &prepared);
    }
}

/// Every size that a tensor or the case has numbers for.
fn sides(folder: &Folder, stem: &str, case: &PictureCase) -> BTreeSet<u32> {
    let tensors = folder.tensor_names().into_iter().filter_map(|name| {
        let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
        rest.split('.').next()?.parse().ok()
    });
    let sums = case
        .more
        .keys()
        .filter_map(|key| key.rsplit('_').next()?.parse().ok());
    tensors.chain(sums).collect()
}

fn run_side(
    report: &mut Report,
    folder: &Folder,
    stem: &str,
    side: u32,
    case: &PictureCase,
    prepared: &PreparedPicture,
) {
    let pixels = prepared.canvas().pixels();
    let name = format!("{stem}.{side}.u8");
    if folder.has(&name) {
        report.case(&folder.name, &name, || equal(&folder.u8(&name)?, pixels));
    }
    if let Some(wanted) = case.more.get(&format!("sum_{side}")) {
        report.case(&folder.name, &format!("{stem}.sum_{side}"), || {
            let sum = pixels.iter().map(|byte| u64::from(*byte)).sum();
            same("sum of all pixels", wanted.as_u64(), Some(sum))
        });
    }
    if let Some(wanted) = case.more.get(&format!("sha256_{side}")) {
        report.case(&folder.name, &format!("{stem}.sha256_{side}"), || {
            let found = sha256(pixels);
            same("digest of all pixels", wanted.as_str(), Some(&found))
        });
    }
    let name = format!("{stem}.{side}.rows");
    if folder.has(&name) {
        report.case(&folder.name, &name, || {
            let rows: Vec<usize> =
                Deserialize::deserialize(folder.attribute(&name, "rows").context("which rows?")?)?;
            let values = square(prepared, 0);
            let side = side as usize;
            let row = |c: usize, y: usize| &values[(c * side + y) * side..][..side];
            let found = (0..3).flat_map(|c| rows.iter().flat_map(move |y| row(c, *y)));
            close(folder, &name, &found.copied().collect::<Vec<_>>())
        });
    }
}

/// `full_SIDE`: all values of the picture that its note begins with.
fn run_full(report: &mut Report, folder: &Folder) {
    for side in folder
        .tensor_names()
        .into_iter()
        .filter_map(|name| name.strip_prefix("full_"))
    {
        let name = format!("full_{side}");
        report.case(&folder.name, &name, || {
            let file = noted_file(folder, &name).context("the note begins with no picture")?;
            let picture = read_picture(&folder.path.join("images").join(file))?;
            let geometry = PictureGeometry::square(side.parse().context("a size in pixels")?);
            close(folder, &name, &square(&prepare(&picture, &geometry, 1)?, 0))
        });
    }
}

/// The name of the picture file that a tensor's note begins with.
pub(super) fn noted_file<'a>(folder: &'a Folder, tensor: &str) -> Option<&'a str> {
    let note = folder.attribute(tensor, "note")?.as_str()?;
    let word = note.split([' ', ':']).next()?;
    word.contains('.').then_some(word)
}

/// A tower's input `[3, side, side]`.
pub(super) fn square(prepared: &PreparedPicture, index: usize) -> Vec<f32> {
    let mut values = vec![0.0; 3 * prepared.side() * prepared.side()];
    prepared.write_square(index, &mut values);
    values
}

pub(super) fn read_picture(file: &Path) -> Result<RgbPicture> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    decode_picture(&bytes, &DecodeLimits::default()).with_context(|| file.display().to_string())
}

/// Holds the pixels of a lossy file against another decoder's.
pub(super) fn check_decoded(wanted: &[u8], found: &[u8]) -> Result<()> {
    same("length of the pixels", wanted.len(), found.len())?;
    let differences = || wanted.iter().zip(found).map(|(w, f)| w.abs_diff(*f));
    let largest = differences().max().unwrap_or(0);
    let mean = differences().map(f64::from).sum::<f64>() / wanted.len().max(1) as f64;
    ensure!(
        largest <= LOSSY_LARGEST && mean <= LOSSY_MEAN,
        "decoded pixels differ by {largest} at most and {mean:.3} on average, accepted is {LOSSY_LARGEST} and {LOSSY_MEAN}"
    );
    Ok(())
}

/// How tensors name a file: `a.b.png` is `a_b_png`.
fn stem_of(file: &str) -> String {
    file.replace('.', "_")
}
