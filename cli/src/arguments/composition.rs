//! The flags of a process that composes articles: where their pictures come from, how long they are kept.

use std::time::Duration;

use clap::Args;
use inkstone_pictures::fetcher::PrivateHost;

/// What a coordinator composes with.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CompositionArguments {
    #[command(flatten)]
    pub(crate) pictures: PictureSourceArguments,
    /// An article is forgotten so many seconds after it was last touched; default: an hour.
    #[arg(long, env = "INKSTONE_ARTICLE_TTL", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_TTL_SECONDS))]
    article_ttl: Option<u64>,
    /// Most articles that are kept; past it new ones are refused. Default: 1024, an eighth of them for one tenant.
    #[arg(long, env = "INKSTONE_MAX_ARTICLES", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_articles: Option<u32>,
}

/// A year: what is to be kept longer is exported.
const MAX_TTL_SECONDS: u64 = 365 * 24 * 3600;

/// Where the pictures of articles come from.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PictureSourceArguments {
    /// A library of pictures: a folder, or s3://BUCKET/PREFIX. `inkstone library import` makes one.
    #[arg(
        long,
        env = "INKSTONE_LIBRARY",
        value_name = "LOCATION",
        conflicts_with = "picture_provider"
    )]
    pub(crate) library: Option<String>,
    /// A service that finds pictures by captions: it is posted a caption and names addresses of pictures.
    #[arg(long, env = "INKSTONE_PICTURE_PROVIDER", value_name = "URL")]
    pub(crate) picture_provider: Option<String>,
    /// A host (name, address or network) that pictures may be fetched from although its addresses are private; may be given
    /// several times. Pictures of the provider are fetched from public addresses only otherwise.
    #[arg(
        long,
        env = "INKSTONE_ALLOW_PRIVATE_HOST",
        value_name = "HOST",
        value_delimiter = ',',
        requires = "picture_provider"
    )]
    pub(crate) allow_private_host: Vec<PrivateHost>,
}

impl PictureSourceArguments {
    /// Whether a source was named.
    pub(crate) fn is_given(&self) -> bool {
        self.library.is_some() || self.picture_provider.is_some()
    }
}

impl CompositionArguments {
    /// The defaults, with pictures from there.
    pub(crate) fn with_source(pictures: PictureSourceArguments) -> Self {
        Self {
            pictures,
            ..Self::default()
        }
    }

    /// How long articles are kept, where that was said.
    pub(crate) fn article_ttl(&self) -> Option<Duration> {
        self.article_ttl.map(Duration::from_secs)
    }

    /// How many are kept, where that was said.
    pub(crate) fn max_articles(&self) -> Option<usize> {
        self.max_articles.map(|most| most as usize)
    }
}
