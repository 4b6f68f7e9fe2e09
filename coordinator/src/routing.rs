//! Who gets what: pure functions from a request and what is known of the cluster to an order of workers to try.

use inkstone_cluster::NodeAddress;

/// The vision workers in the order in which to try them for a picture: by rendezvous hashing, so that the same picture
/// comes to the same worker from every coordinator, and only the pictures of a worker that left move elsewhere.
pub(crate) fn rank_vision_workers(picture: &blake3::Hash, workers: &[NodeAddress]) -> Vec<usize> {
    let weight = |worker: &NodeAddress| {
        let mut hasher = blake3::Hasher::new_keyed(picture.as_bytes());
        hasher.update(worker.as_uri().as_bytes());
        *hasher.finalize().as_bytes()
    };
    let mut order: Vec<_> = workers.iter().map(weight).enumerate().collect();
    order.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    order.into_iter().map(|(index, _)| index).collect()
}

/// The language groups in the order in which to try them, given how many requests of this coordinator each runs.
pub(crate) fn rank_groups(num_running: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..num_running.len()).collect();
    order.sort_by_key(|&index| num_running[index]);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(num: usize) -> Vec<NodeAddress> {
        (0..num)
            .map(|index| format!("vision-{index}:7000").parse().unwrap())
            .collect()
    }

    #[test]
    fn a_picture_moves_only_when_its_worker_leaves() {
        let all = workers(5);
        for picture in 0..200_u32 {
            let picture = blake3::hash(&picture.to_le_bytes());
            let order = rank_vision_workers(&picture, &all);
            let gone = order[0];
            let mut rest = all.clone();
            let gone = rest.remove(gone);
            let moved = rank_vision_workers(&picture, &rest);
            assert_eq!(rest[moved[0]], all[order[1]]);
            let stayed: Vec<_> = moved.iter().map(|&index| &rest[index]).collect();
            assert!(!stayed.contains(&&gone));
        }
    }

    #[test]
    fn pictures_spread_over_the_workers() {
        let all = workers(4);
        let mut counts = [0; 4];
        for picture in 0..4000_u32 {
            let picture = blake3::hash(&picture.to_le_bytes());
            counts[rank_vision_workers(&picture, &all)[0]] += 1;
        }
        for count in counts {
            assert!((800..1200).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn the_group_with_fewest_requests_comes_first_and_ties_keep_their_order() {
        assert_eq!(rank_groups(&[3, 1, 2, 1]), [1, 3, 2, 0]);
    }
}
