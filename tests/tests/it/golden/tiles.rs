//! How the high-definition models cut a picture into tiles: the layout of every size in `layout.json`, the order in which
//! patches become tokens (`merge.HxW`), the resized and padded pictures in `images/`, and the global view (`N.global`).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use inkstone_interface::picture_geometry::{PictureGeometry, TokenSource};
use inkstone_model::clip::preprocess::{PreparedPicture, RgbPicture, prepare};
use serde::Deserialize;
use serde_json::Value;

use super::{
    compare::{close, equal, same},
    folder::{Folder, LAYOUT_FILE},
    pictures::is_lossy,
    preprocess::{check_decoded, read_picture, square},
    report::Report,
};

#[derive(Deserialize)]
struct Layouts {
    tile: u32,
    rows: Vec<LayoutRow>,
}

/// Sizes are width and height in the orientation of the input.
#[derive(Debug, PartialEq, Deserialize)]
struct LayoutRow {
    width: u32,
    height: u32,
    hd_num: u32,
    resized: [u32; 2],
    padded: [u32; 2],
    tiles_wide: u32,
    tiles_high: u32,
    tokens: usize,
    transposed: bool,
}

/// A picture of the folder, the case `imageN`.
#[derive(Debug, Deserialize)]
pub(super) struct PictureCase {
    pub(super) file: String,
    pub(super) hd_num: u32,
    padded: [u32; 2],
    /// Rows and columns.
    tiles: [u32; 2],
    pub(super) tokens: usize,
    /// The resized and padded picture in `images/`.
    prepared: Option<String>,
}

/// The pictures of a folder by the number that tensors name them by.
pub(super) fn picture_cases(folder: &Folder) -> Result<BTreeMap<String, PictureCase>> {
    let numbered = folder.case_names().into_iter().filter_map(|name| {
        let number = name.strip_prefix("image")?;
        Some(folder.case_as(name).map(|case| (number.to_owned(), case)))
    });
    numbered.collect()
}

pub(super) fn run(report: &mut Report, folder: &Folder, geometry: &PictureGeometry) {
    run_layouts(report, folder, geometry);
    for name in folder.stems("") {
        if let Some(grid) = name.strip_prefix("merge.") {
            report.case(&folder.name, &name, || {
                check_merge(folder, &name, grid, geometry)
            });
        }
    }
    let Some(pictures) = report.prepare(&folder.name, "pictures", || picture_cases(folder)) else {
        return;
    };
    for (number, case) in &pictures {
        report.case(&folder.name, &format!("image{number}"), || {
            check_picture(folder, number, case, geometry)
        });
    }
}

fn run_layouts(report: &mut Report, folder: &Folder, geometry: &PictureGeometry) {
    let file = folder.path.join(LAYOUT_FILE);
    if !file.is_file() {
        return;
    }
    let Some(layouts) = report.prepare(&folder.name, LAYOUT_FILE, || {
        let layouts: Layouts = serde_json::from_slice(&std::fs::read(&file)?)?;
        same("tile", layouts.tile, geometry.side)?;
        Ok(layouts)
    }) else {
        return;
    };
    for row in &layouts.rows {
        let name = format!(
            "layout of {}x{} in {} tiles",
            row.width, row.height, row.hd_num
        );
        report.case(&folder.name, &name, || {
            let layout = geometry.layout(row.width, row.height, row.hd_num)?;
            let found = LayoutRow {
                resized: layout.resized.into(),
                padded: layout.padded.into(),
                tiles_wide: layout.tiles_wide,
                tiles_high: layout.tiles_high,
                tokens: layout.num_tokens,
                transposed: layout.transposed,
                ..*row
            };
            same("layout", row, &found)
        });
    }
}

/// `grid` is rows x columns of tiles.
fn check_merge(folder: &Folder, name: &str, grid: &str, geometry: &PictureGeometry) -> Result<()> {
    let (high, wide) = grid.split_once('x').context("wanted merge.HxW")?;
    let sources = geometry.token_sources(high.parse()?, wide.parse()?);
    let place = |source: &TokenSource| match source {
        TokenSource::Patches(patches) => patches.map(|patch| patch as i32),
        TokenSource::RowSeparator => [-1; 4],
        TokenSource::GlobalSeparator => [-2; 4],
    };
    let found: Vec<i32> = sources.iter().flat_map(place).collect();
    equal(&folder.i32(name)?, &found)
}

fn check_picture(
    folder: &Folder,
    number: &str,
    case: &PictureCase,
    geometry: &PictureGeometry,
) -> Result<()> {
    let source = folder.path.join("images").join(&case.file);
    let source_is_lossy = is_lossy(&source)?;
    let prepared = prepare(&read_picture(&source)?, geometry, case.hd_num)?;
    let layout = prepared.layout();
    same("padded", case.padded, layout.padded.into())?;
    same("tiles", case.tiles, [layout.tiles_high, layout.tiles_wide])?;
    same("tokens", case.tokens, layout.num_tokens)?;
    if let Some(file) = &case.prepared {
        let wanted = read_picture(&folder.path.join("images").join(file))?;
        check_canvas(&wanted, prepared.canvas(), source_is_lossy).with_context(|| file.clone())?;
    }
    // The reference's view of a lossy file is that of its own pixels.
    let prepared = match canvas_of(folder, &case.file, case.hd_num, geometry)? {
        Some(canvas) if source_is_lossy => canvas,
        _ => prepared,
    };
    let global = format!("{number}.global");
    if folder.has(&global) {
        close(
            folder,
            &global,
            &sampled_global_view(folder, &global, &prepared)?,
        )?;
    }
    Ok(())
}

/// A picture that the goldens keep resized and padded, as the tower takes it. `None` where they do not, or where making it
/// ready again would change it.
pub(super) fn canvas_of(
    folder: &Folder,
    file: &str,
    hd_num: u32,
    geometry: &PictureGeometry,
) -> Result<Option<PreparedPicture>> {
    let cases = picture_cases(folder)?;
    let mut same_request = cases
        .values()
        .filter(|case| (case.file.as_str(), case.hd_num) == (file, hd_num));
    let Some(stored) = same_request.find_map(|case| case.prepared.as_ref()) else {
        return Ok(None);
    };
    let canvas = read_picture(&folder.path.join("images").join(stored))?;
    let num_tiles = (canvas.width() / geometry.side) * (canvas.height() / geometry.side);
    let prepared = prepare(&canvas, geometry, num_tiles.max(1))?;
    Ok((*prepared.canvas() == canvas).then_some(prepared))
}

fn check_canvas(wanted: &RgbPicture, found: &RgbPicture, source_is_lossy: bool) -> Result<()> {
    let size = |picture: &RgbPicture| (picture.width(), picture.height());
    same("size", size(wanted), size(found))?;
    if source_is_lossy {
        return check_decoded(wanted.pixels(), found.pixels());
    }
    let differ = wanted.pixels().iter().zip(found.pixels());
    if let Some(at) = differ.clone().position(|(w, f)| w != f) {
        let (row, column) = (
            at / 3 / wanted.width() as usize,
            at / 3 % wanted.width() as usize,
        );
        let num_off = differ.filter(|(w, f)| w != f).count();
        anyhow::bail!(
            "pixel at row {row}, column {column}, channel {}: wanted {}, found {}; {num_off} values are off, atol 0",
            at % 3,
            wanted.pixels()[at],
            found.pixels()[at]
        );
    }
    Ok(())
}

/// The golden keeps every so many rows and columns.
fn sampled_global_view(
    folder: &Folder,
    name: &str,
    prepared: &PreparedPicture,
) -> Result<Vec<f32>> {
    let shape = folder.f32(name)?.shape;
    let side = prepared.side();
    ensure!(
        matches!(shape[..], [3, height, width] if height == width && (1..=side).contains(&height)),
        "{name} is {shape:?}, wanted every so many rows and columns of 3 x {side} x {side}"
    );
    let step = side.div_ceil(shape[1]);
    let values = square(prepared, 0);
    let rows = values.chunks_exact(side).enumerate();
    Ok(rows
        .filter(|(row, _)| (row % side).is_multiple_of(step))
        .flat_map(|(_, row)| row.iter().copied().step_by(step))
        .collect())
}

/// A manifest's list of pictures in a case, which some cases write as one.
pub(super) fn files_of(case: &Value) -> Vec<String> {
    let named = |value: &Value| value.as_str().map(str::to_owned);
    match (&case["images"], &case["image"]) {
        (Value::Array(files), _) => files.iter().filter_map(named).collect(),
        (_, file) => named(file).into_iter().collect(),
    }
}
