//! `inkstone library import`: a folder's pictures, with what is known of them.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use inkstone_pictures::library::{
    Library,
    import::{
        Captioner, FileOutcome, ImportEvent, ImportReport, ImportSettings, Importer, SkipReason,
    },
};
use inkstone_proto::v1::chat_service_client::ChatServiceClient;
use tokio_util::sync::CancellationToken;

use super::captioner::ModelCaptioner;
use crate::{
    arguments::LibraryImportArguments,
    commands::{
        client::{MAX_MESSAGE_BYTES, connect, with_cluster, write_out},
        composition::open_library,
        run_until_stopped,
    },
    telemetry::Console,
};

/// Files that are named as they are left out, and warnings that are told; the rest is counted.
const MAX_NAMED: u64 = 100;

pub(super) fn run(arguments: LibraryImportArguments, console: &Console) -> anyhow::Result<()> {
    let folder = &arguments.dir;
    ensure!(
        folder.is_dir(),
        "{} is no folder: a folder of pictures is wanted",
        folder.display()
    );
    if arguments.no_captions {
        return run_until_stopped(async |stop| import(&arguments, None, console, stop).await);
    }
    with_cluster(&arguments.cluster, None, console, async |reached| {
        let client = ChatServiceClient::new(connect(&reached.address).await?);
        let client = client.max_encoding_message_size(MAX_MESSAGE_BYTES);
        let captioner: Arc<dyn Captioner> = Arc::new(ModelCaptioner(client));
        import(&arguments, Some(captioner), console, reached.stop).await
    })
}

async fn import(
    arguments: &LibraryImportArguments,
    captioner: Option<Arc<dyn Captioner>>,
    console: &Console,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let location = &arguments.location.library;
    let library = open_library(location, true).await?;
    let settings = ImportSettings {
        source: arguments.source.clone(),
        author: arguments.author.clone(),
        licence: arguments.licence.clone(),
        captions_at_once: arguments.concurrency as usize,
        ..ImportSettings::default()
    };
    let importer = Importer::new(library.clone(), captioner, settings);
    let mut progress = Progress::new(console);
    let done = {
        let importing = importer.import(&arguments.dir, |event| progress.note(event));
        stop.run_until_cancelled(importing).await
    };
    progress.bar.finish_and_clear();
    match done {
        Some(Ok(report)) => {
            write_out(&told(&report, progress.num_warnings))?;
            Ok(write_out(&size(&library, location).await?)?)
        }
        Some(Err(error)) => Err(error).with_context(|| format!("{} imported", progress.safe)),
        None => bail!(
            "stopped with {} imported; the same command goes on from there",
            progress.safe
        ),
    }
}

async fn size(library: &Library, location: &str) -> anyhow::Result<String> {
    let summary = library.summary().await?;
    Ok(format!("{location} has {} pictures\n", summary.pictures))
}

/// How far the import is, on the terminal.
struct Progress<'a> {
    console: &'a Console,
    bar: ProgressBar,
    /// Pictures that nothing takes away any more.
    safe: u64,
    num_skipped: u64,
    /// About what lies beside pictures.
    num_warnings: u64,
}

impl<'a> Progress<'a> {
    fn new(console: &'a Console) -> Self {
        Self {
            console,
            bar: console.counting_bar("import", 0),
            safe: 0,
            num_skipped: 0,
            num_warnings: 0,
        }
    }

    fn note(&mut self, event: ImportEvent) {
        match event {
            ImportEvent::Walked { files } => self.bar.set_length(files),
            ImportEvent::File { path, outcome } => {
                self.bar.inc(1);
                if let FileOutcome::Skipped(reason) = outcome {
                    self.num_skipped += 1;
                    if self.num_skipped <= MAX_NAMED {
                        self.console.line(&skipped(&path, &reason));
                    }
                }
            }
            ImportEvent::Sidecar { path, reason } => {
                self.num_warnings += 1;
                if self.num_warnings > MAX_NAMED {
                    return;
                }
                let text = format!("warning: {}: {reason}", path.display());
                self.console.line(&text.replace(char::is_control, " "));
            }
            ImportEvent::Committed { imported } => self.safe = imported,
        }
    }
}

fn skipped(path: &Path, reason: &SkipReason) -> String {
    let text = format!("skipped {}: {reason}", path.display());
    text.replace(char::is_control, " ")
}

/// What the import did. The report counts what makes no sense beside pictures with the files that were skipped.
fn told(report: &ImportReport, num_warnings: u64) -> String {
    let ImportReport {
        imported,
        captions_made,
        without_caption,
        known,
        skipped: _,
        skipped_in_all,
    } = report;
    let mut text = format!("{imported:>8} imported");
    if *captions_made > 0 {
        text += &format!(", {captions_made} with a caption by the model");
    }
    if *without_caption > 0 {
        text += &format!(", {without_caption} without caption or tags, which no search finds");
    }
    let num_skipped = skipped_in_all.saturating_sub(num_warnings);
    let all_named = |count: u64| match count > MAX_NAMED {
        true => format!("; the first {MAX_NAMED} are named above"),
        false => String::new(),
    };
    text += &format!("\n{known:>8} there already\n{num_skipped:>8} skipped");
    text += &all_named(num_skipped);
    if num_warnings > 0 {
        text += &format!("\n{num_warnings:>8} warnings about what lies beside the pictures");
        text += &all_named(num_warnings);
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_became_of_everything() {
        let report = ImportReport {
            imported: 12,
            captions_made: 5,
            without_caption: 2,
            known: 3,
            skipped: vec![],
            skipped_in_all: 101,
        };
        let wanted = "      12 imported, 5 with a caption by the model, 2 without caption or tags, which no search finds
       3 there already
     101 skipped; the first 100 are named above
";
        assert_eq!(told(&report, 0), wanted);
        let nothing = "       0 imported\n       0 there already\n       0 skipped\n";
        assert_eq!(told(&ImportReport::default(), 0), nothing);
        // A bad line of `metadata.jsonl` is no file that was left out.
        let wanted = "      12 imported, 5 with a caption by the model, 2 without caption or tags, which no search finds
       3 there already
      97 skipped
       4 warnings about what lies beside the pictures
";
        assert_eq!(told(&report, 4), wanted);
    }

    #[test]
    fn a_file_that_is_left_out_is_named_with_the_reason() {
        let reason = SkipReason::NoCaption {
            reason: "the model says nothing about it".to_owned(),
        };
        assert_eq!(
            skipped(Path::new("a\u{1b}.png"), &reason),
            "skipped a .png: no caption: the model says nothing about it"
        );
    }
}
