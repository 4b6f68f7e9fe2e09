//! How an article leaves: as Markdown, as a page of HTML, as JSON, each with captions, licences and sources. All texts are
//! written so that they read as they are, whatever characters are in them. The pictures' files lie beside, named here;
//! reading and packing them is for others.

mod html;
mod json;
mod markdown;

use crate::{
    Picture, PictureId,
    article::{Article, Illustration, Segment},
};

/// Most characters of a first segment that is taken for a title.
const MAX_TITLE_CHARS: usize = 120;

/// A file that belongs to an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureFile {
    pub picture: PictureId,
    /// Relative to the text, such as `pictures/1.png`.
    pub path: String,
}

/// An article about to leave.
#[derive(Debug, Clone)]
pub struct Export<'a> {
    article: &'a Article,
    files: Vec<PictureFile>,
}

impl<'a> Export<'a> {
    pub fn new(article: &'a Article) -> Self {
        let mut files: Vec<PictureFile> = vec![];
        let illustrations = article.segments().iter();
        for illustration in illustrations.filter_map(|segment| segment.illustration.as_ref()) {
            let Picture { id, media_type, .. } = illustration.picture();
            if files.iter().all(|file| file.picture != *id) {
                let number = files.len() + 1;
                files.push(PictureFile {
                    picture: id.clone(),
                    path: format!("pictures/{number}.{}", extension(media_type)),
                });
            }
        }
        Self { article, files }
    }

    /// The shown pictures, each once, in reading order.
    pub fn files(&self) -> &[PictureFile] {
        &self.files
    }

    /// The first segment, where it looks like a title and something follows it.
    pub fn title(&self) -> Option<&'a str> {
        match self.article.segments() {
            [first, _, ..] if first.text.chars().count() <= MAX_TITLE_CHARS => Some(&first.text),
            _ => None,
        }
    }

    pub fn markdown(&self) -> String {
        markdown::write(self)
    }

    /// `source` says what a file is referred to by: its path, or a `data:` address that has it within the page.
    pub fn html(&self, source: impl Fn(&PictureFile) -> String) -> String {
        html::write(self, &source)
    }

    pub fn json(&self) -> serde_json::Value {
        json::write(self)
    }

    fn segments(&self) -> &'a [Segment] {
        self.article.segments()
    }

    fn file(&self, illustration: &Illustration) -> Option<&PictureFile> {
        let id = &illustration.picture().id;
        self.files.iter().find(|file| file.picture == *id)
    }

    fn is_title(&self, segment: &Segment) -> bool {
        self.title().is_some() && self.segments().first().map(|first| first.id) == Some(segment.id)
    }

    fn is_chinese(&self) -> bool {
        let mut chars = self
            .segments()
            .iter()
            .flat_map(|segment| segment.text.chars());
        chars.any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
    }
}

fn extension(media_type: &str) -> &'static str {
    match media_type {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/webp" => "webp",
        "image/gif" => "gif",
        "image/bmp" => "bmp",
        _ => "bin",
    }
}

/// An address that may become a link: of the web, in characters that end no markup.
fn is_link(source: &str) -> bool {
    let is_web = ["https://", "http://"].iter().any(|scheme| {
        let start = source.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let is_plain = |c: char| {
        !c.is_whitespace() && !c.is_control() && !matches!(c, '<' | '>' | '"' | '\'' | '\\' | '`')
    };
    is_web && source.chars().all(is_plain)
}

#[cfg(test)]
mod tests;
