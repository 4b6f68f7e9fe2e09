//! Files that open.

use std::io::Read;

use inkstone_composition::{
    ComposeRequest, Picture,
    article::{ArticleId, Illustration},
};
use zip::ZipArchive;

use super::*;

fn article() -> Article {
    let shown = |id: &str, media_type: &str| {
        let picture = Picture::uploaded(id, media_type);
        Illustration::new("a house".into(), vec![picture], 0, false)
    };
    let written = [
        ("A title".into(), None),
        ("One.".into(), shown("p", "image/png")),
        ("Two.".into(), shown("q", "image/jpeg")),
        ("Three.".into(), shown("p", "image/png")),
    ];
    let id = ArticleId("article".into());
    Article::new(id, ComposeRequest::of("Write."), written, vec![])
}

fn picture(id: &PictureId) -> Option<PictureData> {
    match id.as_str() {
        "p" => Some(("image/png".into(), Bytes::from_static(b"png bytes"))),
        "q" => Some(("image/jpeg".into(), Bytes::from_static(b"jpeg bytes"))),
        _ => None,
    }
}

#[test]
fn a_zip_has_the_texts_and_each_picture_once() {
    let file = export(&article(), picture, ExportFormat::Zip).unwrap();
    assert_eq!(
        (file.media_type, file.name.as_str()),
        ("application/zip", "article.zip")
    );
    let mut zip = ZipArchive::new(Cursor::new(file.data)).unwrap();
    let names: Vec<_> = zip
        .file_names()
        .map(|name| name.unwrap().into_owned())
        .collect();
    let wanted = [
        "article.md",
        "article.json",
        "pictures/1.png",
        "pictures/2.jpg",
    ];
    assert_eq!(names, wanted);
    let mut read = |name: &str| {
        let mut data = vec![];
        zip.by_name(name).unwrap().read_to_end(&mut data).unwrap();
        data
    };
    assert_eq!(read("pictures/2.jpg"), b"jpeg bytes");
    let markdown = String::from_utf8(read("article.md")).unwrap();
    assert!(markdown.contains("](pictures/1.png)"), "{markdown}");
    let json: serde_json::Value = serde_json::from_slice(&read("article.json")).unwrap();
    assert_eq!(json["segments"][2]["picture"]["file"], "pictures/2.jpg");
}

#[test]
fn a_page_has_its_pictures_in_it() {
    let file = export(&article(), picture, ExportFormat::Html).unwrap();
    let page = String::from_utf8(file.data.to_vec()).unwrap();
    assert!(
        page.contains("src=\"data:image/png;base64,cG5nIGJ5dGVz\""),
        "{page}"
    );
    assert!(!page.contains("src=\"pictures/"));
}
