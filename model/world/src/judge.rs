//! Whether an answer is right: word for word, or, where a request can be followed in many words, whether it is followed.

use crate::{
    language::{Code, Language, languages},
    scene::{Colour, Shape, Size},
};

/// The wanted text, spaces around it aside.
pub(crate) fn is_same(wanted: &str, given: &str) -> bool {
    wanted.trim() == given.trim()
}

/// As many paragraphs as wanted, each with the things that it should show, in the wanted language. Where nothing is to be
/// shown, nothing but the words tells whether the request was followed.
pub(crate) fn follows(wanted: &str, given: &str) -> bool {
    if things(wanted).is_empty() {
        return is_same(wanted, given);
    }
    let wanted: Vec<&str> = wanted.trim().split('\n').collect();
    let given: Vec<&str> = given.trim().split('\n').collect();
    let is_chinese = |text: &[&str]| {
        let mut characters = text.iter().flat_map(|line| line.chars());
        characters.any(|character| ('\u{4e00}'..='\u{9fff}').contains(&character))
    };
    wanted.len() == given.len()
        && is_chinese(&wanted) == is_chinese(&given)
        && wanted
            .iter()
            .zip(&given)
            .all(|(wanted, given)| !given.trim().is_empty() && things(wanted) == things(given))
}

/// The things that a text brings up, language by language.
pub(crate) fn things(text: &str) -> Vec<&str> {
    let named = languages().iter().map(|language| {
        let starts = text.char_indices().map(|(start, _)| &text[start..]);
        starts.filter_map(|rest| thing_at_start(language, rest))
    });
    named.flatten().collect()
}

/// `a large red circle`, where a text starts with one.
fn thing_at_start<'a>(language: &Language, text: &'a str) -> Option<&'a str> {
    let rest = match language.code {
        Code::En => text.strip_prefix("a ").or(text.strip_prefix("an "))?,
        Code::Zh => text.strip_prefix("一个")?,
    };
    let sizes = Size::ALL.iter().map(|size| &*language.texts.sizes[size]);
    let rest = without_any(rest, sizes, language).unwrap_or(rest);
    let colours = Colour::ALL.iter().map(|colour| language.colour(*colour));
    let rest = without_any(rest, colours, language)?;
    let end = match language.code {
        // Any word: one that is no shape is a wrong thing.
        Code::En => rest
            .find(|c: char| !c.is_alphanumeric())
            .unwrap_or(rest.len()),
        Code::Zh => {
            let mut shapes = Shape::ALL.iter().map(|shape| language.shape(*shape));
            shapes.find(|shape| rest.starts_with(shape))?.len()
        }
    };
    (end > 0).then(|| &text[..text.len() - rest.len() + end])
}

/// The text after one of some words.
fn without_any<'a, 'w>(
    text: &'a str,
    mut words: impl Iterator<Item = &'w str>,
    language: &Language,
) -> Option<&'a str> {
    words.find_map(|word| text.strip_prefix(word)?.strip_prefix(language.bar()))
}

#[cfg(test)]
mod tests;
