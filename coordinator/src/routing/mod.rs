//! Who gets what: pure functions from a request and what is known of the cluster to an order of workers to try.

mod groups;
mod policy;
mod prefix_index;
#[cfg(test)]
mod simulation;
mod vision;

pub(crate) use groups::{Outlook, rank_groups};
pub(crate) use policy::Router;
pub use policy::RoutingPolicy;
pub(crate) use prefix_index::{CacheChange, PrefixIndex};
pub(crate) use vision::{VisionOutlook, rank_vision_workers};

/// A number that looks drawn at random, another one for each `index` (splitmix64).
fn scatter(draw: u64, index: usize) -> u64 {
    let mut mixed = draw.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
