//! From a scene to a picture's file: gradient, shapes in reading order (later ones cover earlier ones), the word, all on a
//! canvas three times as fine; then reduction to the file's side, blur, noise, and PNG or JPEG.

use std::io::Cursor;

use image::{
    ImageEncoder, Rgb as Pixel, RgbImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
    imageops,
};

use crate::{
    lettering::{Mask, word_mask},
    lot::Lot,
    scene::{Look, Print, Rgb, SIDE, Scene, Shape, Thing, to_channel},
};

/// Points of the canvas for each unit of length.
const SCALE: f64 = 3.0;
const CANVAS: u32 = 336;
/// Room that a word leaves at both sides together.
const WORD_MARGIN: f64 = 6.0;

/// Half the side of a square, arms of a cross, hole of a ring, inner and outer points of a star: shares of the radius.
const SQUARE: f64 = 0.85;
const ARM: f64 = 0.33;
const HOLE: f64 = 0.55;
const STAR: [f64; 2] = [1.05, 0.45];
const TRIANGLE: [(f64, f64); 3] = [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)];

/// The encoded picture of a scene: PNG, or JPEG where its look says so.
pub fn draw_picture(scene: &Scene) -> Vec<u8> {
    let mut canvas = background(&scene.look);
    for thing in &scene.things {
        paint(&mut canvas, thing);
    }
    if let Some(word) = &scene.word {
        print(&mut canvas, word);
    }
    let picture = spoil(reduce(&canvas, scene.look.file_side), &scene.look);
    encode(&picture, scene.look.jpeg_quality)
}

fn background(look: &Look) -> RgbImage {
    let (sin, cos) = look.degrees.to_radians().sin_cos();
    RgbImage::from_fn(CANVAS, CANVAS, |x, y| {
        let from_middle = |at: u32| (f64::from(at) + 0.5) / f64::from(CANVAS) - 0.5;
        let along = (from_middle(x) * cos + from_middle(y) * sin) / std::f64::consts::SQRT_2 + 0.5;
        Pixel(mix(look.start, look.end, along))
    })
}

fn mix(from: Rgb, to: Rgb, share: f64) -> Rgb {
    std::array::from_fn(|channel| {
        let (from, to) = (f64::from(from[channel]), f64::from(to[channel]));
        to_channel(from + (to - from) * share)
    })
}

/// The canvas' points within `reach` points of a place.
fn around(x: f64, y: f64, reach: f64) -> impl Iterator<Item = (u32, u32)> {
    let span = move |at: f64| {
        let low = (at - reach).floor().max(0.0) as u32;
        low..((at + reach).ceil().max(0.0) as u32).min(CANVAS)
    };
    span(y).flat_map(move |row| span(x).map(move |column| (column, row)))
}

fn paint(canvas: &mut RgbImage, thing: &Thing) {
    let (sin, cos) = thing.degrees.to_radians().sin_cos();
    let (middle_x, middle_y) = (thing.x * SCALE, thing.y * SCALE);
    let radius = thing.diameter / 2.0 * SCALE;
    // A square's corners stick out of the circle most.
    for (column, row) in around(middle_x, middle_y, radius * 1.25) {
        let x = (f64::from(column) + 0.5 - middle_x) / radius;
        let y = (f64::from(row) + 0.5 - middle_y) / radius;
        if is_inside(thing.shape, x * cos + y * sin, y * cos - x * sin) {
            canvas.put_pixel(column, row, Pixel(thing.rgb));
        }
    }
}

/// Whether a point is in the upright shape of radius 1 around 0, y pointing down.
fn is_inside(shape: Shape, x: f64, y: f64) -> bool {
    let (far, near) = (x.abs().max(y.abs()), x.abs().min(y.abs()));
    let distance = x.hypot(y);
    match shape {
        Shape::Circle => distance <= 1.0,
        Shape::Ring => (HOLE..=1.0).contains(&distance),
        Shape::Square => far <= SQUARE,
        Shape::Cross => far <= 1.0 && near <= ARM,
        Shape::Triangle => is_in_polygon(&TRIANGLE, x, y),
        Shape::Star => is_in_polygon(&star(), x, y),
    }
}

fn star() -> [(f64, f64); 10] {
    std::array::from_fn(|corner| {
        let (sin, cos) = (std::f64::consts::PI * corner as f64 / 5.0).sin_cos();
        (STAR[corner % 2] * sin, -STAR[corner % 2] * cos)
    })
}

/// By the number of edges to the right of the point.
fn is_in_polygon(corners: &[(f64, f64)], x: f64, y: f64) -> bool {
    let following = corners.iter().cycle().skip(1);
    let crossed = corners
        .iter()
        .zip(following)
        .filter(|((ax, ay), (bx, by))| {
            (*ay > y) != (*by > y) && x < ax + (y - ay) / (by - ay) * (bx - ax)
        });
    crossed.count() % 2 == 1
}

fn print(canvas: &mut RgbImage, word: &Print) {
    let mask = word_mask(word, SCALE);
    let widest = (SIDE - WORD_MARGIN) * SCALE;
    let squeeze = (mask.width as f64 / widest).max(1.0);
    let width = mask.width as f64 / squeeze;
    let half = width / 2.0 + 2.0 * SCALE;
    let middle_x = (word.x * SCALE).max(half).min(SIDE * SCALE - half);
    let middle_y = word.y * SCALE;
    let (sin, cos) = word.degrees.to_radians().sin_cos();
    let reach = width.hypot(mask.height as f64) / 2.0;
    for (column, row) in around(middle_x, middle_y, reach) {
        let x = f64::from(column) + 0.5 - middle_x;
        let y = f64::from(row) + 0.5 - middle_y;
        let along = (x * cos - y * sin) * squeeze;
        let ink = ink_at(&mask, along, x * sin + y * cos);
        let paper = canvas.get_pixel_mut(column, row);
        paper.0 = mix(paper.0, word.ink, ink);
    }
}

/// Coverage at a point measured from the mask's middle.
fn ink_at(mask: &Mask, x: f64, y: f64) -> f64 {
    mask.at(x + mask.width as f64 / 2.0, y + mask.height as f64 / 2.0)
}

/// Means of whole blocks.
fn reduce(canvas: &RgbImage, side: u32) -> RgbImage {
    let factor = CANVAS / side;
    RgbImage::from_fn(side, side, |x, y| {
        let mut sums = [0_u32; 3];
        for (dx, dy) in (0..factor).flat_map(|dy| (0..factor).map(move |dx| (dx, dy))) {
            let point = canvas.get_pixel(x * factor + dx, y * factor + dy);
            for (sum, channel) in sums.iter_mut().zip(point.0) {
                *sum += u32::from(channel);
            }
        }
        let count = factor * factor;
        Pixel(sums.map(|sum| ((sum + count / 2) / count) as u8))
    })
}

fn spoil(picture: RgbImage, look: &Look) -> RgbImage {
    let mut picture = if look.blur > 0.0 {
        let deviation = look.blur * f64::from(look.file_side) / SIDE;
        imageops::blur(&picture, deviation as f32)
    } else {
        picture
    };
    if look.noise > 0.0 {
        let mut lot = Lot::new(look.seed, "noise", 0);
        for channel in picture.iter_mut() {
            *channel = to_channel(f64::from(*channel) + look.noise * lot.normal());
        }
    }
    picture
}

fn encode(picture: &RgbImage, jpeg_quality: Option<u8>) -> Vec<u8> {
    let mut file = Cursor::new(vec![]);
    let (width, height) = picture.dimensions();
    let colours = image::ExtendedColorType::Rgb8;
    let written = match jpeg_quality {
        Some(quality) => JpegEncoder::new_with_quality(&mut file, quality)
            .write_image(picture, width, height, colours),
        None => PngEncoder::new(&mut file).write_image(picture, width, height, colours),
    };
    written.expect("memory takes a small picture");
    file.into_inner()
}

#[cfg(test)]
mod tests;
