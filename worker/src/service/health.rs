//! `grpc.health.v1`: whether a worker's parts serve. For the language part that is measured: NOT_SERVING before the first forward,
//! and while a step takes longer than a step may.

use std::time::Duration;

use inkstone_proto::worker::v1::{
    language_service_server::LanguageServiceServer, vision_service_server::VisionServiceServer,
};
use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::{language::LanguageServer, vision::VisionServer};
use crate::group::leader::LeaderHandle;

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A part whose health is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The language group.
    Language,
    /// The picture encoder.
    Vision,
}

/// What is told; cheap to clone.
#[derive(Clone)]
pub struct Health(HealthReporter);

impl Part {
    /// The service it answers.
    fn name(self) -> &'static str {
        match self {
            Self::Language => <LanguageServiceServer<LanguageServer> as NamedService>::NAME,
            Self::Vision => <VisionServiceServer<VisionServer> as NamedService>::NAME,
        }
    }
}

impl Health {
    /// None of these parts serves yet.
    pub async fn new(parts: &[Part]) -> Self {
        let health = Self(HealthReporter::new());
        for part in parts {
            health.set(*part, false).await;
        }
        health
    }

    /// The gRPC service.
    pub(crate) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.0.clone()))
    }

    /// Says whether a part serves.
    pub async fn set(&self, part: Part, is_serving: bool) {
        let status = match is_serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        self.0.set_service_status(part.name(), status).await;
    }

    /// Follows the steps of a group that is said to serve; does not return.
    pub async fn follow_steps(&self, leader: &LeaderHandle, deadline: Duration) {
        let mut is_serving = true;
        loop {
            tokio::time::sleep(LOOK).await;
            let moves = leader.step_age().is_none_or(|age| age <= deadline);
            if moves != is_serving {
                is_serving = moves;
                tracing::warn!(is_serving, ?deadline, "a step exceeds its deadline, or did");
                self.set(Part::Language, is_serving).await;
            }
        }
    }

    /// Ends the watches on it, which would keep their connections open.
    pub(crate) async fn close(&self) {
        for name in ["", Part::Language.name(), Part::Vision.name()] {
            self.0.clone().clear_service_status(name).await;
        }
    }
}
