//! `inkstone coordinator`: what clients see, for workers that run elsewhere.

use anyhow::Context;
use inkstone_cluster::{GroupId, LanguageGroup, Members};
use tokio::{net::TcpListener, sync::oneshot};

use super::run_until_stopped;
use crate::arguments::CoordinatorArguments;

pub(crate) fn run(arguments: CoordinatorArguments) -> anyhow::Result<()> {
    let vision = arguments
        .vision
        .iter()
        .map(|address| address.parse())
        .collect::<Result<_, _>>()?;
    let members = Members {
        language_groups: vec![LanguageGroup {
            id: GroupId::new("group-0"),
            leader: arguments.language.parse()?,
            epoch: None,
        }],
        vision_workers: vision,
    };
    let mut config = inkstone_coordinator::Config::for_members(members);
    if let Some(max_requests) = arguments.max_requests {
        config.limits.max_requests = max_requests as usize;
        config.limits.max_requests_per_connection = max_requests;
    }
    run_until_stopped(async |shutdown| {
        let listener = TcpListener::bind(arguments.grpc)
            .await
            .with_context(|| format!("cannot listen on {}", arguments.grpc))?;
        // The coordinator logs that it is ready; nobody here waits for it.
        let (ready, _) = oneshot::channel();
        inkstone_coordinator::serve(config, listener, shutdown, ready).await
    })
}
