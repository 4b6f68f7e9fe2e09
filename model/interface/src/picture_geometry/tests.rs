//! The tables of the spec, the reference's layouts where the golden data is at hand, and hostile sizes.

use super::*;
use crate::tests::golden_data;

fn layout(geometry: &PictureGeometry, width: u32, height: u32, hd_num: u32) -> PictureLayout {
    geometry.layout(width, height, hd_num).unwrap()
}

#[test]
fn square_models_take_a_fixed_number_of_tokens() {
    for (side, tokens) in [(224, 256), (490, 1225)] {
        let found = layout(&PictureGeometry::square(side), 1920, 1080, 99);
        assert_eq!(
            (found.num_tokens, found.resized, found.padded),
            (tokens, (side, side), (side, side))
        );
        assert_eq!(
            (found.tiles_wide, found.tiles_high, found.transposed),
            (1, 1, false)
        );
    }
}

#[test]
fn hd_layouts_follow_the_table_of_the_spec() {
    let (khd, xc2d5) = (PictureGeometry::four_khd(), PictureGeometry::xc2d5());
    let table = [
        (1920, 1080, &khd, 55, (3024, 1701), (3024, 2016), 8005),
        (1920, 1080, &khd, 25, (2016, 1134), (2016, 1344), 3661),
        (1080, 1920, &khd, 25, (1134, 2016), (1344, 2016), 3685),
        (640, 480, &khd, 25, (1680, 1260), (1680, 1344), 3085),
        (336, 336, &khd, 25, (1680, 1680), (1680, 1680), 3817),
        (1920, 1080, &xc2d5, 24, (2240, 1260), (2240, 1680), 5281),
        (1080, 1920, &xc2d5, 24, (1260, 2240), (1680, 2240), 5301),
        (1920, 1080, &xc2d5, 6, (1680, 945), (1680, 1120), 2861),
        (640, 480, &xc2d5, 24, (1120, 840), (1120, 1120), 2061),
        (300, 200, &xc2d5, 24, (560, 373), (560, 560), 841),
    ];
    for (width, height, geometry, hd_num, resized, padded, tokens) in table {
        let found = layout(geometry, width, height, hd_num);
        assert_eq!(
            (found.resized, found.padded, found.num_tokens),
            (resized, padded, tokens),
            "{width}x{height}"
        );
        assert_eq!(
            (found.tiles_wide, found.tiles_high),
            (padded.0 / geometry.side, padded.1 / geometry.side)
        );
        assert_eq!(found.transposed, width < height);
    }
}

#[test]
fn padding_is_split_in_4khd_and_at_the_end_in_2_5() {
    let (khd, xc2d5) = (PictureGeometry::four_khd(), PictureGeometry::xc2d5());
    let pads = |found: PictureLayout| (found.pad_left, found.pad_top);
    assert_eq!(
        pads(layout(&khd, 1920, 1080, 55)),
        (0, 157),
        "315 missing rows, the odd one below"
    );
    assert_eq!(pads(layout(&khd, 1080, 1920, 55)), (157, 0));
    assert_eq!(pads(layout(&xc2d5, 1920, 1080, 24)), (0, 0));
}

#[test]
fn several_pictures_share_the_budget_in_2_5_only() {
    let (khd, xc2d5) = (PictureGeometry::four_khd(), PictureGeometry::xc2d5());
    assert_eq!(
        (
            khd.hd_num(None, 1),
            khd.hd_num(None, 3),
            khd.hd_num(Some(55), 3)
        ),
        (25, 25, 55)
    );
    assert_eq!((xc2d5.hd_num(None, 1), xc2d5.hd_num(None, 2)), (24, 6));
    assert_eq!(
        (xc2d5.hd_num(Some(12), 1), xc2d5.hd_num(Some(12), 2)),
        (12, 6)
    );
    assert_eq!(PictureGeometry::square(490).hd_num(Some(9), 2), 1);
}

#[test]
fn every_accepted_size_stays_within_the_budget() {
    let sizes = [
        1,
        2,
        3,
        13,
        335,
        336,
        337,
        559,
        561,
        1000,
        4097,
        65_535,
        1 << 24,
        u32::MAX,
    ];
    for geometry in [PictureGeometry::four_khd(), PictureGeometry::xc2d5()] {
        for (width, height) in sizes
            .iter()
            .flat_map(|&width| sizes.map(|height| (width, height)))
        {
            for hd_num in [1, 2, 6, 7, 25, MAX_HD_NUM] {
                let found = layout(&geometry, width, height, hd_num);
                assert!(
                    found.num_tiles() <= hd_num as usize,
                    "{width}x{height} at {hd_num}: {found:?}"
                );
                assert!(found.resized.0 >= 1 && found.resized.1 >= 1);
                assert!(found.pad_left + found.resized.0 <= found.padded.0);
                assert!(found.pad_top + found.resized.1 <= found.padded.1);
                assert_eq!(
                    found.padded,
                    (
                        found.tiles_wide * geometry.side,
                        found.tiles_high * geometry.side
                    )
                );
            }
        }
    }
}

#[test]
fn empty_pictures_and_budgets_out_of_range_are_refused() {
    let khd = PictureGeometry::four_khd();
    assert_eq!(
        khd.layout(0, 5, 25),
        Err(GeometryError::EmptyPicture {
            width: 0,
            height: 5
        })
    );
    assert_eq!(khd.layout(5, 5, 0), Err(GeometryError::HdNum { hd_num: 0 }));
    assert_eq!(
        khd.layout(5, 5, u32::MAX),
        Err(GeometryError::HdNum { hd_num: u32::MAX })
    );
}

#[test]
fn impossible_geometry_is_refused() {
    for (side, patch_size) in [(0, 14), (336, 0), (337, 14), (7, 14), (14 * 1000, 14)] {
        let geometry = PictureGeometry {
            side,
            patch_size,
            hd: None,
        };
        assert_eq!(
            geometry.validate(),
            Err(GeometryError::Side { side, patch_size })
        );
    }
    let odd = PictureGeometry {
        side: 490,
        ..PictureGeometry::four_khd()
    };
    assert_eq!(
        odd.validate(),
        Err(GeometryError::OddPatches { patches: 35 })
    );
}

#[test]
fn tokens_of_a_small_grid_stand_in_the_order_of_the_spec() {
    use TokenSource::{GlobalSeparator, Patches, RowSeparator};
    let geometry = PictureGeometry {
        side: 28,
        ..PictureGeometry::four_khd()
    };
    let expected = [
        Patches([0, 1, 2, 3]),
        RowSeparator,
        GlobalSeparator,
        Patches([4, 5, 6, 7]),
        Patches([8, 9, 10, 11]),
        RowSeparator,
        Patches([12, 13, 14, 15]),
        Patches([16, 17, 18, 19]),
        RowSeparator,
    ];
    assert_eq!(geometry.token_sources(2, 2), expected);
}

#[test]
fn there_is_a_source_for_every_token() {
    for geometry in [PictureGeometry::four_khd(), PictureGeometry::xc2d5()] {
        for (width, height, hd_num) in [(1920, 1080, 12), (300, 900, 4), (100, 100, 1)] {
            let found = layout(&geometry, width, height, hd_num);
            let sources = geometry.token_sources(found.tiles_high, found.tiles_wide);
            assert_eq!(sources.len(), found.num_tokens);
        }
    }
}

#[derive(Deserialize)]
struct GoldenLayouts {
    tile: u32,
    rows: Vec<GoldenLayout>,
}

#[derive(Deserialize)]
struct GoldenLayout {
    width: u32,
    height: u32,
    hd_num: u32,
    resized: (u32, u32),
    padded: (u32, u32),
    tiles_wide: u32,
    tiles_high: u32,
    tokens: usize,
    transposed: bool,
}

#[test]
fn layouts_equal_the_reference() {
    for (folder, geometry) in [
        ("xc2-4khd-tiny", PictureGeometry::four_khd()),
        ("xc2d5-tiny", PictureGeometry::xc2d5()),
    ] {
        let Some(json) = golden_data::read(&format!("{folder}/layout.json")) else {
            continue;
        };
        let golden: GoldenLayouts = serde_json::from_slice(&json).unwrap();
        assert_eq!(golden.tile, geometry.side);
        for row in &golden.rows {
            let found = layout(&geometry, row.width, row.height, row.hd_num);
            let wanted = (
                row.resized,
                row.padded,
                row.tiles_wide,
                row.tiles_high,
                row.tokens,
                row.transposed,
            );
            assert_eq!(
                (
                    found.resized,
                    found.padded,
                    found.tiles_wide,
                    found.tiles_high,
                    found.num_tokens,
                    found.transposed
                ),
                wanted,
                "{}x{} at {}",
                row.width,
                row.height,
                row.hd_num
            );
        }
    }
}

#[test]
fn token_sources_equal_the_reference() {
    let mut compared = 0;
    for (folder, geometry) in [
        ("xc2-4khd-tiny", PictureGeometry::four_khd()),
        ("xc2d5-tiny", PictureGeometry::xc2d5()),
    ] {
        let tensors = golden_data::IntTensors::read(&format!("{folder}/goldens.safetensors"));
        let Some(tensors) = tensors else { continue };
        for name in tensors.names() {
            let Some((high, wide)) = name
                .strip_prefix("merge.")
                .and_then(|grid| grid.split_once('x'))
            else {
                continue;
            };
            let sources = geometry.token_sources(high.parse().unwrap(), wide.parse().unwrap());
            let found = sources.iter().flat_map(|source| match source {
                TokenSource::Patches(rows) => rows.map(|row| row as i32),
                TokenSource::RowSeparator => [-1; 4],
                TokenSource::GlobalSeparator => [-2; 4],
            });
            assert!(found.eq(tensors.get(name).unwrap()), "{folder} {name}");
            compared += 1;
        }
    }
    assert!(compared > 0, "there is no merge to compare");
}
