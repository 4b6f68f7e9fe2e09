//! What is measured of the queue.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::{fair_queue::Amount, shed::ShedReason};
use crate::worker_client::Priority;

const QUEUED: &str = "inkstone_queued_requests";
const QUEUED_TOKENS: &str = "inkstone_queued_tokens";
const WAITED: &str = "inkstone_queue_wait_seconds";
const SHED: &str = "inkstone_requests_shed_total";

/// Tells the recorder what the metrics mean.
pub(super) fn describe() {
    describe_gauge!(QUEUED, "requests that wait for their turn, by priority");
    describe_gauge!(
        QUEUED_TOKENS,
        "tokens that these are expected to take, answers included"
    );
    describe_histogram!(
        WAITED,
        Unit::Seconds,
        "from the door to the turn, or to being sent away"
    );
    describe_counter!(
        SHED,
        "requests sent away by the bound they would have passed"
    );
}

/// So much waits now.
pub(super) fn queued(priority: Priority, amount: Amount) {
    gauge!(QUEUED, "priority" => name(priority)).set(amount.requests as f64);
    gauge!(QUEUED_TOKENS, "priority" => name(priority)).set(amount.tokens as f64);
}

/// A request waited so long.
pub(super) fn waited(priority: Priority, time: Duration) {
    histogram!(WAITED, "priority" => name(priority)).record(time);
}

/// A request was sent away.
pub(super) fn shed(reason: ShedReason) {
    counter!(SHED, "reason" => reason.label()).increment(1);
}

fn name(priority: Priority) -> &'static str {
    match priority {
        Priority::Interactive => "interactive",
        Priority::Batch => "batch",
    }
}
