//! From a form to a grammar, within limits.

use llguidance::{
    JsonCompileOptions,
    api::{ParserLimits, TopLevelGrammar},
};
use serde_json::Value;

use super::ConstraintForm;

/// Most bytes of a schema.
const MAX_SCHEMA_BYTES: usize = 1 << 16;
/// Most bytes of a regular expression.
const MAX_REGEX_BYTES: usize = 1 << 13;
/// Most strings to choose from, and most bytes of all of them.
const MAX_CHOICES: usize = 1024;
const MAX_CHOICE_BYTES: usize = 1 << 16;

/// White space between the parts of JSON: enough for a deeply indented line, and an end to it, so that an answer cannot be all
/// space.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,48}";

/// What compiling a grammar and following it may take: some tens of milliseconds and megabytes at worst.
pub(super) fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_items_in_row: 2_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// The grammar of a form.
pub(super) fn grammar(form: &ConstraintForm) -> Result<TopLevelGrammar, String> {
    match form {
        ConstraintForm::Choices(choices) => Ok(TopLevelGrammar::from_regex(&one_of(choices)?)),
        ConstraintForm::Regex(regex) => {
            check_bytes("regular expression", regex.len(), MAX_REGEX_BYTES)?;
            // The library drops a backslash at the end.
            if !num_trailing_backslashes(regex).is_multiple_of(2) {
                return Err("it ends with a backslash that nothing follows".into());
            }
            Ok(TopLevelGrammar::from_regex(without_anchors(regex)))
        }
        ConstraintForm::JsonSchema(schema) => {
            check_bytes("JSON schema", schema.len(), MAX_SCHEMA_BYTES)?;
            let schema = read_schema(schema)?;
            Ok(TopLevelGrammar::from_json_schema(schema))
        }
    }
}

/// A regular expression that matches each of the strings and nothing else.
fn one_of(choices: &[String]) -> Result<String, String> {
    if choices.is_empty() || choices.iter().any(String::is_empty) {
        return Err("at least one choice is wanted, and none empty".into());
    }
    if choices.len() > MAX_CHOICES {
        return Err(format!(
            "at most {MAX_CHOICES} choices can be given, found {}",
            choices.len()
        ));
    }
    let num_bytes = choices.iter().map(String::len).sum();
    check_bytes("list of choices", num_bytes, MAX_CHOICE_BYTES)?;
    let choices: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
    Ok(format!("({})", choices.join("|")))
}

/// The text as a regular expression. Whatever could mean something there is written by its number.
fn literal(text: &str) -> String {
    let mut regex = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        match c.is_alphanumeric() {
            true => regex.push(c),
            false => regex.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    regex
}

/// Anchors at both ends say what holds anyhow, and the library does not know them.
fn without_anchors(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        Some(rest) if num_trailing_backslashes(rest).is_multiple_of(2) => rest,
        _ => regex,
    }
}

fn num_trailing_backslashes(text: &str) -> usize {
    text.len() - text.trim_end_matches('\\').len()
}

fn read_schema(schema: &str) -> Result<Value, String> {
    let mut schema: Value =
        serde_json::from_str(schema).map_err(|error| format!("not JSON: {error}"))?;
    match &schema {
        Value::Object(_) => {
            let options = JsonCompileOptions {
                whitespace_pattern: Some(JSON_SPACE.into()),
                ..JsonCompileOptions::default()
            };
            // In place of options of the library that the schema itself may bring.
            options.apply_to(&mut schema);
            Ok(schema)
        }
        Value::Bool(_) => Ok(schema),
        _ => Err("a JSON schema is an object, true or false".into()),
    }
}

fn check_bytes(name: &str, found: usize, most: usize) -> Result<(), String> {
    match found <= most {
        true => Ok(()),
        false => Err(format!(
            "a {name} may have {most} bytes at most, found {found}"
        )),
    }
}
