//! The library as its callers see it.

mod cut;
mod folder;
mod hostile;
mod importing;
mod killed;
mod s3;
mod s3_server;
mod search;
mod words;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use image::{ImageFormat, Rgb, RgbImage};

use super::import::{Candidate, CaptionError, Captioner, ImportReport, ImportSettings, Importer};
use super::{Details, Entry, Library, LibraryOptions, Record};
use crate::source::Search;

/// A small picture; each number gives another.
fn picture(number: u32) -> Bytes {
    encoded(number, ImageFormat::Png)
}

fn encoded(number: u32, format: ImageFormat) -> Bytes {
    let [red, green, blue, _] = number.to_le_bytes();
    let picture = RgbImage::from_fn(9, 7, |x, y| {
        if (x + y) % 2 == 0 {
            Rgb([red, green, blue])
        } else {
            Rgb([255, 255, 255])
        }
    });
    let mut data = Cursor::new(Vec::new());
    picture
        .write_to(&mut data, format)
        .expect("a picture is encoded");
    data.into_inner().into()
}

fn entry(number: u32, caption: &str) -> Entry {
    Entry {
        data: picture(number),
        details: Details {
            caption: caption.to_owned(),
            ..Details::default()
        },
    }
}

fn tagged(number: u32, caption: &str, tags: &[&str]) -> Entry {
    let mut entry = entry(number, caption);
    entry.details.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    entry
}

async fn library(entries: Vec<Entry>) -> Library {
    Library::in_memory("test", entries)
        .await
        .expect("a library")
}

fn wanted(caption: &str, max_pictures: usize) -> Search {
    Search {
        caption: caption.to_owned(),
        exclude: Vec::new(),
        max_pictures,
    }
}

/// The captions of what is found, best first.
async fn captions(library: &Library, caption: &str) -> Vec<String> {
    let hits = library.find(&wanted(caption, 10)).await.expect("a search");
    hits.into_iter()
        .map(|hit| hit.record.details.caption)
        .collect()
}

fn making() -> LibraryOptions {
    LibraryOptions {
        create: true,
        ..LibraryOptions::default()
    }
}

async fn at(folder: &Path) -> Library {
    Library::open(
        folder.to_str().expect("a path of plain characters"),
        making(),
    )
    .await
    .expect("a library")
}

/// Everything in a library, by its index.
async fn contents(library: &Library) -> BTreeMap<String, Record> {
    let visited = library.0.blocking(|index| {
        let mut records = BTreeMap::new();
        let mut visits = 0;
        index.for_each(|record| {
            visits += 1;
            records.insert(record.index.clone(), record.clone());
        })?;
        assert_eq!(visits, records.len(), "a picture is in the index twice");
        Ok(records)
    });
    visited.await.expect("the records")
}

/// Says something else of each picture, and keeps count.
#[derive(Default)]
struct Namer {
    asked: Mutex<Vec<String>>,
}

impl Namer {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic while counting").clone()
    }
}

#[async_trait]
impl Captioner for Namer {
    async fn caption(&self, picture: &Candidate) -> Result<String, CaptionError> {
        let name = picture.path.to_string_lossy().into_owned();
        self.asked
            .lock()
            .expect("no panic while counting")
            .push(name.clone());
        Ok(format!("caption of {name}"))
    }
}

async fn import(library: &Library, folder: &Path) -> ImportReport {
    let importer = Importer::new(library.clone(), None, ImportSettings::default());
    importer.import(folder, |_| {}).await.expect("an import")
}
