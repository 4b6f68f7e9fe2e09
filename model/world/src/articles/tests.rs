use super::*;
use crate::language::languages;

fn item(size: Option<Size>, colour: Colour, shape: Shape) -> Item {
    Item {
        size,
        kind: (colour, shape),
    }
}

#[test]
fn a_planned_article_shows_its_things_in_order_and_ends() {
    let en = &languages()[0];
    let plan = vec![
        Some(item(None, Colour::Orange, Shape::Star)),
        Some(item(Some(Size::Small), Colour::Red, Shape::Ring)),
        None,
        None,
    ];
    let article = Article::planned(en, Some(1), title_of(en, 1, 0), plan);
    assert_eq!(
        article.segments(),
        [
            "A Day at the Market",
            "We came to the market early in the day. Near the gate there is an orange star, and children like to play \
             beside it.",
            "In the morning the light falls on a small red ring.",
            "Nobody knows how it all began, but many remember it.",
            "In the end everyone went home happy.",
        ]
    );
}

#[test]
fn pictures_fit_after_what_is_shown_and_then_after_the_earliest_others() {
    let en = &languages()[0];
    let shown = Some(item(None, Colour::Blue, Shape::Cross));
    let article = Article::planned(en, Some(0), String::new(), vec![None, shown, None, shown]);
    assert_eq!(article.fitting(None), [2, 4]);
    assert_eq!(article.fitting(Some(1)), [2]);
    assert_eq!(article.fitting(Some(3)), [1, 2, 4]);
    assert_eq!(article.fitting(Some(6)), [1, 2, 3, 4]);
    assert_eq!(article.caption(2), "a blue cross");
    assert_eq!(article.caption(3), "the park");
}

#[test]
fn an_article_to_work_on_shows_something_and_nothing_twice() {
    for index in 0..500 {
        let article = Article::any(&mut Lot::new(5, "test", index));
        let visual = article.visual();
        assert!(!visual.is_empty());
        let mut kinds: Vec<_> = visual
            .iter()
            .filter_map(|k| Some(article.item(*k)?.kind))
            .collect();
        kinds.sort_unstable();
        assert!(kinds.is_sorted_by(|a, b| a < b));
        for segment in visual {
            let text = article.segments()[segment];
            assert!(text.contains(&article.caption(segment)), "{text}");
        }
    }
}
