use proptest::prelude::*;

use super::*;
use crate::clip::preprocess::{DecodeLimits, decode_picture};
use crate::goldens::{Goldens, say};

#[test]
fn bicubic_gives_the_bytes_that_pillow_gives() {
    let Some(goldens) = Goldens::open("preprocess") else {
        return;
    };
    let mut checked = 0;
    for side in [490, 224] {
        for stem in goldens.stems(&format!(".{side}.u8")) {
            let resized = resample(&decoded(&goldens, &stem), side, side, Filter::Bicubic);
            let expected = goldens.u8(&format!("{stem}.{side}.u8"));
            assert_eq!(resized.pixels(), expected, "{stem} at {side}");
            checked += 1;
        }
    }
    assert!(checked > 12, "{checked} pictures");
}

/// The source of a case: as the reference decoded it where that is stored, else from the file.
fn decoded(goldens: &Goldens, stem: &str) -> RgbPicture {
    let (name, extension) = stem.rsplit_once('_').expect("NAME_EXTENSION");
    let file = goldens
        .folder
        .join("images")
        .join(format!("{name}.{extension}"));
    let found = decode_picture(
        &std::fs::read(file).expect("a picture"),
        &DecodeLimits::default(),
    )
    .expect("pixels");
    if !goldens.stems("").contains(&format!("{stem}.decoded")) {
        return found;
    }
    let name = format!("{stem}.decoded");
    let (shape, pixels) = (goldens.shape(&name), goldens.u8(&name));
    let reference = RgbPicture::new(shape[1] as u32, shape[0] as u32, pixels);
    report_difference(stem, &found, &reference);
    reference
}

/// Lossy formats leave decoders some freedom; this says how much is used, and holds it to a few levels.
fn report_difference(stem: &str, found: &RgbPicture, reference: &RgbPicture) {
    assert_eq!(
        (found.width(), found.height()),
        (reference.width(), reference.height()),
        "{stem}"
    );
    let differences: Vec<u8> = found
        .pixels()
        .iter()
        .zip(reference.pixels())
        .map(|(a, b)| a.abs_diff(*b))
        .collect();
    let worst = differences.iter().copied().max().unwrap_or(0);
    let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64;
    say(&format!(
        "{stem}: decoded pixels differ by up to {worst}, by {mean:.3} on average"
    ));
    assert!(
        worst <= 5 && mean < 0.5,
        "{stem}: worst {worst}, mean {mean}"
    );
}

#[test]
fn bilinear_halving_averages_with_a_triangle() {
    let row = |values: &[u8]| {
        RgbPicture::new(
            values.len() as u32,
            1,
            values.iter().flat_map(|v| [*v; 3]).collect(),
        )
    };
    let half = resample(&row(&[0, 0, 80, 80]), 2, 1, Filter::Bilinear);
    // Weights 3, 3, 1 of 7 after the cut at the border.
    assert_eq!(half.pixels(), row(&[11, 69]).pixels());
}

fn pictures() -> impl Strategy<Value = RgbPicture> {
    (1_u32..40, 1_u32..40).prop_flat_map(|(width, height)| {
        prop::collection::vec(any::<u8>(), (width * height * 3) as usize)
            .prop_map(move |pixels| RgbPicture::new(width, height, pixels))
    })
}

fn filters() -> impl Strategy<Value = Filter> {
    prop_oneof![Just(Filter::Bilinear), Just(Filter::Bicubic)]
}

/// The definition, one pixel at a time.
fn slow_rows(picture: &RgbPicture, width: u32, filter: Filter) -> RgbPicture {
    let taps = Taps::new(picture.width(), width, filter);
    let mut out = Vec::new();
    for y in 0..picture.height() {
        for x in 0..width as usize {
            let (first, weights) = taps.of(x);
            for channel in 0..3 {
                let sample = |tap: usize| i64::from(picture.row(y)[(first + tap) * 3 + channel]);
                let sum: i64 = weights
                    .iter()
                    .enumerate()
                    .map(|(tap, w)| i64::from(*w) * sample(tap))
                    .sum();
                out.push(((sum + (1 << 21)) >> 22).clamp(0, 255) as u8);
            }
        }
    }
    RgbPicture::new(width, picture.height(), out)
}

proptest! {
    #[test]
    fn blocks_sum_what_single_pixels_sum(picture in pictures(), width in 1_u32..50, height in 1_u32..50, filter in filters()) {
        let widened = if width == picture.width() { picture.clone() } else { slow_rows(&picture, width, filter) };
        let expected = if height == picture.height() {
            widened
        } else {
            slow_rows(&widened.transposed(), height, filter).transposed()
        };
        prop_assert_eq!(resample(&picture, width, height, filter), expected);
    }

    #[test]
    fn columns_first_is_the_transposed_order(picture in pictures(), width in 1_u32..50, height in 1_u32..50, filter in filters()) {
        let expected = resample(&picture.transposed(), height, width, filter).transposed();
        prop_assert_eq!(resample_columns_first(&picture, width, height, filter), expected);
    }

    #[test]
    fn one_colour_stays_that_colour(colour: [u8; 3], width in 1_u32..60, height in 1_u32..60, filter in filters()) {
        let resized = resample(&RgbPicture::filled(17, 5, colour), width, height, filter);
        prop_assert_eq!(resized, RgbPicture::filled(width, height, colour));
    }

    #[test]
    fn the_same_size_changes_nothing(picture in pictures(), filter in filters()) {
        prop_assert_eq!(&resample(&picture, picture.width(), picture.height(), filter), &picture);
    }
}
