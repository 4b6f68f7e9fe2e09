//! What the commands that ask share: the server they speak to, which may be a cluster of their own, and the words of a
//! request.

use std::io::{self, Write};

use anyhow::Context;
use bytes::Bytes;
use inkstone_cluster::NodeAddress;
use inkstone_proto::v1::{
    ContentPart, Message, Picture, Role, chat_service_client::ChatServiceClient,
    content_part::Content, picture::Source,
};
use inkstone_worker::config::DEFAULT_GRACE;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

use super::{default_model::ModelDir, local_cluster::LocalCluster, run_until_stopped};
use crate::{arguments::EngineArguments, telemetry::Console};

/// Requests carry their pictures.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Speaks to a coordinator.
pub(crate) type Client = ChatServiceClient<Channel>;

/// Runs `work` with a client of the named server, or else of a cluster in this process that lives as long as the work.
pub(crate) fn with_server(
    server: Option<&str>,
    engine: &EngineArguments,
    console: &Console,
    work: impl AsyncFnOnce(Client) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    with_address(server, engine, console, async |address| {
        work(connect(&address).await?).await
    })
}

/// The same for work that makes its own connections: it gets the server's address, `http://host:port`.
pub(crate) fn with_address(
    server: Option<&str>,
    engine: &EngineArguments,
    console: &Console,
    work: impl AsyncFnOnce(String) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match server {
        Some(server) => {
            let address = server.parse::<NodeAddress>()?;
            run_until_stopped(async move |shutdown| {
                tokio::select! {
                    result = work(address.as_uri().to_owned()) => result,
                    () = shutdown.cancelled() => Ok(()),
                }
            })
        }
        None => with_own_cluster(engine, console, work),
    }
}

fn with_own_cluster(
    engine: &EngineArguments,
    console: &Console,
    work: impl AsyncFnOnce(String) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let model = ModelDir::given_or_default(engine.model.as_deref(), console)?;
    let cluster = LocalCluster {
        model_dir: model.path(),
        engine: engine.clone(),
        language_replicas: 1,
        tensor_parallel: 1,
        vision_workers: 1,
        grpc: ([127, 0, 0, 1], 0).into(),
        grace: DEFAULT_GRACE,
    };
    run_until_stopped(async move |shutdown| {
        let (ready, is_ready) = oneshot::channel();
        let stop = CancellationToken::new();
        let serving = cluster.run(console, stop.clone(), ready);
        tokio::pin!(serving);
        let work = async {
            let address = is_ready.await.context("the cluster did not start")?;
            work(format!("http://{address}")).await
        };
        let result = tokio::select! {
            result = work => result,
            ended = &mut serving => return ended.and_then(|()| Err(anyhow::anyhow!("the cluster stopped"))),
            () = shutdown.cancelled() => Ok(()),
        };
        stop.cancel();
        serving.await?;
        result
    })
}

async fn connect(address: &str) -> anyhow::Result<Client> {
    let client = ChatServiceClient::connect(address.to_owned())
        .await
        .with_context(|| format!("no coordinator at {address}"))?;
    Ok(client.max_encoding_message_size(MAX_MESSAGE_BYTES))
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
