//! `inkstone bench`: small versions of the measurements, to see that they measure what they say. Their figures mean nothing here.

use std::process::Command;

use inkstone_tests::process::Process;
use serde_json::Value;

use crate::cluster_fixture::{program, tiny_model};

/// Runs `inkstone bench` and gives what it prints.
fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(program())
        .arg("bench")
        .args(arguments)
        .arg("--json")
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON and nothing else")
}

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number at {path} in {value:#}"))
}

#[test]
fn a_load_counts_every_token_and_keeps_its_limits() {
    let report = bench(&[
        "serve",
        "--model",
        tiny_model(),
        "--concurrency",
        "3",
        "--requests",
        "7",
        "--prompt-tokens",
        "12",
        "--answer-tokens",
        "9",
    ]);
    assert_eq!(number(&report, "/requests"), 7.0);
    assert_eq!(number(&report, "/failed"), 0.0);
    assert_eq!(number(&report, "/mean_answer_tokens"), 9.0);
    assert!(number(&report, "/mean_prompt_tokens") >= 12.0);
    assert_eq!(number(&report, "/time_to_first_token_ms/count"), 7.0);
    assert!(number(&report, "/tokens_per_second") > 0.0);
    let ordered = ["p50", "p90", "p99", "max"]
        .map(|name| number(&report, &format!("/between_tokens_ms/{name}")));
    assert!(ordered.is_sorted(), "{ordered:?}");
}

#[test]
fn an_open_loop_asks_at_its_rate() {
    let report = bench(&[
        "serve",
        "--model",
        tiny_model(),
        "--rate",
        "20",
        "--requests",
        "10",
        "--answer-tokens",
        "4",
    ]);
    assert_eq!(number(&report, "/failed"), 0.0);
    // Ten requests at 20 a second take half a second, give or take luck; all at once would take a hundredth.
    assert!(number(&report, "/seconds") > 0.1, "{report:#}");
}

#[test]
fn the_coordinator_is_measured_beside_a_proxy_that_carries_as_much() {
    let report = bench(&[
        "coordinator",
        "--streams",
        "48",
        "--prompt-tokens",
        "8",
        "--answer-tokens",
        "160",
    ]);
    assert_eq!(number(&report, "/load/failed"), 0.0);
    assert_eq!(number(&report, "/load/mean_answer_tokens"), 160.0);
    let [coordinator, proxy] =
        ["coordinator", "proxy"].map(|name| number(&report, &format!("/{name}/messages")));
    assert!((0.95..1.05).contains(&(proxy / coordinator)), "{report:#}");
    let bytes = ["coordinator", "proxy"].map(|name| {
        number(&report, &format!("/{name}/message_bytes"))
            / number(&report, &format!("/{name}/messages"))
    });
    assert!((bytes[0] - bytes[1]).abs() <= 0.5, "{bytes:?}");
    assert!(number(&report, "/ratio") > 0.0);
}

#[test]
fn the_engine_is_measured_with_and_without_what_it_brings() {
    let report = bench(&[
        "engine",
        "--model",
        tiny_model(),
        "--requests",
        "4",
        "--answer-tokens",
        "4",
        "--long-prompt-tokens",
        "200",
        "--chunk",
        "80",
        "--pictures",
        "2",
    ]);
    let concurrency = [0, 1, 2].map(|row| number(&report, &format!("/batching/{row}/concurrency")));
    assert_eq!(concurrency, [1.0, 8.0, 32.0]);
    assert_eq!(number(&report, "/batching/0/speed_up"), 1.0);
    assert_eq!(number(&report, "/chunking/1/max_step_tokens"), 80.0);
    assert_eq!(number(&report, "/pictures/second/count"), 2.0);
    // A 224-pixel picture takes 256 positions, which the second question finds in the cache.
    assert!(
        number(&report, "/pictures/cached_tokens") >= 256.0,
        "{report:#}"
    );
}

#[test]
fn routing_is_measured_beside_other_ways_and_the_best_possible() {
    let report = bench(&[
        "routing",
        "--groups",
        "2",
        "--requests",
        "60",
        "--concurrency",
        "2",
        "--beginnings",
        "6",
        "--beginning-tokens",
        "300",
        "--question-tokens",
        "20",
        "--answer-tokens",
        "4",
    ]);
    let [cost, round_robin, least_loaded] =
        [0, 1, 2].map(|way| number(&report, &format!("/ways/{way}/hit_rate")));
    let best = number(&report, "/best_hit_rate");
    for rate in [cost, round_robin, least_loaded] {
        assert!((0.0..=best + 1e-9).contains(&rate), "{report:#}");
    }
    // Each beginning is computed once, or once in each group.
    assert!(cost > round_robin, "{report:#}");
    let points = number(&report, "/points_below_best");
    assert!((points - 100.0 * (best - cost)).abs() < 1e-6, "{report:#}");
}

#[test]
fn a_simulated_worker_needs_no_weights_and_says_the_same_each_time() {
    let parent = tempfile::tempdir().expect("a temporary folder");
    let model = parent.path().join("hollow");
    let model = model.to_str().expect("UTF-8");
    let made = Command::new(program())
        .args(["model", "synthesize", "--preset", "tiny", "--hollow", model])
        .status()
        .expect("it runs");
    assert!(made.success());
    let worker = |role| {
        let worker = Process::start(
            program(),
            &[
                "worker",
                "--executor",
                "simulated",
                "--simulated-answer-tokens",
                "12",
                "--role",
                role,
                "--model",
                model,
            ],
        );
        let address = worker.wait_for("listening", "address");
        (worker, address)
    };
    let (_language, leader) = worker("language");
    let (_vision, pictures) = worker("vision");
    let coordinator = Process::start(
        program(),
        &[
            "coordinator",
            "--grpc",
            "127.0.0.1:0",
            "--language",
            &leader,
            "--vision",
            &pictures,
        ],
    );
    let address = coordinator.wait_for("coordinator ready", "address");
    let picture = parent.path().join("picture.bmp");
    std::fs::write(&picture, two_by_two_bmp()).expect("it is written");
    let picture = picture.to_str().expect("UTF-8");
    let ask = |question: &str| {
        let output = Command::new(program())
            .args([
                "chat", "--server", &address, "--seed", "3", "--image", picture,
            ])
            .arg(question)
            .output()
            .expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let answer = ask("What is this?");
    assert!(!answer.trim().is_empty());
    assert_eq!(answer, ask("What is this?"));
}

/// A picture of four grey pixels.
fn two_by_two_bmp() -> Vec<u8> {
    let mut file = b"BM".to_vec();
    for number in [
        70u32,
        0,
        54,
        40,
        2,
        2,
        1 | (24 << 16),
        0,
        16,
        2835,
        2835,
        0,
        0,
    ] {
        file.extend(number.to_le_bytes());
    }
    file.extend([128u8; 16]);
    file
}
