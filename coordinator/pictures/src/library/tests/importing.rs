//! What is taken in from a folder, and what is passed over and why.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::Refusal;
use super::super::import::{FileOutcome, ImportError, ImportEvent, SkipReason};
use super::*;

fn write(folder: &Path, name: &str, data: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    std::fs::write(path, data).expect("written");
}

async fn details_of(library: &Library, number: u32) -> Details {
    let index = super::super::picture::digest(&picture(number));
    library
        .record(&index)
        .await
        .expect("an answer")
        .expect("a record")
        .details
}

#[tokio::test]
async fn sidecars_of_all_kinds() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for number in 0..6 {
        write(root, &format!("set/{number}.png"), picture(number));
    }
    write(
        root,
        "set/metadata.jsonl",
        concat!(
            r#"{"file_name": "0.png", "text": "a red apple", "tags": ["fruit", " red "], "license": "CC0", "author": "Ada"}"#,
            "\n\n",
            r#"{"file_name": "./1.png", "caption": "listed", "tags": "a dog,  beach，沙滩", "source": "https://example.org/1"}"#,
            "\n",
            r#"{"file_name": "not-there.png", "caption": "nothing"}"#,
            "\n",
        ),
    );
    write(
        root,
        "metadata.jsonl",
        r#"{"file_name": "set/2.png", "caption": "from outside", "author": "Bo"}"#,
    );
    write(
        root,
        "set/1.txt",
        "\u{feff}from the\ttext\r\n file \u{1b}[31m\n",
    );
    write(
        root,
        "set/2.json",
        r#"{"caption": "from json", "licence": "CC BY", "unknown": {"deep": [1]}}"#,
    );
    write(root, "set/3.png.txt", "三只猫");
    write(root, "set/readme.txt", "belongs to nothing");
    let library = library(Vec::new()).await;
    let settings = ImportSettings {
        licence: Some("house".to_owned()),
        source: Some("archive".to_owned()),
        ..ImportSettings::default()
    };
    let mut events = Vec::new();
    let report = Importer::new(library.clone(), None, settings)
        .import(root, |event| events.push(event))
        .await
        .expect("an import");
    assert_eq!(
        (
            report.imported,
            report.without_caption,
            report.skipped_in_all
        ),
        (6, 2, 0),
        "{report:?}"
    );
    assert_eq!(events.first(), Some(&ImportEvent::Walked { files: 6 }));
    assert_eq!(events.last(), Some(&ImportEvent::Committed { imported: 6 }));
    let zero = details_of(&library, 0).await;
    assert_eq!(
        (
            zero.caption.as_str(),
            zero.licence.as_deref(),
            zero.author.as_deref()
        ),
        ("a red apple", Some("CC0"), Some("Ada"))
    );
    assert_eq!(
        (zero.tags, zero.source.as_deref()),
        (vec!["fruit".to_owned(), "red".to_owned()], Some("archive"))
    );
    let one = details_of(&library, 1).await;
    assert_eq!(
        (one.caption.as_str(), one.source.as_deref()),
        ("from the text file [31m", Some("https://example.org/1"))
    );
    assert_eq!(one.tags, ["a dog", "beach", "沙滩"]);
    let two = details_of(&library, 2).await;
    assert_eq!(
        (
            two.caption.as_str(),
            two.author.as_deref(),
            two.licence.as_deref()
        ),
        ("from json", Some("Bo"), Some("CC BY"))
    );
    assert_eq!(details_of(&library, 3).await.caption, "三只猫");
    assert_eq!(
        details_of(&library, 4).await.licence.as_deref(),
        Some("house")
    );
}

#[tokio::test]
async fn every_format_and_no_other_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let formats = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
    ];
    for (number, format) in (0_u32..).zip(formats) {
        // The name says nothing of the bytes.
        write(root, &format!("{number}.dat"), encoded(number, format));
    }
    write(root, "movie.png", b"no picture at all");
    write(root, "empty.jpg", b"");
    write(root, ".hidden.png", picture(50));
    write(root, ".git/object.png", picture(51));
    let library = library(Vec::new()).await;
    let report = import(&library, root).await;
    assert_eq!(
        (report.imported, report.skipped_in_all),
        (5, 2),
        "{report:?}"
    );
    let types: Vec<_> = library
        .summary()
        .await
        .expect("a summary")
        .by_media_type
        .into_keys()
        .collect();
    assert_eq!(
        types,
        [
            "image/bmp",
            "image/gif",
            "image/jpeg",
            "image/png",
            "image/webp"
        ]
    );
}

#[tokio::test]
async fn corrupt_and_huge_pictures_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let good = encoded(1, ImageFormat::Png);
    write(root, "a-good.png", &good);
    write(root, "b-cut.png", &good[..good.len() - 20]);
    write(root, "c-header-only.png", &good[..20]);
    let jpeg = encoded(2, ImageFormat::Jpeg);
    write(root, "d-cut.jpg", &jpeg[..jpeg.len() / 4]);
    // 100 000 x 100 000 pixels in a few bytes.
    let mut bomb = good.to_vec();
    bomb[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    write(root, "e-bomb.png", &bomb);
    let mut long = good.to_vec();
    long.resize(3000, 0);
    write(root, "f-long.png", &long);
    let options = LibraryOptions { ..making() };
    let place = folder.path().join("library");
    let limits = super::super::PictureLimits {
        bytes: 2000,
        pixels: 1_000_000,
    };
    let library = Library::open(
        place.to_str().expect("plain"),
        LibraryOptions { limits, ..options },
    )
    .await
    .expect("a library");
    let report = import(&library, root).await;
    assert_eq!(report.imported, 1, "{report:?}");
    let skipped: BTreeMap<_, _> = report
        .skipped
        .into_iter()
        .map(|(path, reason)| (path.display().to_string(), reason))
        .collect();
    assert_eq!(
        skipped.keys().collect::<Vec<_>>(),
        [
            "b-cut.png",
            "c-header-only.png",
            "d-cut.jpg",
            "e-bomb.png",
            "f-long.png"
        ]
    );
    assert!(
        matches!(
            skipped["b-cut.png"],
            SkipReason::Refused(Refusal::Undecodable { .. })
        ),
        "{skipped:?}"
    );
    assert!(
        matches!(
            skipped["c-header-only.png"],
            SkipReason::Refused(Refusal::Header(_))
        ),
        "{skipped:?}"
    );
    assert!(
        skipped["e-bomb.png"]
            .to_string()
            .contains("100000 x 100000"),
        "{skipped:?}"
    );
    assert_eq!(
        skipped["f-long.png"],
        SkipReason::Refused(Refusal::TooManyBytes {
            bytes: 3000,
            limit: 2000
        })
    );
}

#[tokio::test]
async fn a_second_import_does_nothing_and_a_twin_is_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for (name, number) in [("a.png", 1), ("copy of a.png", 1), ("b.png", 2)] {
        write(root, name, picture(number));
    }
    let library = library(Vec::new()).await;
    let namer = Arc::new(Namer::default());
    let importer = Importer::new(
        library.clone(),
        Some(namer.clone()),
        ImportSettings::default(),
    );
    let first = importer.import(root, |_| {}).await.expect("an import");
    assert_eq!(
        (first.imported, first.captions_made, first.known),
        (2, 2, 1)
    );
    assert_eq!(namer.asked(), ["a.png", "b.png"]);
    assert_eq!(
        captions(&library, "caption b png").await[0],
        "caption of b.png"
    );
    let second = importer.import(root, |_| {}).await.expect("an import");
    assert_eq!(
        second,
        ImportReport {
            known: 3,
            ..ImportReport::default()
        }
    );
    assert_eq!(namer.asked().len(), 2, "captions are not made twice");
}

#[tokio::test]
async fn a_missing_caption_is_made_later() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "a.png", picture(1));
    write(folder.path(), "a.json", r#"{"author": "Ada"}"#);
    let library = library(Vec::new()).await;
    assert_eq!(import(&library, folder.path()).await.without_caption, 1);
    assert_eq!(import(&library, folder.path()).await.known, 1);
    std::fs::remove_file(folder.path().join("a.json")).expect("removed");
    let importer = Importer::new(
        library.clone(),
        Some(Arc::new(Namer::default())),
        ImportSettings::default(),
    );
    assert_eq!(
        importer
            .import(folder.path(), |_| {})
            .await
            .expect("an import")
            .captions_made,
        1
    );
    let details = details_of(&library, 1).await;
    assert_eq!(
        (details.caption.as_str(), details.author.as_deref()),
        ("caption of a.png", Some("Ada")),
        "what was known stays"
    );
}

/// Refuses one, answers nothing for another, and is away from the third on.
struct Moody;

#[async_trait]
impl Captioner for Moody {
    async fn caption(&self, picture: &Candidate) -> Result<String, CaptionError> {
        let reason = "for a reason".to_owned();
        match picture.path.to_str() {
            Some("1.png") => Err(CaptionError::Refused { reason }),
            Some("2.png") => Ok(" \n ".to_owned()),
            Some("4.png") => Err(CaptionError::Unavailable { reason }),
            _ => Ok(format!("line one\nline two of {}", picture.media_type)),
        }
    }
}

#[tokio::test]
async fn captioners_fail_one_by_one_or_for_good() {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..6 {
        write(folder.path(), &format!("{number}.png"), picture(number));
    }
    let library = library(Vec::new()).await;
    let importer = Importer::new(
        library.clone(),
        Some(Arc::new(Moody)),
        ImportSettings::default(),
    );
    let mut outcomes = Vec::new();
    let error = importer
        .import(folder.path(), |event| {
            if let ImportEvent::File { path, outcome } = event {
                outcomes.push((path, outcome));
            }
        })
        .await
        .expect_err("no captions");
    assert!(matches!(error, ImportError::Captions { .. }), "{error}");
    let skipped = |reason: &str| {
        FileOutcome::Skipped(SkipReason::NoCaption {
            reason: reason.to_owned(),
        })
    };
    assert_eq!(
        outcomes[1],
        (PathBuf::from("1.png"), skipped("for a reason"))
    );
    assert_eq!(
        outcomes[2],
        (
            PathBuf::from("2.png"),
            skipped("the caption that was made is empty")
        )
    );
    assert_eq!(
        contents(&library).await.len(),
        2,
        "what came before is kept"
    );
    assert_eq!(
        captions(&library, "line").await,
        ["line one line two of image/png"; 2]
    );
}

#[tokio::test]
async fn a_library_inside_the_folder_is_not_imported() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "a.png", picture(1));
    let library = at(&folder.path().join("library")).await;
    assert_eq!(import(&library, folder.path()).await.imported, 1);
    let again = import(&library, folder.path()).await;
    assert_eq!((again.known, again.skipped_in_all), (1, 0), "{again:?}");
    let gone = Importer::new(library, None, ImportSettings::default())
        .import(&folder.path().join("nowhere"), |_| {})
        .await;
    assert!(matches!(gone, Err(ImportError::Folder { .. })));
}

#[tokio::test]
async fn many_small_batches_make_one_index() {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..40 {
        write(folder.path(), &format!("{number}.png"), picture(number));
        write(
            folder.path(),
            &format!("{number}.txt"),
            format!("apple number {number}"),
        );
    }
    let place = tempfile::tempdir().expect("a folder");
    let library = at(place.path()).await;
    let settings = ImportSettings {
        batch: 3,
        ..ImportSettings::default()
    };
    let mut commits = Vec::new();
    let importer = Importer::new(library.clone(), None, settings);
    let report = importer.import(folder.path(), |event| {
        if let ImportEvent::Committed { imported } = event {
            commits.push(imported);
        }
    });
    assert_eq!(report.await.expect("an import").imported, 40);
    assert_eq!(
        commits,
        (1..=13)
            .map(|batch| batch * 3)
            .chain([40])
            .collect::<Vec<_>>()
    );
    assert_eq!(captions(&library, "apple").await.len(), 10);
    assert_eq!(captions(&library, "17").await, ["apple number 17"]);
    assert_eq!(
        contents(&at(place.path()).await).await,
        contents(&library).await
    );
}
