//! The files in `tests/pictures` are a few pixels each, in every form that Pillow 10.4 reads; beside each stands what
//! it gives for them (`NAME.rgb`: width and height as 32-bit little-endian numbers, then the RGB bytes).

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures")
}

/// Every picture file with its name and what Pillow makes of it.
fn pictures() -> Vec<(String, Vec<u8>, RgbPicture)> {
    let mut all: Vec<_> = fs::read_dir(folder())
        .expect("the folder of test pictures")
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|e| e != "rgb" && e != "md"))
        .map(|path| {
            let name = path
                .file_name()
                .expect("a file")
                .to_string_lossy()
                .into_owned();
            let expected =
                fs::read(folder().join(format!("{name}.rgb"))).expect("the expected pixels");
            let number = |at: usize| {
                u32::from_le_bytes(expected[at..at + 4].try_into().expect("four bytes"))
            };
            let picture = RgbPicture::new(number(0), number(4), expected[8..].to_vec());
            (name, fs::read(&path).expect("a picture"), picture)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(all.len() > 30);
    all
}

fn largest_difference(a: &RgbPicture, b: &RgbPicture) -> u8 {
    assert_eq!((a.width(), a.height()), (b.width(), b.height()));
    a.pixels()
        .iter()
        .zip(b.pixels())
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap_or(0)
}

fn decode(bytes: &[u8]) -> Result<RgbPicture, PictureError> {
    decode_picture(bytes, &DecodeLimits::default())
}

#[test]
fn every_kind_of_file_gives_the_pixels_that_pillow_gives() {
    let mut wrong = Vec::new();
    for (name, bytes, expected) in pictures() {
        let picture = decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        // JPEG leaves a decoder some freedom in its cosine transform and in how it enlarges the colour planes.
        let allowed = if name.ends_with(".jpg") { 5 } else { 0 };
        let found = largest_difference(&picture, &expected);
        if found > allowed {
            wrong.push(format!("{name}: differs by up to {found}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_file_over_the_byte_limit_is_refused_unread() {
    let limits = DecodeLimits {
        max_bytes: 10,
        ..DecodeLimits::default()
    };
    let error = decode_picture(&[0; 11], &limits).unwrap_err();
    assert_eq!(
        error,
        PictureError::TooManyBytes {
            found: 11,
            limit: 10
        }
    );
    assert_eq!(error.to_string(), "picture file has 11 bytes, limit is 10");
}

#[test]
fn pixels_over_the_limit_are_refused_in_every_format() {
    for (name, bytes, expected) in pictures() {
        let area = u64::from(expected.width()) * u64::from(expected.height());
        let limits = DecodeLimits {
            max_pixels: area - 1,
            ..DecodeLimits::default()
        };
        let error = decode_picture(&bytes, &limits).unwrap_err();
        assert!(
            matches!(error, PictureError::TooManyPixels { limit, .. } if limit == area - 1),
            "{name}: {error}"
        );
        let limits = DecodeLimits {
            max_pixels: area,
            ..DecodeLimits::default()
        };
        decode_picture(&bytes, &limits).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn a_header_that_claims_a_huge_picture_is_refused_by_its_size() {
    let mut png = fs::read(folder().join("rgb.png")).expect("a picture");
    png[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    png[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let limit = DecodeLimits::default().max_pixels;
    assert_eq!(
        decode(&png),
        Err(PictureError::TooManyPixels {
            width: 60_000,
            height: 60_000,
            limit
        })
    );

    let mut webp = fs::read(folder().join("lossy.webp")).expect("a picture");
    let at = webp
        .windows(3)
        .position(|w| w == [0x9d, 0x01, 0x2a])
        .expect("a frame header")
        + 3;
    webp[at..at + 4].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
    assert_eq!(
        decode(&webp),
        Err(PictureError::TooManyPixels {
            width: 16383,
            height: 16383,
            limit
        })
    );
}

#[test]
fn webp_frames_within_frames_do_not_nest_the_reader() {
    let mut bytes = b"RIFF\0\0\0\0WEBP".to_vec();
    for _ in 0..500_000 {
        bytes.extend(b"ANMF\xff\xff\xff\x0f");
        bytes.extend([0; 16]);
    }
    assert!(matches!(decode(&bytes), Err(PictureError::Damaged { .. })));
}

#[test]
fn what_is_no_picture_is_refused_with_its_first_bytes() {
    assert!(matches!(decode(b""), Err(PictureError::UnknownFormat { start }) if start.is_empty()));
    let error = decode(b"<svg xmlns=''/>").unwrap_err();
    assert!(
        matches!(&error, PictureError::UnknownFormat { start } if start == b"<svg xml"),
        "{error}"
    );
}

#[test]
fn a_file_cut_in_half_is_refused() {
    for (name, bytes, _) in pictures() {
        // The first frame of an animation, and all that some tiny files have, may lie in the first half.
        if name.contains("animated") || bytes.len() < 200 {
            continue;
        }
        let error = decode(&bytes[..bytes.len() / 2]).expect_err(&name);
        assert!(
            matches!(error, PictureError::Damaged { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_jpeg_without_its_end_marker_is_refused() {
    let jpeg = fs::read(folder().join("baseline_420.jpg")).expect("a picture");
    assert!(matches!(
        decode(&jpeg[..jpeg.len() - 2]),
        Err(PictureError::Damaged { .. })
    ));
    let junk_behind = [&jpeg[..], b"junk"].concat();
    assert!(decode(&junk_behind).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Errors or pixels, but no panic and no picture over the limit, whatever happens to a file on its way.
    #[test]
    fn damaged_files_never_panic(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let all = pictures();
        let (_, bytes, _) = &all[which.index(all.len())];
        let mut bytes = bytes.clone();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = DecodeLimits { max_pixels: 100_000, ..DecodeLimits::default() };
        if let Ok(picture) = decode_picture(&bytes, &limits) {
            prop_assert!(u64::from(picture.width()) * u64::from(picture.height()) <= limits.max_pixels);
        }
    }
}
