//! The registry as the place where rank 0 of a group leaves NCCL's id.

use std::sync::Arc;

use bytes::Bytes;
use inkstone_cluster::Registry;
use inkstone_model::collectives::NcclIds;
use tokio::runtime::Handle;

use crate::group::life::GroupLife;

/// The id of one life of a group: another life has another key, so none finds what an earlier one left.
pub(super) struct RegistryNcclIds {
    registry: Arc<dyn Registry>,
    life: GroupLife,
    runtime: Handle,
}

impl RegistryNcclIds {
    /// For `life`. Ranks ask from threads of their own, which wait for the runtime that this is called on.
    pub(super) fn new(registry: Arc<dyn Registry>, life: GroupLife) -> Self {
        Self {
            registry,
            life,
            runtime: Handle::current(),
        }
    }
}

impl NcclIds for RegistryNcclIds {
    fn publish(&self, id: &[u8]) -> Result<(), String> {
        let id = Bytes::copy_from_slice(id);
        let publish = self
            .registry
            .publish_nccl_id(&self.life.group, self.life.epoch, id);
        self.runtime
            .block_on(publish)
            .map_err(|error| error.to_string())
    }

    fn fetch(&self) -> Result<Vec<u8>, String> {
        let fetch = self.registry.nccl_id(&self.life.group, self.life.epoch);
        let id = self
            .runtime
            .block_on(fetch)
            .map_err(|error| error.to_string())?;
        Ok(id.to_vec())
    }
}
