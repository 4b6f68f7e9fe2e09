use super::*;
use crate::scene::{Font, draw_scene};

fn decode(file: &[u8]) -> RgbImage {
    image::load_from_memory(file).expect("a picture").to_rgb8()
}

fn scenes() -> impl Iterator<Item = Scene> {
    (0..40).map(|index| draw_scene(&mut Lot::new(11, "test", index)))
}

#[test]
fn a_drawn_thing_has_its_colour_inside() {
    for mut scene in scenes() {
        scene.look.noise = 0.0;
        scene.look.blur = 0.0;
        scene.look.jpeg_quality = None;
        scene.word = None;
        scene.things.truncate(1);
        let picture = decode(&draw_picture(&scene));
        let thing = &scene.things[0];
        // A ring has nothing in its middle.
        let off = if thing.shape == Shape::Ring {
            0.775
        } else {
            0.0
        };
        let scale = f64::from(scene.look.file_side) / SIDE;
        let x = (thing.x + off * thing.diameter / 2.0) * scale;
        let found = picture.get_pixel(x as u32, (thing.y * scale) as u32).0;
        assert_eq!(found, thing.rgb, "{thing:?}");
    }
}

#[test]
fn later_things_cover_earlier_ones() {
    let mut scene = scenes()
        .find(|scene| scene.things.len() > 1)
        .expect("one of 40");
    scene.look = Look {
        noise: 0.0,
        blur: 0.0,
        jpeg_quality: None,
        ..scene.look
    };
    scene.word = None;
    scene.things.truncate(2);
    for thing in &mut scene.things {
        (thing.x, thing.y, thing.shape) = (56.0, 56.0, Shape::Circle);
    }
    let picture = decode(&draw_picture(&scene));
    let middle = picture.width() / 2;
    assert_eq!(picture.get_pixel(middle, middle).0, scene.things[1].rgb);
}

#[test]
fn files_have_the_side_and_format_that_the_look_says() {
    for scene in scenes() {
        let file = draw_picture(&scene);
        let is_jpeg = image::guess_format(&file).expect("known") == image::ImageFormat::Jpeg;
        assert_eq!(is_jpeg, scene.look.jpeg_quality.is_some());
        let side = scene.look.file_side;
        assert_eq!(decode(&file).dimensions(), (side, side));
        assert_eq!(file, draw_picture(&scene), "drawn twice");
    }
}

#[test]
fn capitals_are_as_high_as_said_in_every_font() {
    for font in Font::ALL {
        let word = Print {
            text: "HEX".into(),
            row: 1,
            x: 56.0,
            y: 56.0,
            cap_height: 14.0,
            degrees: 0.0,
            font,
            ink: [0; 3],
        };
        let mask = word_mask(&word, SCALE);
        let height = mask.height as f64 / SCALE;
        assert!((12.0..=15.0).contains(&height), "{font:?}: {height}");
        let width = mask.width as f64 / SCALE;
        assert!((25.0..=50.0).contains(&width), "{font:?}: {width}");
    }
}

#[test]
fn ink_is_where_the_word_is() {
    let mut scene = scenes()
        .find(|scene| scene.word.is_some())
        .expect("one of 40");
    let word = scene.word.as_mut().expect("it has one");
    (word.text, word.font, word.ink) = ("II".into(), Font::Dots, [1, 2, 3]);
    (word.x, word.y, word.degrees, word.cap_height) = (56.0, 56.0, 0.0, 14.0);
    scene.things.clear();
    scene.look = Look {
        noise: 0.0,
        blur: 0.0,
        jpeg_quality: None,
        file_side: CANVAS,
        ..scene.look
    };
    let picture = decode(&draw_picture(&scene));
    // Eleven columns of dots of 2 x 2; the bars are columns 2 and 8.
    let at = |column: f64| {
        picture
            .get_pixel(((56.0 + (column - 5.0) * 2.0) * SCALE) as u32, 168)
            .0
    };
    assert_eq!((at(2.0), at(8.0)), ([1, 2, 3], [1, 2, 3]));
    assert_ne!(at(5.0), [1, 2, 3]);
}
