//! The gRPC version of the worker clients. Wire types end here.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{Stream, stream};
use inkstone_cluster::{Epoch, NodeAddress};
use inkstone_interface::description::ModelDescription;
use inkstone_proto::worker::v1::{self as wire, language_service_client::LanguageServiceClient};
use tokio::time::{Instant, timeout};
use tonic::{
    Code, Status, TimeoutExpired,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use super::{
    Connector, Generation, GenerationStream, LanguageClient, LanguageDescription, PictureDigest,
    PictureUpload, PlacedPicture, Pulse, VisionClient, WorkerError, leader::Leader,
};
use crate::config::Timeouts;

/// Bytes of an upload that travel in one message, as `vision.proto` says.
const CHUNK_BYTES: usize = 256 * 1024;
/// Largest message taken from a worker: a description with a tokenizer, 1.5 MB in the releases, or the log-probabilities
/// of a few prompts.
const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// What a leader may send ahead of us on a call: the log-probabilities of a long prompt.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Makes clients that connect on first use and reconnect by themselves.
#[derive(Debug)]
pub(crate) struct GrpcConnector {
    timeouts: Timeouts,
}

impl GrpcConnector {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self { timeouts }
    }

    /// How to reach a worker; a connection that answers no ping is given up.
    fn endpoint(&self, address: &NodeAddress, ping_interval: Duration, ping: Duration) -> Endpoint {
        Endpoint::from_shared(address.as_uri().to_owned())
            .expect("a node address is a URI by construction")
            .connect_timeout(self.timeouts.connect)
            .http2_keep_alive_interval(ping_interval)
            .keep_alive_timeout(ping)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
            .tcp_nodelay(true)
    }
}

impl Connector for GrpcConnector {
    fn language(&self, leader: &NodeAddress) -> Arc<dyn LanguageClient> {
        let timeouts = &self.timeouts;
        let endpoint = self.endpoint(leader, timeouts.ping_interval, timeouts.ping);
        Arc::new(GrpcLanguageClient {
            leader: Leader::new(endpoint.clone(), timeouts.silence),
            endpoint,
            describe_timeout: timeouts.describe,
            accept_timeout: timeouts.accept,
        })
    }

    fn vision(&self, worker: &NodeAddress) -> Arc<dyn VisionClient> {
        // No word comes by itself while a picture is on its way, so that pings have to tell a worker that hangs.
        let silence = self.timeouts.silence;
        let channel = self.endpoint(worker, silence, 2 * silence).connect_lazy();
        let client = wire::vision_service_client::VisionServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Arc::new(GrpcVisionClient {
            client,
            address: worker.clone(),
            describe_timeout: self.timeouts.describe,
            put_timeout: self.timeouts.put_picture,
        })
    }
}

/// A client over a connection of its own. Calls to a leader are few and long; so none waits for a connection that is dead and
/// does not know it yet.
pub(super) fn language_client(endpoint: &Endpoint) -> LanguageServiceClient<Channel> {
    LanguageServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

struct GrpcLanguageClient {
    endpoint: Endpoint,
    /// The call that all requests share.
    leader: Leader,
    describe_timeout: Duration,
    accept_timeout: Duration,
}

#[async_trait]
impl LanguageClient for GrpcLanguageClient {
    async fn describe(&self) -> Result<LanguageDescription, WorkerError> {
        let call = timed(
            wire::DescribeLanguageRequest {},
            Some(self.describe_timeout),
        );
        let answer = language_client(&self.endpoint)
            .describe_language(call)
            .await?;
        let answer = answer.into_inner();
        Ok(LanguageDescription {
            model: parse_description(&answer.description_json)?,
            tokenizer_model: answer.tokenizer_model,
            added_tokens: answer.added_tokens.into_iter().collect(),
            epoch: Epoch(answer.epoch),
            max_sequence_tokens: answer.max_sequence_tokens as usize,
            cache_namespace: answer.cache_namespace,
        })
    }

    fn pulse(&self) -> &Arc<Pulse> {
        self.leader.pulse()
    }

    async fn generate(&self, generation: Generation) -> Result<GenerationStream, WorkerError> {
        let stream = self.leader.connection().submit(generation)?;
        let limit = self.accept_timeout;
        let accepted = timeout(limit, stream.accepted()).await;
        accepted.map_err(|_| {
            let seconds = limit.as_secs_f32();
            WorkerError::Unavailable(format!(
                "the leader did not say within {seconds} s whether it takes the request"
            ))
        })??;
        Ok(stream)
    }
}

struct GrpcVisionClient {
    client: wire::vision_service_client::VisionServiceClient<Channel>,
    address: NodeAddress,
    describe_timeout: Duration,
    put_timeout: Duration,
}

#[async_trait]
impl VisionClient for GrpcVisionClient {
    async fn describe(&self) -> Result<ModelDescription, WorkerError> {
        let call = timed(wire::DescribeVisionRequest {}, Some(self.describe_timeout));
        let answer = self.client.clone().describe_vision(call).await?;
        parse_description(&answer.into_inner().description_json)
    }

    async fn put_picture(&self, upload: PictureUpload) -> Result<PlacedPicture, WorkerError> {
        let left =
            left_until(upload.deadline).map_or(self.put_timeout, |left| left.min(self.put_timeout));
        let call = timed(upload_pieces(upload), Some(left));
        let answer = self.client.clone().put_picture(call).await?.into_inner();
        if answer.digest.is_empty() || answer.num_tokens == 0 {
            return Err(WorkerError::Faulty(format!(
                "vision worker {} answered without digest or tokens",
                self.address
            )));
        }
        Ok(PlacedPicture {
            digest: PictureDigest(answer.digest),
            num_tokens: answer.num_tokens,
            worker: self.address.clone(),
        })
    }
}

fn timed<T>(message: T, timeout: Option<Duration>) -> tonic::Request<T> {
    let mut call = tonic::Request::new(message);
    if let Some(timeout) = timeout {
        call.set_timeout(timeout);
    }
    call
}

fn left_until(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

fn parse_description(json: &str) -> Result<ModelDescription, WorkerError> {
    ModelDescription::from_json(json).map_err(|error| WorkerError::Faulty(error.to_string()))
}

fn upload_pieces(
    upload: PictureUpload,
) -> impl Stream<Item = wire::PutPictureRequest> + Send + 'static {
    use wire::put_picture_request::Part;
    let header = wire::PictureHeader {
        num_bytes: upload.data.len() as u64,
        hd_num: upload.hd_num,
        encode_soon: upload.encode_soon,
    };
    let mut rest = upload.data;
    let chunks = std::iter::from_fn(move || {
        let len = rest.len().min(CHUNK_BYTES);
        (len > 0).then(|| Part::Chunk(rest.split_to(len)))
    });
    let parts = std::iter::once(Part::Header(header)).chain(chunks);
    stream::iter(parts.map(|part| wire::PutPictureRequest { part: Some(part) }))
}

impl From<Status> for WorkerError {
    fn from(status: Status) -> Self {
        // A status with a source was made on this side, because the connection failed or the call's time was over.
        if let Some(source) = status.source() {
            return if is_timeout(source) {
                Self::DeadlineExceeded
            } else {
                Self::Unavailable(status.message().to_owned())
            };
        }
        let message = status.message().to_owned();
        match status.code() {
            Code::Unavailable | Code::Cancelled => Self::Unavailable(message),
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::InvalidArgument => Self::Refused(message),
            Code::ResourceExhausted => Self::Busy {
                message,
                retry_after: status
                    .get_details_retry_info()
                    .and_then(|info| info.retry_delay),
            },
            code => Self::Faulty(format!("{code}: {message}")),
        }
    }
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    error.is::<TimeoutExpired>() || error.source().is_some_and(is_timeout)
}
