//! The flags by which a command finds whom it speaks to, and by which a process says where it is spoken to.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::{AdmissionArguments, CompositionArguments, EngineArguments, StopArguments};

/// Which coordinator is asked.
#[derive(Args, Debug)]
pub(crate) struct ServerArguments {
    /// A coordinator of the cluster.
    #[arg(
        long,
        env = "INKSTONE_SERVER",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:50051"
    )]
    pub(crate) server: String,
}

/// Which cluster is asked: one that runs already, or one in this process.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArguments {
    /// A coordinator; not given: a cluster is started in this process for as long as the command takes.
    #[arg(long, env = "INKSTONE_SERVER", value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) engine: EngineArguments,
}

/// What a process needs that clients connect to.
#[derive(Args, Debug)]
pub(crate) struct FrontArguments {
    /// Where clients connect.
    #[arg(
        long,
        env = "INKSTONE_GRPC",
        value_name = "ADDR",
        default_value = "127.0.0.1:50051"
    )]
    pub(crate) grpc: SocketAddr,
    #[command(flatten)]
    pub(crate) admission: AdmissionArguments,
    #[command(flatten)]
    pub(crate) composition: CompositionArguments,
    #[command(flatten)]
    pub(crate) stop: StopArguments,
}

/// The model of a measurement that needs its shape only.
#[derive(Args, Debug)]
pub(crate) struct HollowModelArguments {
    /// Folder of a checkpoint whose config and tokenizer are used; not given: a hollow one of the 7B shape is made.
    #[arg(long, env = "INKSTONE_MODEL", value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
}
