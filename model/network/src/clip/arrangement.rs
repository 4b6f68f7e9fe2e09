//! Where the tower's rows go among a picture's tokens. The single-scale models keep their order; the high-definition ones
//! put four patches side by side into a token and set separators between the rows of the picture (spec section 4.5).

use inkstone_interface::picture_geometry::{PictureGeometry, PictureLayout, TokenSource};

/// Learned rows that mark the ends of picture rows and of the global view; each four times the tower's width.
#[derive(Debug, Clone)]
pub(super) struct Separators {
    /// `plora_sub_GN`
    pub(super) row: Vec<f32>,
    /// `plora_glb_GN`
    pub(super) global: Vec<f32>,
}

/// A picture's tokens while the tower's rows come in.
pub(super) struct Arrangement {
    /// The tower's width.
    width: usize,
    num_tokens: usize,
    /// For each row of the tower, square by square, its place in `data`, counted in rows of the tower.
    places: Vec<usize>,
    data: Vec<f32>,
}

impl Arrangement {
    /// The tokens of one picture with the separators in place.
    pub(super) fn new(
        geometry: &PictureGeometry,
        layout: &PictureLayout,
        width: usize,
        separators: Option<&Separators>,
    ) -> Self {
        let Some(separators) = separators else {
            let num_tokens = geometry.patches_per_tile();
            return Self {
                width,
                num_tokens,
                places: (0..num_tokens).collect(),
                data: vec![0.0; num_tokens * width],
            };
        };
        let sources = geometry.token_sources(layout.tiles_high, layout.tiles_wide);
        let num_rows = (1 + layout.num_tiles()) * geometry.patches_per_tile();
        let mut places = vec![0; num_rows];
        let mut data = vec![0.0; sources.len() * 4 * width];
        for (token, (source, row)) in sources
            .iter()
            .zip(data.chunks_exact_mut(4 * width))
            .enumerate()
        {
            match source {
                TokenSource::Patches(patches) => {
                    for (quarter, patch) in patches.iter().enumerate() {
                        places[*patch] = token * 4 + quarter;
                    }
                }
                TokenSource::RowSeparator => row.copy_from_slice(&separators.row),
                TokenSource::GlobalSeparator => row.copy_from_slice(&separators.global),
            }
        }
        Self {
            width,
            num_tokens: sources.len(),
            places,
            data,
        }
    }

    /// Takes the tower's rows for one square, without the class row.
    pub(super) fn put(&mut self, square: usize, rows: &[f32]) {
        let num_rows = rows.len() / self.width;
        let places = &self.places[square * num_rows..][..num_rows];
        for (place, row) in places.iter().zip(rows.chunks_exact(self.width)) {
            self.data[place * self.width..][..self.width].copy_from_slice(row);
        }
    }

    /// Number of tokens and all their values.
    pub(super) fn finish(self) -> (usize, Vec<f32>) {
        (self.num_tokens, self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::Goldens;

    /// Feeds rows that hold their own number and compares with `merge.HxW` of the goldens.
    fn check(folder: &str, geometry: &PictureGeometry) {
        let Some(goldens) = Goldens::open(folder) else {
            return;
        };
        let separators = Separators {
            row: vec![-1.0; 4],
            global: vec![-2.0; 4],
        };
        let mut checked = 0;
        for name in goldens
            .stems("")
            .iter()
            .filter(|name| name.starts_with("merge."))
        {
            let (high, wide) = name["merge.".len()..].split_once('x').expect("HxW");
            let (high, wide): (u32, u32) =
                (high.parse().expect("rows"), wide.parse().expect("columns"));
            let mut layout = geometry.layout(100, 100, 1).expect("a layout");
            (layout.tiles_high, layout.tiles_wide) = (high, wide);
            let mut arrangement = Arrangement::new(geometry, &layout, 1, Some(&separators));
            let patches = geometry.patches_per_tile();
            for square in 0..1 + layout.num_tiles() {
                let rows: Vec<f32> = (0..patches)
                    .map(|patch| (square * patches + patch) as f32)
                    .collect();
                arrangement.put(square, &rows);
            }
            let found: Vec<i32> = arrangement
                .finish()
                .1
                .iter()
                .map(|value| *value as i32)
                .collect();
            assert_eq!(found, goldens.i32(name), "{folder} {name}");
            checked += 1;
        }
        assert!(checked >= 2);
    }

    #[test]
    fn four_khd_tokens_stand_in_the_references_order() {
        check("xc2-4khd-tiny", &PictureGeometry::four_khd());
    }

    #[test]
    fn xc2d5_tokens_stand_in_the_references_order() {
        check("xc2d5-tiny", &PictureGeometry::xc2d5());
    }
}
