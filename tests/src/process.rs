//! Processes of `inkstone`: started, listened to through their log lines, killed when dropped.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

/// How long a process may take to say what a test waits for: debug builds on a busy machine are slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running `inkstone`.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Default)]
struct Lines {
    text: Vec<String>,
    ended: bool,
}

impl Process {
    /// Starts `program` (the binary under test) with `arguments`, logging JSON.
    pub fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .args(["--log-format", "json"])
            .env("INKSTONE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let log = Arc::new(Log::default());
        let (stderr, lines) = (child.stderr.take().expect("it is piped"), Arc::clone(&log));
        thread::spawn(move || lines.follow(BufReader::new(stderr)));
        Self {
            name: arguments.join(" "),
            child,
            log,
        }
    }

    /// Waits for a log line with this message and returns one of its fields.
    pub fn wait_for(&self, message: &str, field: &str) -> String {
        self.wait(message, |line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields")?;
            let says = fields.get("message")?.as_str()? == message;
            says.then(|| {
                fields.get(field).map(|value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                })
            })?
        })
    }

    /// Waits for a line that contains `text` and returns it.
    pub fn wait_for_text(&self, text: &str) -> String {
        self.wait(text, |line| line.contains(text).then(|| line.to_owned()))
    }

    fn wait(&self, wanted: &str, found: impl Fn(&str) -> Option<String>) -> String {
        let started = Instant::now();
        let mut lines = self.log.lines.lock().expect("no reader panics");
        loop {
            if let Some(found) = lines.text.iter().find_map(|line| found(line)) {
                return found;
            }
            let all = || lines.text.join("\n");
            assert!(
                !lines.ended,
                "`{}` ended without saying `{wanted}`:\n{}",
                self.name,
                all()
            );
            let left = PATIENCE.saturating_sub(started.elapsed());
            assert!(
                !left.is_zero(),
                "`{}` did not say `{wanted}`:\n{}",
                self.name,
                all()
            );
            lines = self
                .log
                .grown
                .wait_timeout(lines, left)
                .expect("no reader panics")
                .0;
        }
    }

    /// All lines so far.
    pub fn log_text(&self) -> String {
        self.log
            .lines
            .lock()
            .expect("no reader panics")
            .text
            .join("\n")
    }

    /// Kills it, as a machine that loses power would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop, as Kubernetes does.
    pub fn terminate(&self) {
        let status = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for it to end by itself.
    pub fn wait_for_end(&mut self, patience: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            let waited = started.elapsed();
            assert!(
                waited < patience,
                "`{}` still runs after {waited:?}:\n{}",
                self.name,
                self.log_text()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Log {
    fn follow(&self, reader: impl BufRead) {
        for line in reader.lines().map_while(Result::ok) {
            self.lines.lock().expect("no reader panics").text.push(line);
            self.grown.notify_all();
        }
        self.lines.lock().expect("no reader panics").ended = true;
        self.grown.notify_all();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
