//! `inkstone status`: a cluster as a table that people like to read, or as JSON.

mod json;
mod page;

use std::{
    env,
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::Context;
use inkstone_cluster::NodeAddress;
use inkstone_proto::v1::{
    Cluster, Deployment, GetClusterRequest, WatchClusterRequest,
    cluster_service_client::ClusterServiceClient,
};
use tokio::time::sleep;
use tonic::transport::Channel;

use super::table::Style;
use super::{
    client::{explain, write_out},
    run_until_stopped,
};
use crate::arguments::{ServerArguments, StatusArguments};

/// Between attempts to reach a coordinator that does not answer, while watching.
const PAUSE: Duration = Duration::from_secs(1);

type Client = ClusterServiceClient<Channel>;

pub(crate) fn run(arguments: &StatusArguments) -> anyhow::Result<()> {
    run_until_stopped(async |shutdown| {
        let work = async {
            match arguments.watch {
                true => watch(arguments).await,
                false => show_once(arguments).await,
            }
        };
        let stopped = shutdown.run_until_cancelled(work).await;
        stopped.unwrap_or(Ok(()))
    })
}

/// A client of the coordinator that is named.
pub(super) async fn connect(arguments: &ServerArguments) -> anyhow::Result<Client> {
    let address = arguments.server.parse::<NodeAddress>()?;
    ClusterServiceClient::connect(address.as_uri().to_owned())
        .await
        .with_context(|| format!("no coordinator at {address}"))
}

/// What is wanted, in words.
pub(super) fn wanted(deployment: &Deployment) -> String {
    page::wanted(deployment)
}

async fn show_once(arguments: &StatusArguments) -> anyhow::Result<()> {
    let mut client = connect(&arguments.server).await?;
    let answer = client.get_cluster(GetClusterRequest {}).await;
    let cluster = answer.map_err(explain)?.into_inner().cluster;
    Screen::of(arguments, false).show(&cluster.unwrap_or_default())
}

/// Shows every change; a coordinator that goes away is waited for.
async fn watch(arguments: &StatusArguments) -> anyhow::Result<()> {
    let screen = Screen::of(arguments, true);
    // The first attempt says what is wrong with the address.
    let mut client = connect(&arguments.server).await?;
    loop {
        let lost = follow(&mut client, &screen).await?;
        screen.note(&format!("{lost}; trying again"))?;
        sleep(PAUSE).await;
    }
}

/// Shows changes until the coordinator is lost; says why.
async fn follow(client: &mut Client, screen: &Screen) -> anyhow::Result<String> {
    let call = client.watch_cluster(WatchClusterRequest::default()).await;
    let mut answers = match call {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Ok(explain(status).to_string()),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => screen.show(&answer.cluster.unwrap_or_default())?,
            Ok(None) => return Ok("the coordinator says nothing more".to_owned()),
            Err(status) => return Ok(explain(status).to_string()),
        }
    }
}

/// Where and how clusters are shown.
struct Screen {
    is_json: bool,
    /// The next one is written over the last one.
    in_place: bool,
    style: Style,
}

impl Screen {
    fn of(arguments: &StatusArguments, repeats: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_plain = !is_terminal || env::var_os("NO_COLOR").is_some();
        Self {
            is_json: arguments.json,
            in_place: is_terminal && repeats && !arguments.json,
            style: match is_plain {
                true => Style::Plain,
                false => Style::Coloured,
            },
        }
    }

    fn show(&self, cluster: &Cluster) -> anyhow::Result<()> {
        if self.is_json {
            write_out(&format!("{}\n", json::of(cluster)))?;
            return Ok(());
        }
        let page = page::of(cluster, self.style);
        match self.in_place {
            true => write_out(&over_the_last(&page))?,
            false => write_out(&page)?,
        }
        Ok(())
    }

    fn note(&self, text: &str) -> anyhow::Result<()> {
        match self.is_json {
            // Who reads it sees that nothing comes.
            true => Ok(()),
            false => Ok(write_out(&format!("{text}\n"))?),
        }
    }
}

/// From the top left corner, each line to its end, and nothing below: without the flicker of an empty screen.
fn over_the_last(page: &str) -> String {
    let lines: String = page.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("\x1b[H{lines}\x1b[J")
}
