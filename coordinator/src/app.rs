//! Builds every part of a coordinator; its start order and its stop order stand in `serve_with`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use futures::StreamExt;
use inkstone_cluster::{CoordinatorRecord, Membership, NodeAddress};
use inkstone_proto::v1::{
    chat_service_server::ChatServiceServer, cluster_service_server::ClusterServiceServer,
    composition_service_server::CompositionServiceServer, model_service_server::ModelServiceServer,
};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::{net::TcpListener, sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{
        Server,
        server::{Router, TcpIncoming},
    },
};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{
    api::grpc::{
        chat::ChatService, cluster::ClusterService, composition::CompositionService,
        deadline::note_deadline, model::ModelService,
    },
    client_stream::ClientStream,
    cluster_view::ClusterView,
    compose::Composer,
    config::Config,
    placement::apply::Placing,
    request::dispatcher::Dispatcher,
    start::{Patience, learn_model},
    telemetry,
    worker_client::{Connector, GrpcConnector},
};

/// The services whose health is told; the empty name stands for all.
const HEALTH_NAMES: [&str; 4] = [
    "",
    "inkstone.v1.ChatService",
    "inkstone.v1.CompositionService",
    "inkstone.v1.ModelService",
];
/// It answers from the first moment, whatever the others wait for.
const CLUSTER_HEALTH_NAME: &str = "inkstone.v1.ClusterService";
/// The package that reflection tells of; what workers say to each other is nobody's business.
const PUBLIC_PACKAGE: &str = "inkstone.v1";
/// How long connections may take, after the last request ended, to carry its last bytes away. What is open then, such
/// as a reflection stream that nobody closes, is cut.
const FLUSH: Duration = Duration::from_secs(5);

/// What a coordinator that began to take requests tells its starter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where it listens.
    pub address: SocketAddr,
    /// The model it serves.
    pub model: String,
}

/// Runs a coordinator until `shutdown` is cancelled and running requests ended, or the drain limit cut them.
///
/// The listener answers at once; requests are refused with UNAVAILABLE until the members have answered, then `ready`
/// is told. Fails when the settings cannot be, and, where the members are a fixed list, when they do not answer in time or serve
/// different models. With a registry it waits for members without end, and its health follows whether there is a group.
pub async fn serve(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: oneshot::Sender<Ready>,
) -> anyhow::Result<()> {
    let connector = Arc::new(GrpcConnector::new(config.timeouts.clone()));
    serve_with(config, connector, listener, shutdown, ready).await
}

/// The same with other clients for the members.
pub(crate) async fn serve_with(
    config: Config,
    connector: Arc<dyn Connector>,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: oneshot::Sender<Ready>,
) -> anyhow::Result<()> {
    config.check()?;
    telemetry::describe();
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    let patience = match &config.registry {
        Some(registry) => Patience::Endless(registry.state()),
        None => Patience::AtMost(config.timeouts.start),
    };
    let membership = config.membership.clone();
    let cluster = ClusterView::new(membership.clone(), connector).routed_by(config.routing);
    let dispatcher = Arc::new(Dispatcher::new(
        cluster,
        config.limits.clone(),
        config.timeouts.clone(),
    ));
    let source = config.picture_source.clone();
    let composer = Composer::new(dispatcher.clone(), source, config.compose.clone());
    let health = HealthReporter::new();
    set_health(&health, ServingStatus::NotServing).await;
    let cluster_health = ServingStatus::Serving;
    health
        .set_service_status(CLUSTER_HEALTH_NAME, cluster_health)
        .await;
    let closing = CancellationToken::new();
    let router = router(&config, &dispatcher, composer.clone(), &health, &closing)?;
    let client_silence = config.timeouts.client_silence;
    let accepted = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = router.serve_with_incoming_shutdown(
        accepted.map(move |stream| ClientStream::watched(stream?, client_silence)),
        closing.clone().cancelled_owned(),
    );
    tokio::pin!(server);
    let placing = start_placing(&config, &dispatcher, address)?;

    let life = async {
        tokio::select! {
            model = learn_model(&dispatcher.cluster, patience) => {
                let model = model?;
                let name = model.description.name.clone();
                dispatcher.open(model);
                set_health(&health, ServingStatus::Serving).await;
                tracing::info!(%address, model = name, "coordinator ready");
                // Nobody has to wait for it.
                let _ = ready.send(Ready { address, model: name });
                tokio::select! {
                    () = follow_health(&health, &membership) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            () = shutdown.cancelled() => {}
        }
        // Stop: no new work, another one places, running requests end, then the connections.
        set_health(&health, ServingStatus::NotServing).await;
        let resign = async {
            if let Some(placing) = placing {
                placing.resign().await;
            }
        };
        tokio::join!(resign, dispatcher.drain(composer.drain()));
        anyhow::Ok(())
    };
    tokio::select! {
        ended = &mut server => ended.context("the gRPC server ended by itself")?,
        lived = life => {
            lived?;
            for name in HEALTH_NAMES.into_iter().chain([CLUSTER_HEALTH_NAME]) {
                // Ends the watches on it, which would keep their connections open.
                health.clone().clear_service_status(name).await;
            }
            closing.cancel();
            if let Ok(ended) = timeout(FLUSH, server).await {
                ended.context("the gRPC server failed while it closed")?;
            }
        }
    }
    tracing::info!("coordinator stopped");
    Ok(())
}

/// Stands for election, if this coordinator is to take part in placing.
fn start_placing(
    config: &Config,
    dispatcher: &Arc<Dispatcher>,
    address: SocketAddr,
) -> anyhow::Result<Option<Placing>> {
    let (Some(settings), Some(registry)) = (&config.placement, &config.registry) else {
        return Ok(None);
    };
    let advertise = match &settings.advertise {
        Some(advertise) => advertise.clone(),
        None => address.to_string().parse::<NodeAddress>()?,
    };
    let record = CoordinatorRecord {
        id: settings.id.clone(),
        incarnation: uuid::Uuid::new_v4().to_string(),
        address: advertise,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let dispatcher = dispatcher.clone();
    let loads = move || {
        let loads = dispatcher.cluster.loads().into_iter();
        loads
            .map(|load| {
                let report = load.report;
                (
                    load.group,
                    u64::from(report.waiting) + u64::from(report.running),
                )
            })
            .collect()
    };
    let (registry, settings) = (registry.clone(), settings.clone());
    Ok(Some(Placing::start(registry, settings, record, loads)))
}

/// Tells whether there is a group to send requests to, for as long as members change.
async fn follow_health(health: &HealthReporter, membership: &Membership) {
    let mut changes = membership.changes();
    let mut was_serving = true;
    loop {
        let is_serving = !changes.borrow_and_update().language_groups.is_empty();
        if is_serving != was_serving {
            tracing::info!(is_serving, "whether there is a language group has changed");
            set_health(
                health,
                match is_serving {
                    true => ServingStatus::Serving,
                    false => ServingStatus::NotServing,
                },
            )
            .await;
            was_serving = is_serving;
        }
        if changes.changed().await.is_err() {
            // A fixed list, or a registry that is gone: it stays as it is.
            return std::future::pending().await;
        }
    }
}

/// Every service behind the limits of the transport. Connections are watched by the kernel (see [`ClientStream`]): HTTP/2 pings would be
/// looked after at every token.
fn router(
    config: &Config,
    dispatcher: &Arc<Dispatcher>,
    composer: Arc<Composer>,
    health: &HealthReporter,
    closing: &CancellationToken,
) -> anyhow::Result<Router> {
    let limits = &config.limits;
    let chat = ChatServiceServer::new(ChatService::new(dispatcher.clone()))
        .max_decoding_message_size(limits.max_message_bytes);
    let composition = CompositionService::new(composer, limits.clone());
    let composition = CompositionServiceServer::new(composition)
        .max_decoding_message_size(limits.max_message_bytes);
    let model = ModelServiceServer::new(ModelService::new(dispatcher.clone()));
    let cluster = ClusterService::new(config, dispatcher.clone(), closing.clone());
    let cluster = ClusterServiceServer::new(cluster);
    let health = HealthServer::new(HealthService::from_health_reporter(health.clone()));
    let reflection = || -> anyhow::Result<_> {
        let descriptors = public_descriptors()?;
        Ok(tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET))
    };
    Ok(Server::builder()
        .max_concurrent_streams(limits.max_requests_per_connection)
        .add_service(InterceptedService::new(chat, note_deadline))
        .add_service(InterceptedService::new(composition, note_deadline))
        .add_service(model)
        .add_service(cluster)
        .add_service(health)
        .add_service(reflection()?.build_v1()?)
        .add_service(reflection()?.build_v1alpha()?))
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// The descriptors that reflection serves.
fn public_descriptors() -> anyhow::Result<FileDescriptorSet> {
    let all = FileDescriptorSet::decode(inkstone_proto::FILE_DESCRIPTOR_SET)
        .context("the built-in descriptors cannot be read")?;
    let files = all.file.into_iter();
    let public = files.filter(|file| file.package() == PUBLIC_PACKAGE);
    Ok(FileDescriptorSet {
        file: public.collect(),
    })
}
