//! A load on a server: requests in a closed or an open loop over a few connections, and what each of them saw.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::future::try_join_all;
use indicatif::ProgressBar;
use inkstone_proto::v1::{ChatRequest, ChatResponse, chat_response::Event};
use prost::Message;
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tonic::{Request, metadata::MetadataValue, transport::Endpoint};

use super::questions::{Questions, mix};
use crate::commands::client::{Client, explain};

/// A request that takes longer has failed.
const REQUEST_LIMIT: Duration = Duration::from_secs(600);
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// What gRPC and HTTP/2 put before each message: 5 bytes and a frame's head of 9.
const FRAMING_BYTES: usize = 14;
/// The metadata that names a tenant.
const TENANT: &str = "inkstone-tenant";
/// Connections that are opened at a time: less than a listener's queue holds.
const CONNECTS_AT_ONCE: usize = 64;

/// What is asked of a server.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// They take turns.
    pub(crate) connections: usize,
    /// When a request is sent.
    pub(crate) arrivals: Arrivals,
    /// In all.
    pub(crate) requests: u64,
    /// What they ask.
    pub(crate) questions: Questions,
    /// On whose behalf; none: nobody's in particular.
    pub(crate) tenant: Option<&'static str>,
}

/// When a request is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrivals {
    /// When one before is done: so many are answered side by side.
    Closed {
        /// How many.
        concurrency: u64,
    },
    /// At random moments, so many a second on average, come what may.
    Open {
        /// The rate.
        per_second: f64,
    },
}

/// What a request saw. Times count from the beginning of the load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Which question it was.
    pub(crate) index: u64,
    pub(crate) sent: Duration,
    /// When the first token came; not set where none did.
    pub(crate) first_token: Option<Duration>,
    pub(crate) last_token: Duration,
    pub(crate) tokens: u64,
    pub(crate) prompt_tokens: u64,
    /// Of these, those that were found in the cache.
    pub(crate) cached_tokens: u64,
    /// Between two messages that bring tokens. A message with several counts once, as it is waited for once.
    pub(crate) gaps: Vec<Duration>,
    /// Messages of the answer, and their bytes on the wire.
    pub(crate) messages: u64,
    pub(crate) message_bytes: u64,
    /// Why there is no whole answer.
    pub(crate) failure: Option<String>,
}

/// How far a load has come; read while it runs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) first_tokens: AtomicU64,
    pub(crate) tokens: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) message_bytes: AtomicU64,
    pub(crate) done: AtomicU64,
}

/// Puts `load` on the server at `address` and gives what each request saw, in the order they ended.
pub(crate) async fn run(
    address: &str,
    load: &Load,
    progress: Arc<Progress>,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Record>> {
    let clients = connect(address, load.connections).await?;
    let sender = Arc::new(Sender {
        clients,
        questions: load.questions.clone(),
        tenant: load.tenant,
        origin: Instant::now(),
        progress,
        bar: bar.clone(),
    });
    match load.arrivals {
        Arrivals::Closed { concurrency } => closed_loop(sender, load.requests, concurrency).await,
        Arrivals::Open { per_second } => open_loop(sender, load.requests, per_second).await,
    }
}

/// Opens `count` connections.
pub(crate) async fn connect(address: &str, count: usize) -> anyhow::Result<Vec<Client>> {
    let endpoint = Endpoint::from_shared(address.to_owned())?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true);
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let some = CONNECTS_AT_ONCE.min(count - clients.len());
        let connections = try_join_all((0..some).map(|_| endpoint.connect()));
        let connections = connections
            .await
            .with_context(|| format!("no coordinator at {address}"))?;
        clients.extend(connections.into_iter().map(Client::new));
    }
    Ok(clients)
}

async fn closed_loop(
    sender: Arc<Sender>,
    requests: u64,
    concurrency: u64,
) -> anyhow::Result<Vec<Record>> {
    let next = Arc::new(AtomicU64::new(0));
    let mut askers = JoinSet::new();
    for _ in 0..concurrency.min(requests) {
        let (sender, next) = (Arc::clone(&sender), Arc::clone(&next));
        askers.spawn(async move {
            let mut records = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= requests {
                    return records;
                }
                records.push(sender.ask(index).await);
            }
        });
    }
    let mut records = Vec::new();
    while let Some(asked) = askers.join_next().await {
        records.extend(asked?);
    }
    Ok(records)
}

async fn open_loop(
    sender: Arc<Sender>,
    requests: u64,
    per_second: f64,
) -> anyhow::Result<Vec<Record>> {
    let mut asked = JoinSet::new();
    let mut at = Duration::ZERO;
    for index in 0..requests {
        at += pause(sender.questions.seed, index, per_second);
        sleep_until((sender.origin + at).into()).await;
        let sender = Arc::clone(&sender);
        asked.spawn(async move { sender.ask(index).await });
    }
    let mut records = Vec::new();
    while let Some(record) = asked.join_next().await {
        records.push(record?);
    }
    Ok(records)
}

/// Between two requests of an open loop: exponential, so that they come as those of many people do.
fn pause(seed: u64, index: u64, per_second: f64) -> Duration {
    let uniform = ((mix(seed ^ 1, index) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    Duration::from_secs_f64(-uniform.ln() / per_second)
}

struct Sender {
    clients: Vec<Client>,
    questions: Questions,
    tenant: Option<&'static str>,
    origin: Instant,
    progress: Arc<Progress>,
    bar: ProgressBar,
}

impl Sender {
    async fn ask(&self, index: u64) -> Record {
        let request = self.questions.request(index);
        let client = self.clients[(index % self.clients.len() as u64) as usize].clone();
        let mut record = Record {
            index,
            sent: self.origin.elapsed(),
            ..Record::default()
        };
        let answered = timeout(REQUEST_LIMIT, self.read(client, request, &mut record)).await;
        let answered = answered.unwrap_or_else(|_| {
            Err(anyhow::anyhow!(
                "no whole answer in {} s",
                REQUEST_LIMIT.as_secs()
            ))
        });
        record.failure = answered.err().map(|error| error.to_string());
        self.progress.done.fetch_add(1, Ordering::Relaxed);
        self.bar.inc(1);
        record
    }

    async fn read(
        &self,
        mut client: Client,
        request: ChatRequest,
        record: &mut Record,
    ) -> anyhow::Result<()> {
        let mut request = Request::new(request);
        if let Some(tenant) = self.tenant {
            let tenant = MetadataValue::from_static(tenant);
            request.metadata_mut().insert(TENANT, tenant);
        }
        let answer = client.chat(request).await.map_err(explain)?;
        let mut answer = answer.into_inner();
        while let Some(response) = answer.message().await.map_err(explain)? {
            let before = (record.tokens, record.message_bytes);
            let is_last = record.note(&response, self.origin.elapsed());
            self.progress.note(record, before);
            if is_last {
                return Ok(());
            }
        }
        anyhow::bail!("the answer broke off")
    }
}

impl Progress {
    /// Counts the message that took `record` on from so many tokens and bytes.
    fn note(&self, record: &Record, (tokens, bytes): (u64, u64)) {
        let is_first = tokens == 0 && record.tokens > 0;
        for (count, more) in [
            (&self.messages, 1),
            (&self.message_bytes, record.message_bytes - bytes),
            (&self.tokens, record.tokens - tokens),
            (&self.first_tokens, u64::from(is_first)),
        ] {
            count.fetch_add(more, Ordering::Relaxed);
        }
    }
}

impl Record {
    /// Notes a message of the answer; says whether it is the last one.
    fn note(&mut self, response: &ChatResponse, now: Duration) -> bool {
        self.messages += 1;
        self.message_bytes += (response.encoded_len() + FRAMING_BYTES) as u64;
        match &response.event {
            Some(Event::Started(started)) => {
                self.prompt_tokens = u64::from(started.prompt_tokens);
                self.cached_tokens = u64::from(started.cached_prompt_tokens);
            }
            Some(Event::Delta(delta)) if !delta.token_ids.is_empty() => {
                match self.first_token {
                    None => self.first_token = Some(now),
                    Some(_) => self.gaps.push(now.saturating_sub(self.last_token)),
                }
                self.last_token = now;
                self.tokens += delta.token_ids.len() as u64;
            }
            Some(Event::Finished(_)) => return true,
            _ => {}
        }
        false
    }

    /// From sending to the first token.
    pub(crate) fn time_to_first_token(&self) -> Option<Duration> {
        self.first_token
            .map(|first| first.saturating_sub(self.sent))
    }

    /// What each token after the first took on average.
    pub(crate) fn time_per_later_token(&self) -> Duration {
        let later = u32::try_from(self.tokens.saturating_sub(1)).unwrap_or(u32::MAX);
        let whole = self
            .last_token
            .saturating_sub(self.first_token.unwrap_or_default());
        whole.checked_div(later).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use inkstone_proto::v1::{Delta, Finished, Started};

    use super::*;

    fn response(event: Event) -> ChatResponse {
        ChatResponse {
            event: Some(event),
            ..ChatResponse::default()
        }
    }

    fn delta(tokens: u32) -> ChatResponse {
        response(Event::Delta(Delta {
            token_ids: (0..tokens).collect(),
            ..Delta::default()
        }))
    }

    #[test]
    fn a_record_tells_the_first_token_from_the_gaps_after_it() {
        let ms = Duration::from_millis;
        let mut record = Record {
            sent: ms(10),
            ..Record::default()
        };
        let started = Started {
            prompt_tokens: 40,
            ..Started::default()
        };
        let events = [
            (response(Event::Started(started)), 15),
            (delta(0), 20),
            (delta(1), 110),
            (delta(1), 130),
            (delta(2), 190),
        ];
        for (event, at) in events {
            assert!(!record.note(&event, ms(at)));
        }
        assert!(record.note(&response(Event::Finished(Finished::default())), ms(191)));
        assert_eq!(record.time_to_first_token(), Some(ms(100)));
        assert_eq!(record.gaps, [ms(20), ms(60)]);
        assert_eq!((record.tokens, record.prompt_tokens), (4, 40));
        assert_eq!(record.time_per_later_token(), ms(80) / 3);
        assert_eq!(record.messages, 6);
    }

    #[test]
    fn an_answer_of_one_token_has_no_later_ones() {
        let mut record = Record::default();
        record.note(&delta(1), Duration::from_millis(5));
        assert_eq!(record.time_per_later_token(), Duration::ZERO);
        assert_eq!(Record::default().time_to_first_token(), None);
    }

    #[test]
    fn an_open_loop_keeps_its_rate() {
        let total: Duration = (0..10_000).map(|index| pause(7, index, 50.0)).sum();
        let rate = 10_000.0 / total.as_secs_f64();
        assert!((48.5..51.5).contains(&rate), "{rate}");
    }
}
