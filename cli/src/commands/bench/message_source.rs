//! Messages through the proxy: as many, as large, as often and over as many connections as the coordinator sent, from a source to
//! readers, both in this process.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep_until, timeout},
};

/// Beyond what all rounds take by themselves, before something is wrong.
const GRACE: Duration = Duration::from_secs(120);
/// Rounds that go first and are not measured.
pub(crate) const WARM_UP_ROUNDS: u64 = 2;

/// What is sent: in each round so many messages on every connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Messages {
    pub(crate) connections: usize,
    /// On one connection in one round.
    pub(crate) messages_a_round: u64,
    pub(crate) rounds: u64,
    pub(crate) message_bytes: usize,
    /// From one round to the next.
    pub(crate) interval: Duration,
}

impl Messages {
    /// Messages of all rounds.
    pub(crate) fn total(&self) -> u64 {
        self.connections as u64 * self.messages_a_round * self.rounds
    }

    fn bytes_a_round(&self) -> u64 {
        self.messages_a_round * self.message_bytes as u64
    }
}

/// Connections through a proxy, ready to carry messages.
pub(crate) struct Forwarded {
    /// Where the proxy comes out.
    senders: Vec<TcpStream>,
    /// Where clients went in.
    readers: Vec<TcpStream>,
}

impl Forwarded {
    /// Opens `count` connections to `proxy`, which forwards to `source`.
    pub(crate) async fn open(
        proxy: SocketAddr,
        source: &TcpListener,
        count: usize,
    ) -> anyhow::Result<Self> {
        let mut forwarded = Self {
            senders: Vec::with_capacity(count),
            readers: Vec::with_capacity(count),
        };
        for _ in 0..count {
            // One after the other: the order is that of the proxy's own connections then.
            let pair = async { tokio::try_join!(TcpStream::connect(proxy), source.accept()) };
            let (reader, (sender, _)) = timeout(GRACE, pair)
                .await
                .context("the proxy does not connect")??;
            sender.set_nodelay(true)?;
            forwarded.readers.push(reader);
            forwarded.senders.push(sender);
        }
        Ok(forwarded)
    }

    /// Sends the messages and comes back when all have arrived, with the time it took.
    pub(crate) async fn carry(&mut self, messages: Messages) -> anyhow::Result<Duration> {
        ensure!(messages.message_bytes > 0, "a message has at least 1 byte");
        let begin = Instant::now();
        let rounds = u32::try_from(messages.rounds).unwrap_or(u32::MAX);
        let limit = messages.interval.saturating_mul(rounds) + GRACE;
        let sending = send(&mut self.senders, messages, begin);
        let reading = read(&mut self.readers, messages);
        timeout(limit, async { tokio::try_join!(sending, reading) })
            .await
            .with_context(|| format!("the proxy took longer than {} s", limit.as_secs()))??;
        Ok(begin.elapsed())
    }
}

async fn send(senders: &mut [TcpStream], messages: Messages, begin: Instant) -> anyhow::Result<()> {
    let message = vec![b'm'; messages.message_bytes];
    let mut due = begin;
    for _ in 0..messages.rounds {
        sleep_until(due.into()).await;
        for sender in senders.iter_mut() {
            for _ in 0..messages.messages_a_round {
                sender.write_all(&message).await?;
            }
        }
        // A round that took too long does not make those after it hurry.
        due = (due + messages.interval).max(Instant::now());
    }
    Ok(())
}

async fn read(readers: &mut Vec<TcpStream>, messages: Messages) -> anyhow::Result<()> {
    let wanted = messages.bytes_a_round() * messages.rounds;
    let mut reading = JoinSet::new();
    for reader in readers.drain(..) {
        reading.spawn(read_bytes(reader, wanted));
    }
    while let Some(read) = reading.join_next().await {
        readers.push(read??);
    }
    Ok(())
}

async fn read_bytes(mut reader: TcpStream, wanted: u64) -> anyhow::Result<TcpStream> {
    let mut buffer = vec![0; 4 << 10];
    let mut left = wanted;
    while left > 0 {
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = reader.read(&mut buffer[..most]).await?;
        ensure!(count > 0, "the proxy closed with {left} bytes to come");
        left -= count as u64;
    }
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections without a proxy between their ends.
    async fn direct(count: usize) -> Forwarded {
        let source = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = source.local_addr().unwrap();
        Forwarded::open(address, &source, count).await.unwrap()
    }

    const MESSAGES: Messages = Messages {
        connections: 3,
        messages_a_round: 2,
        rounds: 5,
        message_bytes: 50,
        interval: Duration::from_millis(2),
    };

    #[tokio::test]
    async fn all_messages_arrive_at_their_pace() {
        let mut forwarded = direct(3).await;
        for _ in 0..2 {
            let took = forwarded.carry(MESSAGES).await.unwrap();
            assert!(took >= MESSAGES.interval * 4, "{took:?}");
        }
        assert_eq!(MESSAGES.total(), 30);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_an_error() {
        let mut forwarded = direct(3).await;
        forwarded.senders.pop();
        assert!(forwarded.carry(MESSAGES).await.is_err());
    }
}
