//! Fetches pictures from addresses that strangers wrote, without being led into our own networks: every stop of the way is looked at
//! anew, connections go to addresses that were checked and to no others, and everything about an answer has a limit.
//!
//! What cannot be seen from here stays open: a public address that the network around leads back inside (a translator with a prefix of
//! its own, a port forwarding) is for a firewall to close.

mod address;
mod allow;
mod body;
mod connection;
mod error;
mod resolver;
mod settings;
mod target;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use hyper::body::Incoming;
use rustls::RootCertStore;
use tokio::{sync::Semaphore, time::timeout};

pub use allow::{PrivateHost, PrivateHostError};
pub use error::{FetchError, Wait};
pub use settings::FetchSettings;

pub(crate) use body::{BodyLimits, read};
pub(crate) use connection::Client;
pub(crate) use target::Target;

use resolver::{Resolver, SystemResolver};

use crate::header::{PictureFault, PictureFormat, PictureHeader, inspect};

const ACCEPT: &str = "image/png, image/jpeg, image/webp, image/gif, image/bmp";

/// A picture that came from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedPicture {
    pub data: Bytes,
    /// Of the bytes, whatever the server said of them.
    pub header: PictureHeader,
    /// Where the redirects ended.
    pub url: String,
}

/// Fetches pictures, a bounded number at a time.
pub struct GuardedFetcher {
    client: Client,
    settings: FetchSettings,
    permits: Semaphore,
}

impl GuardedFetcher {
    /// With this machine's names and certificate authorities. Reads the latter from files.
    pub fn new(settings: FetchSettings) -> Self {
        let resolver = Arc::new(SystemResolver::default());
        Self::with_parts(settings, resolver, connection::system_roots())
    }

    fn with_parts(
        settings: FetchSettings,
        resolver: Arc<dyn Resolver>,
        roots: RootCertStore,
    ) -> Self {
        Self {
            client: Client::new(resolver, roots, &settings),
            permits: Semaphore::new(settings.max_concurrent.clamp(1, Semaphore::MAX_PERMITS)),
            settings,
        }
    }

    /// The picture at `url`, which may be anybody's writing. Ends within the total time limit; dropped before, it closes its
    /// connection.
    pub async fn get_picture(&self, url: &str) -> Result<FetchedPicture, FetchError> {
        let target = Target::parse(url)?;
        let limit = self.settings.total_timeout;
        let picture = timeout(limit, Box::pin(self.follow(target))).await;
        picture.unwrap_or(Err(FetchError::TimedOut {
            wait: Wait::Whole,
            limit,
        }))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    async fn follow(&self, mut target: Target) -> Result<FetchedPicture, FetchError> {
        // Never closed; and if it were, nobody would be worse off.
        let _permit = self.permits.acquire().await.ok();
        for _ in 0..=self.settings.max_redirects {
            match self.ask(&target).await? {
                Answer::Picture(data, header) => {
                    return Ok(FetchedPicture {
                        data,
                        header,
                        url: target.as_str().to_owned(),
                    });
                }
                Answer::Redirect(next) => target = next,
            }
        }
        Err(FetchError::TooManyRedirects {
            limit: self.settings.max_redirects,
        })
    }

    async fn ask(&self, target: &Target) -> Result<Answer, FetchError> {
        let request = target.request(Method::GET, ACCEPT, None)?;
        let admits = |address| allow::admits(&self.settings.allowed, target.host(), address);
        let read = |response| self.read(target, response);
        self.client.exchange(target, admits, request, read).await
    }

    async fn read(
        &self,
        target: &Target,
        response: Response<Incoming>,
    ) -> Result<Answer, FetchError> {
        let (head, body) = response.into_parts();
        match head.status {
            StatusCode::OK => (),
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                let location = head.headers.get(header::LOCATION);
                let location = location.ok_or(FetchError::NoLocation {
                    status: head.status.as_u16(),
                })?;
                return Ok(Answer::Redirect(target.redirected(location.as_bytes())?));
            }
            other => {
                return Err(FetchError::Status {
                    found: other.as_u16(),
                });
            }
        }
        let limits = BodyLimits {
            max_bytes: self.settings.max_bytes,
            idle_timeout: self.settings.idle_timeout,
        };
        let data = read(&head.headers, body, limits, refuse_no_picture).await?;
        let header = inspect(&data, self.settings.max_pixels)?;
        Ok(Answer::Picture(data, header))
    }
}

enum Answer {
    Picture(Bytes, PictureHeader),
    Redirect(Target),
}

/// By its first bytes, so that a film or a page is not read to its end.
fn refuse_no_picture(data: &[u8]) -> Result<(), FetchError> {
    if data.len() < PictureFormat::SNIFF_BYTES || PictureFormat::sniff(data).is_some() {
        return Ok(());
    }
    Err(PictureFault::unknown(data).into())
}
