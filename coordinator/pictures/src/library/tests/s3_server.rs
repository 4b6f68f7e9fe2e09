//! As much of S3 as the library uses, over real sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const BUCKET: &str = "/pictures";
/// Few, so that lists have several pages.
const KEYS_PER_PAGE: usize = 3;

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    /// As `GET /pictures/key`.
    pub(super) requests: Vec<String>,
    /// Every answer is "slow down" while this is set.
    pub(super) is_away: bool,
    /// So many answers more are an error, then it is well again.
    pub(super) stumbles: usize,
}

pub(super) struct S3Server {
    pub(super) address: SocketAddr,
    pub(super) state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl S3Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("no panic in the server"))
    }
}

struct Answer {
    status: &'static str,
    body: Vec<u8>,
}

impl Answer {
    fn ok(body: Vec<u8>) -> Self {
        Self {
            status: "200 OK",
            body,
        }
    }

    fn error(status: &'static str, code: &str) -> Self {
        Self {
            status,
            body: format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>")
                .into_bytes(),
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let mut parts = line.split_whitespace();
        let (method, target) = (
            parts.next().unwrap_or_default().to_owned(),
            parts.next().unwrap_or_default().to_owned(),
        );
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let length = headers
            .get("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let answer = answer(
            &method,
            &target,
            &headers,
            body,
            &mut state.lock().expect("no panic in the server"),
        );
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Length: {}\r\nETag: \"{:x}\"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n",
            answer.status,
            answer.body.len(),
            answer.body.len()
        );
        let mut reply = head.into_bytes();
        reply.extend_from_slice(&answer.body);
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

fn answer(
    method: &str,
    target: &str,
    headers: &BTreeMap<String, String>,
    body: Vec<u8>,
    state: &mut State,
) -> Answer {
    state.requests.push(format!("{method} {target}"));
    if state.is_away || state.stumbles > 0 {
        state.stumbles = state.stumbles.saturating_sub(1);
        return Answer::error("503 Slow Down", "SlowDown");
    }
    let is_signed = headers
        .get("authorization")
        .is_some_and(|value| value.starts_with("AWS4-HMAC-SHA256 Credential=writer/"));
    if !is_signed {
        return Answer::error("403 Forbidden", "AccessDenied");
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(key) = path.strip_prefix(BUCKET) else {
        return Answer::error("404 Not Found", "NoSuchBucket");
    };
    let key = key.trim_start_matches('/').to_owned();
    match method {
        "GET" if key.is_empty() => list(query, state),
        "GET" => match state.objects.get(&key) {
            Some(data) => Answer::ok(data.clone()),
            None => Answer::error("404 Not Found", "NoSuchKey"),
        },
        "PUT" => {
            state.objects.insert(key, body);
            Answer::ok(Vec::new())
        }
        _ => Answer::error("405 Method Not Allowed", "MethodNotAllowed"),
    }
}

fn list(query: &str, state: &State) -> Answer {
    let parameters: BTreeMap<&str, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name, value.replace("%2F", "/")))
        .collect();
    let prefix = parameters.get("prefix").cloned().unwrap_or_default();
    let after = parameters
        .get("continuation-token")
        .cloned()
        .unwrap_or_default();
    let mut matching = state
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let mut contents = String::new();
    let mut last = String::new();
    for (key, data) in matching.by_ref().take(KEYS_PER_PAGE) {
        let size = data.len();
        contents += &format!(
            "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
        );
        last.clone_from(key);
    }
    let more = matching.next().map_or(String::new(), |_| {
        format!("<NextContinuationToken>{last}</NextContinuationToken>")
    });
    Answer::ok(format!("<ListBucketResult>{contents}{more}</ListBucketResult>").into_bytes())
}
