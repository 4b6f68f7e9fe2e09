//! A library in a bucket.

use std::time::Duration;

use super::super::{IndexPlace, LibraryError, S3Settings};
use super::s3_server::S3Server;
use super::*;
use crate::source::{PictureSource, SourceError};

const PLACE: &str = "s3://pictures/house/library/";

fn options(server: &S3Server, key: &str) -> LibraryOptions {
    let variables = [
        ("AWS_ENDPOINT_URL", format!("http://{}", server.address)),
        ("AWS_ACCESS_KEY_ID", key.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_REGION", "here".to_owned()),
        ("AWS_PROFILE", "for other programs".to_owned()),
        ("HOME", "/nowhere".to_owned()),
    ];
    let s3 = S3Settings::from_variables(variables.map(|(name, value)| (name.to_owned(), value)));
    LibraryOptions {
        create: true,
        s3,
        refresh_after: Duration::ZERO,
        ..LibraryOptions::default()
    }
}

async fn open(server: &S3Server) -> Library {
    Library::open(PLACE, options(server, "writer"))
        .await
        .expect("a library")
}

#[tokio::test]
async fn pictures_and_records_lie_in_the_bucket() {
    let server = S3Server::start().await;
    let library = open(&server).await;
    let records = library
        .add(vec![entry(1, "a red apple"), entry(2, "一只小狗")])
        .await
        .expect("added");
    let keys: Vec<_> = server.with(|state| state.objects.keys().cloned().collect());
    let index = &records[0].index;
    assert!(
        keys.contains(&format!("house/library/pictures/{}/{index}", &index[..2])),
        "{keys:?}"
    );
    assert_eq!(
        keys.iter()
            .filter(|key| key.starts_with("house/library/records/"))
            .count(),
        1,
        "{keys:?}"
    );
    assert_eq!(keys.len(), 3, "the index stays here: {keys:?}");
    let found = PictureSource::search(&library, &wanted("小狗", 4))
        .await
        .expect("pictures");
    assert_eq!((found.len(), found[0].data.clone()), (1, picture(2)));
    assert_eq!(found[0].source.as_deref(), Some("library library"));
}

#[tokio::test]
async fn several_coordinators_share_one_bucket() {
    let server = S3Server::start().await;
    let writer = open(&server).await;
    let reader = open(&server).await;
    // More batches than a page of a listing holds.
    for number in 0..8 {
        writer
            .add(vec![entry(number, "a red apple")])
            .await
            .expect("added");
    }
    assert_eq!(captions(&reader, "apple").await.len(), 8);
    let later = open(&server).await;
    assert_eq!(contents(&later).await, contents(&writer).await);
}

#[tokio::test]
async fn a_cache_folder_spares_the_next_start_the_records() {
    let server = S3Server::start().await;
    let cache = tempfile::tempdir().expect("a folder");
    let cached = || LibraryOptions {
        index: IndexPlace::Below(cache.path().to_owned()),
        ..options(&server, "writer")
    };
    let library = Library::open(PLACE, cached()).await.expect("a library");
    for number in 0..4 {
        library
            .add(vec![entry(number, "a red apple")])
            .await
            .expect("added");
    }
    drop(library);
    server.with(|state| state.requests.clear());
    let library = Library::open(
        PLACE,
        LibraryOptions {
            create: false,
            ..cached()
        },
    )
    .await
    .expect("a library");
    assert_eq!(contents(&library).await.len(), 4);
    let requests = server.with(|state| state.requests.clone());
    assert!(
        requests
            .iter()
            .all(|request| request.contains("list-type=2")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn an_import_into_a_bucket_goes_on_where_it_was() {
    let server = S3Server::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..10 {
        std::fs::write(folder.path().join(format!("{number}.png")), picture(number))
            .expect("written");
    }
    let settings = || ImportSettings {
        batch: 3,
        ..ImportSettings::default()
    };
    let namer = std::sync::Arc::new(Namer::default());
    let library = open(&server).await;
    let importer = Importer::new(library, Some(namer.clone()), settings());
    let server_state = std::sync::Arc::clone(&server.state);
    let mut commits = 0;
    let import = importer.import(folder.path(), |event| {
        if matches!(event, super::super::import::ImportEvent::Committed { .. }) {
            commits += 1;
            server_state.lock().expect("no panic in the server").is_away = commits == 2;
        }
    });
    // The store's client tries again for a while; this importer has no patience.
    let ended = tokio::time::timeout(Duration::from_secs(1), import).await;
    assert!(
        !matches!(ended, Ok(Ok(_))),
        "the bucket was away: {ended:?}"
    );
    server.with(|state| state.is_away = false);
    let library = open(&server).await;
    assert_eq!(contents(&library).await.len(), 6);
    let namer = std::sync::Arc::new(Namer::default());
    let report = Importer::new(library.clone(), Some(namer.clone()), settings())
        .import(folder.path(), |_| {})
        .await
        .expect("an import");
    assert_eq!(
        (report.imported, report.known, namer.asked().len()),
        (4, 6, 4)
    );
    assert_eq!(contents(&library).await.len(), 10);
}

#[tokio::test]
async fn a_stumble_is_tried_again() {
    let server = S3Server::start().await;
    let library = open(&server).await;
    library
        .add(vec![entry(1, "a red apple")])
        .await
        .expect("added");
    server.with(|state| state.stumbles = 2);
    assert_eq!(
        PictureSource::search(&library, &wanted("apple", 1))
            .await
            .expect("pictures")
            .len(),
        1
    );
}

#[tokio::test]
async fn wrong_keys_and_wrong_places_are_named() {
    let server = S3Server::start().await;
    let error = Library::open(PLACE, options(&server, "stranger"))
        .await
        .err()
        .expect("no access");
    assert!(
        matches!(
            &error,
            LibraryError::Store {
                attempt: "list records",
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains(PLACE), "{error}");
    let error = Library::open("s3://elsewhere/x", options(&server, "writer"))
        .await
        .err()
        .expect("no bucket");
    assert!(matches!(&error, LibraryError::Store { .. }), "{error}");
    let error = Library::open(
        PLACE,
        LibraryOptions {
            create: false,
            ..options(&server, "writer")
        },
    )
    .await
    .err()
    .expect("no library");
    assert!(matches!(&error, LibraryError::Location { .. }), "{error}");
    let shown = format!("{:?}", options(&server, "writer").s3);
    assert!(
        shown.contains("AWS_SECRET_ACCESS_KEY")
            && !shown.contains("\"secret\"")
            && !shown.contains("HOME"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_bucket_that_went_away_says_so() {
    let server = S3Server::start().await;
    let library = open(&server).await;
    library
        .add(vec![entry(1, "a red apple")])
        .await
        .expect("added");
    server.with(|state| state.objects.clear());
    let search = PictureSource::search(&library, &wanted("apple", 4)).await;
    // Every record is gone, so there is nothing to find.
    assert_eq!(search, Ok(Vec::new()));
    library
        .add(vec![entry(1, "a red apple")])
        .await
        .expect("added");
    server.with(|state| state.objects.retain(|key, _| !key.contains("/pictures/")));
    let SourceError::Unavailable { name, .. } =
        PictureSource::search(&library, &wanted("apple", 4))
            .await
            .expect_err("no pictures");
    assert_eq!(name, "library library");
}
