//! One tenant cannot take a service from another: over real processes, a simulated accelerator and gRPC, the time to the first token of a tenant that
//! asks one question at a time, while another keeps 64 open, beside its quiet value and beside a coordinator without turns.
//!
//! Bounds are generous: this machine is busy with other things, and a wait for a turn would be tens of times the quiet value. The goal itself (2) is
//! what `inkstone bench fairness` is read for on a quiet machine.

use std::process::Command;

use serde_json::Value;

use crate::cluster_fixture::program;

#[test]
fn a_tenant_with_64_times_the_load_does_not_hold_up_another() {
    let output = Command::new(program())
        .args(["bench", "fairness", "--json"])
        .args([
            "--load-factor",
            "64",
            "--running",
            "16",
            "--questions",
            "15",
        ])
        .args(["--prompt-tokens", "32", "--answer-tokens", "32"])
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).expect(path);
    assert_eq!(number("/quiet/count"), 15.0);
    let (fair, first_come) = (number("/fair_ratio"), number("/first_come_ratio"));
    assert!(fair < 10.0, "{fair} times the quiet value: {report:#}");
    assert!(
        first_come > 3.0 * fair,
        "without turns {first_come} times the quiet value, with turns {fair}: {report:#}"
    );
    // Turns are not paid for with throughput: the loud tenant has all that the quiet one leaves.
    let rates = ["fair", "first_come"].map(|way| number(&format!("/{way}/loud_tokens_per_second")));
    assert!(rates[0] > 0.6 * rates[1], "{report:#}");
}
