//! What the commands that ask share: the server they speak to, which may be a cluster of their own, and the words of a
//! request.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use inkstone_cluster::NodeAddress;
use inkstone_proto::v1::{
    ChatRequest, ContentPart, Message, Picture, Role, chat_response::Event,
    chat_service_client::ChatServiceClient, content_part::Content, picture::Source,
};
use inkstone_worker::config::DEFAULT_GRACE;
use tokio::{sync::oneshot, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{default_model::ModelDir, local_cluster::LocalCluster, run_until_stopped};
use crate::{
    arguments::{AdmissionArguments, ClusterArguments, CompositionArguments, EngineArguments},
    telemetry::Console,
};

/// Requests carry their pictures.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// How long a coordinator may take to be reached, and to show that it is still there.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(10);

/// How often to ask a server that is full, and how long to wait where it does not say.
const MAX_TRIES: usize = 120;
const DEFAULT_WAIT: Duration = Duration::from_secs(1);

/// Speaks to a coordinator.
pub(crate) type Client = ChatServiceClient<Channel>;

/// Where a command's work is done.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    /// The coordinator, `http://host:port`.
    pub(crate) address: String,
    /// Somebody asked the command to stop.
    pub(crate) stop: CancellationToken,
}

/// Runs `work` with a client of the named server, or else of a cluster in this process that lives as long as the work.
pub(crate) fn with_server(
    cluster: &ClusterArguments,
    console: &Console,
    work: impl AsyncFnOnce(Client) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    with_address(cluster, console, async |address| {
        let client = ChatServiceClient::new(connect(&address).await?);
        work(client.max_encoding_message_size(MAX_MESSAGE_BYTES)).await
    })
}

/// The same for work that makes its own connections: it gets the server's address, `http://host:port`.
pub(crate) fn with_address(
    cluster: &ClusterArguments,
    console: &Console,
    work: impl AsyncFnOnce(String) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    with_cluster(cluster, None, console, async |reached| {
        let work = work(reached.address);
        let done = reached.stop.run_until_cancelled(work).await;
        done.unwrap_or(Ok(()))
    })
}

/// The same for work that is told when to stop, and then ends in its own way. A cluster in this process composes with what
/// `composition` says, if anything.
pub(crate) fn with_cluster(
    cluster: &ClusterArguments,
    composition: Option<CompositionArguments>,
    console: &Console,
    work: impl AsyncFnOnce(Reached) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match &cluster.server {
        Some(server) => {
            let address = server.parse::<NodeAddress>()?;
            run_until_stopped(async |stop| {
                let address = address.as_uri().to_owned();
                work(Reached { address, stop }).await
            })
        }
        None => with_own_cluster(&cluster.engine, composition, console, work),
    }
}

fn with_own_cluster(
    engine: &EngineArguments,
    composition: Option<CompositionArguments>,
    console: &Console,
    work: impl AsyncFnOnce(Reached) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let model = ModelDir::given_or_default(engine.model.as_deref(), console)?;
    let cluster = LocalCluster {
        model_dir: model.path(),
        engine: engine.clone(),
        language_replicas: 1,
        tensor_parallel: 1,
        vision_workers: 1,
        grpc: ([127, 0, 0, 1], 0).into(),
        admission: AdmissionArguments::default(),
        composition,
        grace: DEFAULT_GRACE,
    };
    run_until_stopped(async move |shutdown| {
        let (ready, is_ready) = oneshot::channel();
        // The cluster ends after the work, however that was told to end.
        let cluster_stop = CancellationToken::new();
        let serving = cluster.run(console, cluster_stop.clone(), ready);
        tokio::pin!(serving);
        let stop = shutdown.clone();
        let work = async {
            let Some(ready) = shutdown.run_until_cancelled(is_ready).await else {
                return Ok(());
            };
            let address = ready.context("the cluster did not start")?;
            let address = format!("http://{address}");
            work(Reached { address, stop }).await
        };
        let result = tokio::select! {
            result = work => result,
            ended = &mut serving => return ended.and_then(|()| Err(anyhow::anyhow!("the cluster stopped"))),
        };
        cluster_stop.cancel();
        serving.await?;
        result
    })
}

/// A connection to the coordinator at an address; one that died without a word is noticed.
pub(crate) async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Channel::from_shared(address.to_owned())?
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT);
    let channel = endpoint.connect().await;
    channel.with_context(|| format!("no coordinator at {address}"))
}

/// Asks again while the server is full: pictures come faster than they are encoded.
pub(crate) async fn ask_until_taken(
    client: &mut Client,
    request: ChatRequest,
) -> Result<String, Status> {
    for _ in 1..MAX_TRIES {
        match ask(client, request.clone()).await {
            Err(status) if status.code() == Code::ResourceExhausted => {
                let details = status.get_error_details();
                let wait = details.retry_info().and_then(|retry| retry.retry_delay);
                sleep(wait.unwrap_or(DEFAULT_WAIT)).await;
            }
            done => return done,
        }
    }
    ask(client, request).await
}

async fn ask(client: &mut Client, request: ChatRequest) -> Result<String, Status> {
    let mut stream = client.chat(request).await?.into_inner();
    let mut answer = String::new();
    while let Some(response) = stream.message().await? {
        match response.event {
            Some(Event::Delta(delta)) => answer += &delta.text,
            Some(Event::Finished(_)) => return Ok(answer),
            Some(Event::Started(_) | Event::PromptLogprobs(_) | Event::AnswerFinished(_))
            | None => {}
        }
    }
    Err(Status::data_loss("the answer broke off"))
}

/// What the server says, with what can be mended.
pub(crate) fn explain(status: Status) -> anyhow::Error {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.as_slice())
        .unwrap_or_default();
    let mut text = status.message().to_owned();
    for violation in violations
        .iter()
        .filter(|violation| !status.message().contains(&violation.description))
    {
        text += &format!("\n  {}: {}", violation.field, violation.description);
    }
    anyhow::Error::msg(text)
}

pub(crate) fn message(role: Role, parts: Vec<ContentPart>) -> Message {
    Message {
        role: role.into(),
        parts,
    }
}

pub(crate) fn text_part(text: &str) -> ContentPart {
    ContentPart {
        content: Some(Content::Text(text.to_owned())),
    }
}

/// A picture's file.
pub(crate) fn picture_part(file: impl Into<Bytes>) -> ContentPart {
    ContentPart {
        content: Some(Content::Picture(Picture {
            source: Some(Source::Data(file.into())),
        })),
    }
}

/// Writes to standard output, at once.
pub(crate) fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
