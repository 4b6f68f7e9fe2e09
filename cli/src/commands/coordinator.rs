//! `inkstone coordinator`: what clients see, for workers that run elsewhere.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use inkstone_cluster::{Deployment, GroupId, LanguageGroup, Members};
use inkstone_coordinator::{Config, PlacementSettings, Wanted};
use tokio::{net::TcpListener, sync::oneshot};

use super::{composition::Composition, identity::Identity, run_until_stopped};
use crate::arguments::{CoordinatorArguments, DeploymentArguments};

pub(crate) fn run(arguments: CoordinatorArguments) -> anyhow::Result<()> {
    let wanted = arguments.deployment.wanted()?;
    run_until_stopped(async |shutdown| {
        let listener = TcpListener::bind(arguments.front.grpc)
            .await
            .with_context(|| format!("cannot listen on {}", arguments.front.grpc))?;
        let mut config = match arguments.registry.connect()? {
            Some(registry) => {
                let identity = Identity::of(&arguments.registry, listener.local_addr()?)?;
                let mut placement = PlacementSettings::new(identity.id);
                placement.advertise = Some(identity.address);
                placement.wanted = wanted;
                Config::for_registry(registry, placement)
            }
            None => Config::for_members(arguments.members()?)?,
        };
        config.timeouts.drain = arguments.front.stop.grace();
        arguments.front.admission.apply(&mut config);
        let composition = Composition::of(&arguments.front.composition).await?;
        composition.apply(&mut config);
        // The coordinator logs that it is ready; nobody here waits for it.
        let (ready, _) = oneshot::channel();
        inkstone_coordinator::serve(config, listener, shutdown, ready).await
    })
}

impl CoordinatorArguments {
    fn members(&self) -> anyhow::Result<Members> {
        let vision = self.vision.iter().map(|address| address.parse());
        ensure!(
            !self.language.is_empty(),
            "--language or --registry is wanted"
        );
        let groups = self.language.iter().enumerate().map(|(index, leader)| {
            Ok(LanguageGroup {
                id: GroupId::new(format!("group-{index}")),
                leader: leader.parse()?,
                epoch: None,
            })
        });
        Ok(Members {
            language_groups: groups.collect::<anyhow::Result<_>>()?,
            vision_workers: vision.collect::<Result<_, _>>()?,
        })
    }
}

impl DeploymentArguments {
    fn wanted(&self) -> anyhow::Result<Wanted> {
        if let Some(file) = &self.deployment {
            return Ok(Wanted::Replace(read(file)?));
        }
        Ok(Wanted::AtFirst(Deployment {
            model: None,
            language_replicas: self.language_replicas.unwrap_or(1),
            tensor_parallel: self.tensor_parallel.unwrap_or(1),
            vision_replicas: self.vision_replicas.unwrap_or(1),
        }))
    }
}

fn read(file: &Path) -> anyhow::Result<Deployment> {
    let text = fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    let deployment: Deployment = toml::from_str(&text)
        .with_context(|| format!("{} does not say what is wanted", file.display()))?;
    ensure!(
        (1..=64).contains(&deployment.tensor_parallel),
        "{}: tensor_parallel must be from 1 to 64, found {}",
        file.display(),
        deployment.tensor_parallel
    );
    Ok(deployment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_replaces_what_is_wanted_and_flags_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deployment.toml");
        fs::write(
            &file,
            "language_replicas = 2\ntensor_parallel = 4\nvision_replicas = 1\nmodel = \"m\"\n",
        )
        .unwrap();
        let mut arguments = DeploymentArguments {
            language_replicas: None,
            tensor_parallel: None,
            vision_replicas: None,
            deployment: Some(file.clone()),
        };
        let wanted = Deployment {
            model: Some("m".into()),
            language_replicas: 2,
            tensor_parallel: 4,
            vision_replicas: 1,
        };
        assert_eq!(arguments.wanted().unwrap(), Wanted::Replace(wanted));

        fs::write(&file, "language_replica = 2").unwrap();
        let error = format!("{:#}", arguments.wanted().unwrap_err());
        assert!(error.contains("language_replica"), "{error}");

        arguments.deployment = None;
        arguments.language_replicas = Some(3);
        let Wanted::AtFirst(deployment) = arguments.wanted().unwrap() else {
            panic!("flags replace nothing");
        };
        assert_eq!(deployment.language_replicas, 3);
        assert_eq!(deployment.tensor_parallel, 1);
    }
}
