//! Processes of this binary, started to be measured: what they say, and the processor time they took, as the kernel counts it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

/// How long a process may take to say that it is ready.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Log lines kept until somebody reads them; later ones are passed over.
const KEPT_LINES: usize = 256;
/// The unit of the times in `/proc/PID/stat`: a hundredth of a second in every Linux that programs see.
const TICK: Duration = Duration::from_millis(10);

/// A running process; killed when dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts `inkstone` with `arguments`.
    pub(crate) fn start(name: &'static str, arguments: &[String]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let mut child = Command::new(program)
            .args(arguments)
            .args(["--log-format", "json"])
            .env("INKSTONE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let stderr = child.stderr.take().context("its errors are piped")?;
        let (sender, lines) = mpsc::channel(KEPT_LINES);
        thread::spawn(move || pass_on(stderr, &sender));
        Ok(Self { name, child, lines })
    }

    /// Waits until it logs `message`, and gives the line's `address`.
    pub(crate) async fn address(&mut self, message: &str) -> anyhow::Result<String> {
        let mut last = String::new();
        let found = async {
            while let Some(line) = self.lines.recv().await {
                if let Some(address) = address_in(&line, message) {
                    return Some(address);
                }
                last = line;
            }
            None
        };
        let found = timeout(START_LIMIT, found).await;
        let found = found.with_context(|| {
            format!(
                "the {} did not say `{message}` within {} s",
                self.name,
                START_LIMIT.as_secs()
            )
        })?;
        found.with_context(|| format!("the {} ended: {last}", self.name))
    }

    /// Waits until it ends, and says so with its last words.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        let mut last = String::new();
        while let Some(line) = self.lines.recv().await {
            last = line;
        }
        anyhow::anyhow!("the {} ended: {last}", self.name)
    }

    /// Processor time of all its threads, in user and kernel mode.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let file = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&file)
            .with_context(|| format!("the {} is gone: cannot read {file}", self.name))?;
        cpu_time(&stat).with_context(|| format!("{file} is not as expected: {stat}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, so that the process never waits for its reader.
fn pass_on(stderr: ChildStderr, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        // Nobody reads once the process is ready.
        let _ = lines.try_send(line);
    }
}

fn address_in(line: &str, message: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields")?;
    (fields.get("message")?.as_str()? == message).then_some(())?;
    fields.get("address")?.as_str().map(str::to_owned)
}

/// Fields 14 and 15 of `/proc/PID/stat`, counted behind the name, which may hold anything.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u32>().ok();
    TICK.checked_mul(ticks(14)?.checked_add(ticks(15)?)?)
}

/// Says so when this process may not open `wanted` files.
pub(crate) fn check_open_files(wanted: u64) -> anyhow::Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let Some(limit) = open_files(&limits) else {
        return Ok(());
    };
    ensure!(
        limit >= wanted,
        "so many connections need {wanted} open files, the limit is {limit}: run `ulimit -n {wanted}` first, or give \
         fewer --connections"
    );
    Ok(())
}

/// The soft limit; `None` when there is none.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat =
            "123 (a ) (b) c) S 1 123 123 0 -1 4194560 1200 0 3 0 250 75 9 9 20 0 12 0 100 1000 200";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(3250)));
        assert_eq!(cpu_time("123 (cut off) S 1 2"), None);
        assert_eq!(cpu_time("nothing"), None);
    }

    #[test]
    fn our_own_processor_time_can_be_read() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(cpu_time(&stat).is_some(), "{stat}");
    }

    #[test]
    fn the_limit_of_open_files_is_the_soft_one() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(
            open_files("Max open files  unlimited unlimited files"),
            None
        );
        check_open_files(8).unwrap();
    }

    #[test]
    fn an_address_is_read_from_the_line_that_was_asked_for() {
        let line = r#"{"level":"INFO","fields":{"message":"listening","address":"127.0.0.1:5"}}"#;
        assert_eq!(
            address_in(line, "listening").as_deref(),
            Some("127.0.0.1:5")
        );
        assert_eq!(address_in(line, "coordinator ready"), None);
        assert_eq!(address_in("not JSON", "listening"), None);
    }
}
