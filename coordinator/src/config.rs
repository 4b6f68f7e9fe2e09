//! Settings of the coordinator, typed and checked whole before anything starts. The command line crate fills them in;
//! nothing here reads flags, files or the environment.

mod compose;

use std::{fmt, sync::Arc, time::Duration};

use inkstone_cluster::{
    Deployment, Members, Membership, MembershipError, NodeAddress, NodeId, Registry,
};
use inkstone_pictures::PictureSource;

pub use self::compose::ComposeSettings;
use crate::{placement::Policy, routing::RoutingPolicy};

const MIB: usize = 1024 * 1024;

/// Everything a coordinator must be told.
#[derive(Clone)]
pub struct Config {
    /// Whom it speaks for.
    pub membership: Membership,
    /// Where the cluster's members are written down; none: they are a fixed list.
    pub registry: Option<Arc<dyn Registry>>,
    /// How it takes part in placing; none: it does not, and is not listed among the coordinators. Only with a registry.
    pub placement: Option<PlacementSettings>,
    /// How it chooses a language group for a request.
    pub routing: RoutingPolicy,
    /// Where pictures for articles are looked for; none: only pictures that come with a request are put in.
    pub picture_source: Option<Arc<dyn PictureSource>>,
    /// How articles are kept.
    pub compose: ComposeSettings,
    /// What it takes on.
    pub limits: Limits,
    /// How long it waits.
    pub timeouts: Timeouts,
}

/// How a coordinator takes part in placing.
#[derive(Debug, Clone)]
pub struct PlacementSettings {
    /// Its name among the coordinators.
    pub id: NodeId,
    /// Where clients reach it; none: the address that it listens on.
    pub advertise: Option<NodeAddress>,
    /// What to say about the wanted deployment at the start.
    pub wanted: Wanted,
    /// How placing is done.
    pub policy: Policy,
}

impl PlacementSettings {
    /// Takes part under this name, with the defaults, and says nothing about what is wanted.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            advertise: None,
            wanted: Wanted::AsItIs,
            policy: Policy::default(),
        }
    }
}

/// What a coordinator says about the wanted deployment when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    AsItIs,
    /// This, where nothing is wanted yet.
    AtFirst(Deployment),
    /// This, whatever was wanted before.
    Replace(Deployment),
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
    /// Requests that run at once, whatever the groups say that they can take. 256: what a few language groups batch; each holds its
    /// pictures in memory until they are uploaded.
    pub max_requests: usize,
    /// Requests at once on one connection. 1280, so that one client may use the whole coordinator: what runs and what waits.
    pub max_requests_per_connection: u32,
    /// Requests that wait for their turn. 1024: four for each that runs, so some seconds to a minute of work; who waited longer has
    /// mostly gone away.
    pub max_queued_requests: usize,
    /// Requests of one tenant that wait. 256: four tenants fill the queue, and then the one with most makes room.
    pub max_queued_per_tenant: usize,
    /// Tokens of what waits, answers included. 4 Mi: for each of the most requests an answered prompt of 4096, and three
    /// minutes of an accelerator that computes 25,000 a second.
    pub max_queued_tokens: usize,
    /// The same of one tenant. 1 Mi, a quarter.
    pub max_queued_tokens_per_tenant: usize,
    /// Bytes of messages and pictures that wait. 1 GiB: 256 phone photographs of 4 MiB.
    pub max_queued_bytes: usize,
    /// Tenants take turns by what they were served. Otherwise first come, first served, which is there to be compared with.
    pub fair_queueing: bool,
    /// How often a request may be moved because what ran it was lost. 8: a rolling restart of a cluster moves it two or three
    /// times.
    pub max_moves: u32,
    /// Bytes of encoded pictures that are kept after their answers began, so that they can be put again when a vision worker is
    /// lost. 1 GiB: those of all requests at once in the usual sizes. Past it the pictures of a request are let go: it still moves,
    /// unless its pictures are needed and nowhere.
    pub max_kept_picture_bytes: usize,
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
            max_requests_per_connection: 1280,
            max_queued_requests: 1024,
            max_queued_per_tenant: 256,
            max_queued_tokens: 4 * MIB,
            max_queued_tokens_per_tenant: MIB,
            max_queued_bytes: 1024 * MIB,
            fair_queueing: true,
            max_moves: 8,
            max_kept_picture_bytes: 1024 * MIB,
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
    /// How long a leader that has open requests may say nothing at all, then it counts as lost. 2 s: it reports its load every
    /// quarter of a second.
    pub silence: Duration,
    /// For a language group, or a vision worker, to take a request over from one that was lost. 30 s: as long as it takes to load
    /// a model of this size from the page cache where there is no spare.
    pub recovery: Duration,
    /// The same for a request that did not run yet. 10 s: a restart, but not a cluster that is gone.
    pub first_group: Duration,
    /// For a vision worker to take and check one picture. 60 s: 20 MiB and a full decode, behind others.
    pub put_picture: Duration,
    /// How long a reader may take nothing while there is something for it. 30 s, then its request is ended.
    pub reader_stall: Duration,
    /// For a request's turn to come. 120 s, then it is sent away: longer than somebody waits for a first word.
    pub queued: Duration,
    /// For running requests to end at shutdown. 30 s, as long as Kubernetes gives by default.
    pub drain: Duration,
    /// Between HTTP/2 pings to workers. 10 s.
    pub ping_interval: Duration,
    /// For the answer to a ping. 10 s, then the connection counts as dead.
    pub ping: Duration,
    /// For a client's machine to take what was sent to it, and to answer a probe while nothing is. 20 s, then its connection counts as
    /// dead; probes come after half of it, which is below the idle limits of common load balancers.
    pub client_silence: Duration,
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
            silence: Duration::from_secs(2),
            recovery: Duration::from_secs(30),
            first_group: Duration::from_secs(10),
            put_picture: Duration::from_secs(60),
            reader_stall: Duration::from_secs(30),
            queued: Duration::from_secs(120),
            drain: Duration::from_secs(30),
            ping_interval: Duration::from_secs(10),
            ping: Duration::from_secs(10),
            client_silence: Duration::from_secs(20),
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
    /// Settings with the defaults for members that never change.
    pub fn for_members(members: Members) -> Result<Self, MembershipError> {
        Ok(Self::new(Membership::fixed(members)?))
    }

    /// Settings with the defaults for the members that a registry tells of.
    pub fn for_registry(registry: Arc<dyn Registry>, placement: PlacementSettings) -> Self {
        Self {
            placement: Some(placement),
            registry: Some(registry.clone()),
            ..Self::new(Membership::follow(registry.state()))
        }
    }

    fn new(membership: Membership) -> Self {
        Self {
            membership,
            registry: None,
            placement: None,
            routing: RoutingPolicy::default(),
            picture_source: None,
            compose: ComposeSettings::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// Checks what the types do not say.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.placement.is_some() && self.registry.is_none() {
            return Err(ConfigError {
                name: "placement",
                wanted: "set together with a registry".into(),
                found: "no registry".into(),
            });
        }
        self.limits.check()?;
        self.compose.check()?;
        self.timeouts.check()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("members", &self.membership.current())
            .field("has_registry", &self.registry.is_some())
            .field("placement", &self.placement)
            .field(
                "picture_source",
                &self.picture_source.as_ref().map(|source| source.name()),
            )
            .field("compose", &self.compose)
            .field("limits", &self.limits)
            .field("timeouts", &self.timeouts)
            .finish()
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        check_counts([
            ("max_message_bytes", self.max_message_bytes),
            ("max_messages", self.max_messages),
            ("max_text_bytes", self.max_text_bytes),
            ("max_picture_bytes", self.max_picture_bytes),
            ("max_requests", self.max_requests),
            ("max_queued_per_tenant", self.max_queued_per_tenant),
            ("max_queued_tokens", self.max_queued_tokens),
            (
                "max_queued_tokens_per_tenant",
                self.max_queued_tokens_per_tenant,
            ),
            ("max_queued_bytes", self.max_queued_bytes),
            (
                "max_requests_per_connection",
                self.max_requests_per_connection as usize,
            ),
        ])?;
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
        check_durations([
            ("start", self.start),
            ("connect", self.connect),
            ("describe", self.describe),
            ("accept", self.accept),
            ("silence", self.silence),
            ("put_picture", self.put_picture),
            ("reader_stall", self.reader_stall),
            ("queued", self.queued),
            ("ping_interval", self.ping_interval),
            ("ping", self.ping),
            ("client_silence", self.client_silence),
        ])
    }
}

/// The most that a count may be: sums of counts do not run over, and no machine comes near it.
const MOST: usize = usize::MAX >> 3;

/// Refuses counts of nothing, and of more than there can be.
fn check_counts(
    settings: impl IntoIterator<Item = (&'static str, usize)>,
) -> Result<(), ConfigError> {
    let mut settings = settings.into_iter();
    match settings.find(|(_, value)| !(1..=MOST).contains(value)) {
        None => Ok(()),
        Some((name, value)) => Err(ConfigError {
            name,
            wanted: format!("from 1 to {MOST}"),
            found: value.to_string(),
        }),
    }
}

/// Refuses times that end as they begin.
fn check_durations(
    settings: impl IntoIterator<Item = (&'static str, Duration)>,
) -> Result<(), ConfigError> {
    let mut settings = settings.into_iter();
    match settings.find(|(_, value)| value.is_zero()) {
        None => Ok(()),
        Some((name, value)) => Err(ConfigError {
            name,
            wanted: "longer than nothing".into(),
            found: format!("{value:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Config {
        let group = inkstone_cluster::LanguageGroup {
            id: inkstone_cluster::GroupId::new("group-0"),
            leader: "a:1".parse().unwrap(),
            epoch: None,
        };
        Config::for_members(Members {
            language_groups: vec![group],
            vision_workers: vec!["b:1".parse().unwrap()],
        })
        .unwrap()
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

        let mut config = defaults();
        config.compose.max_articles = usize::MAX;
        let error = config.check().unwrap_err().to_string();
        assert!(
            error.starts_with("setting `compose.max_articles` must be from 1 to"),
            "{error}"
        );

        let mut config = defaults();
        config.compose.step_time = Duration::ZERO;
        let error = config.check().unwrap_err().to_string();
        assert!(
            error.starts_with("setting `compose.step_time` must be longer"),
            "{error}"
        );

        let mut config = defaults();
        config.placement = Some(PlacementSettings::new(NodeId::new("c")));
        let error = config.check().unwrap_err().to_string();
        assert!(error.ends_with("found no registry"), "{error}");
    }
}
