//! Where pictures and records lie: a folder, S3, or memory. They are the truth; everything else is derived from them.
//!
//! `pictures/AB/ABCD…` holds the bytes whose digest is `ABCD…`; `records/…` holds batches of records. A picture is written before the
//! record that names it, each as one whole, so a record always has its picture, and a picture without a record is as good as none.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ClientOptions, Error as ObjectError, ObjectStore, ObjectStoreExt, RetryConfig};

use super::batch::{self, Batch, BatchName, MAX_BATCH_BYTES};
use super::error::LibraryError;
use super::options::{LibraryOptions, S3Settings};
use super::picture::digest;
use super::record::Record;

/// A request to S3, and all attempts at it together.
const S3_REQUEST_LIMIT: Duration = Duration::from_secs(30);
const S3_CONNECT_LIMIT: Duration = Duration::from_secs(5);
const S3_RETRY_LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    location: String,
    /// Where the library is a folder of this machine.
    folder: Option<PathBuf>,
}

impl Store {
    pub(super) async fn open(
        location: &str,
        options: &LibraryOptions,
    ) -> Result<Self, LibraryError> {
        let wrong = |reason: String| LibraryError::Location {
            location: location.to_owned(),
            reason,
        };
        if let Some(rest) = location.strip_prefix("s3://") {
            let (objects, prefix) = s3(rest, &options.s3).map_err(wrong)?;
            let store = Self {
                objects,
                prefix,
                location: location.to_owned(),
                folder: None,
            };
            if !options.create && store.batch_names().await?.is_empty() {
                return Err(wrong("there is no library yet".to_owned()));
            }
            return Ok(store);
        }
        if location.is_empty() || location.contains("://") {
            return Err(wrong("not a place that is known".to_owned()));
        }
        let folder = PathBuf::from(location);
        let create = options.create;
        let opened = tokio::task::spawn_blocking(move || local(&folder, create)).await;
        let (objects, folder) = opened
            .map_err(|error| wrong(error.to_string()))?
            .map_err(wrong)?;
        Ok(Self {
            objects,
            prefix: Path::default(),
            location: location.to_owned(),
            folder: Some(folder),
        })
    }

    pub(super) fn in_memory(name: &str) -> Self {
        Self::over(Arc::new(InMemory::new()), name)
    }

    /// Any store at all.
    pub(super) fn over(objects: Arc<dyn ObjectStore>, name: &str) -> Self {
        Self {
            objects,
            prefix: Path::default(),
            location: name.to_owned(),
            folder: None,
        }
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) fn folder(&self) -> Option<&FilePath> {
        self.folder.as_deref()
    }

    pub(super) async fn put_picture(&self, index: &str, data: Bytes) -> Result<(), LibraryError> {
        let path = self.picture_path(index);
        self.objects
            .put(&path, data.into())
            .await
            .map(drop)
            .map_err(|error| self.failed("write a picture", &error))
    }

    /// None when it is gone, or its bytes are no longer those of its digest.
    pub(super) async fn picture(
        &self,
        index: &str,
        max_bytes: u64,
    ) -> Result<Option<Bytes>, LibraryError> {
        let failed = |error: ObjectError| self.failed("read a picture", &error);
        let found = match self.objects.get(&self.picture_path(index)).await {
            Ok(found) if found.meta.size > max_bytes => return Ok(None),
            Ok(found) => found,
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let data = found.bytes().await.map_err(failed)?;
        Ok((digest(&data) == index).then_some(data))
    }

    /// Once this returns, the library has these pictures; until then it has not. They must be written already.
    pub(super) async fn put_batch(
        &self,
        milliseconds: u64,
        records: &[Record],
    ) -> Result<BatchName, LibraryError> {
        let (name, data) = batch::encode(milliseconds, records)
            .map_err(|error| self.wrong("write records", error.to_string()))?;
        let path = self.records_path().join(name.as_str());
        self.objects
            .put(&path, data.into())
            .await
            .map_err(|error| self.failed("write records", &error))?;
        Ok(name)
    }

    /// In order of time.
    pub(super) async fn batch_names(&self) -> Result<Vec<BatchName>, LibraryError> {
        if self
            .folder
            .as_ref()
            .is_some_and(|folder| !folder.join("records").is_dir())
        {
            // A disk that is not there must not look like a library without pictures.
            return Err(self.wrong("list records", "its folder is gone".to_owned()));
        }
        let path = self.records_path();
        let objects: Result<Vec<_>, _> = self.objects.list(Some(&path)).try_collect().await;
        let objects = objects.map_err(|error| self.failed("list records", &error))?;
        let mut names: Vec<_> = objects
            .iter()
            .filter_map(|object| BatchName::parse(object.location.filename()?))
            .collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// None when it is not what was written.
    pub(super) async fn batch(&self, name: &BatchName) -> Result<Option<Batch>, LibraryError> {
        let failed = |error: ObjectError| self.failed("read records", &error);
        let found = match self
            .objects
            .get(&self.records_path().join(name.as_str()))
            .await
        {
            Ok(found) if found.meta.size > MAX_BATCH_BYTES => return Ok(None),
            Ok(found) => found,
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let data = found.bytes().await.map_err(failed)?;
        Ok(batch::decode(name.clone(), &data))
    }

    fn records_path(&self) -> Path {
        self.prefix.clone().join("records")
    }

    fn picture_path(&self, index: &str) -> Path {
        self.prefix
            .clone()
            .join("pictures")
            .join(index.get(..2).unwrap_or_default())
            .join(index)
    }

    fn failed(&self, attempt: &'static str, error: &ObjectError) -> LibraryError {
        self.wrong(attempt, error.to_string())
    }

    fn wrong(&self, attempt: &'static str, reason: String) -> LibraryError {
        LibraryError::Store {
            location: self.location.clone(),
            attempt,
            reason,
        }
    }
}

fn local(folder: &FilePath, create: bool) -> Result<(Arc<dyn ObjectStore>, PathBuf), String> {
    let records = folder.join("records");
    if create {
        std::fs::create_dir_all(&records).map_err(|error| format!("cannot be made: {error}"))?;
    } else if !records.is_dir() {
        return Err("there is no library yet".to_owned());
    }
    let folder = folder.canonicalize().map_err(|error| error.to_string())?;
    // What was said to be safe must be there after a loss of power.
    let objects = LocalFileSystem::new_with_prefix(&folder)
        .map_err(|error| error.to_string())?
        .with_fsync(true);
    Ok((Arc::new(objects), folder))
}

fn s3(
    bucket_and_prefix: &str,
    settings: &S3Settings,
) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    let (bucket, prefix) = bucket_and_prefix
        .split_once('/')
        .unwrap_or((bucket_and_prefix, ""));
    if bucket.is_empty() {
        return Err("it names no bucket".to_owned());
    }
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| error.to_string())?;
    // One process-wide choice: whoever makes it first makes the same one, since nothing else is compiled in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut is_plain = false;
    let mut builder = AmazonS3Builder::new();
    for (name, value) in settings.iter() {
        // What is no setting of S3, such as a profile's name, is for other programs.
        let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else {
            continue;
        };
        let is_endpoint = matches!(
            key,
            AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint
        );
        is_plain |= is_endpoint && value.starts_with("http://");
        builder = builder.with_config(key, value);
    }
    let client = ClientOptions::new()
        .with_timeout(S3_REQUEST_LIMIT)
        .with_connect_timeout(S3_CONNECT_LIMIT);
    let retry = RetryConfig {
        max_retries: 6,
        retry_timeout: S3_RETRY_LIMIT,
        ..RetryConfig::default()
    };
    // Who names an endpoint with http:// wants it so.
    let objects = builder
        .with_bucket_name(bucket)
        .with_client_options(client.with_allow_http(is_plain))
        .with_retry(retry)
        .build()
        .map_err(|error| error.to_string())?;
    Ok((Arc::new(objects), prefix))
}
