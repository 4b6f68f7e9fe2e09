//! Which vision worker a picture goes to: by its content, so that it is encoded once, unless that worker is much busier than the
//! others.

use std::cmp::Reverse;

use inkstone_cluster::NodeAddress;

/// A worker takes at most this share of the average of what is on its way to all, in quarters: 1.25.
const BOUND_QUARTERS: usize = 5;

/// A vision worker, when a picture is to go somewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VisionOutlook<'a> {
    pub(crate) address: &'a NodeAddress,
    /// Pictures that are on their way to it.
    pub(crate) in_flight: usize,
    /// It failed a moment ago.
    pub(crate) is_avoided: bool,
}

/// The vision workers in the order in which to try them for a picture: by rendezvous hashing, so that the same picture
/// comes to the same worker from every coordinator, and only the pictures of a worker that left move elsewhere. A worker that has
/// its share of what is on its way is passed over, and comes after those that have room; one that failed comes last.
pub(crate) fn rank_vision_workers(
    picture: &blake3::Hash,
    workers: &[VisionOutlook<'_>],
) -> Vec<usize> {
    let weight = |worker: &VisionOutlook<'_>| {
        let mut hasher = blake3::Hasher::new_keyed(picture.as_bytes());
        hasher.update(worker.address.as_uri().as_bytes());
        *hasher.finalize().as_bytes()
    };
    let in_flight = workers.iter().map(|worker| worker.in_flight);
    let with_this_one = in_flight.sum::<usize>() + 1;
    let most = (BOUND_QUARTERS * with_this_one).div_ceil(4 * workers.len().max(1));
    let mut order: Vec<_> = workers.iter().map(weight).enumerate().collect();
    order.sort_by_key(|(index, weight)| {
        let worker = &workers[*index];
        let is_full = worker.in_flight >= most;
        (worker.is_avoided, is_full, Reverse(*weight))
    });
    order.into_iter().map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(num: usize) -> Vec<NodeAddress> {
        (0..num)
            .map(|index| format!("vision-{index}:7000").parse().unwrap())
            .collect()
    }

    fn idle(addresses: &[NodeAddress]) -> Vec<VisionOutlook<'_>> {
        let idle = addresses.iter().map(|address| VisionOutlook {
            address,
            in_flight: 0,
            is_avoided: false,
        });
        idle.collect()
    }

    fn picture(number: u32) -> blake3::Hash {
        blake3::hash(&number.to_le_bytes())
    }

    #[test]
    fn a_picture_moves_only_when_its_worker_leaves() {
        let all = addresses(5);
        for number in 0..200 {
            let order = rank_vision_workers(&picture(number), &idle(&all));
            let mut rest = all.clone();
            let gone = rest.remove(order[0]);
            let moved = rank_vision_workers(&picture(number), &idle(&rest));
            assert_eq!(rest[moved[0]], all[order[1]]);
            let stayed: Vec<_> = moved.iter().map(|&index| &rest[index]).collect();
            assert!(!stayed.contains(&&gone));
        }
    }

    #[test]
    fn pictures_spread_over_the_workers() {
        let all = addresses(4);
        let mut counts = [0; 4];
        for number in 0..4000 {
            counts[rank_vision_workers(&picture(number), &idle(&all))[0]] += 1;
        }
        for count in counts {
            assert!((800..1200).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn no_worker_has_more_than_its_share_on_its_way_even_of_one_picture() {
        let all = addresses(4);
        let mut in_flight = [0; 4];
        for _ in 0..80 {
            let mut workers = idle(&all);
            for (worker, &num) in workers.iter_mut().zip(&in_flight) {
                worker.in_flight = num;
            }
            in_flight[rank_vision_workers(&picture(1), &workers)[0]] += 1;
            let total: usize = in_flight.iter().sum();
            let most = (5 * total).div_ceil(16);
            assert!(in_flight.iter().all(|&num| num <= most), "{in_flight:?}");
        }
        // Alone, a worker takes all.
        let mut alone = idle(&all[..1]);
        alone[0].in_flight = 100;
        assert_eq!(rank_vision_workers(&picture(1), &alone), [0]);
    }

    #[test]
    fn a_worker_that_failed_comes_last() {
        let all = addresses(3);
        for number in 0..20 {
            let mut workers = idle(&all);
            workers[1].is_avoided = true;
            let order = rank_vision_workers(&picture(number), &workers);
            assert_eq!(order[2], 1);
            assert_eq!(order.len(), 3);
        }
    }
}
