//! What ranks on GPUs leave for each other in the registry.

use inkstone_cluster::GroupId;
use inkstone_model::collectives::NcclIds;
use tokio::task::spawn_blocking;

use super::{
    super::nccl_ids::RegistryNcclIds,
    cluster::{Cluster, GROUP},
    *,
};
use crate::group::life::GroupLife;

fn ids(cluster: &Cluster, epoch: Epoch) -> RegistryNcclIds {
    let group = GroupId::new(GROUP);
    RegistryNcclIds::new(cluster.registry(), GroupLife { group, epoch })
}

#[tokio::test]
async fn ranks_find_what_rank_0_of_their_life_left_and_nothing_of_an_earlier_one() {
    let cluster = Cluster::start(&[]).await;
    let mut lives = Vec::new();
    for (ranks, id) in [(["a", "b"], 7_u8), (["a", "c"], 8)] {
        let epoch = cluster.place(&ranks).await;
        let (rank_0, rank_1) = (ids(&cluster, epoch), ids(&cluster, epoch));
        let left = spawn_blocking(move || rank_0.publish(&[id; 128])).await;
        assert_eq!(left.unwrap(), Ok(()));
        let found = spawn_blocking(move || rank_1.fetch()).await;
        assert_eq!(found.unwrap(), Ok(vec![id; 128]));
        lives.push(epoch);
    }
    let late = ids(&cluster, lives[0]);
    let left = spawn_blocking(move || late.publish(&[9; 128])).await;
    let refusal = left.unwrap().expect_err("that life is over");
    assert!(refusal.contains(GROUP), "{refusal}");
}
