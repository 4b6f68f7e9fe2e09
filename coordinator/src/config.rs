//! Settings of the coordinator, typed and checked whole before anything starts. The command line crate fills them in;
//! nothing here reads flags, files or the environment.

use std::time::Duration;

use inkstone_cluster::Members;

const MIB: usize = 1024 * 1024;

/// Everything a coordinator must be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whom it speaks for.
    pub members: Members,
    /// What it takes on.
    pub limits: Limits,
    /// How long it waits.
    pub timeouts: Timeouts,
}

/// Bounds on requests; past them a request is refused, never cut and never left to wait.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one request message. 64 MiB: three pictures of the largest size, or sixteen of 4 MiB, the usual phone
    /// photograph.
    pub max_message_bytes: usize,
    /// Messages of one conversation. 1024: each takes some ten tokens, so more cannot fit a prompt anyway.
    pub max_messages: usize,
    /// Bytes of text in one request. 1 MiB: 64 bytes for each token of the longest prompt of the family (16384), more
    /// than any text has, and little enough to tokenise in a moment.
    pub max_text_bytes: usize,
    /// Pictures of one request. 16: at 1225 positions each, more than the longest prompt holds.
    pub max_pictures: usize,
    /// Bytes of one encoded picture. 20 MiB: a 12-megapixel photograph as PNG fits.
    pub max_picture_bytes: usize,
    /// Stop strings of one request. 16: each costs a comparison for every character of the answer.
    pub max_stop_strings: usize,
    /// Requests that run at once. 256: about what one language group batches; each holds its pictures in memory until
    /// they are uploaded.
    pub max_requests: usize,
    /// Requests at once on one connection. 256, so that one client may use the whole coordinator.
    pub max_requests_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 * MIB,
            max_messages: 1024,
            max_text_bytes: MIB,
            max_pictures: 16,
            max_picture_bytes: 20 * MIB,
            max_stop_strings: 16,
            max_requests: 256,
            max_requests_per_connection: 256,
        }
    }
}

/// How long to wait for what.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For the first language group and vision worker to answer. 10 minutes: a cold 7B checkpoint read from a network
    /// disk takes that long.
    pub start: Duration,
    /// For a connection to a worker. 2 s: workers are in the same network.
    pub connect: Duration,
    /// For a worker to describe itself. 10 s: it sends its tokenizer, 1.5 MB.
    pub describe: Duration,
    /// For a leader to say whether it takes a request. 30 s: it looks at its queue and reads the constraint, no more.
    pub accept: Duration,
    /// For a vision worker to take and check one picture. 60 s: 20 MiB and a full decode, behind others.
    pub put_picture: Duration,
    /// How long a reader may take nothing while there is something for it. 30 s, then its request is ended.
    pub reader_stall: Duration,
    /// For running requests to end at shutdown. 30 s, as long as Kubernetes gives by default.
    pub drain: Duration,
    /// Between HTTP/2 pings, towards clients and workers. 10 s: below the idle limits of common load balancers.
    pub ping_interval: Duration,
    /// For the answer to a ping. 10 s, then the connection counts as dead.
    pub ping: Duration,
    /// What clients are told to wait before they try again where nothing better is known. 1 s.
    pub retry_after: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(600),
            connect: Duration::from_secs(2),
            describe: Duration::from_secs(10),
            accept: Duration::from_secs(30),
            put_picture: Duration::from_secs(60),
            reader_stall: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            ping_interval: Duration::from_secs(10),
            ping: Duration::from_secs(10),
            retry_after: Duration::from_secs(1),
        }
    }
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting `{name}` must be {wanted}, found {found}")]
pub struct ConfigError {
    name: &'static str,
    wanted: String,
    found: String,
}

impl Config {
    /// Settings with the defaults for these members.
    pub fn for_members(members: Members) -> Self {
        Self {
            members,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// Checks what the types do not say. Members are checked where they are put to use.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.limits.check()?;
        self.timeouts.check()
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        for (name, value) in [
            ("max_message_bytes", self.max_message_bytes),
            ("max_messages", self.max_messages),
            ("max_text_bytes", self.max_text_bytes),
            ("max_picture_bytes", self.max_picture_bytes),
            ("max_requests", self.max_requests),
            (
                "max_requests_per_connection",
                self.max_requests_per_connection as usize,
            ),
        ] {
            // The upper bound is the semaphore's; no machine comes near it.
            const MOST: usize = usize::MAX >> 3;
            if !(1..=MOST).contains(&value) {
                return Err(ConfigError {
                    name,
                    wanted: format!("from 1 to {MOST}"),
                    found: value.to_string(),
                });
            }
        }
        if self.max_picture_bytes > self.max_message_bytes {
            return Err(ConfigError {
                name: "max_picture_bytes",
                wanted: format!("at most max_message_bytes ({})", self.max_message_bytes),
                found: self.max_picture_bytes.to_string(),
            });
        }
        Ok(())
    }
}

impl Timeouts {
    fn check(&self) -> Result<(), ConfigError> {
        for (name, value) in [
            ("start", self.start),
            ("connect", self.connect),
            ("describe", self.describe),
            ("accept", self.accept),
            ("put_picture", self.put_picture),
            ("reader_stall", self.reader_stall),
            ("ping_interval", self.ping_interval),
            ("ping", self.ping),
        ] {
            if value.is_zero() {
                return Err(ConfigError {
                    name,
                    wanted: "longer than nothing".into(),
                    found: format!("{value:?}"),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Config {
        Config::for_members(Members {
            language_groups: vec![],
            vision_workers: vec![],
        })
    }

    #[test]
    fn the_defaults_pass_their_own_check() {
        defaults().check().unwrap();
    }

    #[test]
    fn a_setting_that_cannot_be_is_named_with_what_was_found() {
        let mut config = defaults();
        config.limits.max_requests = 0;
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with("setting `max_requests`"), "{error}");

        let mut config = defaults();
        config.limits.max_picture_bytes = config.limits.max_message_bytes + 1;
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("at most max_message_bytes"), "{error}");

        let mut config = defaults();
        config.timeouts.ping = Duration::ZERO;
        let error = config.check().unwrap_err().to_string();
        assert!(error.ends_with("found 0ns"), "{error}");
    }
}
