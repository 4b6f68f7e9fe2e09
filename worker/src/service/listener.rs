//! All services of a worker on one listener.

use std::time::Duration;

use inkstone_proto::worker::v1::{
    group_service_server::GroupServiceServer, language_service_server::LanguageServiceServer,
    vision_service_server::VisionServiceServer,
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

use super::{group::GroupServer, health::Health, language::LanguageServer, vision::VisionServer};

/// A coordinator or a rank whose machine is gone is found out after this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Largest message of a coordinator: a prompt of the longest context.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// Largest message of a rank, and of an upload of a picture, which comes in pieces.
const MAX_SMALL_BYTES: usize = 1 << 20;
/// How long connections may take, after all work ended, to carry their last bytes away.
const FLUSH: Duration = Duration::from_secs(2);

/// What a worker answers.
pub(crate) struct Services {
    pub(crate) health: Health,
    pub(crate) language: Option<LanguageServer>,
    pub(crate) group: Option<GroupServer>,
    pub(crate) vision: Option<VisionServer>,
}

/// The running listener.
pub(crate) struct Listening {
    health: Health,
    closing: CancellationToken,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Services {
    /// Answers from now on.
    pub(crate) fn listen(self, listener: TcpListener) -> Listening {
        let language = self.language.map(|server| {
            LanguageServiceServer::new(server).max_decoding_message_size(MAX_REQUEST_BYTES)
        });
        let group = self.group.map(|server| {
            GroupServiceServer::new(server).max_decoding_message_size(MAX_SMALL_BYTES)
        });
        let vision = self.vision.map(|server| {
            VisionServiceServer::new(server).max_decoding_message_size(MAX_SMALL_BYTES)
        });
        let closing = CancellationToken::new();
        let router = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .add_service(self.health.service())
            .add_optional_service(language)
            .add_optional_service(group)
            .add_optional_service(vision);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let closed = closing.clone().cancelled_owned();
        Listening {
            health: self.health,
            closing,
            task: tokio::spawn(router.serve_with_incoming_shutdown(incoming, closed)),
        }
    }
}

impl Listening {
    /// Waits until the listener ends by itself, which is an error.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("the gRPC listener ended by itself"),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        }
    }

    /// Takes no new connection, lets open calls finish for a moment, and cuts the rest.
    pub(crate) async fn close(mut self) {
        self.health.close().await;
        self.closing.cancel();
        if timeout(FLUSH, &mut self.task).await.is_err() {
            self.task.abort();
            let _ = self.task.await;
        }
    }
}
