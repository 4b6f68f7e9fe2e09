//! JSON for other programs. What it has of an article is fixed by `format`; the candidates that were not chosen stay behind.

use serde_json::{Value, json};

use super::Export;
use crate::article::Illustration;

/// Rises when a field changes its meaning or goes.
const FORMAT: u32 = 1;

pub(super) fn write(export: &Export<'_>) -> Value {
    let segments = export.segments().iter().map(|segment| {
        let picture = segment.illustration.as_ref();
        json!({
            "text": segment.text,
            "picture": picture.map(|picture| illustration(export, picture)),
        })
    });
    json!({
        "format": FORMAT,
        "id": export.article.id(),
        "revision": export.article.revision(),
        "title": export.title(),
        "request": export.article.request(),
        "segments": segments.collect::<Vec<_>>(),
    })
}

fn illustration(export: &Export<'_>, illustration: &Illustration) -> Value {
    let picture = illustration.picture();
    json!({
        "file": export.file(illustration).map(|file| &file.path),
        "id": picture.id,
        "media_type": picture.media_type,
        "caption": illustration.caption(),
        "author": picture.author,
        "source": picture.source,
        "licence": picture.licence,
    })
}
