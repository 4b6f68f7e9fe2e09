//! Servers on loopback that answer as a test wants it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) type Connection = Box<dyn Io>;
type Handling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Ends with its value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) num_connections: Arc<AtomicUsize>,
    /// Heads and bodies of what was asked.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Server {
    /// Reads a question of each connection, and then does with it as `handle` says.
    pub(crate) async fn start<F>(
        handle: impl Fn(Connection, String) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), None, handle).await
    }

    pub(crate) async fn start_at<F>(
        ip: IpAddr,
        tls: Option<TlsAcceptor>,
        handle: impl Fn(Connection, String) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let num_connections = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (count, log) = (num_connections.clone(), asked.clone());
        let handle = Arc::new(move |connection, question| -> Handling {
            Box::pin(handle(connection, question))
        });
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                count.fetch_add(1, Ordering::SeqCst);
                let (tls, log, handle) = (tls.clone(), log.clone(), handle.clone());
                connections.spawn(async move {
                    let mut stream: Connection = match tls {
                        None => Box::new(stream),
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    if let Some(question) = question(&mut stream).await {
                        log.lock().expect("a log").push(question.clone());
                        handle(stream, question).await;
                    }
                });
            }
        });
        Self {
            address,
            num_connections,
            asked,
            _task: task,
        }
    }

    /// Answers the same to all.
    pub(crate) async fn answering(answer: Vec<u8>) -> Self {
        let answer = Arc::new(answer);
        Self::start(move |mut connection, _| {
            let answer = answer.clone();
            async move {
                let _ = connection.write_all(&answer).await;
                let _ = connection.shutdown().await;
            }
        })
        .await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn num_connections(&self) -> usize {
        self.num_connections.load(Ordering::SeqCst)
    }
}

/// Head and body; none where the other side says nothing whole.
async fn question(stream: &mut Connection) -> Option<String> {
    let mut data = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let num_read = stream.read(&mut piece).await.ok()?;
        if num_read == 0 {
            return None;
        }
        data.extend_from_slice(&piece[..num_read]);
        let text = String::from_utf8_lossy(&data).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| value.trim().parse::<usize>().expect("a length"))
        });
        if body.len() >= length.unwrap_or(0) {
            return Some(text);
        }
    }
}

/// A whole answer.
pub(crate) fn answer(status: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len()).into_bytes();
    for (name, value) in fields {
        answer.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(body);
    answer
}

/// A picture of one colour.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut data = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(width, height)
        .write_to(&mut data, image::ImageFormat::Png)
        .expect("written");
    data.into_inner()
}
