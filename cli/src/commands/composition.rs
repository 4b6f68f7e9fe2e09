//! From flags to what a coordinator composes with.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use inkstone_coordinator::Config;
use inkstone_pictures::{
    PictureSource,
    fetcher::{FetchSettings, GuardedFetcher},
    library::{Library, LibraryOptions, S3Settings},
    provider::{HttpProvider, ProviderSettings},
};

use crate::arguments::{CompositionArguments, PictureSourceArguments};

/// What a coordinator composes with.
#[derive(Default)]
pub(crate) struct Composition {
    pub(crate) source: Option<Arc<dyn PictureSource>>,
    article_ttl: Option<Duration>,
    max_articles: Option<usize>,
}

impl Composition {
    /// What was typed; opens the library that was named.
    pub(crate) async fn of(arguments: &CompositionArguments) -> anyhow::Result<Self> {
        Ok(Self {
            source: picture_source(&arguments.pictures).await?,
            article_ttl: arguments.article_ttl(),
            max_articles: arguments.max_articles(),
        })
    }

    /// Puts it into a coordinator's settings.
    pub(crate) fn apply(self, config: &mut Config) {
        config.picture_source = self.source;
        let settings = &mut config.compose;
        if let Some(ttl) = self.article_ttl {
            settings.article_ttl = ttl;
        }
        if let Some(most) = self.max_articles {
            settings.max_articles = most;
            settings.max_articles_per_tenant = (most / 8).max(1);
        }
    }
}

async fn picture_source(
    arguments: &PictureSourceArguments,
) -> anyhow::Result<Option<Arc<dyn PictureSource>>> {
    if let Some(location) = &arguments.library {
        return Ok(Some(Arc::new(open_library(location, false).await?)));
    }
    let Some(endpoint) = &arguments.picture_provider else {
        return Ok(None);
    };
    let fetcher = GuardedFetcher::new(FetchSettings {
        allowed: arguments.allow_private_host.clone(),
        ..FetchSettings::default()
    });
    let provider = HttpProvider::new(endpoint, Arc::new(fetcher), ProviderSettings::default());
    let provider = provider.with_context(|| format!("cannot use picture provider {endpoint}"))?;
    Ok(Some(Arc::new(provider)))
}

/// The library at a location, made there on demand. A store in S3 is reached with the variables that all its tools use.
pub(crate) async fn open_library(location: &str, create: bool) -> anyhow::Result<Library> {
    let options = LibraryOptions {
        create,
        s3: S3Settings::from_variables(variables()),
        ..LibraryOptions::default()
    };
    Ok(Library::open(location, options).await?)
}

/// The environment, less what is not text.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name, value.into_string().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use inkstone_pictures::library::PictureLimits;
    use inkstone_worker::config::{DEFAULT_MAX_PICTURE_BYTES, DEFAULT_MAX_PICTURE_PIXELS};

    use super::*;

    /// What is found and then refused would leave a place without its pictures.
    #[test]
    fn what_sources_take_vision_workers_take_too() {
        let library = PictureLimits::default();
        assert_eq!(library.pixels, DEFAULT_MAX_PICTURE_PIXELS);
        assert_eq!(library.bytes, DEFAULT_MAX_PICTURE_BYTES as u64);
        let fetched = FetchSettings::default();
        assert_eq!(fetched.max_pixels, DEFAULT_MAX_PICTURE_PIXELS);
        assert!(fetched.max_bytes as u64 <= library.bytes);
    }
}
