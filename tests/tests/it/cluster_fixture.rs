//! Clusters for the end-to-end tests: a tiny random model, served by one process or by one process a part.

use std::{path::Path, sync::OnceLock};

use inkstone_model::synthesize::{Preset, SynthesizeOptions, synthesize};
use inkstone_tests::process::Process;
use tempfile::TempDir;

/// The binary that was built with these tests.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_inkstone-under-test"))
}

/// A tiny model with random weights, made once a test process.
pub(crate) fn tiny_model() -> &'static str {
    static MODEL: OnceLock<(TempDir, String)> = OnceLock::new();
    let (_, path) = MODEL.get_or_init(|| {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let dir = parent.path().join("tiny");
        synthesize(Preset::Tiny, 7, &dir, SynthesizeOptions::default(), &|_| {})
            .expect("it is written");
        let path = dir.to_str().expect("UTF-8").to_owned();
        (parent, path)
    });
    path
}

/// The checkpoint that ships.
pub(crate) fn small_model() -> &'static str {
    concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../model/pretrained/inkstone-small"
    )
}

/// A whole cluster in one process.
pub(crate) struct Served {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl Served {
    /// Serves `model` with more `arguments`.
    pub(crate) fn start(model: &str, arguments: &[&str]) -> Self {
        let mut all = vec!["serve", "--model", model, "--grpc", "127.0.0.1:0"];
        all.extend(arguments);
        let process = Process::start(program(), &all);
        let line = process.wait_for_text("ready: gRPC on ");
        let address = line
            .split_whitespace()
            .nth(3)
            .expect("an address")
            .trim_end_matches(';')
            .to_owned();
        Self { process, address }
    }
}

/// A cluster of one process a part, over TCP.
pub(crate) struct Spread {
    pub(crate) leader: Process,
    pub(crate) ranks: Vec<Process>,
    pub(crate) vision: Vec<Process>,
    _coordinator: Process,
    pub(crate) address: String,
}

impl Spread {
    /// Serves `model` on `world_size` language ranks and `num_vision` vision workers.
    pub(crate) fn start(model: &str, world_size: usize, num_vision: usize) -> Self {
        let width = world_size.to_string();
        let worker = |role: &str, more: &[&str]| {
            let mut all = vec![
                "worker",
                "--role",
                role,
                "--model",
                model,
                "--grpc",
                "127.0.0.1:0",
                "--threads",
                "1",
            ];
            all.extend(more);
            Process::start(program(), &all)
        };
        let vision: Vec<Process> = (0..num_vision).map(|_| worker("vision", &[])).collect();
        let leader = worker(
            "language",
            &[
                "--tensor-parallel",
                &width,
                "--rank",
                "0",
                "--step-deadline",
                "30",
            ],
        );
        let leader_address = leader.wait_for("listening", "address");
        let ranks = (1..world_size).map(|rank| {
            let rank = rank.to_string();
            let arguments = [
                "--tensor-parallel",
                &width,
                "--rank",
                &rank,
                "--leader",
                &leader_address,
                "--step-deadline",
                "30",
            ];
            worker("language", &arguments)
        });
        let ranks = ranks.collect();
        let addresses = vision
            .iter()
            .map(|worker| worker.wait_for("listening", "address"));
        let vision_addresses = addresses.collect::<Vec<_>>().join(",");
        let arguments = [
            "coordinator",
            "--grpc",
            "127.0.0.1:0",
            "--language",
            &leader_address,
            "--vision",
            &vision_addresses,
        ];
        let coordinator = Process::start(program(), &arguments);
        let address = coordinator.wait_for("coordinator ready", "address");
        Self {
            leader,
            ranks,
            vision,
            _coordinator: coordinator,
            address,
        }
    }
}
