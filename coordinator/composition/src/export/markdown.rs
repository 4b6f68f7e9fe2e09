//! Markdown (CommonMark). Paragraphs stand apart by empty lines; every character that could be markup is escaped.

use super::{Export, is_link};
use crate::article::Illustration;

pub(super) fn write(export: &Export<'_>) -> String {
    let mut blocks = vec![];
    for segment in export.segments() {
        let text = escaped(&segment.text);
        blocks.push(if export.is_title(segment) {
            format!("# {text}")
        } else {
            text
        });
        if let Some(illustration) = &segment.illustration
            && let Some(file) = export.file(illustration)
        {
            let caption = escaped(illustration.caption());
            blocks.push(format!("![{caption}]({})", file.path));
            blocks.extend(credits(illustration));
        }
    }
    let mut text = blocks.join("\n\n");
    text.push('\n');
    text
}

/// Caption, author, source and licence on one line.
fn credits(illustration: &Illustration) -> Option<String> {
    let picture = illustration.picture();
    let caption = illustration.caption();
    let mut credits = vec![];
    if !caption.is_empty() {
        credits.push(format!("*{}*", escaped(caption)));
    }
    credits.extend(picture.author.as_deref().map(escaped));
    credits.extend(
        picture
            .source
            .as_deref()
            .map(|source| match is_link(source) {
                true => format!("<{source}>"),
                false => escaped(source),
            }),
    );
    credits.extend(picture.licence.as_deref().map(escaped));
    (!credits.is_empty()).then(|| credits.join(" · "))
}

/// A text on one line that reads as it is.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    // A number with a dot begins a list, where nothing is before it.
    let mut only_digits = true;
    for (at, c) in text.char_indices() {
        let begins_block = match c {
            '-' | '+' | '=' => at == 0,
            '.' | ')' => at > 0 && only_digits,
            _ => false,
        };
        only_digits &= c.is_ascii_digit();
        let is_markup = matches!(
            c,
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '&' | '#' | '~' | '|' | '$' | '!'
        );
        match c {
            '\n' | '\r' => escaped.push(' '),
            _ => {
                if begins_block || is_markup {
                    escaped.push('\\');
                }
                escaped.push(c);
            }
        }
    }
    escaped
}
