//! A wire that a test holds in its hand: a TCP proxy that delays, freezes or cuts what goes through it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// They arrive after this time, in order.
    Open(Duration),
    /// They do not arrive; nobody is told. They do when the line is open again.
    Frozen,
    /// Connections break, and new ones break at once.
    Cut,
}

/// Chunks on their way in one direction of a connection.
const IN_FLIGHT: usize = 256;

/// A proxy in front of one address, on threads of its own so that it goes on while a test waits.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    line: Arc<watch::Sender<Line>>,
    runtime: Option<Runtime>,
}

impl Relay {
    /// Listens on a free port and passes everything on to `upstream`.
    pub fn start(upstream: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let line = Arc::new(watch::Sender::new(Line::Open(Duration::ZERO)));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("it is a socket");
        let sender = Arc::clone(&line);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a runtime is here");
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, upstream, sender.subscribe()));
            }
        });
        Self {
            address,
            line,
            runtime: Some(runtime),
        }
    }

    /// Changes what becomes of bytes from now on.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A test's own runtime may be where this happens, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn connect(client: TcpStream, upstream: SocketAddr, mut line: watch::Receiver<Line>) {
    if *line.borrow_and_update() == Line::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let there = carry(from_client, to_server, line.clone());
    let back = carry(from_server, to_client, line.clone());
    let both = async { tokio::join!(there, back) };
    tokio::select! {
        _ = both => {}
        _ = line.wait_for(|line| *line == Line::Cut) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: watch::Receiver<Line>) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let delay = line.clone();
    let read = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let delay = match *delay.borrow() {
                Line::Open(delay) => delay,
                Line::Frozen | Line::Cut => Duration::ZERO,
            };
            let chunk = (Instant::now() + delay, buffer[..count].to_vec());
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        let mut line = line;
        while let Some((due, chunk)) = chunks.recv().await {
            sleep_until(due).await;
            let is_open = |line: &Line| matches!(line, Line::Open(_));
            if line.wait_for(is_open).await.is_err() {
                return;
            }
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
