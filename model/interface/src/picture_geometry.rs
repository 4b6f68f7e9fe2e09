//! How a picture becomes a grid of tiles and how many tokens it takes (spec sections 4.3 to 4.5).
//!
//! Sizes only: pixels are resized, padded and cut by the vision worker, which follows the layout given here. The
//! coordinator uses the same layout to count a prompt's tokens before any pixel is decoded.

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Largest tile budget accepted. The releases use 6 to 65; the bound keeps a request from asking for endless work.
pub const MAX_HD_NUM: u32 = 1024;

/// Largest tile side accepted, in pixels.
const MAX_SIDE: u32 = 8192;

/// The rules by which a model takes pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureGeometry {
    /// Side of a tile (or of the one square) in pixels.
    pub side: u32,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// How tiles are made; `None` squashes the whole picture into one square.
    pub hd: Option<HdRule>,
}

/// How the HD models cut a picture into tiles (spec section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HdRule {
    /// Tile budget of a request that asks for none.
    pub default_hd_num: u32,
    /// Tile budget for each picture where there are several, whatever was asked for (2.5: 6).
    pub hd_num_many: Option<u32>,
    /// Whether a picture is enlarged to the next whole tile at most (2.5), or always up to the budget (4KHD).
    pub cap_to_source: bool,
    pub pad: PadRule,
}

/// Where the white rows go that fill the last row of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PadRule {
    /// Half before and half after, the odd one after (4KHD).
    Split,
    /// All after (2.5).
    End,
}

/// The place of one picture's tiles. Sizes are width and height in pixels, in the orientation of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureLayout {
    /// Whether the picture is higher than wide, so that the reference works on it with its axes swapped.
    pub transposed: bool,
    pub resized: (u32, u32),
    pub padded: (u32, u32),
    /// White columns to the left and white rows above; the rest of the padding is right and below.
    pub pad_left: u32,
    pub pad_top: u32,
    pub tiles_wide: u32,
    pub tiles_high: u32,
    /// Rows the picture takes in the prompt, separators included.
    pub num_tokens: usize,
}

impl PictureLayout {
    /// Tiles that go through the vision tower besides the global view.
    pub fn num_tiles(&self) -> usize {
        self.tiles_wide as usize * self.tiles_high as usize
    }
}

/// Where one token of an HD picture comes from (spec section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenSource {
    /// Four tower rows, concatenated in this order: top left, top right, bottom left, bottom right. A row is
    /// `tile * patches per tile + patch`; tile 0 is the global view, then come the tiles row by row.
    Patches([usize; 4]),
    /// `plora_sub_GN`, at the end of every row of the global view and of the stitched tiles.
    RowSeparator,
    /// `plora_glb_GN`, between the two.
    GlobalSeparator,
}

impl PictureGeometry {
    /// 2.0: every picture squashed to one square of `side` pixels (224 or 490).
    pub const fn square(side: u32) -> Self {
        Self {
            side,
            patch_size: 14,
            hd: None,
        }
    }

    /// 4KHD: 336-pixel tiles, 25 by default, always as many as fit.
    pub const fn four_khd() -> Self {
        let hd = HdRule {
            default_hd_num: 25,
            hd_num_many: None,
            cap_to_source: false,
            pad: PadRule::Split,
        };
        Self {
            side: 336,
            patch_size: 14,
            hd: Some(hd),
        }
    }

    /// 2.5: 560-pixel tiles, 24 for one picture and 6 each for several, never enlarged past the next tile.
    pub const fn xc2d5() -> Self {
        let hd = HdRule {
            default_hd_num: 24,
            hd_num_many: Some(6),
            cap_to_source: true,
            pad: PadRule::End,
        };
        Self {
            side: 560,
            patch_size: 14,
            hd: Some(hd),
        }
    }

    /// Checks a geometry that was read and not made by one of the constructors.
    pub fn validate(&self) -> Result<(), GeometryError> {
        let fits = self.patch_size > 0 && self.side <= MAX_SIDE && self.side >= self.patch_size;
        if !fits || !self.side.is_multiple_of(self.patch_size) {
            return Err(GeometryError::Side {
                side: self.side,
                patch_size: self.patch_size,
            });
        }
        let Some(hd) = self.hd else { return Ok(()) };
        if !self.patches_per_side().is_multiple_of(2) {
            return Err(GeometryError::OddPatches {
                patches: self.patches_per_side(),
            });
        }
        check_hd_num(hd.default_hd_num)?;
        hd.hd_num_many.map_or(Ok(()), check_hd_num)
    }

    /// Patches along a tile's side.
    pub fn patches_per_side(&self) -> usize {
        (self.side / self.patch_size) as usize
    }

    /// Patches of one tile: the rows the vision tower gives for it.
    pub fn patches_per_tile(&self) -> usize {
        self.patches_per_side() * self.patches_per_side()
    }

    /// The tile budget for each picture of a request: what was asked for, unless the model has its own for several
    /// pictures. Single-scale models take one square whatever is asked.
    pub fn hd_num(&self, requested: Option<u32>, num_pictures: usize) -> u32 {
        match self.hd {
            None => 1,
            Some(HdRule {
                hd_num_many: Some(many),
                ..
            }) if num_pictures > 1 => many,
            Some(hd) => requested.unwrap_or(hd.default_hd_num),
        }
    }

    /// Lays out a picture of `width` by `height` pixels in at most `hd_num` tiles. Single-scale models ignore
    /// `hd_num`. Fails on an empty picture and on a budget of 0 or above [`MAX_HD_NUM`].
    pub fn layout(
        &self,
        width: u32,
        height: u32,
        hd_num: u32,
    ) -> Result<PictureLayout, GeometryError> {
        self.validate()?;
        if width == 0 || height == 0 {
            return Err(GeometryError::EmptyPicture { width, height });
        }
        match self.hd {
            None => Ok(self.square_layout()),
            Some(hd) => {
                check_hd_num(hd_num)?;
                Ok(self.tiled_layout(hd, width, height, hd_num))
            }
        }
    }

    /// The order in which patches and separators make up an HD picture of that many tiles. The list is as long as
    /// the layout's `num_tokens`. Patches are merged two by two, which single-scale models do not do.
    pub fn token_sources(&self, tiles_high: u32, tiles_wide: u32) -> Vec<TokenSource> {
        let grid = self.patches_per_side() / 2;
        let (high, wide) = (tiles_high as usize, tiles_wide as usize);
        let mut sources = Vec::with_capacity(hd_tokens(grid, high, wide));
        self.push_rows(&mut sources, 0, 1, 1);
        sources.push(TokenSource::GlobalSeparator);
        self.push_rows(&mut sources, 1, high, wide);
        sources
    }

    /// Stitches `high` by `wide` tiles, the first of them tile `first`, into one map and appends its rows.
    fn push_rows(&self, sources: &mut Vec<TokenSource>, first: usize, high: usize, wide: usize) {
        let (side, grid) = (self.patches_per_side(), self.patches_per_side() / 2);
        for row in 0..high * grid {
            for column in 0..wide * grid {
                let tile = first + row / grid * wide + column / grid;
                let top_left = tile * side * side + row % grid * 2 * side + column % grid * 2;
                let bottom_left = top_left + side;
                sources.push(TokenSource::Patches([
                    top_left,
                    top_left + 1,
                    bottom_left,
                    bottom_left + 1,
                ]));
            }
            sources.push(TokenSource::RowSeparator);
        }
    }

    fn square_layout(&self) -> PictureLayout {
        PictureLayout {
            transposed: false,
            resized: (self.side, self.side),
            padded: (self.side, self.side),
            pad_left: 0,
            pad_top: 0,
            tiles_wide: 1,
            tiles_high: 1,
            num_tokens: self.patches_per_tile(),
        }
    }

    fn tiled_layout(&self, hd: HdRule, width: u32, height: u32, hd_num: u32) -> PictureLayout {
        let transposed = width < height;
        let (long, short) = (width.max(height), width.min(height));
        // The reference divides in double precision and truncates, so we must too.
        let ratio = f64::from(long) / f64::from(short);
        let mut scale = largest_scale(ratio, hd_num);
        if hd.cap_to_source {
            scale = scale.min(long.div_ceil(self.side));
        }
        let new_long = scale * self.side;
        let new_short = ((f64::from(new_long) / ratio) as u32).max(1);
        let padded_short = new_short.next_multiple_of(self.side);
        let pad = match hd.pad {
            PadRule::Split => (padded_short - new_short) / 2,
            PadRule::End => 0,
        };
        let oriented = |long: u32, short: u32| {
            if transposed {
                (short, long)
            } else {
                (long, short)
            }
        };
        let (tiles_wide, tiles_high) = oriented(scale, padded_short / self.side);
        let (pad_left, pad_top) = oriented(0, pad);
        PictureLayout {
            transposed,
            resized: oriented(new_long, new_short),
            padded: oriented(new_long, padded_short),
            pad_left,
            pad_top,
            tiles_wide,
            tiles_high,
            num_tokens: hd_tokens(
                self.patches_per_side() / 2,
                tiles_high as usize,
                tiles_wide as usize,
            ),
        }
    }
}

/// Largest number of tiles along the long side so that all tiles fit the budget, found as the reference does: by
/// counting up to the first that does not fit. At least 1, as `ratio` is at least 1.
fn largest_scale(ratio: f64, hd_num: u32) -> u32 {
    let fits =
        |scale: &u32| f64::from(*scale) * (f64::from(*scale) / ratio).ceil() <= f64::from(hd_num);
    (1..=hd_num).take_while(fits).last().unwrap_or(1)
}

/// Tokens of a global view and `high` by `wide` tiles of `grid` by `grid` merged patches, separators included.
fn hd_tokens(grid: usize, high: usize, wide: usize) -> usize {
    (high * wide + 1) * grid * grid + 1 + (high + 1) * grid
}

fn check_hd_num(hd_num: u32) -> Result<(), GeometryError> {
    if (1..=MAX_HD_NUM).contains(&hd_num) {
        Ok(())
    } else {
        Err(GeometryError::HdNum { hd_num })
    }
}

/// Why a picture cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    #[error("picture is empty: {width} x {height} pixels")]
    EmptyPicture { width: u32, height: u32 },
    #[error("hd_num must be from 1 to {MAX_HD_NUM}, found {hd_num}")]
    HdNum { hd_num: u32 },
    #[error(
        "tile side must be a multiple of the patch size and at most {MAX_SIDE}, found side {side} and patch size {patch_size}"
    )]
    Side { side: u32, patch_size: u32 },
    #[error(
        "tiles need an even number of patches along a side to be merged two by two, found {patches}"
    )]
    OddPatches { patches: usize },
}
