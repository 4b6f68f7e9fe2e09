//! `inkstone drain`: relieves a node of its work, or gives it work again.

use inkstone_proto::v1::DrainRequest;

use super::{
    client::{explain, write_out},
    run_until_stopped,
    status::connect,
};
use crate::arguments::DrainArguments;

pub(crate) fn run(arguments: &DrainArguments) -> anyhow::Result<()> {
    run_until_stopped(async |shutdown| {
        let work = async {
            let mut client = connect(&arguments.server).await?;
            let request = DrainRequest {
                node: arguments.node.clone(),
                undo: arguments.undo,
            };
            let answer = client.drain(request).await.map_err(explain)?;
            let node = &arguments.node;
            let text = match answer.into_inner().draining {
                true => {
                    format!("{node} is relieved of its work; `inkstone status` shows how far\n")
                }
                false => format!("{node} may be given work again\n"),
            };
            write_out(&text)?;
            anyhow::Ok(())
        };
        let stopped = shutdown.run_until_cancelled(work).await;
        stopped.unwrap_or(Ok(()))
    })
}
