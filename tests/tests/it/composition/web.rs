//! A web server for tests: answers what it is told to, and writes down what it was asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What was asked of it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Asked {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.headers.iter();
        let mut found = headers.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| &**value)
    }
}

/// What it answers.
pub(super) enum Answer {
    /// 200, with this type and content.
    Ok(&'static str, Vec<u8>),
    /// Another status, with a header.
    Status(u16, Option<(&'static str, String)>),
    /// The connection breaks.
    Break,
}

type Handler = dyn Fn(&Asked, SocketAddr) -> Answer + Send + Sync;

/// The server; it ends when it is dropped.
pub(super) struct Web {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

impl Web {
    /// Answers what `handler` says, which is told where the server is.
    pub(super) async fn start(
        handler: impl Fn(&Asked, SocketAddr) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (heard, handler) = (Arc::clone(&asked), Arc::new(handler));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heard, handler) = (Arc::clone(&heard), Arc::clone(&handler));
                tokio::spawn(async move {
                    // Who asks may go away at any time.
                    let _ = serve(stream, &heard, &*handler, address).await;
                });
            }
        });
        Self {
            address,
            asked,
            serving,
        }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One request a connection.
async fn serve(
    stream: TcpStream,
    heard: &Mutex<Vec<Asked>>,
    handler: &Handler,
    address: SocketAddr,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next(), words.next());
    let mut headers = vec![];
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut asked = Asked {
        method: method.unwrap_or_default(),
        path: path.unwrap_or_default(),
        headers,
        body: vec![],
    };
    let length = asked.header("content-length").map(str::parse);
    if let Some(Ok(length)) = length {
        asked.body = vec![0; length];
        stream.read_exact(&mut asked.body).await?;
    }
    heard
        .lock()
        .expect("nobody panics with it")
        .push(asked.clone());
    let head = match handler(&asked, address) {
        Answer::Ok(media_type, body) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            [head.into_bytes(), body].concat()
        }
        Answer::Status(status, header) => {
            let header = header.map(|(name, value)| format!("{name}: {value}\r\n"));
            let header = header.unwrap_or_default();
            format!("HTTP/1.1 {status} X\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n")
                .into_bytes()
        }
        Answer::Break => return Ok(()),
    };
    stream.write_all(&head).await?;
    stream.shutdown().await
}
