//! What clients of a cluster see: takes their requests in, renders prompts, brings pictures to vision workers, has a
//! language group run the prompt, and streams the answer back. It touches no tensor and links no tensor library.

mod admission;
mod api;
mod app;
mod article_error;
mod client_stream;
mod cluster_error;
mod cluster_load;
mod cluster_view;
mod compose;
mod config;
mod error;
mod model;
mod placement;
mod request;
mod routing;
mod start;
mod telemetry;
mod worker_client;

pub use app::{Ready, serve};
pub use config::{
    ComposeSettings, Config, ConfigError, Limits, PlacementSettings, Timeouts, Wanted,
};
pub use placement::Policy;
pub use routing::RoutingPolicy;

#[cfg(test)]
mod tests;
