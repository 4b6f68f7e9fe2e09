//! Walks that take any token that is allowed end in texts of the form, however the tokenizer cuts them.

use std::{collections::BTreeSet, path::PathBuf};

use inkstone_interface::tokenizer::{Tokenizer, Trust, synthetic};
use inkstone_model::sampling::uniform;
use serde_json::Value;

use super::*;

/// Rows of logits are wider than the tokenizer in some checkpoints.
const PADDING: usize = 37;

struct Model {
    tokenizer: Tokenizer,
    vocabulary: ConstraintVocabulary,
}

impl Model {
    fn new(tokenizer: Tokenizer) -> Self {
        let num_tokens = tokenizer.vocab_size() + PADDING;
        let stops = tokenizer.stop_token_ids();
        let vocabulary = ConstraintVocabulary::new(&tokenizer, num_tokens, &stops).unwrap();
        Self {
            tokenizer,
            vocabulary,
        }
    }

    fn compile(&self, form: &ConstraintForm) -> Constraint {
        self.vocabulary.compile(form).unwrap()
    }

    /// Takes allowed tokens by chance until a stop token comes, and gives the text that a client sees.
    fn walk(&self, mut constraint: Constraint, seed: u64, max_tokens: u64) -> Option<String> {
        let mut decoder = self.tokenizer.stream_decoder();
        let mut text = String::new();
        for index in 0..max_tokens {
            let mask = constraint.allowed().unwrap();
            let ids: Vec<u32> = mask.ids().collect();
            // Where the text may end it mostly does, so that endless forms end.
            let stop = ids.iter().find(|id| self.is_stop(**id));
            let id = match stop {
                Some(&id) if uniform(seed, 1, index) < 0.5 => id,
                _ => ids[(uniform(seed, 0, index) * ids.len() as f64) as usize],
            };
            constraint.accept(id).unwrap();
            if self.is_stop(id) {
                return Some(text + &decoder.finish());
            }
            text += &decoder.push(id);
        }
        None
    }

    fn is_stop(&self, id: u32) -> bool {
        self.tokenizer.stop_token_ids().contains(&id)
    }

    /// Follows the tokens of a text and gives the constraint after it.
    fn follow(&self, form: &ConstraintForm, text: &str) -> Result<Constraint, String> {
        let mut constraint = self.compile(form);
        for id in self.tokenizer.encode(text, Trust::Untrusted) {
            let is_allowed = constraint.allowed()?.allows(id);
            let accepted = constraint.accept(id);
            assert_eq!(is_allowed, accepted.is_ok(), "{text:?}: token {id}");
            accepted?;
        }
        Ok(constraint)
    }

    /// Whether a text may begin, and may end, like this.
    fn holds(&self, form: &ConstraintForm, text: &str) -> bool {
        let stops = self.tokenizer.stop_token_ids();
        self.follow(form, text).is_ok_and(|mut constraint| {
            let mask = constraint.allowed().unwrap();
            let allows: Vec<bool> = stops.iter().map(|&id| mask.allows(id)).collect();
            assert!(
                allows.iter().all(|&is| is == allows[0]),
                "stop tokens differ"
            );
            allows[0]
        })
    }
}

fn small() -> Model {
    let words = [
        "red", " red", " reddish", "blue", "true", "name", "\": \"", "été",
    ];
    Model::new(Tokenizer::from_model_bytes(&synthetic::model_bytes(&words)).unwrap())
}

/// The real tokenizer, where the shared data is there.
fn real() -> Option<Model> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find_map(|folder| {
            let folder = folder.join("shared/tokenizer");
            folder.join("tokenizer.model").exists().then_some(folder)
        })?;
    Some(Model::new(Tokenizer::read(&folder).unwrap()))
}

fn models() -> impl Iterator<Item = Model> {
    [Some(small()), real()].into_iter().flatten()
}

fn choices(choices: &[&str]) -> ConstraintForm {
    ConstraintForm::Choices(choices.iter().map(ToString::to_string).collect())
}

fn regex(regex: &str) -> ConstraintForm {
    ConstraintForm::Regex(regex.into())
}

fn schema(schema: &str) -> ConstraintForm {
    ConstraintForm::JsonSchema(schema.into())
}

const PERSON: &str = r##"{
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2}
    },
    "required": ["name", "age"],
    "additionalProperties": false,
    "$defs": {"tag": {"enum": ["new", "old"]}}
}"##;

#[test]
fn walks_end_in_one_of_the_choices_and_reach_each() {
    // What means something to a regular expression, a space first, one that begins another, several bytes a character.
    let texts = [
        "red",
        "reddish",
        " red",
        "a|b",
        "(x)*",
        "C:\\temp/",
        "\"q\"\n",
        "été 🙂",
        "[",
        "$^.",
    ];
    for model in models() {
        let constraint = model.compile(&choices(&texts));
        let found: BTreeSet<String> = (0..400)
            .map(|seed| model.walk(constraint.clone(), seed, 100).unwrap())
            .collect();
        let wanted: BTreeSet<String> = texts.iter().map(ToString::to_string).collect();
        assert_eq!(found, wanted);
    }
}

#[test]
fn the_first_piece_s_space_is_a_space() {
    for model in models() {
        let form = choices(&["red"]);
        assert!(model.holds(&form, "red"));
        assert!(!model.holds(&form, " red"));
        let mask = model.compile(&form).allowed().unwrap();
        let with_space = model.tokenizer.piece_id("\u{2581}red").unwrap();
        assert!(!mask.allows(with_space));
        assert!(mask.allows(model.tokenizer.piece_id("red").unwrap()));
        assert!(model.holds(&choices(&[" red"]), " red"));
    }
}

#[test]
fn a_regular_expression_matches_as_a_whole() {
    for model in models() {
        let form = regex(r"[a-c]{2,4}(-\d+)?");
        for (text, wanted) in [
            ("ab", true),
            ("abca-17", true),
            ("a", false),
            ("ab-", false),
        ] {
            assert_eq!(model.holds(&form, text), wanted, "{text}");
        }
        assert!(model.follow(&form, "xab").is_err());
        assert!(model.follow(&form, "abcab").is_err());
        for seed in 0..100 {
            let text = model.walk(model.compile(&form), seed, 500).unwrap();
            let (letters, digits) = text.split_once('-').unwrap_or((&text, "0"));
            assert!((2..=4).contains(&letters.len()), "{text}");
            assert!(letters.chars().all(|c| ('a'..='c').contains(&c)), "{text}");
            assert!(
                !digits.is_empty() && digits.chars().all(char::is_numeric),
                "{text}"
            );
        }
        assert!(model.holds(&regex("^a|b$"), "b"));
        assert!(model.holds(&regex(r"a\$"), "a$"));
        assert!(model.holds(&regex("a/b\n"), "a/b\n"));
    }
}

#[test]
fn json_satisfies_its_schema() {
    for model in models() {
        let form = schema(PERSON);
        let constraint = model.compile(&form);
        let mut num_ended = 0;
        for seed in 0..60 {
            let Some(text) = model.walk(constraint.clone(), seed, 400) else {
                continue;
            };
            num_ended += 1;
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(
                value["name"].as_str().unwrap().chars().count() <= 12,
                "{text}"
            );
            assert!(value["age"].as_u64().unwrap() <= 150, "{text}");
            let tags = value
                .get("tags")
                .map_or(&[][..], |tags| tags.as_array().unwrap());
            assert!(tags.len() <= 2 && tags.iter().all(|tag| tag == "new" || tag == "old"));
        }
        assert!(num_ended > 50, "only {num_ended} walks ended");
        assert!(model.holds(&form, r#"{"name": "Ada", "age": 36}"#));
        assert!(!model.holds(&form, r#"{"name": "Ada", "age": 36"#));
        assert!(
            model
                .follow(&form, r#"{"name": "Ada", "age": 151}"#)
                .is_err()
        );
        assert!(model.follow(&form, r#" "#).is_err());
        assert!(model.holds(&schema("true"), r#"[1, {"a": null}]"#));
    }
}

#[test]
fn where_the_text_must_end_only_stop_tokens_are_allowed() {
    for model in models() {
        for (form, text) in [
            (choices(&["red", "blue"]), "red"),
            (regex("a{3}"), "aaa"),
            (schema(PERSON), r#"{"name":"","age":1}"#),
        ] {
            let mut constraint = model.follow(&form, text).unwrap();
            let mut stops = model.tokenizer.stop_token_ids();
            stops.sort_unstable();
            let ids = |constraint: &mut Constraint| -> Vec<u32> {
                constraint.allowed().unwrap().ids().collect()
            };
            assert_eq!(ids(&mut constraint), stops, "{text}");
            let other = model.tokenizer.encode("a", Trust::Untrusted)[0];
            assert!(constraint.clone().accept(other).is_err());
            constraint.accept(stops[1]).unwrap();
            assert_eq!(ids(&mut constraint), stops, "{text} and a stop token");
        }
    }
}

#[test]
fn a_stop_token_before_the_end_is_an_error() {
    let model = small();
    let mut constraint = model.follow(&choices(&["red"]), "re").unwrap();
    for stop in model.tokenizer.stop_token_ids() {
        assert!(!constraint.allowed().unwrap().allows(stop));
        assert!(constraint.accept(stop).is_err());
    }
}

#[test]
fn marks_and_special_tokens_are_no_text() {
    for model in models() {
        let mask = model.compile(&regex("(?s:.*)")).allowed().unwrap();
        assert_eq!(mask.num_tokens(), model.tokenizer.vocab_size() + PADDING);
        let num_reserved = (0..mask.num_tokens() as u32)
            .filter(|&id| model.tokenizer.is_reserved(id) && !model.is_stop(id))
            .inspect(|&id| assert!(!mask.allows(id), "{id}"))
            .count();
        assert!(num_reserved > 100);
        assert!(
            mask.ids()
                .all(|id| (id as usize) < model.tokenizer.vocab_size())
        );
        // Nearly all of the others are.
        assert!(mask.num_allowed() > model.tokenizer.vocab_size() * 9 / 10 - num_reserved - 140);
    }
}

#[test]
fn pieces_of_the_same_bytes_are_allowed_alike() {
    let model = small();
    let mask = model.compile(&choices(&["A"])).allowed().unwrap();
    let ids: Vec<u32> = mask.ids().collect();
    let wanted = ["<0x41>", "A"].map(|piece| model.tokenizer.piece_id(piece).unwrap());
    assert_eq!(ids, wanted);
    for id in wanted {
        let mut constraint = model.compile(&choices(&["A"]));
        constraint.accept(id).unwrap();
        assert!(constraint.may_end().unwrap());
    }
}

#[test]
fn a_clone_goes_its_own_way() {
    let model = small();
    let mut first = model.follow(&choices(&["reap", "red"]), "re").unwrap();
    let mut second = first.clone();
    let id = |text| model.tokenizer.encode(text, Trust::Untrusted)[0];
    first.accept(id("a")).unwrap();
    second.accept(id("d")).unwrap();
    assert!(first.allowed().unwrap().allows(id("p")));
    assert!(!first.may_end().unwrap());
    assert!(!second.allowed().unwrap().allows(id("p")));
    assert!(second.may_end().unwrap());
}

#[test]
fn forms_that_are_wrong_are_refused_in_a_sentence() {
    let model = small();
    let many: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    let deep = "[".repeat(10_000);
    let wrong = [
        (choices(&[]), "at least one choice"),
        (choices(&["a", ""]), "none empty"),
        (ConstraintForm::Choices(many), "at most 1024 choices"),
        (choices(&["x".repeat(100_000).as_str()]), "bytes at most"),
        (regex("(a"), "the regular expression cannot be used"),
        (regex("a\\"), "the regular expression cannot be used"),
        (regex(&"a".repeat(10_000)), "bytes at most"),
        (
            regex(&"(".repeat(8_000)),
            "the regular expression cannot be used",
        ),
        (schema("{"), "not JSON"),
        (schema("3"), "is an object, true or false"),
        (schema(&deep), "not JSON"),
        (schema("false"), "the JSON schema cannot be used"),
        (
            schema(r#"{"type": "nonsense"}"#),
            "the JSON schema cannot be used",
        ),
        (
            schema(r##"{"$ref": "#/$defs/none"}"##),
            "the JSON schema cannot be used",
        ),
        (
            schema(r#"{"$ref": "http://127.0.0.1/schema"}"#),
            "the JSON schema cannot be used",
        ),
        (
            schema(&format!("{{\"title\": \"{}\"}}", "x".repeat(70_000))),
            "bytes at most",
        ),
    ];
    for (form, message) in wrong {
        let Err(error) = model.vocabulary.compile(&form) else {
            panic!("the form was taken: {:.200}", format!("{form:?}"));
        };
        assert!(
            error.contains(message),
            "wanted {message:?}, found {error:?}"
        );
        assert!(!error.contains('\n') && error.len() < 700, "{error}");
    }
}

#[test]
fn a_huge_count_is_followed_step_by_step() {
    let model = small();
    let constraint = model.compile(&regex("((a{1000}){1000}){1000}"));
    assert_eq!(model.walk(constraint, 1, 200), None);
}
