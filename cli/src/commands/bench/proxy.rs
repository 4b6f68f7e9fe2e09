//! `inkstone bench proxy`: the least that anything between a client and a worker can do. It forwards bytes both ways on one
//! thread and looks at none of them; the coordinator's cost is told beside its.

use std::{io, net::SocketAddr};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::arguments::BenchProxyArguments;

/// Bytes that are read at once; a token's message is some fifty.
const BUFFER_BYTES: usize = 8 << 10;

/// Runs until the process is killed.
pub(crate) fn run(arguments: BenchProxyArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(arguments.listen)
            .await
            .with_context(|| format!("cannot listen on {}", arguments.listen))?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        forward_all(listener, arguments.upstream).await
    })
}

/// Forwards every connection of `listener` to a new one to `upstream`.
async fn forward_all(listener: TcpListener, upstream: SocketAddr) -> anyhow::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A client or a server that goes away ends its own connection only.
            if let Err(error) = forward(client, upstream).await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}

async fn forward(client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(copy(from_client, to_server), copy(from_server, to_client))?;
    Ok(())
}

/// Copies until the end of one side, which the other is then told of.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of no pattern.
    fn noise(count: usize, seed: u64) -> Vec<u8> {
        (0..count as u64)
            .map(|index| (super::super::questions::mix(seed, index) >> 24) as u8)
            .collect()
    }

    #[tokio::test]
    async fn bytes_come_out_unchanged_both_ways_and_ends_are_passed_on() {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(forward_all(listener, upstream.local_addr().unwrap()));
        // The server answers with what it got, then with bytes of its own.
        tokio::spawn(async move {
            while let Ok((mut server, _)) = upstream.accept().await {
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    server.read_to_end(&mut got).await.unwrap();
                    server.write_all(&got).await.unwrap();
                    server.write_all(&noise(200_000, 1)).await.unwrap();
                });
            }
        });
        for (seed, count) in [(2, 0), (3, 1), (4, 300_000)] {
            let sent = noise(count, seed);
            let client = TcpStream::connect(address).await.unwrap();
            let (mut from, mut to) = client.into_split();
            let writing = sent.clone();
            tokio::spawn(async move {
                to.write_all(&writing).await.unwrap();
                to.shutdown().await.unwrap();
            });
            let mut got = Vec::new();
            from.read_to_end(&mut got).await.unwrap();
            let (echoed, own) = got.split_at(count);
            assert!(echoed == sent.as_slice(), "{count} bytes came back changed");
            assert!(own == noise(200_000, 1).as_slice());
        }
    }
}
