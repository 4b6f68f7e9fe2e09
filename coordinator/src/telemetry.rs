//! What is measured of requests, and the lines that are logged when they end.

use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use tokio::time::Instant;

use crate::request::{
    FinishReason, PromptSize,
    lifecycle::{Lifecycle, LossCause},
};

const REQUESTS: &str = "inkstone_requests_total";
const RUNNING: &str = "inkstone_requests_running";
const FIRST_TOKEN: &str = "inkstone_time_to_first_token_seconds";
const INTER_TOKEN: &str = "inkstone_inter_token_latency_seconds";
const DURATION: &str = "inkstone_request_duration_seconds";
const PROMPT_TOKENS: &str = "inkstone_prompt_tokens_total";
const PICTURE_TOKENS: &str = "inkstone_picture_tokens_total";
const COMPLETION_TOKENS: &str = "inkstone_completion_tokens_total";
const MOVES: &str = "inkstone_request_moves_total";
const RECOVERY: &str = "inkstone_request_recovery_seconds";
const REPLAYED_TOKENS: &str = "inkstone_replayed_tokens_total";
const PICTURES_LET_GO: &str = "inkstone_pictures_let_go_total";

/// Tells the recorder what the metrics mean. Called once at start.
pub(crate) fn describe() {
    describe_counter!(
        REQUESTS,
        "requests by outcome: chats, steps of compositions, and calls of both that were turned away"
    );
    describe_gauge!(RUNNING, "chat requests taken on and not ended");
    describe_histogram!(
        FIRST_TOKEN,
        Unit::Seconds,
        "from admission to the first token"
    );
    describe_histogram!(
        INTER_TOKEN,
        Unit::Seconds,
        "between tokens of an answer, after the first"
    );
    describe_histogram!(DURATION, Unit::Seconds, "from admission to the end");
    describe_counter!(PROMPT_TOKENS, "positions of prompts, pictures included");
    describe_counter!(PICTURE_TOKENS, "positions of pictures in prompts");
    describe_counter!(COMPLETION_TOKENS, "tokens generated");
    describe_counter!(
        MOVES,
        "requests that went elsewhere because what ran them was lost, by cause"
    );
    describe_histogram!(
        RECOVERY,
        Unit::Seconds,
        "from the loss of what ran a request to its next token"
    );
    describe_counter!(
        REPLAYED_TOKENS,
        "tokens of answers that were sent to another group to go on after"
    );
    describe_counter!(
        PICTURES_LET_GO,
        "pictures that were not kept while their request ran, for want of room"
    );
}

/// Counts a request that was refused before it was taken on.
pub(crate) fn count_refused(reason: &'static str) {
    counter!(REQUESTS, "outcome" => reason).increment(1);
}

/// Counts pictures that cannot be put again if they are lost.
pub(crate) fn count_pictures_let_go(num_pictures: usize) {
    counter!(PICTURES_LET_GO).increment(num_pictures as u64);
}

/// Measures one request that was taken on. What is counted for every token is looked up once.
pub(crate) struct RequestMeter {
    completion_tokens: Counter,
    inter_token: Histogram,
    admitted: Instant,
    /// When tokens of each answer last came.
    last_tokens: Vec<Option<Instant>>,
    num_tokens: usize,
}

impl RequestMeter {
    pub(crate) fn start() -> Self {
        gauge!(RUNNING).increment(1);
        Self {
            completion_tokens: counter!(COMPLETION_TOKENS),
            inter_token: histogram!(INTER_TOKEN),
            admitted: Instant::now(),
            last_tokens: vec![],
            num_tokens: 0,
        }
    }

    /// The prompt is known.
    pub(crate) fn prompt(&self, size: PromptSize) {
        counter!(PROMPT_TOKENS).increment(size.prompt_tokens.into());
        counter!(PICTURE_TOKENS).increment(size.picture_tokens.into());
    }

    /// So many tokens of an answer came at once.
    pub(crate) fn tokens(&mut self, answer: usize, num: usize) {
        let now = Instant::now();
        if !self.count_tokens(num, now) {
            return;
        }
        if self.last_tokens.len() <= answer {
            self.last_tokens.resize(answer + 1, None);
        }
        if let Some(last) = self.last_tokens[answer].replace(now) {
            let each = (now - last) / u32::try_from(num).unwrap_or(u32::MAX);
            self.inter_token.record_many(each, num);
        }
    }

    /// So many tokens came, of answers that are whole.
    pub(crate) fn whole_answers(&mut self, num_tokens: usize) {
        self.count_tokens(num_tokens, Instant::now());
    }

    /// What ran the request was lost.
    pub(crate) fn moved(&self, cause: LossCause) {
        counter!(MOVES, "cause" => cause.name()).increment(1);
    }

    /// So many tokens of it were sent to another group.
    pub(crate) fn replayed(&self, num_tokens: usize) {
        if num_tokens > 0 {
            counter!(REPLAYED_TOKENS).increment(num_tokens as u64);
        }
    }

    /// It goes on, so long after the loss.
    pub(crate) fn recovered(&self, after: Duration) {
        histogram!(RECOVERY).record(after);
    }

    /// Says whether there were any.
    fn count_tokens(&mut self, num: usize, now: Instant) -> bool {
        if num == 0 {
            return false;
        }
        if self.num_tokens == 0 {
            histogram!(FIRST_TOKEN).record(now - self.admitted);
        }
        self.completion_tokens.increment(num as u64);
        self.num_tokens += num;
        true
    }

    /// The request reached a final state.
    pub(crate) fn end(&self, state: &Lifecycle) {
        let elapsed = self.admitted.elapsed();
        let outcome = outcome(state);
        counter!(REQUESTS, "outcome" => outcome).increment(1);
        histogram!(DURATION).record(elapsed);
        log_end(state, outcome, self.num_tokens, elapsed);
    }
}

impl Drop for RequestMeter {
    fn drop(&mut self) {
        gauge!(RUNNING).decrement(1);
    }
}

fn outcome(state: &Lifecycle) -> &'static str {
    match state {
        Lifecycle::Finished { reason } => match reason {
            FinishReason::Stop => "STOP",
            FinishReason::Length => "LENGTH",
        },
        Lifecycle::Cancelled => "CANCELLED",
        Lifecycle::Failed { error } => error.reason(),
        Lifecycle::Admitted(_)
        | Lifecycle::Rendered(..)
        | Lifecycle::Running(_)
        | Lifecycle::Moving(..) => "UNFINISHED",
    }
}

fn log_end(state: &Lifecycle, outcome: &str, completion_tokens: usize, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    match state {
        Lifecycle::Failed { error } => {
            tracing::warn!(outcome, %error, completion_tokens, seconds, "request failed");
        }
        _ => tracing::info!(outcome, completion_tokens, seconds, "request ended"),
    }
}
