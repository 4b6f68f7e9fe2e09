//! The pictures that articles of the model that is built in are illustrated with: drawn when a cluster with it starts, found by what
//! they show in English and Chinese.

use inkstone_pictures::library::{Details, Entry, Library};
use inkstone_world::{Illustration, draw_illustrations};
use tokio::task::spawn_blocking;

const NAME: &str = "drawings";
/// Which ones are drawn.
const SEED: u64 = 8909;

/// A library of drawings in memory.
pub(crate) async fn default_library() -> anyhow::Result<Library> {
    let entries: Vec<Entry> =
        spawn_blocking(|| draw_illustrations(SEED).map(entry).collect()).await?;
    Ok(Library::in_memory(NAME, entries).await?)
}

fn entry(drawn: Illustration) -> Entry {
    Entry {
        data: drawn.picture.into(),
        details: Details {
            caption: drawn.english,
            tags: vec![drawn.chinese],
            source: Some("drawn by inkstone".to_owned()),
            author: None,
            licence: Some("Apache-2.0".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use inkstone_pictures::library::Hit;
    use inkstone_pictures::{PictureSource, Search};

    use super::*;

    fn search(caption: &str, max_pictures: usize) -> Search {
        Search {
            caption: caption.to_owned(),
            exclude: vec![],
            max_pictures,
        }
    }

    async fn captions(library: &Library, caption: &str) -> Vec<String> {
        let found = library.find(&search(caption, 3)).await.unwrap();
        let captions = found
            .into_iter()
            .map(|Hit { record, .. }| record.details.caption);
        captions.collect()
    }

    #[tokio::test]
    async fn every_drawing_has_a_caption_and_a_digest_of_its_own() {
        let drawn: Vec<Entry> = draw_illustrations(SEED).map(entry).collect();
        assert!(drawn.iter().all(|entry| !entry.details.caption.is_empty()));
        let library = default_library().await.unwrap();
        let summary = library.summary().await.unwrap();
        assert_eq!(summary.pictures, drawn.len() as u64);
        assert_eq!(summary.without_caption, 0);
        let records = library.add(drawn).await.unwrap();
        let digests: BTreeSet<String> = records.into_iter().map(|record| record.index).collect();
        assert_eq!(digests.len(), summary.pictures as usize);
    }

    #[tokio::test]
    async fn drawings_are_found_by_what_they_show_in_both_languages() {
        let library = default_library().await.unwrap();
        for caption in ["a red circle", "一个红色圆形"] {
            let found = captions(&library, caption).await;
            assert_eq!(found.len(), 3, "{caption}");
            assert!(
                found.iter().all(|found| found.ends_with(" red circle")),
                "{caption}: {found:?}"
            );
        }
        for caption in ["a large blue square", "一个大的蓝色正方形"] {
            let found = captions(&library, caption).await;
            assert_eq!(found[0], "a large blue square", "{caption}: {found:?}");
        }
        let found = library.search(&search("a red circle", 1)).await.unwrap();
        assert_eq!(found[0].media_type, "image/png");
        assert_eq!(found[0].licence.as_deref(), Some("Apache-2.0"));
    }
}
