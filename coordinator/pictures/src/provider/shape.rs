//! The shape of questions and answers: that of the service which the model's own demo asks.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// Characters of a caption that are sent.
const MAX_CAPTION_CHARS: usize = 53;

/// What is asked.
#[derive(Debug, Serialize)]
pub(super) struct Question {
    caption: String,
    exclude: Vec<Value>,
    need_idxs: bool,
}

impl Question {
    pub(super) fn new(caption: &str, exclude: &[String]) -> Self {
        Self {
            caption: caption.trim().chars().take(MAX_CAPTION_CHARS).collect(),
            exclude: exclude.iter().map(|index| on_the_wire(index)).collect(),
            need_idxs: true,
        }
    }
}

/// What is answered. Other fields are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    image_urls: Vec<String>,
    indices: Vec<Index>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "wanted a number or a string")]
enum Index {
    Number(Number),
    Text(String),
}

/// A picture that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) index: String,
    pub(super) url: String,
}

impl Answer {
    /// What `data` offers, in its order, or what is wrong with it.
    pub(super) fn read(data: &[u8]) -> Result<Vec<Offer>, String> {
        let Self { data } = serde_json::from_slice(data).map_err(|error| {
            format!("wanted JSON with data.image_urls and data.indices, found: {error}")
        })?;
        let (num_urls, num_indices) = (data.image_urls.len(), data.indices.len());
        if num_urls != num_indices {
            return Err(format!(
                "wanted as many data.indices as data.image_urls, found {num_indices} and {num_urls}"
            ));
        }
        let pairs = data.indices.into_iter().zip(data.image_urls);
        let offers = pairs.map(|(index, url)| Offer {
            index: index.in_words(),
            url,
        });
        Ok(offers.collect())
    }
}

impl Index {
    /// What we call it: a number by its digits, a text by itself, or in quotes where it would read as something else.
    fn in_words(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) if on_the_wire(&text) == text => text,
            Self::Text(text) => Value::String(text).to_string(),
        }
    }
}

/// An index as the provider gave it: it may know the number 7 and not the text "7".
fn on_the_wire(index: &str) -> Value {
    match serde_json::from_str(index) {
        Ok(value @ (Value::Number(_) | Value::String(_))) => value,
        _ => Value::String(index.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn offers(answer: &Value) -> Result<Vec<Offer>, String> {
        Answer::read(answer.to_string().as_bytes())
    }

    #[test]
    fn a_question_has_the_demos_shape() {
        let exclude = ["7".to_owned(), "a".to_owned(), "\"7\"".to_owned()];
        let caption = format!("  {}水墨", "画".repeat(52));
        let question = Question::new(&caption, &exclude);
        assert_eq!(
            serde_json::to_value(question).expect("JSON"),
            json!({
                "caption": format!("{}水", "画".repeat(52)),
                "exclude": [7, "a", "7"],
                "need_idxs": true,
            })
        );
    }

    #[test]
    fn an_answer_pairs_addresses_with_indices() {
        let answer = json!({"code": 0, "data": {
            "image_urls": ["http://a/", "http://b/", "http://c/"], "indices": [12, "b", "12"], "more": {},
        }});
        let offers = offers(&answer).expect("offers");
        let pairs = offers.iter().map(|offer| (&*offer.index, &*offer.url));
        assert_eq!(
            pairs.collect::<Vec<_>>(),
            [
                ("12", "http://a/"),
                ("b", "http://b/"),
                ("\"12\"", "http://c/")
            ]
        );
    }

    #[test]
    fn wrong_shapes_are_told_apart() {
        for (answer, wanted) in [
            (
                json!({"data": {"image_urls": ["a"], "indices": []}}),
                "found 0 and 1",
            ),
            (
                json!({"data": {"image_urls": []}}),
                "missing field `indices`",
            ),
            (
                json!({"data": {"image_urls": [null], "indices": [1]}}),
                "invalid type: null",
            ),
            (
                json!({"data": {"image_urls": ["a"], "indices": [[]]}}),
                "wanted a number or a string",
            ),
            (json!({"data": null}), "invalid type: null"),
            (json!({"error": "no"}), "missing field `data`"),
            (json!([1]), "invalid type"),
        ] {
            let error = offers(&answer).expect_err("wrong");
            assert!(error.contains(wanted), "{error}, wanted {wanted}");
        }
        let error = Answer::read(b"<html>").expect_err("a page");
        assert!(error.starts_with("wanted JSON with"), "{error}");
        let nested = "[".repeat(100_000);
        assert!(Answer::read(nested.as_bytes()).is_err());
    }

    proptest! {
        /// The provider is told to leave out exactly what it gave.
        #[test]
        fn an_index_comes_back_as_it_was(
            index in prop_oneof![
                any::<i64>().prop_map(Value::from),
                any::<u64>().prop_map(Value::from),
                "\\PC*".prop_map(Value::from),
                "[-\"0-9.e]*".prop_map(Value::from),
            ],
        ) {
            let parsed: Index = serde_json::from_value(index.clone()).expect("an index");
            prop_assert_eq!(on_the_wire(&parsed.in_words()), index);
        }

        #[test]
        fn any_answer_is_survived(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Answer::read(&data);
        }
    }
}
