//! A printed word as a mask: how much of each point of the canvas its ink covers, before it is turned and placed.

use ab_glyph::{Font as _, FontRef, Glyph, PxScale, ScaleFont, point};

use crate::{
    dots::{ADVANCE, HEIGHT, WIDTH, is_dot},
    scene::{Font, Print},
};

/// Height of these fonts' capitals, as a share of the em.
const CAP_SHARE: f64 = 0.72;

/// Coverage from 0 to 1, row by row.
#[derive(Debug, Clone)]
pub(crate) struct Mask {
    pub(crate) width: usize,
    pub(crate) height: usize,
    coverage: Vec<f32>,
}

impl Mask {
    fn empty(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            coverage: vec![0.0; width * height],
        }
    }

    /// Adds ink; what falls outside is lost.
    fn add(&mut self, x: i32, y: i32, ink: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return;
        };
        if x < self.width && y < self.height {
            let held = &mut self.coverage[y * self.width + x];
            *held = (*held + ink).min(1.0);
        }
    }

    fn get(&self, x: i32, y: i32) -> f64 {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return 0.0;
        };
        if x < self.width && y < self.height {
            f64::from(self.coverage[y * self.width + x])
        } else {
            0.0
        }
    }

    /// Coverage at a point, measured from the mask's corner, between the centres of its points.
    pub(crate) fn at(&self, x: f64, y: f64) -> f64 {
        let (x, y) = (x - 0.5, y - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (right_share, bottom_share) = (x - left, y - top);
        let (left, top) = (left as i32, top as i32);
        let row =
            |y: i32| self.get(left, y) * (1.0 - right_share) + self.get(left + 1, y) * right_share;
        row(top) * (1.0 - bottom_share) + row(top + 1) * bottom_share
    }
}

/// The word, `scale` points of the mask for each unit of length.
pub(crate) fn word_mask(word: &Print, scale: f64) -> Mask {
    match file_of(word.font) {
        Some(file) => font_mask(file, word, scale),
        None => dots_mask(word, scale),
    }
}

fn file_of(font: Font) -> Option<&'static [u8]> {
    let file: &[u8] = match font {
        Font::SansBold => include_bytes!("../fonts/DejaVuSans-Bold.ttf"),
        Font::Sans => include_bytes!("../fonts/DejaVuSans.ttf"),
        Font::SerifBold => include_bytes!("../fonts/DejaVuSerif-Bold.ttf"),
        Font::MonoBold => include_bytes!("../fonts/DejaVuSansMono-Bold.ttf"),
        Font::ArimoBold => include_bytes!("../fonts/Arimo-Bold.ttf"),
        Font::TinosBold => include_bytes!("../fonts/Tinos-Bold.ttf"),
        Font::CousineBold => include_bytes!("../fonts/Cousine-Bold.ttf"),
        Font::Dots => return None,
    };
    Some(file)
}

fn font_mask(file: &'static [u8], word: &Print, scale: f64) -> Mask {
    let font = FontRef::try_from_slice(file).expect("a font of ours");
    let em = (word.cap_height * scale / CAP_SHARE).round() as f32;
    let units = font.units_per_em().expect("a font of ours says its units");
    let scaled = font.as_scaled(PxScale::from(em * font.height_unscaled() / units));
    let mut pen = 0.0;
    let mut last = None;
    let mut outlines = vec![];
    for character in word.text.chars() {
        let mut glyph: Glyph = scaled.scaled_glyph(character);
        if let Some(last) = last {
            pen += scaled.kern(last, glyph.id);
        }
        glyph.position = point(pen, scaled.ascent());
        pen += scaled.h_advance(glyph.id);
        last = Some(glyph.id);
        outlines.extend(scaled.outline_glyph(glyph));
    }
    let bounds: Vec<_> = outlines.iter().map(|outline| outline.px_bounds()).collect();
    let edge = |of: fn(&ab_glyph::Rect) -> f32, pick: fn(f32, f32) -> f32| {
        bounds.iter().map(of).reduce(pick).unwrap_or_default()
    };
    let (left, top) = (edge(|b| b.min.x, f32::min), edge(|b| b.min.y, f32::min));
    let (right, bottom) = (edge(|b| b.max.x, f32::max), edge(|b| b.max.y, f32::max));
    let mut mask = Mask::empty((right - left) as usize, (bottom - top) as usize);
    for (outline, bounds) in outlines.iter().zip(&bounds) {
        let corner = ((bounds.min.x - left) as i32, (bounds.min.y - top) as i32);
        outline.draw(|x, y, ink| mask.add(corner.0 + x as i32, corner.1 + y as i32, ink));
    }
    mask
}

fn dots_mask(word: &Print, scale: f64) -> Mask {
    let dot = word.cap_height * scale / HEIGHT as f64;
    let columns = ADVANCE * word.text.len() - 1;
    let size = |dots: usize| (dots as f64 * dot).ceil() as usize;
    let mut mask = Mask::empty(size(columns), size(HEIGHT));
    for y in 0..mask.height {
        let row = ((y as f64 + 0.5) / dot) as usize;
        for x in 0..mask.width {
            let column = ((x as f64 + 0.5) / dot) as usize;
            let (index, column) = (column / ADVANCE, column % ADVANCE);
            let Some(character) = word.text.chars().nth(index) else {
                continue;
            };
            if column < WIDTH && row < HEIGHT && is_dot(character, column, row) {
                mask.add(x as i32, y as i32, 1.0);
            }
        }
    }
    mask
}
