//! Processes of `inkstone` and what it needs: started, listened to through their log lines, stopped and frozen as faults do it,
//! killed when dropped.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

/// How long a process may take to say what a test waits for: debug builds on a busy machine are slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a process is started; again and again, where a test wants that.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What it is called in messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The network namespace it runs in, if not the test's own.
    pub namespace: Option<String>,
}

impl Launch {
    /// The binary under test, logging JSON.
    pub fn inkstone(name: &str, program: &Path, arguments: &[&str]) -> Self {
        let mut arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        arguments.extend(["--log-format", "json"].map(str::to_owned));
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments,
            namespace: None,
        }
    }

    /// `ip netns exec` becomes the program itself, so signals reach it either way.
    fn command(&self) -> Command {
        let mut command = match &self.namespace {
            None => Command::new(&self.program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]);
                command.arg(&self.program);
                command
            }
        };
        command.args(&self.arguments).env("INKSTONE_LOG", "info");
        command
    }
}

/// A running process. It stays in the test's process group: who ends the group, as Ctrl-C does, ends it too.
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
        Self::launch(&Launch::inkstone(&arguments.join(" "), program, arguments))
    }

    /// Starts what is described.
    pub fn launch(launch: &Launch) -> Self {
        let mut child = launch
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", launch.program.display()));
        let log = Arc::new(Log::default());
        let (stderr, lines) = (child.stderr.take().expect("it is piped"), Arc::clone(&log));
        thread::spawn(move || lines.follow(BufReader::new(stderr)));
        Self {
            name: launch.name.clone(),
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
        self.signal("TERM");
    }

    /// Freezes it: it holds its connections and says nothing.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// How it ended, if it did.
    pub fn try_end(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for it to end by itself.
    pub fn wait_for_end(&mut self, patience: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.try_end() {
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
