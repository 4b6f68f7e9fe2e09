use std::fs;
use std::path::Path;

use inkstone_interface::picture_geometry::PictureGeometry;

use super::*;
use crate::goldens::{Goldens, say};

fn read(path: &Path) -> RgbPicture {
    decode_picture(
        &fs::read(path).expect("a picture"),
        &DecodeLimits::default(),
    )
    .expect("pixels")
}

fn square(prepared: &PreparedPicture, index: usize) -> Vec<f32> {
    let mut values = vec![0.0; 3 * prepared.side() * prepared.side()];
    prepared.write_square(index, &mut values);
    values
}

#[test]
fn single_scale_values_equal_the_reference() {
    let Some(goldens) = Goldens::open("preprocess") else {
        return;
    };
    for side in [490, 224_usize] {
        for stem in goldens.stems(&format!(".{side}.rows")) {
            // Lossy files are held to the reference's pixels where resampling is tested.
            if goldens.stems("").contains(&format!("{stem}.decoded")) {
                continue;
            }
            let file = stem
                .replace("_png", ".png")
                .replace("_webp", ".webp")
                .replace("_jpg", ".jpg");
            let picture = read(&goldens.folder.join("images").join(file));
            let prepared =
                prepare(&picture, &PictureGeometry::square(side as u32), 1).expect("a layout");
            assert_eq!(prepared.num_squares(), 1);
            let name = format!("{stem}.{side}.rows");
            let rows: Vec<usize> = goldens.list(&name, "rows");
            let values = square(&prepared, 0);
            let picked = |row: usize| &values[row * side..][..side];
            let found: Vec<f32> = (0..3)
                .flat_map(|c| rows.iter().flat_map(move |y| picked(c * side + y)))
                .copied()
                .collect();
            goldens.assert_close(&name, &found);
        }
    }
}

/// Every `*.hd4.png` is the canvas of the picture beside it with four tiles; every `N.global` its global view.
fn check_hd_goldens(folder: &str, geometry: &PictureGeometry) {
    let Some(goldens) = Goldens::open(folder) else {
        return;
    };
    let names = goldens.list::<String>("two", "images");
    assert_eq!(names.len(), 2);
    for (index, name) in names.iter().enumerate() {
        let source = goldens.folder.join("images").join(name);
        let prepared = prepare(&read(&source), geometry, 4).expect("a layout");
        assert_eq!(
            *prepared.canvas(),
            read(&source.with_extension("hd4.png")),
            "{name}"
        );
        let side = prepared.side();
        let found: Vec<f32> = square(&prepared, 0)
            .chunks_exact(side)
            .enumerate()
            .filter(|(row, _)| (row % side).is_multiple_of(16))
            .flat_map(|(_, row)| row.iter().copied().step_by(16).collect::<Vec<_>>())
            .collect();
        goldens.assert_close(&format!("{index}.global"), &found);
        say(&format!(
            "{name}: {} tiles equal",
            prepared.layout().num_tiles()
        ));
    }
}

#[test]
fn four_khd_canvas_and_global_view_equal_the_reference() {
    check_hd_goldens("xc2-4khd-tiny", &PictureGeometry::four_khd());
}

#[test]
fn xc2d5_canvas_and_global_view_equal_the_reference() {
    check_hd_goldens("xc2d5-tiny", &PictureGeometry::xc2d5());
}

#[test]
fn tiles_are_cut_row_by_row_after_the_global_view() {
    let mut picture = RgbPicture::filled(672, 672, [0; 3]);
    for y in 336..672 {
        picture.row_mut(y)[..336 * 3].fill(255);
    }
    let prepared = prepare(&picture, &PictureGeometry::four_khd(), 4).expect("a layout");
    assert_eq!(prepared.num_squares(), 5);
    let brightest = |index: usize| {
        square(&prepared, index)
            .into_iter()
            .fold(f32::MIN, f32::max)
    };
    assert!([1, 2, 4].iter().all(|index| brightest(*index) < 0.0));
    assert!(brightest(3) > 2.0);
}

#[test]
fn extreme_shapes_are_prepared() {
    for (width, height) in [(1, 1), (1, 3000), (5000, 1), (3, 2)] {
        let picture = RgbPicture::filled(width, height, [9; 3]);
        for geometry in [
            PictureGeometry::square(224),
            PictureGeometry::four_khd(),
            PictureGeometry::xc2d5(),
        ] {
            let prepared = prepare(&picture, &geometry, 9).expect("a layout");
            let last = square(&prepared, prepared.num_squares() - 1);
            assert!(
                last.iter().all(|value| value.is_finite()),
                "{width} x {height}"
            );
        }
    }
}
