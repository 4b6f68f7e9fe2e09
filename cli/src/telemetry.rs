//! Log lines and progress bars share the terminal's error output: bars step aside while a line is written.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use inkstone_worker::progress::{LoadProgress, ProgressSink};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::arguments::LogFormat;

/// Variable that chooses log lines, as in `INKSTONE_LOG=debug`.
const FILTER_VARIABLE: &str = "INKSTONE_LOG";

/// The terminal's error output.
#[derive(Clone)]
pub(crate) struct Console {
    bars: MultiProgress,
}

/// Starts logging; `level` is what is written unless the variable says otherwise.
pub(crate) fn start(format: LogFormat, level: &str) -> Console {
    let console = Console {
        bars: MultiProgress::new(),
    };
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(console.clone());
    match format {
        LogFormat::Text => lines
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .init(),
        LogFormat::Json => lines.json().init(),
    }
    console
}

impl Console {
    /// Says what went wrong, cause by cause.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let mut text = format!("error: {error}");
        for cause in error.chain().skip(1).map(ToString::to_string) {
            // Many errors quote their cause already.
            if !text.contains(&cause) {
                text += &format!(": {cause}");
            }
        }
        self.line(&text);
    }

    /// Writes a line that is not a log line.
    pub(crate) fn line(&self, text: &str) {
        // With nowhere to write to there is nobody to tell.
        let _ = self.bars.suspend(|| writeln!(io::stderr(), "{text}"));
    }

    /// Shows loading: bars on a terminal, a log line at each quarter elsewhere.
    pub(crate) fn progress(&self) -> ProgressSink {
        if io::stderr().is_terminal() {
            let bars = Mutex::new(HashMap::new());
            let console = self.clone();
            Arc::new(move |at| console.show_bar(&bars, &at))
        } else {
            let quarters = Mutex::new(HashMap::new());
            Arc::new(move |at| log_quarter(&quarters, &at))
        }
    }

    /// A bar that counts to `total`, seen on a terminal only.
    pub(crate) fn counting_bar(&self, name: &'static str, total: u64) -> ProgressBar {
        let style = "{prefix:>10} [{bar:32}] {pos}/{len} {per_sec} {eta}";
        self.bars
            .add(ProgressBar::new(total))
            .with_style(bar_style(style))
            .with_prefix(name)
    }

    fn show_bar(&self, bars: &Mutex<HashMap<String, ProgressBar>>, at: &LoadProgress) {
        let Ok(mut bars) = bars.lock() else { return };
        let bar = bars.entry(at.part.clone()).or_insert_with(|| {
            let style = "{prefix:>10} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            self.bars
                .add(ProgressBar::new(at.bytes_total))
                .with_style(bar_style(style))
                .with_prefix(at.part.clone())
        });
        bar.set_position(at.bytes_done);
        if at.bytes_done >= at.bytes_total {
            bar.finish_and_clear();
        }
    }
}

fn bar_style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn log_quarter(quarters: &Mutex<HashMap<String, u64>>, at: &LoadProgress) {
    let Ok(mut quarters) = quarters.lock() else {
        return;
    };
    let quarter = at.bytes_done.saturating_mul(4) / at.bytes_total.max(1);
    let last = quarters.entry(at.part.clone()).or_insert(0);
    if quarter > *last {
        *last = quarter;
        tracing::info!(
            part = at.part,
            percent = quarter * 25,
            bytes = at.bytes_done,
            "weights"
        );
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter(self.bars.clone())
    }
}

/// Writes past the bars.
pub(crate) struct LineWriter(MultiProgress);

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
