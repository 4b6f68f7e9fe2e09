//! A page of HTML that needs nothing but its pictures.

use super::{Export, PictureFile, is_link};
use crate::article::Illustration;

const STYLE: &str = "\
body{max-width:42rem;margin:2rem auto;padding:0 1rem;font:1.05rem/1.7 Georgia,'Noto Serif SC',serif;color:#222;background:#fff}\
h1{line-height:1.3}\
figure{margin:1.5rem 0;text-align:center}\
figure img{max-width:100%;height:auto}\
figcaption{font-size:.85rem;color:#555}";

pub(super) fn write(export: &Export<'_>, source: &dyn Fn(&PictureFile) -> String) -> String {
    let language = if export.is_chinese() { "zh" } else { "en" };
    let title = escaped(export.title().unwrap_or("Article"));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"{language}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<article>\n"
    );
    for segment in export.segments() {
        let text = escaped(&segment.text);
        page.push_str(&match export.is_title(segment) {
            true => format!("<h1>{text}</h1>\n"),
            false => format!("<p>{text}</p>\n"),
        });
        if let Some(illustration) = &segment.illustration
            && let Some(file) = export.file(illustration)
        {
            page.push_str(&figure(illustration, &source(file)));
        }
    }
    page.push_str("</article>\n</body>\n</html>\n");
    page
}

fn figure(illustration: &Illustration, source: &str) -> String {
    let caption = escaped(illustration.caption());
    let source = escaped(source);
    let credits = credits(illustration).join(" · ");
    let credits = match credits.is_empty() {
        true => credits,
        false => format!("\n<figcaption>{credits}</figcaption>"),
    };
    format!("<figure>\n<img src=\"{source}\" alt=\"{caption}\">{credits}\n</figure>\n")
}

/// Caption, author, source and licence.
fn credits(illustration: &Illustration) -> Vec<String> {
    let picture = illustration.picture();
    let caption = Some(illustration.caption()).filter(|caption| !caption.is_empty());
    let source = picture.source.as_deref().map(|source| {
        let text = escaped(source);
        match is_link(source) {
            true => format!("<a href=\"{text}\" rel=\"noopener noreferrer\">{text}</a>"),
            false => text,
        }
    });
    let credits = [
        caption.map(escaped),
        picture.author.as_deref().map(escaped),
        source,
        picture.licence.as_deref().map(escaped),
    ];
    credits.into_iter().flatten().collect()
}

/// A text that is neither markup nor the end of an attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // No character of a page.
            '\0' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
