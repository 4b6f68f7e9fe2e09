//! A URL that was looked at closely, and how it is asked for.

use http::{Method, Request, header};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use url::{Host, Position, Url};

use super::error::FetchError;

/// Longer ones are refused: servers commonly take no more in a request's head.
const MAX_BYTES: usize = 8 << 10;

/// An http or https URL with a host and without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    url: Url,
    host: Host<String>,
    port: u16,
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Self, FetchError> {
        check_length(text)?;
        Self::checked(Url::parse(text))
    }

    /// Where an answer of this one leads to; may be relative.
    pub(crate) fn redirected(&self, location: &[u8]) -> Result<Self, FetchError> {
        let location = str::from_utf8(location).map_err(|_| FetchError::Malformed {
            reason: "redirected to what is not UTF-8".to_owned(),
        })?;
        check_length(location)?;
        let next = Self::checked(self.url.join(location))?;
        if self.is_https() && !next.is_https() {
            return Err(FetchError::Downgrade);
        }
        Ok(next)
    }

    fn checked(url: Result<Url, url::ParseError>) -> Result<Self, FetchError> {
        let malformed = |reason: &dyn std::fmt::Display| FetchError::Malformed {
            reason: reason.to_string(),
        };
        let mut url = url.map_err(|error| malformed(&error))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError::Scheme {
                found: url.scheme().chars().take(32).collect(),
            });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchError::Credentials);
        }
        // Joined with what it was relative to, and with every odd character encoded, it may have grown.
        check_length(url.as_str())?;
        url.set_fragment(None);
        match (url.host(), url.port_or_known_default()) {
            (Some(host), Some(port)) => Ok(Self {
                host: host.to_owned(),
                port,
                url,
            }),
            _ => Err(malformed(&"it has no host")),
        }
    }

    pub(crate) fn host(&self) -> &Host<String> {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    pub(crate) fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// What the server's certificate must be for.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        match &self.host {
            Host::Domain(name) => ServerName::try_from(name.clone()).ok(),
            Host::Ipv4(address) => Some(ServerName::IpAddress((*address).into())),
            Host::Ipv6(address) => Some(ServerName::IpAddress((*address).into())),
        }
    }

    /// Asks for one answer, in the plain, then for the end of the connection.
    pub(crate) fn request(
        &self,
        method: Method,
        accept: &'static str,
        content: Option<(&'static str, bytes::Bytes)>,
    ) -> Result<Request<Full<bytes::Bytes>>, FetchError> {
        let mut request = Request::builder()
            .method(method)
            .uri(&self.url[Position::BeforePath..Position::AfterQuery])
            .header(
                header::HOST,
                &self.url[Position::BeforeHost..Position::AfterPort],
            )
            .header(
                header::USER_AGENT,
                concat!("inkstone/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::CONNECTION, "close");
        let mut body = bytes::Bytes::new();
        if let Some((content_type, content)) = content {
            request = request.header(header::CONTENT_TYPE, content_type);
            body = content;
        }
        let request = request.body(Full::new(body));
        request.map_err(|error| FetchError::Malformed {
            reason: error.to_string(),
        })
    }
}

fn check_length(text: &str) -> Result<(), FetchError> {
    if text.len() > MAX_BYTES {
        return Err(FetchError::TooLong {
            found: text.len(),
            limit: MAX_BYTES,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(url: &str) -> Request<Full<bytes::Bytes>> {
        let target = Target::parse(url).expect("a target");
        let request = target.request(Method::GET, "image/png", None);
        request.expect("a request")
    }

    #[test]
    fn a_request_names_host_port_path_and_query() {
        let request = asked("https://Example.ORG:8443/a b/%7Ec.png?x=1&y=ü#part");
        assert_eq!(request.uri(), "/a%20b/%7Ec.png?x=1&y=%C3%BC");
        assert_eq!(request.headers()[header::HOST], "example.org:8443");
        assert_eq!(request.headers()[header::ACCEPT_ENCODING], "identity");
        let request = asked("http://[::1]:80");
        assert_eq!(request.uri(), "/");
        assert_eq!(request.headers()[header::HOST], "[::1]");
    }

    #[test]
    fn addresses_in_disguise_are_addresses() {
        let loopback: Host<String> = Host::Ipv4("127.0.0.1".parse().expect("an address"));
        for url in [
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://%31%32%37.0.0.1/",
            "http:\\\\127.0.0.1\\",
            "http://①②⑦.0.0.1/",
        ] {
            assert_eq!(Target::parse(url).expect(url).host(), &loopback, "{url}");
        }
    }

    #[test]
    fn other_schemes_and_credentials_are_refused() {
        for (url, scheme) in [
            ("file:///etc/passwd", "file"),
            ("ftp://example.org/", "ftp"),
            ("gopher://example.org/", "gopher"),
            ("data:image/png;base64,AAAA", "data"),
        ] {
            let found = scheme.to_owned();
            assert_eq!(Target::parse(url), Err(FetchError::Scheme { found }));
        }
        for url in ["http://me@example.org/", "http://:secret@example.org/"] {
            let error = Target::parse(url).expect_err(url);
            assert_eq!(error, FetchError::Credentials);
            assert!(!error.to_string().contains("secret"));
        }
        for url in ["", "example.org/a.png", "http://", "https://a b/"] {
            let error = Target::parse(url).expect_err(url);
            assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
        }
        let long = format!("http://example.org/{}", "a".repeat(MAX_BYTES));
        assert!(matches!(
            Target::parse(&long),
            Err(FetchError::TooLong { .. })
        ));
    }

    #[test]
    fn a_redirect_is_looked_at_as_closely() {
        let from = Target::parse("https://example.org/a/b.png?c").expect("a target");
        let to = |location: &str| {
            let target = from.redirected(location.as_bytes());
            target.map(|target| target.as_str().to_owned())
        };
        assert_eq!(to("../d.png"), Ok("https://example.org/d.png".to_owned()));
        assert_eq!(to("//other.org"), Ok("https://other.org/".to_owned()));
        assert_eq!(to("http://example.org/"), Err(FetchError::Downgrade));
        assert_eq!(to("https://me@other.org/"), Err(FetchError::Credentials));
        assert!(matches!(
            to("file:///etc/passwd"),
            Err(FetchError::Scheme { .. })
        ));
        assert!(matches!(
            from.redirected(b"/\xff"),
            Err(FetchError::Malformed { .. })
        ));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_can_be_asked_for(text in "https?://[a-z.]{1,9}(:[0-9]{1,4})?/\\PC{0,40}") {
            if let Ok(target) = Target::parse(&text) {
                let request = target.request(Method::GET, "image/png", None).expect("a request");
                prop_assert!(request.headers().contains_key(header::HOST));
                prop_assert!(target.host() == Target::parse(target.as_str()).expect("again").host());
            }
        }
    }
}
