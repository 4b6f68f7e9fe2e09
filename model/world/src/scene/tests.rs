use super::*;

fn scenes() -> impl Iterator<Item = Scene> {
    (0..500).map(|index| draw_scene(&mut Lot::new(7, "test", index)))
}

#[test]
fn the_same_lot_draws_the_same_scene() {
    let draw = |index| draw_scene(&mut Lot::new(7, "test", index));
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
    let other_purpose = draw_scene(&mut Lot::new(7, "tset", 3));
    assert_ne!(draw(3), other_purpose);
}

#[test]
fn things_stand_in_different_cells_in_reading_order_near_the_middle() {
    for scene in scenes() {
        assert!((1..=MAX_THINGS).contains(&scene.things.len()));
        let cells: Vec<usize> = scene.things.iter().map(Thing::cell).collect();
        assert!(cells.is_sorted_by(|a, b| a < b), "{cells:?}");
        for thing in &scene.things {
            let off = |at: f64, cell: usize| (at - (cell as f64 + 0.5) * CELL).abs();
            assert!(off(thing.x, thing.column) <= CENTRE_JITTER);
            assert!(off(thing.y, thing.row) <= CENTRE_JITTER);
            let (least, most) = thing.size.diameters();
            assert!((least..=most).contains(&thing.diameter));
            for (painted, named) in thing.rgb.into_iter().zip(thing.colour.rgb()) {
                assert!(painted.abs_diff(named) <= 16);
            }
        }
    }
}

#[test]
fn a_word_has_its_row_to_itself() {
    let words = scenes().filter_map(|scene| Some((scene.word?, scene.things)));
    let mut count = 0;
    for (word, things) in words {
        assert!(things.iter().all(|thing| thing.row != word.row));
        let is_listed = WORDS.split_whitespace().any(|listed| listed == word.text);
        let is_number = word.text.parse::<u32>().is_ok() && !word.text.starts_with('0');
        assert!(is_listed || is_number, "{}", word.text);
        assert!((2..=4).contains(&word.text.len()));
        count += 1;
    }
    assert!((200..300).contains(&count), "half of 500: {count}");
}

#[test]
fn every_shape_colour_size_and_font_turns_up() {
    let scenes: Vec<Scene> = scenes().collect();
    let things = || scenes.iter().flat_map(|scene| &scene.things);
    assert!(
        Shape::ALL
            .iter()
            .all(|shape| things().any(|t| t.shape == *shape))
    );
    assert!(
        Colour::ALL
            .iter()
            .all(|colour| things().any(|t| t.colour == *colour))
    );
    assert!(
        Size::ALL
            .iter()
            .all(|size| things().any(|t| t.size == *size))
    );
    let fonts: Vec<Font> = scenes
        .iter()
        .filter_map(|s| Some(s.word.as_ref()?.font))
        .collect();
    assert!(Font::ALL.iter().all(|font| fonts.contains(font)));
}
