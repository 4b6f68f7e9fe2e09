//! A client's connection. A token is one small piece of bytes: sent as such it costs the kernel less than as a list of pieces, which is
//! how the transport writes whatever it has.
//!
//! Whether the client's machine is still there is the kernel's to find out: a machine that takes nothing of what was sent, or answers no
//! probe while nothing is sent, is gone. A client that is there and does not read is a request's own matter (`request/event_stream.rs`).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct ClientStream(TcpStream);

impl ClientStream {
    /// A connection that is dead after so long without a sign of life from the client's machine.
    pub(crate) fn watched(stream: TcpStream, silence: Duration) -> io::Result<Self> {
        // The kernel counts probes in whole seconds.
        let between = (silence / 2).max(Duration::from_secs(1));
        let probes = TcpKeepalive::new()
            .with_time(between)
            .with_interval(between);
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&probes)?;
        // Else what is on its way would be sent again for a quarter of an hour.
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(silence))?;
        Ok(Self(stream))
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(context, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(context, piece)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match pieces {
            [piece] => self.inner().poll_write(context, piece),
            pieces => self.inner().poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(context)
    }
}

impl Connected for ClientStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn the_kernel_watches_for_the_time_that_was_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(client, listener.accept());
        let silence = Duration::from_millis(2500);
        let stream = ClientStream::watched(accepted.unwrap().0, silence).unwrap();
        let socket = SockRef::from(&stream.0);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(1));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(silence));
    }

    #[tokio::test]
    async fn pieces_arrive_in_order_however_many_are_written_together() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let silence = Duration::from_secs(7);
        let mut stream = ClientStream::watched(accepted.unwrap().0, silence).unwrap();
        assert!(stream.is_write_vectored());
        for pieces in [&["one"][..], &["two", "", "three"], &["four", "five"]] {
            let pieces: Vec<_> = pieces.iter().map(|p| IoSlice::new(p.as_bytes())).collect();
            let whole: usize = pieces.iter().map(|piece| piece.len()).sum();
            let written =
                poll_fn(|context| Pin::new(&mut stream).poll_write_vectored(context, &pieces));
            assert_eq!(written.await.unwrap(), whole);
        }
        drop(stream);
        let mut got = String::new();
        client.unwrap().read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "onetwothreefourfive");
    }
}
