//! What is found, by words of either language.

use std::time::Duration;

use super::super::picture::digest;
use super::super::{IndexPlace, LibraryOptions};
use super::*;
use crate::source::{PictureSource, SourceError};

#[tokio::test]
async fn english_in_any_form_finds_the_picture() {
    let library = library(vec![
        entry(1, "a red apple on a wooden table"),
        entry(2, "two dogs running along a beach"),
        entry(3, "a blue car in the rain"),
    ])
    .await;
    assert_eq!(
        captions(&library, "a dog runs on the beach")
            .await
            .first()
            .map(String::as_str),
        Some("two dogs running along a beach")
    );
    assert_eq!(
        captions(&library, "apples").await,
        ["a red apple on a wooden table"]
    );
    assert_eq!(
        captions(&library, "Rainy: CARS!").await,
        ["a blue car in the rain"]
    );
    assert!(captions(&library, "a submarine").await.is_empty());
    assert!(captions(&library, "a picture of the").await.is_empty());
}

#[tokio::test]
async fn chinese_in_any_form_finds_the_picture() {
    let library = library(vec![
        entry(1, "桌子上放着一个红苹果"),
        entry(2, "一只小狗在沙滩上奔跑"),
        entry(3, "考试结果贴在墙上"),
        entry(4, "雨中的蓝色汽车"),
    ])
    .await;
    assert_eq!(
        captions(&library, "苹果").await,
        ["桌子上放着一个红苹果"],
        "a shared character is no shared word"
    );
    assert_eq!(
        captions(&library, "沙滩上有一条狗").await,
        ["一只小狗在沙滩上奔跑"]
    );
    assert_eq!(
        captions(&library, "狗").await,
        ["一只小狗在沙滩上奔跑"],
        "one character finds the word that it is part of"
    );
    assert_eq!(
        captions(&library, "一辆蓝色的汽车")
            .await
            .first()
            .map(String::as_str),
        Some("雨中的蓝色汽车")
    );
}

#[tokio::test]
async fn the_one_that_shares_more_comes_first_and_tags_count() {
    let library = library(vec![
        entry(1, "a cat"),
        entry(2, "a black cat sleeping on a red sofa"),
        tagged(3, "", &["sofa", "furniture", "沙发"]),
        entry(4, "a dog"),
    ])
    .await;
    let hits = library
        .find(&wanted("black cat on a sofa", 10))
        .await
        .expect("a search");
    assert_eq!(hits.len(), 3);
    assert_eq!(
        hits[0].record.details.caption,
        "a black cat sleeping on a red sofa"
    );
    assert!(
        hits.windows(2).all(|pair| pair[0].score >= pair[1].score),
        "{hits:?}"
    );
    let sofas = library.find(&wanted("沙发", 10)).await.expect("a search");
    assert_eq!(sofas.len(), 1);
    assert_eq!(sofas[0].record.details.tags, ["sofa", "furniture", "沙发"]);
}

#[tokio::test]
async fn what_is_found_carries_what_must_be_told() {
    let mut apple = entry(1, "a red apple");
    apple.details.author = Some("Ada".to_owned());
    apple.details.licence = Some("CC BY 4.0".to_owned());
    apple.details.source = Some("https://example.org/apple".to_owned());
    let library = library(vec![apple, entry(2, "a green apple")]).await;
    let found = PictureSource::search(&library, &wanted("red apple", 4))
        .await
        .expect("pictures");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].index, digest(&picture(1)));
    assert_eq!(found[0].data, picture(1));
    assert_eq!(found[0].media_type, "image/png");
    assert_eq!(found[0].caption, "a red apple");
    assert_eq!(
        found[0].source.as_deref(),
        Some("https://example.org/apple")
    );
    assert_eq!(
        (found[0].author.as_deref(), found[0].licence.as_deref()),
        (Some("Ada"), Some("CC BY 4.0"))
    );
    assert_eq!(found[1].source.as_deref(), Some("library test"));
    assert_eq!(library.name(), "library test");
}

#[tokio::test]
async fn hundreds_may_be_excluded() {
    let library = library(
        (0..400)
            .map(|number| entry(number, "a red apple"))
            .collect(),
    )
    .await;
    let mut search = wanted("red apple", 4);
    search.exclude = vec!["../../etc/passwd".to_owned(), "17".to_owned()];
    let mut seen = Vec::new();
    // As an article does it: what was returned once is not wanted again.
    while seen.len() < 400 {
        let found = PictureSource::search(&library, &search)
            .await
            .expect("pictures");
        assert_eq!(found.len(), 4, "after {}", seen.len());
        seen.extend(found.iter().map(|picture| picture.index.clone()));
        search
            .exclude
            .extend(found.into_iter().map(|picture| picture.index));
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 400, "one was found twice");
    assert!(
        PictureSource::search(&library, &search)
            .await
            .expect("an answer")
            .is_empty()
    );
}

#[tokio::test]
async fn equally_good_ones_come_in_one_order() {
    let entries: Vec<_> = (0..20).map(|number| entry(number, "a red apple")).collect();
    let mut orders = Vec::new();
    for _ in 0..2 {
        let library = library(entries.clone()).await;
        let hits = library.find(&wanted("apple", 5)).await.expect("a search");
        orders.push(
            hits.into_iter()
                .map(|hit| hit.record.index)
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(orders[0], orders[1]);
    assert_eq!(orders[0].len(), 5);
}

#[tokio::test]
async fn new_details_replace_the_old_ones() {
    let library = library(vec![entry(1, "a red apple")]).await;
    library
        .add(vec![entry(1, "a ripe tomato")])
        .await
        .expect("added");
    assert!(captions(&library, "apple").await.is_empty());
    assert_eq!(captions(&library, "tomatoes").await, ["a ripe tomato"]);
    assert_eq!(library.refresh().await.expect("a count"), 1);
}

#[tokio::test]
async fn a_bad_picture_takes_none_in() {
    let library = library(Vec::new()).await;
    let bad = Entry {
        data: Bytes::from_static(b"no picture"),
        details: Details::default(),
    };
    let error = library
        .add(vec![entry(1, "a red apple"), bad])
        .await
        .expect_err("no picture");
    assert!(error.to_string().contains("picture 1"), "{error}");
    assert!(captions(&library, "apple").await.is_empty());
}

#[tokio::test]
async fn a_picture_that_is_gone_is_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = at(folder.path()).await;
    library
        .add((0..6).map(|number| entry(number, "a red apple")).collect())
        .await
        .expect("added");
    let path = |number: u32| {
        let index = digest(&picture(number));
        folder.path().join("pictures").join(&index[..2]).join(index)
    };
    std::fs::remove_file(path(0)).expect("removed");
    std::fs::write(path(1), picture(9)).expect("another picture under its name");
    let found = PictureSource::search(&library, &wanted("apple", 4))
        .await
        .expect("pictures");
    let mut data: Vec<_> = found.into_iter().map(|found| found.data).collect();
    let mut left: Vec<_> = (2..6).map(picture).collect();
    data.sort_unstable();
    left.sort_unstable();
    assert_eq!(data, left, "spare hits take their places");
}

#[tokio::test]
async fn a_library_that_went_away_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("library");
    let options = LibraryOptions {
        index: IndexPlace::Memory,
        refresh_after: Duration::ZERO,
        ..making()
    };
    let library = Library::open(place.to_str().expect("plain"), options)
        .await
        .expect("a library");
    library
        .add(vec![entry(1, "a red apple")])
        .await
        .expect("added");
    std::fs::rename(&place, folder.path().join("elsewhere")).expect("moved");
    let SourceError::Unavailable { name, reason } =
        PictureSource::search(&library, &wanted("apple", 4))
            .await
            .expect_err("gone");
    assert_eq!(name, "library library");
    assert!(reason.contains("read"), "{reason}");
    std::fs::rename(folder.path().join("elsewhere"), &place).expect("moved back");
    assert_eq!(
        PictureSource::search(&library, &wanted("apple", 4))
            .await
            .expect("back")
            .len(),
        1
    );
}
