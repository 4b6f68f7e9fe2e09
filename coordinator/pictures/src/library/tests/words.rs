//! How captions and queries are cut into words.

use tantivy::tokenizer::TokenStream;

use super::super::words::{pieces, query_terms, words};

fn cut(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    words()
        .token_stream(text)
        .process(&mut |token| found.push(token.text.clone()));
    found
}

#[test]
fn english_is_stemmed_and_small_words_are_left_out() {
    assert_eq!(
        cut("A photo of two RUNNING dogs on the beaches"),
        ["two", "run", "dog", "beach"]
    );
    assert_eq!(cut("the dog's café"), ["dog", "cafe"]);
}

#[test]
fn chinese_is_cut_into_words_and_the_words_inside_them() {
    assert_eq!(cut("一只小狗在草地上奔跑"), ["小狗", "草地", "奔跑"]);
    let city = cut("南京市长江大桥");
    for word in ["南京", "南京市", "长江", "大桥", "长江大桥"] {
        assert!(
            city.contains(&word.to_owned()),
            "{word} is missing from {city:?}"
        );
    }
}

#[test]
fn both_languages_in_one_caption() {
    assert_eq!(
        cut("红色的Ferrari跑车, ｆａｓｔ cars"),
        ["红色", "ferrari", "跑车", "fast", "car"]
    );
}

#[test]
fn offsets_are_those_of_the_text() {
    let text = "红苹果 and Äpfel，苹果";
    let mut checked = 0;
    for mut analyzer in [words(), pieces()] {
        analyzer.token_stream(text).process(&mut |token| {
            assert!(
                text.get(token.offset_from..token.offset_to)
                    .is_some_and(|part| !part.is_empty()),
                "{token:?}"
            );
            checked += 1;
        });
    }
    assert!(checked > 6);
}

#[test]
fn only_chinese_has_pieces() {
    let mut found = Vec::new();
    pieces()
        .token_stream("猫cat狗狗")
        .process(&mut |token| found.push(token.text.clone()));
    assert_eq!(found, ["猫", "狗", "狗狗", "狗"]);
}

#[test]
fn a_query_has_an_end() {
    let long: String = (0..10_000)
        .map(|number| format!("word{number} 苹果{number} "))
        .collect();
    let terms = query_terms(&long, 16);
    assert_eq!((terms.words.len(), terms.pairs.len()), (16, 1));
    assert!(
        query_terms(&"x".repeat(100_000), 16).words.is_empty(),
        "a word without end is none"
    );
    assert_eq!(query_terms("a picture of the 的", 16), Default::default());
}

proptest::proptest! {
    /// Text comes from anywhere.
    #[test]
    fn any_text_can_be_cut(text in ".{0,80}") {
        cut(&text);
        query_terms(&text, 8);
    }

    #[test]
    fn any_chinese_can_be_cut(text in "[\u{4e00}-\u{9fff}a-z \u{3000}-\u{303f}\u{20000}-\u{20100}]{0,60}") {
        cut(&text);
        query_terms(&text, 8);
    }
}
