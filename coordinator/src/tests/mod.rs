//! The whole coordinator over a fake cluster, spoken to by gRPC over loopback. A module for each promise.

mod admission;
mod answers;
mod cluster;
mod compositions;
mod connection;
mod ending;
mod members;
mod pictures;
mod recovery;
mod refusals;
mod routing;
mod services;
mod streaming;
mod workers;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use inkstone_proto::v1::{
    self as wire, chat_response::Event, chat_service_client::ChatServiceClient,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use crate::{
    app::{Ready, serve_with},
    config::Config,
    worker_client::{Connector, fake::FakeCluster},
};

/// Longer than anything takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The defaults, but for the patience with a cluster in which nobody answers.
fn config(cluster: &FakeCluster) -> Config {
    let mut config = Config::for_members(cluster.members()).unwrap();
    config.timeouts.first_group = Duration::from_millis(200);
    config.timeouts.recovery = Duration::from_millis(500);
    config
}

/// A running coordinator.
struct Coordinator {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
    ready: Option<oneshot::Receiver<Ready>>,
}

impl Coordinator {
    /// Starts one over a fake cluster and waits until it takes requests.
    async fn over(cluster: &FakeCluster) -> Self {
        Self::with(cluster, |_| {}).await
    }

    /// The same with other settings.
    async fn with(cluster: &FakeCluster, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(cluster);
        change(&mut config);
        let mut coordinator = Self::starting(config, Arc::new(cluster.clone())).await;
        coordinator.ready().await;
        coordinator
    }

    /// Starts one and does not wait.
    async fn starting(config: Config, connector: Arc<dyn Connector>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (sender, receiver) = oneshot::channel();
        let serving = serve_with(config, connector, listener, shutdown.clone(), sender);
        Self {
            address,
            shutdown,
            serving: tokio::spawn(serving),
            ready: Some(receiver),
        }
    }

    async fn ready(&mut self) -> Ready {
        let ready = self.ready.take().expect("asked once");
        let ready = timeout(PATIENCE, ready).await.expect("ready in time");
        ready.expect("the coordinator runs")
    }

    /// Stops it and gives what it returned.
    async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.stopped().await
    }

    /// Waits for it to stop by itself.
    async fn stopped(self) -> anyhow::Result<()> {
        let ended = timeout(PATIENCE, self.serving).await;
        ended.expect("stops in time").expect("does not panic")
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    async fn channel(&self) -> Channel {
        self.endpoint().connect().await.unwrap()
    }

    async fn chat(
        &self,
        request: impl tonic::IntoRequest<wire::ChatRequest>,
    ) -> Result<Streaming<wire::ChatResponse>, Status> {
        let mut client = ChatServiceClient::new(self.channel().await)
            .max_encoding_message_size(256 * 1024 * 1024);
        let answer = timeout(PATIENCE, client.chat(request)).await;
        Ok(answer.expect("an answer in time")?.into_inner())
    }

    /// The status of a request that is refused before its first event.
    async fn refusal(&self, request: wire::ChatRequest) -> Status {
        match self.chat(request).await {
            Ok(_) => panic!("the request was taken on"),
            Err(status) => status,
        }
    }
}

/// A request with one message of text.
fn question(text: &str) -> wire::ChatRequest {
    conversation(vec![message(wire::Role::User, vec![text_part(text)])])
}

fn conversation(messages: Vec<wire::Message>) -> wire::ChatRequest {
    wire::ChatRequest {
        messages,
        ..Default::default()
    }
}

fn message(role: wire::Role, parts: Vec<wire::ContentPart>) -> wire::Message {
    wire::Message {
        role: role.into(),
        parts,
    }
}

fn text_part(text: &str) -> wire::ContentPart {
    use wire::content_part::Content;
    wire::ContentPart {
        content: Some(Content::Text(text.into())),
    }
}

fn picture_part(data: &[u8]) -> wire::ContentPart {
    use wire::content_part::Content;
    let data = bytes::Bytes::copy_from_slice(data);
    wire::ContentPart {
        content: Some(Content::Picture(wire::Picture {
            source: Some(wire::picture::Source::Data(data)),
        })),
    }
}

/// A call with a deadline.
fn with_deadline(request: wire::ChatRequest, left: Duration) -> Request<wire::ChatRequest> {
    let mut request = Request::new(request);
    request.set_timeout(left);
    request
}

/// The next event, with the numbering checked.
async fn next(
    answer: &mut Streaming<wire::ChatResponse>,
    seq: u64,
) -> Result<Option<Event>, Status> {
    let response = timeout(PATIENCE, answer.message()).await;
    let response = response.expect("an event in time")?;
    Ok(response.map(|response| {
        assert_eq!(response.seq, seq);
        // The call has one id; it is told once.
        assert_eq!(response.request_id.is_empty(), seq > 0);
        response.event.expect("every response has an event")
    }))
}

/// A whole answer, its order checked: one Started, any number of other events, one Finished or an error.
struct Answer {
    started: wire::Started,
    prompt_logprobs: Vec<wire::PromptLogprobs>,
    /// Of all answers.
    deltas: Vec<wire::Delta>,
    ends: Vec<wire::AnswerFinished>,
    end: Result<wire::Finished, Status>,
    /// What came after the last event.
    trailers: MetadataMap,
}

impl Answer {
    async fn read(mut answer: Streaming<wire::ChatResponse>) -> Self {
        let Some(Event::Started(started)) = next(&mut answer, 0).await.unwrap() else {
            panic!("the first event is Started");
        };
        let mut prompt_logprobs = vec![];
        let mut deltas: Vec<wire::Delta> = vec![];
        let mut ends: Vec<wire::AnswerFinished> = vec![];
        let mut seq = 0;
        let end = loop {
            seq += 1;
            match next(&mut answer, seq).await {
                Ok(Some(Event::PromptLogprobs(logprobs))) => prompt_logprobs.push(logprobs),
                Ok(Some(Event::Delta(delta))) => {
                    let is_over = ends.iter().any(|end| end.answer == delta.answer);
                    assert!(!is_over, "answer {} goes on after its end", delta.answer);
                    deltas.push(delta);
                }
                Ok(Some(Event::AnswerFinished(end))) => ends.push(end),
                Ok(Some(Event::Finished(finished))) => break Ok(finished),
                Err(status) => break Err(status),
                Ok(other) => panic!("{other:?} after {} deltas", deltas.len()),
            }
        };
        if end.is_ok() {
            assert_eq!(answer.message().await.unwrap(), None);
        }
        Self {
            started,
            prompt_logprobs,
            deltas,
            ends,
            end,
            trailers: answer.trailers().await.ok().flatten().unwrap_or_default(),
        }
    }

    /// What the trailing metadata says.
    fn trailer(&self, key: &str) -> &str {
        let value = self.trailers.get(key);
        value.expect("the trailer is there").to_str().unwrap()
    }

    /// Of the only answer.
    fn text(&self) -> String {
        assert!(self.ends.is_empty(), "there are several answers");
        self.text_of(0)
    }

    fn text_of(&self, answer: u32) -> String {
        let deltas = self.deltas.iter().filter(|delta| delta.answer == answer);
        deltas.map(|delta| delta.text.as_str()).collect()
    }

    fn token_ids(&self) -> Vec<u32> {
        let deltas = self.deltas.iter();
        deltas.flat_map(|delta| delta.token_ids.clone()).collect()
    }

    fn finished(&self) -> &wire::Finished {
        self.end.as_ref().expect("the answer is complete")
    }
}

/// Waits until this holds.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let watch = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, watch).await.expect(what);
}

/// Checks code and reason of an error, and that its details say where it comes from.
#[track_caller]
fn check_error(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!(info.reason, reason, "{status:?}");
    assert_eq!(info.domain, "inkstone");
}

/// Checks that an error names these fields, and no other.
#[track_caller]
fn check_fields(status: &Status, paths: &[&str]) {
    check_error(status, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(field_paths(status), paths);
}

fn field_paths(status: &Status) -> Vec<String> {
    let bad_request = status.get_details_bad_request().expect("BadRequest");
    let violations = bad_request.field_violations.into_iter();
    violations.map(|violation| violation.field).collect()
}
