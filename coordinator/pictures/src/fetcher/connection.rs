//! One connection for one question: to an address that was checked, and to no other. The HTTP client is hyper's own connection, without
//! what stands above it: no pool, no proxies, no redirects, no decompression, and no second look at names.

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Host;

use super::{
    error::{FetchError, Wait},
    resolver::Resolver,
    settings::FetchSettings,
    target::Target,
};

/// Less is what hyper does not take.
const LEAST_HEAD_BYTES: usize = 8 << 10;

/// Addresses of a host that are tried, of each family.
const MAX_ATTEMPTS: usize = 2;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Asks servers.
pub(crate) struct Client {
    resolver: Arc<dyn Resolver>,
    tls: TlsConnector,
    max_head_bytes: usize,
    connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

impl Client {
    pub(super) fn new(
        resolver: Arc<dyn Resolver>,
        roots: RootCertStore,
        settings: &FetchSettings,
    ) -> Self {
        Self {
            resolver,
            tls: TlsConnector::from(Arc::new(tls_config(roots))),
            max_head_bytes: settings.max_head_bytes.max(LEAST_HEAD_BYTES),
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.idle_timeout,
        }
    }

    /// Sends `request` to `target`, at one of its addresses that `admits` says yes to, and gives the answer to `read`. The connection
    /// lives as long as this call does and no longer.
    pub(crate) async fn exchange<T, F>(
        &self,
        target: &Target,
        admits: impl Fn(IpAddr) -> bool,
        request: Request<Full<Bytes>>,
        read: impl FnOnce(Response<Incoming>) -> F,
    ) -> Result<T, FetchError>
    where
        F: Future<Output = Result<T, FetchError>>,
    {
        let limit = self.connect_timeout;
        let stream = timeout(limit, self.connect(target, admits));
        let stream = stream.await.unwrap_or(Err(FetchError::TimedOut {
            wait: Wait::Connect,
            limit,
        }))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_header_size(self.max_head_bytes)
            .max_buf_size(self.max_head_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failure(&error))?;
        let answer = async {
            let limit = self.idle_timeout;
            let head = timeout(limit, sender.send_request(request)).await;
            let head = head.map_err(|_| FetchError::TimedOut {
                wait: Wait::Answer,
                limit,
            })?;
            read(head.map_err(|error| self.failure(&error))?).await
        };
        // Side by side in this task: who stops waiting for the answer closes the connection.
        let (mut connection, mut answer) = (pin!(connection), pin!(answer));
        let mut is_open = true;
        std::future::poll_fn(move |context| {
            if is_open && let Poll::Ready(ended) = connection.as_mut().poll(context) {
                is_open = false;
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection for a picture broke");
                }
            }
            answer.as_mut().poll(context)
        })
        .await
    }

    async fn connect(
        &self,
        target: &Target,
        admits: impl Fn(IpAddr) -> bool,
    ) -> Result<Box<dyn Stream>, FetchError> {
        let addresses = self.addresses(target, admits).await?;
        let Some(stream) = self.dial(&addresses, target.port()).await else {
            return Err(no_connection(target));
        };
        // One small message each way: nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        if !target.is_https() {
            return Ok(Box::new(stream));
        }
        let refused = || FetchError::Tls {
            host: target.host().to_string(),
            port: target.port(),
        };
        let name = target.server_name().ok_or_else(refused)?;
        match self.tls.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => {
                tracing::debug!(host = %target.host(), %error, "no TLS with a host of pictures");
                Err(refused())
            }
        }
    }

    /// The addresses of `target` that may be connected to; never none.
    async fn addresses(
        &self,
        target: &Target,
        admits: impl Fn(IpAddr) -> bool,
    ) -> Result<Vec<IpAddr>, FetchError> {
        let found = match target.host() {
            Host::Ipv4(address) => Ok(vec![IpAddr::V4(*address)]),
            Host::Ipv6(address) => Ok(vec![IpAddr::V6(*address)]),
            Host::Domain(name) => self.resolver.resolve(name).await,
        };
        let host = target.host();
        let found = found.unwrap_or_else(|error| {
            tracing::debug!(%host, %error, "a host of pictures has no address");
            Vec::new()
        });
        let num_found = found.len();
        let mut attempts = [MAX_ATTEMPTS; 2];
        let admitted: Vec<IpAddr> = found
            .into_iter()
            .filter(|address| admits(*address))
            .filter(|address| {
                let left = &mut attempts[usize::from(address.is_ipv6())];
                let is_tried = *left > 0;
                *left = left.saturating_sub(1);
                is_tried
            })
            .collect();
        if admitted.is_empty() {
            tracing::debug!(%host, num_found, "no address of a host of pictures may be connected to");
            return Err(FetchError::NoPublicAddress {
                host: host.to_string(),
            });
        }
        Ok(admitted)
    }

    /// The first that answers. Each gets its share of the time, so that one that swallows packets does not take it all.
    async fn dial(&self, addresses: &[IpAddr], port: u16) -> Option<TcpStream> {
        let shares = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let share = self.connect_timeout / shares;
        for address in addresses {
            let address = SocketAddr::new(*address, port);
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => tracing::debug!(%address, %error, "no connection for a picture"),
                Err(_) => tracing::debug!(%address, ?share, "no connection for a picture in time"),
            }
        }
        None
    }

    /// Before a body came.
    fn failure(&self, error: &hyper::Error) -> FetchError {
        if error.is_parse_too_large() {
            FetchError::HeadTooLarge {
                limit: self.max_head_bytes,
            }
        } else if error.is_parse() {
            FetchError::NotHttp
        } else {
            FetchError::CutShort { found: 0 }
        }
    }
}

fn no_connection(target: &Target) -> FetchError {
    FetchError::NoConnection {
        host: target.host().to_string(),
        port: target.port(),
    }
}

/// With ring by name, whatever else is linked.
fn tls_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The authorities that this machine trusts, those that an operator added among them.
pub(super) fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "certificates of this machine that cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (num_added, _) = roots.add_parsable_certificates(found.certs);
    if num_added == 0 {
        tracing::warn!(
            "this machine knows no certificate authorities: pictures are fetched by http only; install ca-certificates"
        );
    }
    roots
}
