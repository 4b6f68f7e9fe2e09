//! The flags of a coordinator, and of the commands that look at a cluster and say what is wanted of it.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{FrontArguments, RegistryArguments, ServerArguments};

#[derive(Args, Debug)]
pub(crate) struct CoordinatorArguments {
    #[command(flatten)]
    pub(crate) front: FrontArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) deployment: DeploymentArguments,
    /// Without --registry: addresses of the leaders of the language groups.
    #[arg(
        long,
        env = "INKSTONE_LANGUAGE",
        value_name = "HOST:PORT",
        required_unless_present = "registry",
        conflicts_with = "registry",
        value_delimiter = ','
    )]
    pub(crate) language: Vec<String>,
    /// Without --registry: addresses of the vision workers.
    #[arg(
        long,
        env = "INKSTONE_VISION",
        value_name = "HOST:PORT",
        required_unless_present = "registry",
        conflicts_with = "registry",
        value_delimiter = ','
    )]
    pub(crate) vision: Vec<String>,
}

/// With --registry: what is wanted of the cluster. Flags are written only where nothing is wanted yet, so that a coordinator
/// that starts again does not undo `inkstone scale`; a file replaces whatever was wanted.
#[derive(Args, Debug)]
pub(crate) struct DeploymentArguments {
    /// With --registry: language groups (1 where nothing is said). Written only where nothing is wanted yet; later: `inkstone scale`.
    #[arg(long, env = "INKSTONE_LANGUAGE_REPLICAS", value_name = "N")]
    pub(crate) language_replicas: Option<u32>,
    /// With --registry: ranks of each language group (1 where nothing is said). Written only where nothing is wanted yet.
    #[arg(
        long,
        env = "INKSTONE_TENSOR_PARALLEL",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=64)
    )]
    pub(crate) tensor_parallel: Option<u32>,
    /// With --registry: vision workers (1 where nothing is said). Written only where nothing is wanted yet.
    #[arg(long, env = "INKSTONE_VISION_REPLICAS", value_name = "N")]
    pub(crate) vision_replicas: Option<u32>,
    /// With --registry: file (TOML: language_replicas, tensor_parallel, vision_replicas, and model if it matters) that says what is wanted. It replaces what was
    /// wanted before, at every start.
    #[arg(
        long,
        env = "INKSTONE_DEPLOYMENT",
        value_name = "FILE",
        conflicts_with_all = ["language_replicas", "tensor_parallel", "vision_replicas"]
    )]
    pub(crate) deployment: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) server: ServerArguments,
    /// Go on, and show every change in place.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Print JSON; with --watch, an object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct ScaleArguments {
    #[command(flatten)]
    pub(crate) server: ServerArguments,
    /// Language groups.
    #[arg(long, value_name = "N", group = "what")]
    pub(crate) language_replicas: Option<u32>,
    /// Ranks of each language group. A change rolls through the groups one at a time.
    #[arg(long, value_name = "N", group = "what")]
    pub(crate) tensor_parallel: Option<u32>,
    /// Vision workers.
    #[arg(long, value_name = "N", group = "what")]
    pub(crate) vision_replicas: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct DrainArguments {
    #[command(flatten)]
    pub(crate) server: ServerArguments,
    /// The node, as `inkstone status` names it.
    pub(crate) node: String,
    /// Give it work again.
    #[arg(long)]
    pub(crate) undo: bool,
}
