//! How compositions run, and how long what comes of them is kept.

use std::time::Duration;

use super::{ConfigError, MIB, check_counts, check_durations};

/// How compositions run, and how long what comes of them is kept.
#[derive(Debug, Clone)]
pub struct ComposeSettings {
    /// How long an article is kept after it was last touched. 1 hour: longer than somebody leaves an article that he edits.
    pub article_ttl: Duration,
    /// Articles that are kept at once. 1024: with their events some hundred KiB each, apart from the pictures.
    pub max_articles: usize,
    /// The same of one tenant. 128, an eighth.
    pub max_articles_per_tenant: usize,
    /// Bytes of the pictures of all articles, candidates included. 1 GiB: 1024 articles with five phone pictures of 200 KiB.
    pub max_picture_bytes: usize,
    /// The same of one tenant. 256 MiB: one article with ten pictures of the largest size fits.
    pub max_picture_bytes_per_tenant: usize,
    /// How long a composition goes on while nobody reads its events. 60 s: time to connect again.
    pub abandon_after: Duration,
    /// How long a step that is sent away comes again. 60 s.
    pub shed_patience: Duration,
    /// For the text of an article. 15 minutes: 8192 tokens at 10 a second.
    pub article_time: Duration,
    /// For any other step, waiting included. 2 minutes.
    pub step_time: Duration,
    /// For a search of the server's own. 30 s.
    pub search_time: Duration,
    /// For a client to answer where it looks for pictures itself. 2 minutes.
    pub client_time: Duration,
}

impl Default for ComposeSettings {
    fn default() -> Self {
        Self {
            article_ttl: Duration::from_secs(3600),
            max_articles: 1024,
            max_articles_per_tenant: 128,
            max_picture_bytes: 1024 * MIB,
            max_picture_bytes_per_tenant: 256 * MIB,
            abandon_after: Duration::from_secs(60),
            shed_patience: Duration::from_secs(60),
            article_time: Duration::from_secs(900),
            step_time: Duration::from_secs(120),
            search_time: Duration::from_secs(30),
            client_time: Duration::from_secs(120),
        }
    }
}

impl ComposeSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_counts([
            ("compose.max_articles", self.max_articles),
            (
                "compose.max_articles_per_tenant",
                self.max_articles_per_tenant,
            ),
            ("compose.max_picture_bytes", self.max_picture_bytes),
            (
                "compose.max_picture_bytes_per_tenant",
                self.max_picture_bytes_per_tenant,
            ),
        ])?;
        check_durations([
            ("compose.article_ttl", self.article_ttl),
            ("compose.abandon_after", self.abandon_after),
            ("compose.article_time", self.article_time),
            ("compose.step_time", self.step_time),
            ("compose.search_time", self.search_time),
            ("compose.client_time", self.client_time),
        ])
    }
}
