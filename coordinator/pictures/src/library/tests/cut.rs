//! An import is cut at any point, as by a kill or a store that goes away, and run again.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use proptest::prelude::*;
use tokio::sync::Notify;

use super::super::IndexPlace;
use super::super::store::Store;
use super::*;

/// What becomes of a store at its cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Every request fails from here on.
    Fails,
    /// The same, and the write at the cut leaves half of itself behind.
    Tears,
    /// The importer is killed while it waits.
    Kills,
}

/// A store that goes away after so many requests.
#[derive(Debug)]
struct CutStore {
    objects: Arc<InMemory>,
    left: AtomicUsize,
    cut: Cut,
    killed: Notify,
}

impl CutStore {
    fn new(objects: &Arc<InMemory>, requests: usize, cut: Cut) -> Arc<Self> {
        Arc::new(Self {
            objects: Arc::clone(objects),
            left: AtomicUsize::new(requests),
            cut,
            killed: Notify::new(),
        })
    }

    fn is_cut(&self) -> bool {
        self.left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_err()
    }

    async fn check(&self) -> object_store::Result<()> {
        if !self.is_cut() {
            return Ok(());
        }
        if self.cut == Cut::Kills {
            self.killed.notify_one();
            std::future::pending::<()>().await;
        }
        Err(away())
    }
}

fn away() -> object_store::Error {
    object_store::Error::Generic {
        store: "cut",
        source: "away".into(),
    }
}

impl fmt::Display for CutStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a store that goes away")
    }
}

#[async_trait]
impl ObjectStore for CutStore {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        if let Err(error) = self.check().await {
            if self.cut == Cut::Tears {
                let whole: Vec<u8> = payload.iter().flat_map(|part| part.to_vec()).collect();
                let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
                self.objects
                    .put_opts(location, half.into(), options)
                    .await?;
            }
            return Err(error);
        }
        self.objects.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        _: &ObjectPath,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(away())
    }

    async fn get_opts(
        &self,
        location: &ObjectPath,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.check().await?;
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.objects.delete_stream(locations)
    }

    fn list(
        &self,
        prefix: Option<&ObjectPath>,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if self.is_cut() {
            if self.cut == Cut::Kills {
                self.killed.notify_one();
                return futures::stream::pending().boxed();
            }
            return futures::stream::iter([Err(away())]).boxed();
        }
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(
        &self,
        prefix: Option<&ObjectPath>,
    ) -> object_store::Result<ListResult> {
        self.check().await?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.check().await?;
        self.objects.copy_opts(from, to, options).await
    }
}

/// What the next process finds of the index.
#[derive(Debug, Clone, Copy)]
enum IndexFate {
    Kept,
    Lost,
    /// Cut off in the middle, as by a loss of power.
    Damaged,
}

const PICTURES: u32 = 7;
const BATCH: usize = 2;

async fn open(
    objects: Arc<dyn ObjectStore>,
    index: &Path,
) -> Result<Library, super::super::LibraryError> {
    let options = LibraryOptions {
        index: IndexPlace::Below(index.to_owned()),
        ..LibraryOptions::default()
    };
    Library::over(Store::over(objects, "cut"), options).await
}

fn importer(library: &Library, namer: &Arc<Namer>) -> Importer {
    let settings = ImportSettings {
        batch: BATCH,
        captions_at_once: 3,
        ..ImportSettings::default()
    };
    Importer::new(
        library.clone(),
        Some(namer.clone() as Arc<dyn Captioner>),
        settings,
    )
}

async fn import_until_cut(
    folder: &Path,
    objects: &Arc<InMemory>,
    index: &Path,
    requests: usize,
    cut: Cut,
) {
    let store = CutStore::new(objects, requests, cut);
    let namer = Arc::new(Namer::default());
    let import = async {
        if let Ok(library) = open(store.clone(), index).await {
            // Its end does not matter: what counts is what it left behind.
            let _ = importer(&library, &namer).import(folder, |_| {}).await;
        }
    };
    tokio::select! {
        () = import => {}
        () = store.killed.notified() => {}
    }
}

fn strike(index: &Path, fate: IndexFate) {
    match fate {
        IndexFate::Kept => {}
        IndexFate::Lost => {
            let _ = std::fs::remove_dir_all(index);
        }
        IndexFate::Damaged => {
            let mut folders = vec![index.to_owned()];
            while let Some(folder) = folders.pop() {
                for path in std::fs::read_dir(folder)
                    .expect("a folder")
                    .map(|entry| entry.expect("an entry").path())
                {
                    if path.is_dir() {
                        folders.push(path);
                    } else {
                        let data = std::fs::read(&path).expect("a file");
                        std::fs::write(&path, &data[..data.len() / 2]).expect("cut off");
                    }
                }
            }
        }
    }
}

async fn check(folder: PathBuf, requests: usize, cut: Cut, fate: IndexFate) {
    let objects = Arc::new(InMemory::new());
    let index = tempfile::tempdir().expect("a folder");
    import_until_cut(&folder, &objects, index.path(), requests, cut).await;
    // Without another import: the library is whole batches, and has every picture that it names.
    let options = LibraryOptions {
        index: IndexPlace::Memory,
        ..LibraryOptions::default()
    };
    let library = Library::over(Store::over(objects.clone(), "cut"), options);
    let between = contents(&library.await.expect("a library")).await;
    assert!(
        between.len() % BATCH == 0 || between.len() == PICTURES as usize,
        "{} pictures",
        between.len()
    );

    strike(index.path(), fate);
    let library = open(objects.clone(), index.path())
        .await
        .expect("a library");
    assert_eq!(
        contents(&library).await,
        between,
        "the index shows what the records say"
    );
    for name in between.keys() {
        assert!(
            library.picture(name).await.expect("an answer").is_some(),
            "a record without its picture"
        );
    }
    let namer = Arc::new(Namer::default());
    let report = importer(&library, &namer)
        .import(&folder, |_| {})
        .await
        .expect("an import");
    let new = PICTURES as usize - between.len();
    assert_eq!(
        (
            report.imported as usize,
            report.known as usize,
            namer.asked().len()
        ),
        (new, between.len(), new),
        "nothing twice"
    );
    let after = contents(&library).await;
    let expected: BTreeMap<_, _> = (0..PICTURES)
        .map(|number| {
            (
                super::super::picture::digest(&picture(number)),
                format!("caption of {number}.png"),
            )
        })
        .collect();
    let found: BTreeMap<_, _> = after
        .iter()
        .map(|(name, record)| (name.clone(), record.details.caption.clone()))
        .collect();
    assert_eq!(found, expected);
    for number in 0..PICTURES {
        let name = super::super::picture::digest(&picture(number));
        assert_eq!(
            library.picture(&name).await.expect("an answer"),
            Some(picture(number))
        );
    }
    assert_eq!(captions(&library, "caption").await.len(), PICTURES as usize);
}

fn folder_of_pictures() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..PICTURES {
        std::fs::write(folder.path().join(format!("{number}.png")), picture(number))
            .expect("written");
    }
    folder
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// 7 pictures, and a batch of 2: listings, writes and reads of a whole import are about 25 requests.
    #[test]
    fn cut_anywhere_and_run_again(
        requests in 0_usize..30,
        cut in prop_oneof![Just(Cut::Fails), Just(Cut::Tears), Just(Cut::Kills)],
        fate in prop_oneof![Just(IndexFate::Kept), Just(IndexFate::Lost), Just(IndexFate::Damaged)],
    ) {
        let folder = folder_of_pictures();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(check(folder.path().to_owned(), requests, cut, fate));
    }
}

/// Not at random: at every request, with the index that is left.
#[tokio::test(flavor = "multi_thread")]
async fn cut_at_every_write() {
    let folder = folder_of_pictures();
    for requests in 0..26 {
        check(
            folder.path().to_owned(),
            requests,
            Cut::Tears,
            IndexFate::Kept,
        )
        .await;
    }
}
