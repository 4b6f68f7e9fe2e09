//! A library in a folder: what is where, and what a damaged one still gives.

use std::path::PathBuf;
use std::time::Duration;

use super::super::{IndexPlace, LibraryError};
use super::*;

fn only_file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[tokio::test]
async fn a_library_is_made_only_when_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("typo");
    let error = Library::open(place.to_str().expect("plain"), LibraryOptions::default())
        .await
        .err()
        .expect("no library");
    assert!(matches!(error, LibraryError::Location { .. }), "{error}");
    assert!(!place.exists());
    for place in ["", "s3://", "gs://bucket/pictures", "http://example.org"] {
        let error = Library::open(place, making())
            .await
            .err()
            .expect("no library");
        assert!(
            matches!(error, LibraryError::Location { .. }),
            "{place}: {error}"
        );
    }
}

#[tokio::test]
async fn what_was_added_is_there_the_next_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let records = at(folder.path())
        .await
        .add(vec![entry(1, "a red apple"), entry(2, "一只小狗")])
        .await
        .expect("added");
    let place = folder.path().to_str().expect("plain");
    let again = Library::open(place, LibraryOptions::default())
        .await
        .expect("a library");
    assert_eq!(captions(&again, "苹果 apple").await, ["a red apple"]);
    assert_eq!(
        again
            .record(&records[1].index)
            .await
            .expect("an answer")
            .as_ref(),
        Some(&records[1])
    );
    assert_eq!(
        again.picture(&records[1].index).await.expect("an answer"),
        Some(picture(2))
    );
    let summary = again.summary().await.expect("a summary");
    assert_eq!((summary.pictures, summary.without_caption), (2, 0));
    assert_eq!(summary.bytes, (picture(1).len() + picture(2).len()) as u64);
    assert_eq!(
        summary.by_media_type,
        BTreeMap::from([("image/png".to_owned(), 2)])
    );
    assert_eq!(summary.location, place);
}

#[tokio::test]
async fn an_index_that_is_gone_or_damaged_is_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(
        at(folder.path())
            .await
            .add(vec![entry(1, "a red apple")])
            .await
            .expect("added"),
    );
    let index = folder.path().join("index").join("v1");

    std::fs::remove_dir_all(folder.path().join("index")).expect("removed");
    assert_eq!(
        captions(&at(folder.path()).await, "apple").await.len(),
        1,
        "gone"
    );

    std::fs::write(index.join("meta.json"), b"{ nonsense").expect("written");
    assert_eq!(
        captions(&at(folder.path()).await, "apple").await.len(),
        1,
        "no list of segments"
    );

    let segment = std::fs::read_dir(&index)
        .expect("an index")
        .map(|entry| entry.expect("an entry").path());
    let largest = segment.filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "idx" || extension == "store")
    });
    for path in largest {
        let mut data = std::fs::read(&path).expect("a segment");
        let middle = data.len() / 2;
        data[middle] ^= 0xff;
        std::fs::write(&path, data).expect("written");
    }
    assert_eq!(
        captions(&at(folder.path()).await, "apple").await.len(),
        1,
        "a flipped bit"
    );
}

#[tokio::test]
async fn records_are_the_truth_also_when_fewer_than_before() {
    let folder = tempfile::tempdir().expect("a folder");
    at(folder.path())
        .await
        .add(vec![entry(1, "a red apple")])
        .await
        .expect("added");
    std::fs::remove_file(only_file(&folder.path().join("records"))).expect("removed");
    let library = at(folder.path()).await;
    assert!(captions(&library, "apple").await.is_empty());
    library
        .add(vec![entry(2, "a green apple")])
        .await
        .expect("added");
    assert_eq!(captions(&library, "apple").await, ["a green apple"]);
}

#[tokio::test]
async fn torn_records_count_as_never_written() {
    let folder = tempfile::tempdir().expect("a folder");
    at(folder.path())
        .await
        .add(vec![entry(1, "a red apple"), entry(2, "a dog")])
        .await
        .expect("added");
    let batch = only_file(&folder.path().join("records"));
    let data = std::fs::read(&batch).expect("records");
    std::fs::write(&batch, &data[..data.len() - 20]).expect("torn");
    std::fs::remove_dir_all(folder.path().join("index")).expect("removed");
    let library = at(folder.path()).await;
    assert!(
        contents(&library).await.is_empty(),
        "not even the whole line"
    );
    assert_eq!(library.summary().await.expect("a summary").damaged.len(), 1);
    library
        .add(vec![entry(1, "a red apple")])
        .await
        .expect("added again");
    assert_eq!(captions(&library, "apple").await.len(), 1);
}

#[tokio::test]
async fn several_open_one_library_while_somebody_imports() {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = at(folder.path()).await;
    let place = folder.path().to_str().expect("plain");
    let lively = LibraryOptions {
        refresh_after: Duration::ZERO,
        ..LibraryOptions::default()
    };
    let same_index = Library::open(place, lively.clone())
        .await
        .expect("a library");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let own_index = LibraryOptions {
        index: IndexPlace::Below(elsewhere.path().to_owned()),
        ..lively
    };
    let own_index = Library::open(place, own_index).await.expect("a library");
    for round in 1..=5 {
        let added = writer.add(vec![entry(round, &format!("apple number {round}"))]);
        let apple = wanted("apple", 10);
        let (added, first, second) =
            tokio::join!(added, same_index.find(&apple), own_index.find(&apple));
        added.expect("added");
        first.expect("a search");
        second.expect("a search");
        assert_eq!(captions(&same_index, "apple").await.len(), round as usize);
        assert_eq!(captions(&own_index, "apple").await.len(), round as usize);
    }
    assert_eq!(contents(&same_index).await, contents(&own_index).await);
    assert!(
        own_index
            .summary()
            .await
            .expect("a summary")
            .index_folder
            .expect("a folder")
            .starts_with(elsewhere.path())
    );
}

#[tokio::test]
async fn two_who_write_at_once_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (at(folder.path()).await, at(folder.path()).await);
    let add = |library: Library, from: u32| async move {
        for number in from..from + 8 {
            library
                .add(vec![entry(number, "a red apple")])
                .await
                .expect("added");
        }
    };
    tokio::join!(add(one.clone(), 0), add(other.clone(), 100));
    for library in [&one, &other] {
        assert_eq!(library.refresh().await.expect("a count"), 16);
    }
    assert_eq!(contents(&one).await, contents(&other).await);
}

#[tokio::test]
async fn the_later_batch_wins_in_whatever_order_they_are_applied() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = at(folder.path()).await;
    library.add(vec![entry(1, "first")]).await.expect("added");
    library.add(vec![entry(1, "second")]).await.expect("added");
    let mut batches: Vec<_> = std::fs::read_dir(folder.path().join("records"))
        .expect("records")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    batches.sort();
    let aside = folder.path().join("aside");
    std::fs::rename(&batches[0], &aside).expect("put aside");
    assert_eq!(at(folder.path()).await.refresh().await.expect("a count"), 1);
    std::fs::rename(&aside, &batches[0]).expect("brought back");
    let library = at(folder.path()).await;
    let kept: Vec<_> = contents(&library)
        .await
        .into_values()
        .map(|record| record.details.caption)
        .collect();
    assert_eq!(kept, ["second"]);
}

#[tokio::test]
async fn what_else_lies_there_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    at(folder.path())
        .await
        .add(vec![entry(1, "a red apple")])
        .await
        .expect("added");
    let records = folder.path().join("records");
    for name in [
        "notes.txt",
        "1-2.jsonl",
        ".hidden",
        "000000000000001-zz.jsonl",
    ] {
        std::fs::write(records.join(name), b"not ours").expect("written");
    }
    let library = at(folder.path()).await;
    assert_eq!(library.refresh().await.expect("a count"), 1);
    assert!(
        library
            .summary()
            .await
            .expect("a summary")
            .damaged
            .is_empty()
    );
    assert!(records.join("notes.txt").exists());
}
