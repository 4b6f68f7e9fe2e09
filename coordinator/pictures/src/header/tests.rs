use std::io::Cursor;

use image::{DynamicImage, ImageFormat};
use proptest::prelude::*;

use super::*;

const MANY: u64 = 40_000_000;

const FORMATS: [(ImageFormat, PictureFormat); 5] = [
    (ImageFormat::Png, PictureFormat::Png),
    (ImageFormat::Jpeg, PictureFormat::Jpeg),
    (ImageFormat::WebP, PictureFormat::WebP),
    (ImageFormat::Gif, PictureFormat::Gif),
    (ImageFormat::Bmp, PictureFormat::Bmp),
];

fn picture(format: ImageFormat, width: u32, height: u32) -> Vec<u8> {
    let mut data = Cursor::new(Vec::new());
    let picture = DynamicImage::new_rgb8(width, height);
    picture.write_to(&mut data, format).expect("written");
    data.into_inner()
}

#[test]
fn a_header_tells_format_and_size() {
    for (format, ours) in FORMATS {
        let data = picture(format, 31, 17);
        assert_eq!(
            inspect(&data, MANY),
            Ok(PictureHeader {
                media_type: ours.media_type(),
                width: 31,
                height: 17
            }),
            "{ours}"
        );
    }
}

#[test]
fn a_picture_with_more_pixels_than_allowed_is_refused() {
    for (format, _) in FORMATS {
        let data = picture(format, 20, 10);
        assert!(inspect(&data, 200).is_ok());
        assert_eq!(
            inspect(&data, 199),
            Err(PictureFault::TooManyPixels {
                width: 20,
                height: 10,
                limit: 199
            })
        );
    }
}

/// Its header claims it; there is no pixel behind.
#[test]
fn a_claim_of_huge_sizes_does_not_overflow() {
    let mut data = picture(ImageFormat::Png, 1, 1);
    data[16..24].fill(0xff);
    let fault = inspect(&data, MANY).expect_err("too large");
    assert!(
        matches!(
            fault,
            PictureFault::TooManyPixels { .. } | PictureFault::Damaged { .. }
        ),
        "{fault}"
    );
}

#[test]
fn a_picture_without_pixels_is_refused() {
    let mut data = picture(ImageFormat::Png, 1, 1);
    data[16..20].fill(0);
    assert_eq!(
        inspect(&data, MANY),
        Err(PictureFault::Empty {
            width: 0,
            height: 1
        })
    );
}

#[test]
fn what_is_no_picture_is_named_by_its_first_bytes() {
    let fault = inspect(b"<!doctype html><p>not found", MANY).expect_err("a page");
    assert_eq!(
        fault.to_string(),
        "not a picture in a known format: wanted PNG, JPEG, WebP, GIF or BMP, found bytes [3c, 21, 64, 6f, 63, 74, 79, 70]"
    );
    assert_eq!(
        inspect(b"", MANY),
        Err(PictureFault::UnknownFormat { start: Vec::new() })
    );
    // Formats that others may know are none of ours.
    for other in [&b"II*\0\x08\0\0\0"[..], b"qoif\0\0\0\x01\0\0\0\x01"] {
        assert!(matches!(
            inspect(other, MANY),
            Err(PictureFault::UnknownFormat { .. })
        ));
    }
}

/// The start of a file is enough exactly if it has the size; less is refused, never misread.
#[test]
fn a_file_cut_short_is_refused_or_tells_the_same() {
    for (format, ours) in FORMATS {
        let data = picture(format, 300, 200);
        let whole = inspect(&data, MANY).expect("whole");
        for length in PictureFormat::SNIFF_BYTES..data.len() {
            match inspect(&data[..length], MANY) {
                Ok(found) => assert_eq!(found, whole, "{ours} cut to {length}"),
                Err(fault) => assert!(
                    matches!(
                        fault,
                        PictureFault::CutShort { .. } | PictureFault::Damaged { .. }
                    ),
                    "{ours} cut to {length}: {fault}"
                ),
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_after_a_known_start_are_survived(
        which in 0..FORMATS.len(),
        kept in 0_usize..64,
        noise in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let mut data = picture(FORMATS[which].0, 8, 8);
        data.truncate(kept.max(PictureFormat::SNIFF_BYTES));
        data.extend(noise);
        if let Ok(header) = inspect(&data, 1000) {
            prop_assert!(u64::from(header.width) * u64::from(header.height) <= 1000);
            prop_assert!(header.width > 0 && header.height > 0);
        }
    }
}
