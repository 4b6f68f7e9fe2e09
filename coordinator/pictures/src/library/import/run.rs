//! The run of an import: files are read and decoded a few at a time, captions are asked for a few at a time, and every now and then what
//! has come together is committed. All in the order of the folder, so that two runs do the same.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;

use super::super::picture::{CheckedPicture, check, digest};
use super::super::{Details, Library, LibraryError, PictureLimits, Refusal};
use super::sidecars::{Problem, Sidecars, caption_line};
use super::walk::walk;
use super::{
    Candidate, CaptionError, Captioner, FileOutcome, ImportError, ImportEvent, ImportReport,
    Importer, SkipReason,
};
use crate::header::{self, PictureFormat};

/// Decoding is what takes long, and it takes a core each.
const FILES_AT_ONCE: usize = 4;
/// A batch is committed once it is that large, and when its first picture has waited that long.
const MAX_BATCH_BYTES: u64 = 64 << 20;
const MAX_BATCH_WAIT: Duration = Duration::from_secs(30);
/// So many are named in a report.
const MAX_REPORTED: usize = 1000;

/// Where a file is on its way.
enum Step {
    Done {
        path: PathBuf,
        outcome: FileOutcome,
    },
    /// Good, and new or without a caption until now.
    Picture {
        path: PathBuf,
        picture: Box<CheckedPicture>,
        caption_made: bool,
    },
    Stop(ImportError),
}

impl Step {
    fn skipped(path: PathBuf, reason: impl Into<SkipReason>) -> Self {
        Self::Done {
            path,
            outcome: FileOutcome::Skipped(reason.into()),
        }
    }
}

/// What a file led to, and what of its sidecars made no sense.
struct Looked {
    step: Step,
    problems: Vec<Problem>,
}

impl From<Step> for Looked {
    fn from(step: Step) -> Self {
        Self {
            step,
            problems: Vec::new(),
        }
    }
}

pub(super) async fn run(
    importer: &Importer,
    folder: &Path,
    on_event: impl FnMut(ImportEvent) + Send,
) -> Result<ImportReport, ImportError> {
    let captioner = importer.captioner.as_deref();
    let plan = plan(&importer.library, folder).await?;
    let mut ledger = Ledger::new(&importer.library, on_event);
    (ledger.on_event)(ImportEvent::Walked {
        files: plan.files.len() as u64,
    });
    ledger.problems(plan.problems);

    let otherwise = Details {
        source: importer.settings.source.clone(),
        author: importer.settings.author.clone(),
        licence: importer.settings.licence.clone(),
        ..Details::default()
    };
    let look = Arc::new(Look {
        root: plan.root,
        sidecars: plan.sidecars,
        otherwise,
        limits: importer.library.limits(),
    });
    let looked = futures::stream::iter(plan.files)
        .map(|path| {
            look_at(
                &importer.library,
                Arc::clone(&look),
                path,
                captioner.is_some(),
            )
        })
        .buffered(FILES_AT_ONCE);
    let mut seen = HashSet::new();
    let steps = looked
        .map(|looked| once(looked, &mut seen))
        .map(|looked| captioned(looked, captioner));
    let mut steps = pin!(steps.buffered(importer.settings.captions_at_once.max(1)));
    while let Some(Looked { step, problems }) = steps.next().await {
        ledger.problems(problems);
        match step {
            Step::Done { path, outcome } => ledger.done(path, outcome),
            Step::Picture {
                path,
                picture,
                caption_made,
            } => {
                ledger.take(path, *picture, caption_made);
                if ledger.is_full(importer.settings.batch) {
                    ledger.commit().await?;
                }
            }
            Step::Stop(error) => {
                // Their captions were made, and that took long.
                ledger.commit().await?;
                return Err(error);
            }
        }
    }
    ledger.commit().await?;
    Ok(ledger.report)
}

/// What the folder holds.
struct Plan {
    root: PathBuf,
    files: Vec<PathBuf>,
    sidecars: Sidecars,
    problems: Vec<Problem>,
}

async fn plan(library: &Library, folder: &Path) -> Result<Plan, ImportError> {
    let unreadable = |reason: String| ImportError::Folder {
        folder: folder.to_owned(),
        reason,
    };
    let (wanted, except) = (folder.to_owned(), library.folder().map(Path::to_owned));
    let planned = tokio::task::spawn_blocking(move || {
        let root = wanted.canonicalize()?;
        let mut walk = walk(&root, except.as_deref())?;
        let (sidecars, mut problems) = Sidecars::read(&root, &mut walk);
        problems.extend(
            walk.unreadable
                .into_iter()
                .map(|(path, reason)| Problem { path, reason }),
        );
        Ok::<_, std::io::Error>(Plan {
            root,
            files: walk.files,
            sidecars,
            problems,
        })
    });
    planned
        .await
        .map_err(|error| unreadable(error.to_string()))?
        .map_err(|error| unreadable(error.to_string()))
}

/// What is the same for every file.
struct Look {
    root: PathBuf,
    sidecars: Sidecars,
    otherwise: Details,
    limits: PictureLimits,
}

/// Reads a file, and goes on only if the library has not got it, or has it without the caption that it would get now.
async fn look_at(library: &Library, look: Arc<Look>, path: PathBuf, has_captioner: bool) -> Looked {
    let file = look.root.join(&path);
    let limits = look.limits;
    let read =
        tokio::task::spawn_blocking(move || read(&file, &limits).map(|data| (digest(&data), data)));
    let (index, data) = match read.await.unwrap_or_else(|error| {
        Err(SkipReason::Unreadable {
            reason: error.to_string(),
        })
    }) {
        Ok(read) => read,
        Err(reason) => return Step::skipped(path, reason).into(),
    };
    let known = match library.record(&index).await {
        Ok(known) => known,
        Err(error) => return Step::Stop(error.into()).into(),
    };
    if known
        .as_ref()
        .is_some_and(|known| !known.details.caption.is_empty())
    {
        return Step::Done {
            path,
            outcome: FileOutcome::Known,
        }
        .into();
    }
    let is_known = known.is_some();
    let otherwise = known.map_or_else(|| look.otherwise.clone(), |known| known.details);
    let inspected = path.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let (said, problems) = look.sidecars.of(&inspected);
        (check(data, said.or(otherwise), &look.limits), problems)
    });
    let (checked, problems) = match checked.await {
        Ok(checked) => checked,
        // A decoder that panics is no reason to stop.
        Err(_) => (
            Err(Refusal::Undecodable {
                reason: "its decoder gave up".to_owned(),
            }),
            Vec::new(),
        ),
    };
    let step = match checked {
        Err(refusal) => Step::skipped(path, refusal),
        Ok(picture) if is_known && picture.record.details.caption.is_empty() && !has_captioner => {
            Step::Done {
                path,
                outcome: FileOutcome::Known,
            }
        }
        Ok(picture) => Step::Picture {
            path,
            picture: Box::new(picture),
            caption_made: false,
        },
    };
    Looked { step, problems }
}

/// The bytes, unless the first of them show that it is no picture, or there are too many.
fn read(path: &Path, limits: &PictureLimits) -> Result<Bytes, SkipReason> {
    let unreadable = |error: std::io::Error| SkipReason::Unreadable {
        reason: error.to_string(),
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut data = Vec::new();
    let beginning = PictureFormat::SNIFF_BYTES as u64;
    (&mut file)
        .take(beginning)
        .read_to_end(&mut data)
        .map_err(unreadable)?;
    if PictureFormat::sniff(&data).is_none() {
        header::inspect(&data, limits.pixels).map_err(Refusal::Header)?;
    }
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes > limits.bytes {
        return Err(Refusal::TooManyBytes {
            bytes,
            limit: limits.bytes,
        }
        .into());
    }
    // Somebody may be writing it just now.
    file.take(limits.bytes.saturating_add(1))
        .read_to_end(&mut data)
        .map_err(unreadable)?;
    Ok(data.into())
}

/// The same bytes under two names are one picture.
fn once(mut looked: Looked, seen: &mut HashSet<String>) -> Looked {
    if let Step::Picture { path, picture, .. } = looked.step {
        looked.step = if seen.insert(picture.record.index.clone()) {
            Step::Picture {
                path,
                picture,
                caption_made: false,
            }
        } else {
            Step::Done {
                path,
                outcome: FileOutcome::Known,
            }
        };
    }
    looked
}

async fn captioned(looked: Looked, captioner: Option<&dyn Captioner>) -> Looked {
    let Looked { step, problems } = looked;
    let step = match (step, captioner) {
        (Step::Picture { path, picture, .. }, Some(captioner))
            if picture.record.details.caption.is_empty() =>
        {
            caption(path, picture, captioner).await
        }
        (step, _) => step,
    };
    Looked { step, problems }
}

async fn caption(
    path: PathBuf,
    mut picture: Box<CheckedPicture>,
    captioner: &dyn Captioner,
) -> Step {
    let candidate = Candidate {
        path: path.clone(),
        data: picture.data.clone(),
        media_type: picture.media_type,
        details: picture.record.details.clone(),
    };
    let reason = match captioner.caption(&candidate).await {
        Ok(caption) => {
            let caption = caption_line(&caption);
            if !caption.is_empty() {
                picture.record.details.caption = caption;
                return Step::Picture {
                    path,
                    picture,
                    caption_made: true,
                };
            }
            "the caption that was made is empty".to_owned()
        }
        Err(CaptionError::Refused { reason }) => reason,
        Err(CaptionError::Unavailable { reason }) => {
            return Step::Stop(ImportError::Captions { reason });
        }
    };
    Step::skipped(path, SkipReason::NoCaption { reason })
}

/// What was done, and what waits for the next commit.
struct Ledger<'a, F> {
    library: &'a Library,
    on_event: F,
    report: ImportReport,
    pending: Vec<CheckedPicture>,
    pending_bytes: u64,
    pending_captions: u64,
    pending_since: Instant,
}

impl<'a, F: FnMut(ImportEvent) + Send> Ledger<'a, F> {
    fn new(library: &'a Library, on_event: F) -> Self {
        Self {
            library,
            on_event,
            report: ImportReport::default(),
            pending: Vec::new(),
            pending_bytes: 0,
            pending_captions: 0,
            pending_since: Instant::now(),
        }
    }

    fn problems(&mut self, problems: Vec<Problem>) {
        for Problem { path, reason } in problems {
            self.skip(
                path.clone(),
                SkipReason::Unreadable {
                    reason: reason.clone(),
                },
            );
            (self.on_event)(ImportEvent::Sidecar { path, reason });
        }
    }

    fn done(&mut self, path: PathBuf, outcome: FileOutcome) {
        match &outcome {
            FileOutcome::Known => self.report.known += 1,
            FileOutcome::Skipped(reason) => self.skip(path.clone(), reason.clone()),
            FileOutcome::Taken { .. } => {}
        }
        (self.on_event)(ImportEvent::File { path, outcome });
    }

    fn skip(&mut self, path: PathBuf, reason: SkipReason) {
        self.report.skipped_in_all += 1;
        if self.report.skipped.len() < MAX_REPORTED {
            self.report.skipped.push((path, reason));
        }
    }

    fn take(&mut self, path: PathBuf, picture: CheckedPicture, caption_made: bool) {
        if self.pending.is_empty() {
            self.pending_since = Instant::now();
        }
        self.pending_bytes += picture.record.bytes;
        self.pending_captions += u64::from(caption_made);
        self.pending.push(picture);
        self.done(path, FileOutcome::Taken { caption_made });
    }

    fn is_full(&self, batch: usize) -> bool {
        self.pending.len() >= batch
            || self.pending_bytes >= MAX_BATCH_BYTES
            || self.pending_since.elapsed() >= MAX_BATCH_WAIT
    }

    async fn commit(&mut self) -> Result<(), LibraryError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let records = self
            .library
            .add_checked(std::mem::take(&mut self.pending))
            .await?;
        let cannot_be_found =
            |details: &Details| details.caption.is_empty() && details.tags.is_empty();
        self.report.imported += records.len() as u64;
        self.report.captions_made += std::mem::take(&mut self.pending_captions);
        self.report.without_caption += records
            .iter()
            .filter(|record| cannot_be_found(&record.details))
            .count() as u64;
        self.pending_bytes = 0;
        (self.on_event)(ImportEvent::Committed {
            imported: self.report.imported,
        });
        Ok(())
    }
}
