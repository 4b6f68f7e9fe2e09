//! A language group and a vision worker that write down what they are asked and answer by a script, behind a real coordinator:
//! what reaches the workers can be held against the specification to the byte, and every answer that a model could give, given.

mod asked;
mod model;
mod workers;

use std::time::Duration;

use inkstone_interface::tokenizer::Tokenizer;
use inkstone_proto::worker::v1::{
    language_service_server::LanguageServiceServer, vision_service_server::VisionServiceServer,
};
use inkstone_tests::process::Process;
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tonic::transport::{
    Server,
    server::{Router, TcpIncoming},
};

use self::workers::Workers;
pub(super) use self::{
    asked::{Asked, Reply, Step},
    model::{Model, Vocabulary},
    workers::digest,
};
use crate::cluster_fixture::program;

/// How a picture is written in prompts as texts.
pub(super) const PLACEHOLDER: &str = "<image>";

/// Serves at an address of its own.
async fn listen(services: Router) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let serving = tokio::spawn(async move {
        let served = services.serve_with_incoming(TcpIncoming::from(listener));
        served.await.expect("it serves");
    });
    (address, serving)
}

/// The workers behind a real coordinator.
pub(super) struct Scripted {
    pub(super) address: String,
    pub(super) coordinator: Option<Process>,
    workers: Workers,
    /// Where they listen: the language group, and the vision worker.
    pub(super) worker_addresses: (String, String),
    serving: [JoinHandle<()>; 2],
}

impl Scripted {
    /// Starts a coordinator with these arguments, whose model is this and says what the script wants.
    pub(super) async fn start(
        model: Model,
        arguments: &[&str],
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let mut scripted = Self::without_coordinator(model, script).await;
        let (language, vision) = scripted.worker_addresses.clone();
        let mut all = vec![
            "coordinator",
            "--grpc",
            "127.0.0.1:0",
            "--language",
            &language,
            "--vision",
            &vision,
        ];
        all.extend(arguments);
        let coordinator = Process::start(program(), &all);
        scripted.address = coordinator.wait_for("coordinator ready", "address");
        scripted.coordinator = Some(coordinator);
        scripted
    }

    /// The workers alone.
    pub(super) async fn without_coordinator(
        model: Model,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let workers = Workers::new(model, script);
        let language = LanguageServiceServer::new(workers.clone());
        let (language, serving_language) = listen(Server::builder().add_service(language)).await;
        let vision = VisionServiceServer::new(workers.clone());
        let (vision, serving_vision) = listen(Server::builder().add_service(vision)).await;
        Self {
            address: String::new(),
            coordinator: None,
            workers,
            worker_addresses: (language, vision),
            serving: [serving_language, serving_vision],
        }
    }

    /// All that the language group was asked, in order.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.workers.heard().asked.clone()
    }

    /// The same, and forgets it.
    pub(super) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.workers.heard().asked)
    }

    /// The pictures that were put, in order.
    pub(super) fn put(&self) -> Vec<Vec<u8>> {
        self.workers.heard().put.clone()
    }

    /// Answers that run.
    pub(super) fn num_running(&self) -> usize {
        self.workers.heard().num_running
    }

    /// Waits until no answer runs any more.
    pub(super) async fn wait_until_idle(&self) {
        for _ in 0..600 {
            if self.num_running() == 0 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("answers still run that nobody waits for");
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.workers.model.tokenizer
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        for serving in &self.serving {
            serving.abort();
        }
    }
}
