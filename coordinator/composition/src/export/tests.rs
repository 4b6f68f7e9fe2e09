//! Exports: what is in them, and that no text becomes markup.

use proptest::prelude::*;

use super::*;
use crate::{
    ComposeRequest,
    article::{Article, ArticleId},
    tests::{found, upload},
};

fn article(written: Vec<(&str, Option<Illustration>)>) -> Article {
    let written = written
        .into_iter()
        .map(|(text, picture)| (text.to_owned(), picture));
    Article::new(
        ArticleId("id".into()),
        ComposeRequest::of("Write."),
        written,
        vec![],
    )
}

fn shown(caption: &str, picture: Picture) -> Option<Illustration> {
    Illustration::new(caption.into(), vec![upload("not shown"), picture], 1, false)
}

fn illustrated() -> Article {
    article(vec![
        ("A title", None),
        ("first", shown("a red circle", found("x"))),
        ("second", shown("", upload("y"))),
        ("third", shown("again", found("x"))),
    ])
}

fn path(file: &PictureFile) -> String {
    file.path.clone()
}

#[test]
fn shown_pictures_have_a_file_each() {
    let article = illustrated();
    let export = Export::new(&article);
    let files: Vec<(&str, &str)> = export
        .files()
        .iter()
        .map(|file| (file.picture.as_str(), file.path.as_str()))
        .collect();
    assert_eq!(files, [("x", "pictures/1.jpg"), ("y", "pictures/2.png")]);
}

#[test]
fn markdown_has_captions_licences_and_sources() {
    // In the demo's, an image is not quoted and runs into the next paragraph.
    let credits = "Lin · <https://pictures.example/x> · CC BY 4.0";
    let wanted = format!(
        "# A title\n\nfirst\n\n![a red circle](pictures/1.jpg)\n\n*a red circle* · {credits}\n\n\
         second\n\n![](pictures/2.png)\n\nthird\n\n![again](pictures/1.jpg)\n\n*again* · {credits}\n"
    );
    assert_eq!(Export::new(&illustrated()).markdown(), wanted);
}

#[test]
fn html_has_captions_licences_and_sources() {
    let page = Export::new(&illustrated()).html(path);
    for wanted in [
        "<html lang=\"en\">",
        "<title>A title</title>",
        "<h1>A title</h1>\n<p>first</p>\n<figure>\n<img src=\"pictures/1.jpg\" alt=\"a red circle\">\n\
         <figcaption>a red circle · Lin · <a href=\"https://pictures.example/x\" rel=\"noopener noreferrer\">\
         https://pictures.example/x</a> · CC BY 4.0</figcaption>\n</figure>",
        "<figure>\n<img src=\"pictures/2.png\" alt=\"\">\n</figure>",
    ] {
        assert!(page.contains(wanted), "{wanted}\n{page}");
    }
    let within = Export::new(&illustrated()).html(|file| format!("data:{}\"", file.picture));
    assert!(within.contains("src=\"data:x&quot;\""));
    let chinese = article(vec![("题", None), ("水墨画", None)]);
    assert!(
        Export::new(&chinese)
            .html(path)
            .contains("<html lang=\"zh\">")
    );
}

#[test]
fn json_has_what_other_programs_want() {
    let json = Export::new(&illustrated()).json();
    assert_eq!(json["format"], 1);
    assert_eq!(json["title"], "A title");
    assert_eq!(json["request"]["instruction"], "Write.");
    assert_eq!(json["segments"][0]["picture"], serde_json::Value::Null);
    let picture = &json["segments"][1]["picture"];
    assert_eq!(picture["file"], "pictures/1.jpg");
    assert_eq!(picture["caption"], "a red circle");
    assert_eq!(picture["licence"], "CC BY 4.0");
    assert_eq!(picture["source"], "https://pictures.example/x");
    assert_eq!(picture["author"], "Lin");
}

#[test]
fn a_single_or_long_first_segment_is_no_title() {
    let title = |written| Export::new(&article(written)).title().map(str::to_owned);
    assert_eq!(title(vec![("only", None)]), None);
    let long = "x".repeat(121);
    assert_eq!(title(vec![(long.as_str(), None), ("more", None)]), None);
    assert_eq!(title(vec![("T", None), ("more", None)]), Some("T".into()));
    assert_eq!(title(vec![]), None);
    let plain = article(vec![("only", None)]);
    assert_eq!(Export::new(&plain).markdown(), "only\n");
}

#[test]
fn texts_are_no_markup() {
    let hostile = article(vec![
        ("# <b>T</b> #", None),
        (
            "1. <script>alert(\"1\")</script> & *x* [a](b) ![c](d)",
            shown("\"><x ]( `", upload("y")),
        ),
        ("- a", None),
        ("12) b", None),
        ("===", None),
    ]);
    let markdown = Export::new(&hostile).markdown();
    assert_eq!(
        markdown,
        "# \\# \\<b\\>T\\</b\\> \\#\n\n\
         1\\. \\<script\\>alert(\"1\")\\</script\\> \\& \\*x\\* \\[a\\](b) \\!\\[c\\](d)\n\n\
         ![\"\\>\\<x \\]( \\`](pictures/1.png)\n\n*\"\\>\\<x \\]( \\`*\n\n\\- a\n\n12\\) b\n\n\\===\n"
    );
    let page = Export::new(&hostile).html(path);
    assert!(!page.contains("<script") && !page.contains("<x"));
    assert!(page.contains("alt=\"&quot;&gt;&lt;x ]( `\""));
}

#[test]
fn addresses_are_links_only_on_the_web() {
    for source in [
        "javascript:alert(1)",
        "http",
        "file:///etc/passwd",
        "https://a b",
        "https://a\"b",
    ] {
        assert!(!is_link(source), "{source}");
        let picture = Picture {
            source: Some(source.into()),
            ..upload("x")
        };
        let article = article(vec![("a", shown("c", picture))]);
        let export = Export::new(&article);
        assert!(!export.html(path).contains("href"), "{source}");
        assert!(!export.markdown().contains("<"), "{source}");
    }
    assert!(is_link("HTTPS://pictures.example/a?b=c&d#e"));
}

/// What a text is once markup is taken away again.
fn unescaped_html(text: &str) -> String {
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (name, plain)| {
        text.replace(name, plain)
    })
}

proptest! {
    #[test]
    fn any_text_reads_as_it_is(text in "(\\PC|[<>&\"'*_#.)!-]|1){0,12}") {
        let html = html::escaped(&text);
        prop_assert!(!html.contains(['<', '>', '"', '\'']));
        prop_assert_eq!(unescaped_html(&html), text.replace('\0', "\u{fffd}"));
        let markdown = markdown::escaped(&text);
        let mut plain = String::new();
        let mut chars = markdown.chars();
        while let Some(c) = chars.next() {
            // A backslash always stands before what it escapes.
            plain.push(if c == '\\' { chars.next().unwrap() } else { c });
        }
        prop_assert_eq!(plain, text);
        prop_assert!(!markdown.starts_with(['-', '+', '#', '>', '=']));
    }
}
