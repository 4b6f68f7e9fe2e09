//! The vision tower on the pictures that a folder has numbers for: its input, its rows after every layer, its output. Tensors
//! are named `vision.N.*` for single-scale models and `N.*` for tiled ones.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use inkstone_model::{clip::preprocess::prepare, tensor::Tensor};

use super::{
    compare::{close_rows, equal, rows_attribute},
    folder::Folder,
    pictures::{PictureRequest, Pictures, find, is_lossy},
    preprocess::{check_decoded, noted_file, read_picture},
    report::Report,
    tiles::picture_cases,
};

/// The pictures by the stem of their tensors.
pub(super) fn numbered_pictures(
    folder: &Folder,
    is_tiled: bool,
) -> Result<BTreeMap<String, PictureRequest>> {
    if is_tiled {
        let cases = picture_cases(folder)?.into_iter();
        return Ok(cases
            .map(|(number, case)| {
                let (file, hd_num) = (case.file, case.hd_num);
                (number, PictureRequest { file, hd_num })
            })
            .collect());
    }
    let tensors = folder.tensor_names().into_iter();
    let numbered = tensors.filter_map(|name| {
        let (number, _) = name.strip_prefix("vision.")?.split_once('.')?;
        let file = noted_file(folder, name)?.to_owned();
        Some((
            format!("vision.{number}"),
            PictureRequest { file, hd_num: 1 },
        ))
    });
    Ok(numbered.collect())
}

pub(super) fn run(report: &mut Report, pictures: &Pictures<'_>, folder: &Folder) {
    let is_tiled = pictures.geometry().hd.is_some();
    let Some(numbered) = report.prepare(&folder.name, "pictures", || {
        numbered_pictures(folder, is_tiled)
    }) else {
        return;
    };
    type Check = fn(&Folder, &str, &PictureRequest, &Pictures<'_>) -> Result<()>;
    let checks: [(&str, Check); 2] = [("hidden", check_hidden), ("vit", check_output)];
    for (stem, request) in &numbered {
        let pixels = format!("{stem}.pixels_u8");
        if folder.has(&pixels) && find(folder, &request.file).is_none() {
            report.skip(&folder.name, &pixels, "the picture file is not there");
        } else if folder.has(&pixels) {
            report.case(&folder.name, &pixels, || {
                check_pixels(folder, &pixels, request, pictures)
            });
        }
        for (what, check) in checks {
            let name = format!("{stem}.{what}");
            if folder.has(&name) {
                report.case(&folder.name, &name, || {
                    check(folder, &name, request, pictures)
                });
            }
        }
    }
}

/// The tower's input, from the picture's own file.
fn check_pixels(
    folder: &Folder,
    name: &str,
    request: &PictureRequest,
    pictures: &Pictures<'_>,
) -> Result<()> {
    let wanted = folder.u8(name)?;
    let file = find(folder, &request.file).context("the picture file is not there")?;
    let found = prepare(&read_picture(&file)?, pictures.geometry(), request.hd_num)?;
    if is_lossy(&file)? {
        check_decoded(&wanted.values, found.canvas().pixels())
    } else {
        equal(&wanted, found.canvas().pixels())
    }
}

fn check_hidden(
    folder: &Folder,
    name: &str,
    request: &PictureRequest,
    pictures: &Pictures<'_>,
) -> Result<()> {
    let rows = rows_attribute(folder, name)?.context("which rows?")?;
    let mut found = Vec::new();
    let mut observe = |hidden: &Tensor| {
        let values = hidden.to_f32_vec().expect("rows of numbers");
        let width = hidden.cols();
        for row in &rows {
            found.extend_from_slice(&values[row * width..][..width]);
        }
    };
    let prepared = pictures.prepared(request)?;
    pictures
        .tower()
        .observe_square(&prepared, 0, &mut observe)?;
    super::compare::close(folder, name, &found)
}

fn check_output(
    folder: &Folder,
    name: &str,
    request: &PictureRequest,
    pictures: &Pictures<'_>,
) -> Result<()> {
    let features = pictures.features(request)?;
    close_rows(folder, name, features.data(), features.width())
}
