//! A source of pictures elsewhere, asked by HTTP: it is told a caption and answers with addresses, which are fetched through the guarded
//! fetcher. The endpoint is the operator's choice and trusted as far as that; what it answers is not.

mod shape;

#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Response};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    fetcher::{BodyLimits, FetchError, GuardedFetcher, Target, Wait, read},
    source::{FoundPicture, PictureSource, Search, SourceError},
};
use shape::{Answer, Offer, Question};

const NAME: &str = "HTTP provider";

/// Limits of an [`HttpProvider`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSettings {
    /// Of an answer of the endpoint.
    pub max_answer_bytes: usize,
    /// For an answer of the endpoint.
    pub answer_timeout: Duration,
    /// For all pictures of a search together, besides the fetcher's limits for each. What came by then counts.
    pub pictures_timeout: Duration,
    /// Pictures of one search that are fetched at the same time.
    pub num_parallel: usize,
    /// Addresses of one answer that are looked at.
    pub max_offers: usize,
}

impl Default for ProviderSettings {
    fn default() -> Self {
        Self {
            max_answer_bytes: 1 << 20,
            answer_timeout: Duration::from_secs(8),
            pictures_timeout: Duration::from_secs(16),
            num_parallel: 4,
            max_offers: 32,
        }
    }
}

/// Asks a service that speaks as the model's demo expects.
pub struct HttpProvider {
    endpoint: Target,
    fetcher: Arc<GuardedFetcher>,
    settings: ProviderSettings,
}

impl HttpProvider {
    /// For the service at `endpoint`, an http or https URL, which may be private. The pictures it names are fetched from private
    /// hosts only where `fetcher` allows them.
    pub fn new(
        endpoint: &str,
        fetcher: Arc<GuardedFetcher>,
        settings: ProviderSettings,
    ) -> Result<Self, FetchError> {
        Ok(Self {
            endpoint: Target::parse(endpoint)?,
            fetcher,
            settings,
        })
    }

    async fn ask(&self, search: &Search) -> Result<Vec<Offer>, SourceError> {
        let limit = self.settings.answer_timeout;
        let answer = timeout(limit, Box::pin(self.post(search))).await;
        let answer = answer.unwrap_or(Err(FetchError::TimedOut {
            wait: Wait::Whole,
            limit,
        }));
        let answer = answer.map_err(|error| {
            let reason = in_general(&error);
            tracing::warn!(
                endpoint = %self.endpoint.host(),
                reason,
                "the picture provider cannot be asked"
            );
            unavailable(reason)
        })?;
        Answer::read(&answer).map_err(|reason| {
            tracing::warn!(
                endpoint = %self.endpoint.host(),
                reason,
                "the picture provider's answer makes no sense"
            );
            unavailable(reason)
        })
    }

    async fn post(&self, search: &Search) -> Result<Bytes, FetchError> {
        let question = Question::new(&search.caption, &search.exclude);
        let question = serde_json::to_vec(&question).expect("texts and numbers are JSON");
        let content = ("application/json", Bytes::from(question));
        let request = self
            .endpoint
            .request(Method::POST, "application/json", Some(content))?;
        let client = self.fetcher.client();
        let limits = BodyLimits {
            max_bytes: self.settings.max_answer_bytes,
            idle_timeout: client.idle_timeout,
        };
        let read = async |response: Response<Incoming>| {
            let (head, body) = response.into_parts();
            if !head.status.is_success() {
                return Err(FetchError::Status {
                    found: head.status.as_u16(),
                });
            }
            read(&head.headers, body, limits, |_| Ok(())).await
        };
        client
            .exchange(&self.endpoint, |_| true, request, read)
            .await
    }

    /// Several at a time, in the provider's order, until there are as many as wanted.
    async fn fetch(&self, mut offers: Vec<Offer>, max_pictures: usize) -> Vec<FoundPicture> {
        let num_offers = offers.len();
        let mut found: Vec<FoundPicture> = Vec::new();
        let mut num_failed = 0_usize;
        let mut first_error = None;
        let num_parallel = self.settings.num_parallel.max(1);
        let deadline = Instant::now() + self.settings.pictures_timeout;
        while !offers.is_empty() && found.len() < max_pictures && Instant::now() < deadline {
            let num_next = num_parallel
                .min(max_pictures - found.len())
                .min(offers.len());
            let next = offers
                .drain(..num_next)
                .map(|offer| self.fetch_one(offer, deadline));
            for result in join_all(next).await {
                match result {
                    Ok(picture) => found.push(picture),
                    Err(error) => {
                        num_failed += 1;
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
        // One line a search, however many fail.
        if let Some(error) = first_error {
            tracing::warn!(
                num_offers,
                num_failed,
                num_found = found.len(),
                %error,
                "pictures of the provider are skipped"
            );
        }
        found
    }

    async fn fetch_one(&self, offer: Offer, deadline: Instant) -> Result<FoundPicture, FetchError> {
        let picture = timeout_at(deadline, self.fetcher.get_picture(&offer.url)).await;
        let picture = picture.unwrap_or(Err(FetchError::TimedOut {
            wait: Wait::Whole,
            limit: self.settings.pictures_timeout,
        }));
        let picture = picture.inspect_err(|error| {
            tracing::debug!(index = offer.index, %error, "a picture of the provider is skipped");
        })?;
        Ok(FoundPicture {
            index: offer.index,
            media_type: picture.header.media_type.to_owned(),
            data: picture.data,
            caption: String::new(),
            source: Some(offer.url),
            author: None,
            licence: None,
        })
    }
}

#[async_trait]
impl PictureSource for HttpProvider {
    fn name(&self) -> &str {
        NAME
    }

    async fn search(&self, search: &Search) -> Result<Vec<FoundPicture>, SourceError> {
        let mut offers = self.ask(search).await?;
        // It was told what is not wanted, and may not have listened.
        let mut seen: HashSet<&str> = search.exclude.iter().map(String::as_str).collect();
        let is_new: Vec<bool> = offers
            .iter()
            .map(|offer| seen.insert(&offer.index))
            .collect();
        let mut is_new = is_new.into_iter();
        offers.retain(|_| is_new.next() == Some(true));
        offers.truncate(self.settings.max_offers);
        let num_pictures = offers.len();
        let found = self.fetch(offers, search.max_pictures).await;
        // An operator who sees that nothing fits looks for other pictures, not for the host that he did not allow. Why they did not
        // come is in the log only: it would tell others what can be reached from here.
        match found.is_empty() && num_pictures > 0 {
            true => Err(unavailable(format!(
                "none of the {num_pictures} pictures that it named could be fetched"
            ))),
            false => Ok(found),
        }
    }
}

fn unavailable(reason: String) -> SourceError {
    SourceError::Unavailable {
        name: NAME.to_owned(),
        reason,
    }
}

/// For those who may know that there is a provider, but not where.
fn in_general(error: &FetchError) -> String {
    match error {
        FetchError::NoPublicAddress { .. } => "the host of its endpoint is not known".to_owned(),
        FetchError::NoConnection { .. } => "no connection to its endpoint".to_owned(),
        FetchError::Tls { .. } => "no safe connection to its endpoint".to_owned(),
        other => other.to_string(),
    }
}
