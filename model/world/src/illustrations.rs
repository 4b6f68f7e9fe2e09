//! Pictures that articles of this world are illustrated with: every shape in every colour and size, alone in the middle, captioned
//! in both languages.

use crate::{
    draw::draw_picture,
    language::{Code, Item, languages},
    lot::Lot,
    scene::{Colour, Look, Scene, Shape, Size, draw_thing_alone},
};

/// Pixels of a picture's side: large enough to be looked at on a page.
const FILE_SIDE: u32 = 336;

/// A picture of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Illustration {
    /// PNG.
    pub picture: Vec<u8>,
    /// What it shows, such as `a large red circle`.
    pub english: String,
    /// The same in Chinese.
    pub chinese: String,
}

/// A picture of every thing that there is. The same seed draws the same ones; all of them differ.
pub fn draw_illustrations(seed: u64) -> impl Iterator<Item = Illustration> {
    let kinds = Shape::ALL
        .into_iter()
        .flat_map(|shape| Colour::ALL.map(|colour| (colour, shape)));
    let items = kinds.flat_map(|kind| {
        Size::ALL.map(|size| Item {
            size: Some(size),
            kind,
        })
    });
    (0..)
        .zip(items)
        .map(move |(index, item)| illustrate(item, &mut Lot::new(seed, "illustrations", index)))
}

fn illustrate(item: Item, lot: &mut Lot) -> Illustration {
    let scene = draw_thing_alone(item.kind, item.size.unwrap_or(Size::Medium), lot);
    let scene = Scene {
        // Nothing spoils what people look at.
        look: Look {
            noise: 0.0,
            blur: 0.0,
            jpeg_quality: None,
            file_side: FILE_SIDE,
            ..scene.look
        },
        ..scene
    };
    let told = |code: Code| {
        let language = languages().iter().find(|language| language.code == code);
        language
            .map(|language| language.np(item))
            .unwrap_or_default()
    };
    Illustration {
        picture: draw_picture(&scene),
        english: told(Code::En),
        chinese: told(Code::Zh),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_thing_has_a_picture_of_its_own_and_a_caption_in_both_languages() {
        let drawn: Vec<Illustration> = draw_illustrations(1).collect();
        assert_eq!(drawn.len(), 6 * 8 * 3);
        let pictures: BTreeSet<&[u8]> = drawn.iter().map(|one| &one.picture[..]).collect();
        assert_eq!(pictures.len(), drawn.len());
        let captions: BTreeSet<(&str, &str)> = drawn
            .iter()
            .map(|one| (one.english.as_str(), one.chinese.as_str()))
            .collect();
        assert_eq!(captions.len(), drawn.len());
        assert!(captions.contains(&("a large red circle", "一个大的红色圆形")));
        assert!(captions.contains(&("a small blue square", "一个小的蓝色正方形")));
    }

    #[test]
    fn the_same_seed_draws_the_same_pictures() {
        let first = |seed| draw_illustrations(seed).next();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn what_is_in_the_middle_has_the_colour_that_the_caption_names() {
        for one in draw_illustrations(1).filter(|one| one.english.ends_with("red square")) {
            let picture = image::load_from_memory(&one.picture).unwrap().to_rgb8();
            assert_eq!(picture.dimensions(), (FILE_SIDE, FILE_SIDE));
            let [red, green, blue] = picture.get_pixel(FILE_SIDE / 2, FILE_SIDE / 2).0;
            assert!(red > 180 && green < 80 && blue < 80, "{}", one.english);
        }
    }
}
