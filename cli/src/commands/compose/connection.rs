//! Speaks to the composition service. A stream that breaks is taken up again where it was, a bounded number of times.

use std::time::Duration;

use anyhow::{Context, bail};
use inkstone_proto::v1::{
    CancelRequest, ComposeEvent, ComposeRequest, ExportFormat, ExportRequest, ResumeRequest,
    compose_event::Event, composition_service_client::CompositionServiceClient,
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::commands::client::{MAX_MESSAGE_BYTES, connect, explain};

/// How often a broken stream is taken up without any event in between. With the pauses that is half a minute: the server goes on for
/// a minute without a reader.
const MAX_TRIES: u32 = 9;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For a call to be answered that has no work to do.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// A connection to a coordinator.
pub(super) struct Connection {
    client: CompositionServiceClient<Channel>,
}

impl Connection {
    pub(super) async fn to(address: &str) -> anyhow::Result<Self> {
        let client = CompositionServiceClient::new(connect(address).await?)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { client })
    }

    /// Begins a composition.
    pub(super) async fn compose(&self, request: ComposeRequest) -> anyhow::Result<Events> {
        let stream = self
            .client
            .clone()
            .compose(request)
            .await
            .map_err(explain)?;
        Ok(Events {
            client: self.client.clone(),
            stream: stream.into_inner(),
            place: Place::default(),
        })
    }

    /// The article as a file.
    pub(super) async fn export(
        &self,
        article_id: &str,
        format: ExportFormat,
    ) -> anyhow::Result<Vec<u8>> {
        let mut attempt = 0;
        loop {
            match self.export_once(article_id, format).await {
                Ok(data) => return Ok(data),
                Err(status) if is_broken(&status) && attempt + 1 < MAX_TRIES => {
                    sleep(pause(attempt)).await;
                    attempt += 1;
                }
                Err(status) => return Err(explain(status)),
            }
        }
    }

    async fn export_once(&self, article_id: &str, format: ExportFormat) -> Result<Vec<u8>, Status> {
        let request = ExportRequest {
            article_id: article_id.to_owned(),
            format: format.into(),
        };
        let mut stream = self.client.clone().export(request).await?.into_inner();
        let mut data = vec![];
        while let Some(chunk) = stream.message().await? {
            data.extend_from_slice(&chunk.data);
        }
        Ok(data)
    }
}

/// The events of a composition.
pub(super) struct Events {
    client: CompositionServiceClient<Channel>,
    stream: Streaming<ComposeEvent>,
    place: Place,
}

impl Events {
    /// The next event; each comes once, in order. `notice` hears what is done about a broken stream. May be dropped while it waits.
    pub(super) async fn next(&mut self, mut notice: impl FnMut(&str)) -> anyhow::Result<Event> {
        let mut tries = 0;
        loop {
            let broken = match self.stream.message().await {
                Ok(Some(event)) => match self.place.take(event)? {
                    Some(event) => return Ok(event),
                    None => continue,
                },
                Ok(None) => Status::unavailable("the server ended the stream"),
                Err(status) => status,
            };
            self.take_up(broken, &mut tries, &mut notice).await?;
        }
    }

    /// Ends the composition on the server; its last event says what is there.
    pub(super) async fn cancel(&mut self) -> anyhow::Result<()> {
        let Some(article_id) = self.place.article_id.clone() else {
            return Ok(());
        };
        let cancelled = self.client.cancel(CancelRequest { article_id });
        let cancelled = timeout(CALL_LIMIT, cancelled).await;
        let cancelled = cancelled.context("the server does not answer")?;
        cancelled.map_err(explain)?;
        Ok(())
    }

    /// How long the server keeps the article.
    pub(super) fn kept_for(&self) -> Duration {
        self.place.kept_for
    }

    async fn take_up(
        &mut self,
        mut broken: Status,
        tries: &mut u32,
        notice: &mut impl FnMut(&str),
    ) -> anyhow::Result<()> {
        while is_broken(&broken) && *tries < MAX_TRIES {
            let Some(article_id) = self.place.article_id.clone() else {
                break;
            };
            if *tries == 0 {
                notice("the connection to the server is lost; taking the composition up again");
            }
            sleep(pause(*tries)).await;
            *tries += 1;
            let request = ResumeRequest {
                article_id,
                sequence: self.place.next,
            };
            let resumed = timeout(CALL_LIMIT, self.client.resume(request)).await;
            match resumed.unwrap_or_else(|_| Err(Status::unavailable("the server does not answer")))
            {
                Ok(stream) => {
                    self.stream = stream.into_inner();
                    return Ok(());
                }
                Err(status) => broken = status,
            }
        }
        if *tries > 0 && broken.code() == Code::NotFound {
            let id = self.place.article_id.as_deref().unwrap_or_default();
            bail!("the server knows nothing of article {id} any more: it was started anew");
        }
        let error = explain(broken);
        Err(match *tries {
            MAX_TRIES.. => error.context(format!("gave up after {MAX_TRIES} tries")),
            _ => error,
        })
    }
}

/// Where in the events of a composition somebody is.
#[derive(Debug, Default)]
pub(super) struct Place {
    article_id: Option<String>,
    next: u64,
    kept_for: Duration,
}

impl Place {
    /// Takes an event in; none for one that was there already.
    pub(super) fn take(&mut self, event: ComposeEvent) -> anyhow::Result<Option<Event>> {
        let ComposeEvent {
            article_id,
            sequence,
            event,
        } = event;
        if sequence < self.next {
            return Ok(None);
        }
        if sequence > self.next {
            bail!(
                "the server left events out: number {} was next, number {sequence} came",
                self.next
            );
        }
        self.next += 1;
        self.article_id.get_or_insert(article_id);
        if let Some(Event::Accepted(accepted)) = &event {
            self.kept_for = Duration::from_secs(u64::from(accepted.expires_after_seconds));
        }
        // A kind of event that is younger than this program is nothing to it.
        Ok(event)
    }
}

/// Whether the connection failed rather than the composition.
fn is_broken(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
    )
}

/// Before the next try.
fn pause(tries: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << tries.min(8))
        .min(LONGEST_PAUSE)
}
