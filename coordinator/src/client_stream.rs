//! A client's connection. A token is one small piece of bytes: sent as such it costs the kernel less than as a list of pieces, which is
//! how the transport writes whatever it has.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct ClientStream(pub(crate) TcpStream);

impl ClientStream {
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
    async fn pieces_arrive_in_order_however_many_are_written_together() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let mut stream = ClientStream(accepted.unwrap().0);
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
