//! The rules of the house: who may depend on whom, which words stay out of which folders.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const CRATES: [&str; 13] = [
    "inkstone",
    "inkstone-cluster",
    "inkstone-composition",
    "inkstone-coordinator",
    "inkstone-engine",
    "inkstone-interface",
    "inkstone-model",
    "inkstone-pictures",
    "inkstone-prefix",
    "inkstone-proto",
    "inkstone-tests",
    "inkstone-worker",
    "inkstone-world",
];

/// Crates that compute with tensors or speak to a GPU.
const TENSOR_CRATES: [&str; 5] = [
    "candle-core",
    "gemm",
    "cudarc",
    "inkstone-model",
    "safetensors",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the workspace")
        .to_owned()
}

/// All crates that `package` links at run time, itself left out.
fn dependencies(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            package,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    let names = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned);
    names.filter(|name| name != package).collect()
}

fn ours(package: &str) -> BTreeSet<String> {
    let all = dependencies(package);
    all.into_iter()
        .filter(|name| CRATES.contains(&name.as_str()))
        .collect()
}

#[track_caller]
fn check_arrows(package: &str, allowed: &[&str]) {
    let found = ours(package);
    let extra: Vec<&String> = found
        .iter()
        .filter(|name| !allowed.contains(&name.as_str()))
        .collect();
    assert!(
        extra.is_empty(),
        "{package} may use {allowed:?}, it also uses {extra:?}"
    );
}

#[test]
fn dependency_arrows_point_as_designed() {
    check_arrows("inkstone-proto", &[]);
    check_arrows("inkstone-cluster", &[]);
    check_arrows("inkstone-prefix", &[]);
    check_arrows("inkstone-engine", &["inkstone-prefix"]);
    check_arrows("inkstone-interface", &[]);
    check_arrows("inkstone-world", &[]);
    check_arrows("inkstone-model", &["inkstone-interface"]);
    check_arrows("inkstone-composition", &["inkstone-interface"]);
    check_arrows("inkstone-pictures", &[]);
    check_arrows(
        "inkstone-coordinator",
        &[
            "inkstone-proto",
            "inkstone-interface",
            "inkstone-cluster",
            "inkstone-prefix",
            "inkstone-composition",
            "inkstone-pictures",
        ],
    );
    check_arrows(
        "inkstone-worker",
        &[
            "inkstone-proto",
            "inkstone-interface",
            "inkstone-cluster",
            "inkstone-engine",
            "inkstone-model",
            "inkstone-prefix",
        ],
    );
}

#[test]
fn coordinator_and_pictures_link_no_tensor_crate() {
    for package in ["inkstone-coordinator", "inkstone-pictures"] {
        let found = dependencies(package);
        let tensors: Vec<_> = TENSOR_CRATES
            .iter()
            .filter(|name| found.contains(**name))
            .collect();
        assert!(tensors.is_empty(), "{package} links {tensors:?}");
    }
}

/// Where articles come from and where their pictures do know nothing of each other: the coordinator brings them together.
#[test]
fn pictures_know_nothing_of_models_articles_and_the_wire() {
    let found = dependencies("inkstone-pictures");
    for name in ["tonic", "prost", "llguidance"] {
        assert!(!found.contains(name), "inkstone-pictures links {name}");
    }
    for (path, text) in sources("coordinator/pictures/src") {
        for word in [
            "inkstone_composition",
            "inkstone_interface",
            "inkstone_proto",
        ] {
            assert!(!text.contains(word), "{} speaks of {word}", path.display());
        }
    }
}

#[test]
fn engine_and_composition_are_pure() {
    check_is_pure("inkstone-engine", "worker/engine/src");
    check_is_pure("inkstone-composition", "coordinator/composition/src");
}

#[track_caller]
fn check_is_pure(package: &str, folder: &str) {
    let found = dependencies(package);
    for name in ["tokio", "rand", "candle-core", "tracing", "metrics"] {
        assert!(!found.contains(name), "{package} links {name}");
    }
    // Tests may read files.
    let sources = sources(folder).into_iter();
    for (path, text) in sources.filter(|(path, _)| !path.to_string_lossy().contains("tests")) {
        for word in [
            "std::time",
            "std::fs",
            "std::net",
            "std::env",
            "std::thread",
            "Instant",
            "SystemTime",
        ] {
            assert!(!text.contains(word), "{} speaks of {word}", path.display());
        }
    }
}

#[test]
fn generated_wire_types_stay_at_the_edges() {
    let edges = [
        "coordinator/src/api/",
        "coordinator/src/worker_client",
        "coordinator/src/app.rs",
        "worker/src/service/",
    ];
    let more = [
        "worker/src/group/plan_stream.rs",
        "worker/src/group/join.rs",
        "worker/src/group/joined.rs",
        "worker/src/feature_fetcher.rs",
        "worker/src/language/formation.rs",
        "worker/src/rank_process.rs",
    ];
    for folder in [
        "coordinator/src",
        "coordinator/composition/src",
        "worker/src",
    ] {
        for (path, text) in sources(folder) {
            let name = path.to_string_lossy().replace('\\', "/");
            let is_edge = edges.iter().chain(&more).any(|edge| name.starts_with(edge));
            let is_test = name.contains("/tests/") || name.ends_with("tests.rs");
            assert!(
                is_edge || is_test || !text.contains("inkstone_proto::"),
                "{name} uses wire types"
            );
        }
    }
}

#[test]
fn features_are_asked_for_in_ops_and_collectives_only() {
    for folder in [
        "coordinator/composition/src",
        "coordinator/pictures/src",
        "coordinator/src",
        "worker/src",
        "worker/engine/src",
        "cluster/src",
        "model/interface/src",
        "model/network/src",
    ] {
        for (path, text) in sources(folder) {
            let name = path.to_string_lossy().replace('\\', "/");
            let home = ["model/network/src/ops/", "model/network/src/collectives/"];
            if !home.iter().any(|home| name.starts_with(home)) {
                assert!(
                    !text.contains("cfg(feature"),
                    "{name} asks for a cargo feature"
                );
            }
        }
    }
}

#[test]
fn only_the_command_line_reads_the_environment() {
    for folder in [
        "coordinator/composition/src",
        "coordinator/pictures/src",
        "coordinator/src",
        "worker/src",
        "worker/engine/src",
        "cluster/src",
        "model/interface/src",
        "model/network/src",
    ] {
        for (path, text) in sources(folder) {
            let is_test = path.to_string_lossy().contains("tests");
            // Comments may speak of it.
            let mut code = text.lines().filter(|line| !line.trim().starts_with("//"));
            assert!(
                is_test || !code.any(|line| line.contains("env::var")),
                "{} reads the environment",
                path.display()
            );
        }
    }
}

#[test]
fn no_file_is_called_utils_or_common() {
    for folder in [
        "cli",
        "cluster",
        "coordinator",
        "model",
        "proto",
        "tests",
        "worker",
    ] {
        for (path, _) in sources(folder) {
            let stem = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            assert!(
                !["utils", "util", "common", "helpers", "misc"].contains(&stem.as_str()),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for folder in [
        "cli/src",
        "cluster/src",
        "coordinator/composition",
        "coordinator/pictures",
        "coordinator/src",
        "model",
        "proto/src",
        "tests",
        "worker",
    ] {
        for (path, text) in sources(folder) {
            let is_test = path.file_name().is_some_and(|name| name == "tests.rs");
            assert!(
                is_test || text.starts_with("//!"),
                "{} does not open with a `//!` line",
                path.display()
            );
        }
    }
}

/// All Rust files below `folder`, by their path from the root.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .expect("a folder of ours")
            .map(|entry| entry.expect("readable"))
        {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                found.push((
                    path.strip_prefix(root())
                        .expect("below the root")
                        .to_owned(),
                    text,
                ));
            }
        }
    }
    found
}
