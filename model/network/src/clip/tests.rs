//! The whole vision half against the reference, on the golden checkpoints.

use std::fs;
use std::path::Path;

use super::preprocess::{DecodeLimits, PreparedPicture, RgbPicture, decode_picture, prepare};
use super::{PictureFeatures, VisionError, VisionModel};
use crate::checkpoint::Checkpoint;
use crate::device::Device;
use crate::goldens::Goldens;
use crate::load_options::LoadOptions;
use crate::tensor::{DType, Tensor};

fn options(dtype: Option<DType>) -> LoadOptions {
    LoadOptions {
        device: Device::cpu(2),
        dtype,
    }
}

fn load(folder: &Path, dtype: Option<DType>) -> VisionModel {
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    VisionModel::load(&checkpoint, &options(dtype), &|_| ()).expect("a vision model")
}

fn read(file: &Path) -> RgbPicture {
    let bytes = fs::read(file).expect("a picture");
    decode_picture(&bytes, &DecodeLimits::default()).expect("pixels")
}

fn encode(model: &VisionModel, picture: &PreparedPicture) -> PictureFeatures {
    model.encode(&[picture]).expect("features").remove(0)
}

/// The stored picture of a single-scale case, which is resized already.
fn stored_picture(goldens: &Goldens, name: &str) -> RgbPicture {
    let (shape, pixels) = (goldens.shape(name), goldens.u8(name));
    RgbPicture::new(shape[1] as u32, shape[0] as u32, pixels)
}

#[test]
fn single_scale_features_equal_the_reference() {
    for folder in ["xc2-vl-tiny", "xc2-comp-tiny", "xc2-realvocab-tiny"] {
        let Some(goldens) = Goldens::open(folder) else {
            return;
        };
        let model = load(&goldens.folder.join("checkpoint"), Some(DType::F32));
        for stem in goldens.stems(".vit") {
            let picture = stored_picture(&goldens, &format!("{stem}.pixels_u8"));
            let prepared = prepare(&picture, model.geometry(), 1).expect("a layout");
            goldens.assert_close(&format!("{stem}.vit"), encode(&model, &prepared).data());
        }
    }
}

#[test]
fn hidden_rows_equal_the_reference_after_every_layer() {
    for folder in ["xc2-vl-tiny", "xc2-comp-tiny", "xc2-realvocab-tiny"] {
        let Some(goldens) = Goldens::open(folder) else {
            return;
        };
        let model = load(&goldens.folder.join("checkpoint"), Some(DType::F32));
        let width = model.feature_width();
        let stems = goldens.stems(".hidden");
        for stem in stems.iter().filter(|stem| stem.starts_with("vision.")) {
            let picture = stored_picture(&goldens, &format!("{stem}.pixels_u8"));
            let prepared = prepare(&picture, model.geometry(), 1).expect("a layout");
            let name = format!("{stem}.hidden");
            let rows: Vec<usize> = goldens.list(&name, "rows");
            let mut found = Vec::new();
            let mut observe = |hidden: &Tensor| {
                let values = hidden.as_f32().expect("rows on the CPU");
                rows.iter()
                    .for_each(|row| found.extend(&values[row * width..][..width]));
            };
            model
                .observe_square(&prepared, 0, &mut observe)
                .expect("rows");
            goldens.assert_close(&name, &found);
        }
    }
}

#[test]
fn high_definition_features_equal_the_reference() {
    for folder in ["xc2-4khd-tiny", "xc2d5-tiny"] {
        let Some(goldens) = Goldens::open(folder) else {
            return;
        };
        let model = load(&goldens.folder.join("checkpoint"), None);
        let name = &goldens.list::<String>("two", "images")[0];
        let picture = read(&goldens.folder.join("images").join(name));
        let prepared = prepare(&picture, model.geometry(), 4).expect("a layout");
        let features = encode(&model, &prepared);
        assert_eq!(features.num_tokens(), prepared.layout().num_tokens);
        assert_eq!(features.width(), model.feature_width());
        goldens.assert_close("0.vit", features.data());
    }
}

#[test]
fn pictures_encoded_together_come_out_as_alone() {
    let Some(goldens) = Goldens::open("xc2-4khd-tiny") else {
        return;
    };
    let model = load(&goldens.folder.join("checkpoint"), None);
    let prepared: Vec<PreparedPicture> = [(40, 30, 9), (30, 90, 4), (90, 20, 12)]
        .map(|(width, height, hd_num)| {
            let pixels = (0..width * height * 3)
                .map(|i| (i * i % 251) as u8)
                .collect();
            prepare(
                &RgbPicture::new(width, height, pixels),
                model.geometry(),
                hd_num,
            )
            .expect("a layout")
        })
        .into();
    let together = model
        .encode(&prepared.iter().collect::<Vec<_>>())
        .expect("features");
    for (picture, features) in prepared.iter().zip(together) {
        assert_eq!(features, encode(&model, picture));
    }
    assert!(model.encode(&[]).expect("no features").is_empty());
}

#[test]
fn half_precision_weights_stay_near_the_f32_ones() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let model = load(&goldens.folder.join("checkpoint-bf16-sharded"), None);
    let picture = stored_picture(&goldens, "vision.0.pixels_u8");
    let prepared = prepare(&picture, model.geometry(), 1).expect("a layout");
    let (_, wanted) = goldens.f32("vision.0.vit");
    let features = encode(&model, &prepared);
    let worst = features
        .data()
        .iter()
        .zip(&wanted)
        .map(|(f, w)| (f - w).abs())
        .fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.3, "differs by {worst}");
}

#[test]
fn a_picture_prepared_for_another_model_is_refused() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let model = load(&goldens.folder.join("checkpoint"), None);
    let picture = RgbPicture::filled(20, 20, [1; 3]);
    let geometry = inkstone_interface::picture_geometry::PictureGeometry::square(224);
    let prepared = prepare(&picture, &geometry, 1).expect("a layout");
    let error = model.encode(&[&prepared]).unwrap_err();
    assert!(matches!(error, VisionError::WrongPicture { index: 0, .. }));
    assert!(
        error
            .to_string()
            .contains("takes a square of 490 pixels, found a square of 224 pixels"),
        "{error}"
    );
}

#[test]
fn loading_reports_every_byte_it_reads() {
    let Some(goldens) = Goldens::open("xc2d5-tiny") else {
        return;
    };
    let checkpoint = Checkpoint::open(&goldens.folder.join("checkpoint")).expect("a checkpoint");
    let last = std::cell::Cell::new((0, 0));
    VisionModel::load(&checkpoint, &options(None), &|p| {
        last.set((p.bytes_done, p.bytes_total))
    })
    .expect("a model");
    let (done, total) = last.get();
    assert_eq!(
        (done, total),
        (checkpoint.vision_bytes(), checkpoint.vision_bytes())
    );
}
