//! What became of the cases: how many were run in each folder, which failed and how, which were not run and why. A test
//! runs all its cases before it fails.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyhow::Result;

use super::folder::Folder;

/// The outcome of one test: all cases of all folders of a kind.
#[derive(Default)]
pub(super) struct Report {
    title: &'static str,
    num_run: BTreeMap<String, usize>,
    failures: Vec<String>,
    not_run: Vec<String>,
}

impl Report {
    pub(super) fn new(title: &'static str) -> Self {
        Self {
            title,
            ..Self::default()
        }
    }

    /// Runs one case. What goes wrong, panics too, is kept for the end.
    pub(super) fn case(&mut self, folder: &str, case: &str, run: impl FnOnce() -> Result<()>) {
        *self.num_run.entry(folder.to_owned()).or_default() += 1;
        let failure = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => format!("panic: {}", panic_text(&*panic)),
        };
        self.failures.push(format!("{folder}: {case}: {failure}"));
    }

    /// Prepares what several cases need. Without it none of them can run, so its failure counts as one.
    pub(super) fn prepare<T>(
        &mut self,
        folder: &str,
        what: &str,
        run: impl FnOnce() -> Result<T>,
    ) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(ready)) => return Some(ready),
            Ok(Err(error)) => self.fail(folder, what, &format!("{error:#}")),
            Err(panic) => self.fail(folder, what, &format!("panic: {}", panic_text(&*panic))),
        }
        None
    }

    pub(super) fn fail(&mut self, folder: &str, case: &str, why: &str) {
        self.failures.push(format!("{folder}: {case}: {why}"));
    }

    /// Says that a case is not run.
    pub(super) fn skip(&mut self, folder: &str, case: &str, why: &str) {
        self.not_run.push(format!("{folder}: {case}: {why}"));
    }

    /// Says which tensors and cases of a folder nothing has looked at, and fails a folder without a case that was run.
    pub(super) fn end_folder(&mut self, folder: &Folder) {
        for name in folder.unused() {
            self.skip(&folder.name, &name, "unknown here");
        }
        self.end_folder_named(&folder.name);
    }

    pub(super) fn end_folder_named(&mut self, folder: &str) {
        if self.num_run.get(folder).is_none_or(|num_run| *num_run == 0) {
            self.fail(
                folder,
                "no case",
                "the folder is there, and no case was run",
            );
        }
    }

    /// Prints the counts and fails the test if any case failed.
    #[track_caller]
    #[expect(
        clippy::print_stderr,
        reason = "what was not run must be said where it is run"
    )]
    pub(super) fn finish(self) {
        let mut text = format!("golden {}:\n", self.title);
        for line in &self.not_run {
            let _ = writeln!(text, "  not run: {line}");
        }
        for line in &self.failures {
            let _ = writeln!(text, "  FAILED: {line}");
        }
        for (folder, num_run) in &self.num_run {
            let _ = writeln!(text, "  {folder}: {num_run} cases run");
        }
        let num_run: usize = self.num_run.values().sum();
        let (failed, not_run) = (self.failures.len(), self.not_run.len());
        let _ = writeln!(
            text,
            "  {num_run} cases run, {failed} failed, {not_run} not run"
        );
        eprintln!("{text}");
        assert!(
            failed == 0,
            "{failed} of {num_run} golden cases failed:\n{}",
            self.failures.join("\n")
        );
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
