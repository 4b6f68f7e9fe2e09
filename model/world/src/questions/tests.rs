use super::*;
use crate::{language::languages, scene::draw_scene};

/// Two circles and a square, without a word.
fn scene() -> Scene {
    let mut scene = draw_scene(&mut Lot::new(1, "test", 0));
    let thing = scene.things[0].clone();
    let thing = |shape, colour, size, cell: usize| Thing {
        shape,
        colour,
        size,
        row: cell / GRID,
        column: cell % GRID,
        ..thing.clone()
    };
    scene.word = None;
    scene.things = vec![
        thing(Shape::Circle, Colour::Red, Size::Large, 0),
        thing(Shape::Square, Colour::Orange, Size::Small, 2),
        thing(Shape::Circle, Colour::Blue, Size::Medium, 7),
    ];
    scene
}

#[test]
fn a_description_names_everything_in_order() {
    let [en, zh] = languages();
    assert_eq!(
        describe(&scene(), en),
        "There are three shapes: a large red circle at the top left, a small orange square at the top right and \
         a medium blue circle at the bottom. The large red circle is above the medium blue circle."
    );
    assert_eq!(
        describe(&scene(), zh),
        "图中有三个图形：左上角有一个大的红色圆形，右上角有一个小的橙色正方形，下方有一个中等的蓝色圆形。大的红色圆形在中等的蓝色圆形的上面。"
    );
}

#[test]
fn neighbours_in_a_row_are_told_left_from_right() {
    let mut scene = scene();
    scene.things.truncate(2);
    let told = describe(&scene, &languages()[0]);
    assert!(
        told.ends_with("The large red circle is to the left of the small orange square."),
        "{told}"
    );
}

#[test]
fn answers_are_what_the_scene_holds() {
    let scene = scene();
    let en = &languages()[0];
    let mut told = std::collections::BTreeSet::new();
    for index in 0..4000 {
        let asked = ask_anything_seen(&scene, en, &mut Lot::new(2, "test", index));
        told.insert((asked.question, asked.answer));
    }
    for (question, answer) in [
        ("What color is the square?", "It is orange."),
        ("What shape is blue?", "It is a circle."),
        ("Which shape is at the bottom?", "A medium blue circle."),
        ("What is in the center?", "There is nothing there."),
        ("Where is the orange square?", "It is at the top right."),
        ("How big is the red circle?", "It is large."),
        ("How many circles are there?", "There are two."),
        ("How many red shapes are there?", "There is one."),
        ("How many rings are there?", "There are none."),
        (
            "Which is larger, the orange square or the red circle?",
            "The red circle.",
        ),
        (
            "Which is smaller, the red circle or the blue circle?",
            "The blue circle.",
        ),
        ("Is there a green square?", "No."),
        ("Is there a red circle in the picture?", "Yes."),
        ("Is the blue circle above the orange square?", "No."),
        ("Is the red circle to the left of the blue circle?", "Yes."),
    ] {
        let held = (question.to_owned(), answer.to_owned());
        assert!(told.contains(&held), "{question} {answer}");
    }
    let questions: Vec<&String> = told.iter().map(|(question, _)| question).collect();
    assert!(
        questions.is_sorted_by(|a, b| a < b),
        "a question has one answer"
    );
    assert!(
        !questions
            .iter()
            .any(|q| q.contains("What color is the circle")),
        "there are two"
    );
}

#[test]
fn no_wording_keeps_a_gap_or_a_mark() {
    for index in 0..2000 {
        let lot = &mut Lot::new(3, "test", index);
        let scene = draw_scene(lot);
        for language in languages() {
            let asked = [
                ask_anything(&scene, language, lot),
                ask_to_describe(&scene, language, lot),
                ask_to_read(&scene, language, lot),
            ];
            for Asked {
                question, answer, ..
            } in asked
            {
                let said = format!("{question}{answer}");
                assert!(!said.contains(['{', '}', '|']), "{said}");
                assert!(!question.is_empty() && !answer.is_empty());
            }
        }
    }
}
