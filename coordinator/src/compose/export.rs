//! An article as a file. Takes as long as its pictures are large, so not for an async thread.

use std::io::{Cursor, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use inkstone_composition::{
    PictureId,
    article::Article,
    export::{Export, PictureFile},
};
use zip::{CompressionMethod, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::{ExportFile, ExportFormat};

/// A picture's media type and bytes.
pub(super) type PictureData = (String, Bytes);

/// Writes the file. `picture` has what the article shows.
pub(super) fn export(
    article: &Article,
    picture: impl Fn(&PictureId) -> Option<PictureData>,
    format: ExportFormat,
) -> Result<ExportFile, ZipError> {
    let export = Export::new(article);
    let (media_type, extension, data) = match format {
        ExportFormat::Zip => ("application/zip", "zip", zip(&export, picture)?),
        ExportFormat::Html => {
            let page = export.html(|file| inline(file, &picture));
            ("text/html; charset=utf-8", "html", page.into_bytes())
        }
        ExportFormat::Json => ("application/json", "json", json(&export)),
        ExportFormat::Markdown => {
            let text = export.markdown().into_bytes();
            ("text/markdown; charset=utf-8", "md", text)
        }
    };
    Ok(ExportFile {
        media_type,
        name: format!("article.{extension}"),
        data: data.into(),
    })
}

fn json(export: &Export<'_>) -> Vec<u8> {
    let mut json = format!("{:#}", export.json());
    json.push('\n');
    json.into_bytes()
}

/// `article.md`, `article.json` and the pictures where the Markdown names them. Nothing is packed: pictures cannot be, and texts are
/// short.
fn zip(
    export: &Export<'_>,
    picture: impl Fn(&PictureId) -> Option<PictureData>,
) -> Result<Vec<u8>, ZipError> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let mut add = |name: &str, data: &[u8]| -> Result<(), ZipError> {
        zip.start_file(name, options)?;
        Ok(zip.write_all(data)?)
    };
    add("article.md", export.markdown().as_bytes())?;
    add("article.json", &json(export))?;
    for PictureFile { picture: id, path } in export.files() {
        if let Some((_, data)) = picture(id) {
            add(path, &data)?;
        }
    }
    Ok(zip.finish()?.into_inner())
}

/// A picture as an address that has it within.
fn inline(file: &PictureFile, picture: impl Fn(&PictureId) -> Option<PictureData>) -> String {
    match picture(&file.picture) {
        Some((media_type, data)) => {
            format!("data:{media_type};base64,{}", STANDARD.encode(data))
        }
        None => file.path.clone(),
    }
}

#[cfg(test)]
mod tests;
