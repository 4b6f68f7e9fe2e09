//! `inkstone scale`: says how many groups and workers are wanted.

use inkstone_proto::v1::SetDeploymentRequest;

use super::{
    client::{explain, write_out},
    run_until_stopped,
    status::{connect, wanted},
};
use crate::arguments::ScaleArguments;

pub(crate) fn run(arguments: &ScaleArguments) -> anyhow::Result<()> {
    run_until_stopped(async |shutdown| {
        let work = async {
            let mut client = connect(&arguments.server).await?;
            let request = SetDeploymentRequest {
                language_replicas: arguments.language_replicas,
                tensor_parallel: arguments.tensor_parallel,
                vision_replicas: arguments.vision_replicas,
                ..SetDeploymentRequest::default()
            };
            let answer = client.set_deployment(request).await.map_err(explain)?;
            let deployment = answer.into_inner().deployment.unwrap_or_default();
            write_out(&format!("wanted now: {}\n", wanted(&deployment)))?;
            anyhow::Ok(())
        };
        let stopped = shutdown.run_until_cancelled(work).await;
        stopped.unwrap_or(Ok(()))
    })
}
