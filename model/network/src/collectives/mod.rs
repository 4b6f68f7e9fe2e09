//! What joins the ranks of a tensor-parallel group: sums and gathers that every rank enters together. One trait and a form
//! per way of reaching the other ranks: none ([`SingleCollective`]), threads of this process ([`LocalCollective`]),
//! processes over sockets ([`TcpCollective`]), and GPUs over what joins them (`NcclCollective`, with the
//! feature `cuda`). Network code sees the trait only and never asks how many ranks there are.

mod backoff;
mod error;
mod local;
#[cfg(feature = "cuda")]
mod nccl;
mod single;
mod tcp;
#[cfg(test)]
mod tests;

pub use error::{CollectiveError, HandshakeError};
pub use local::LocalCollective;
#[cfg(feature = "cuda")]
pub use nccl::NcclCollective;
pub use single::SingleCollective;
pub use tcp::{TcpCollective, TcpMember};

use std::sync::Arc;

#[cfg(not(feature = "cuda"))]
use crate::device::CudaDevice;
use crate::{device::Device, tensor::Tensor};

pub type Result<T, E = CollectiveError> = std::result::Result<T, E>;

/// One rank's end of a group. All ranks make the same calls in the same order with tensors of the same size; a rank that does
/// not is found out by the lengths and the kinds of the calls, and the group fails on every rank. After the first error a group
/// stays failed, on the other ranks with their next call at the latest: what they hold may differ by then, so a new group must be
/// formed.
pub trait Collective: Send + Sync {
    fn rank(&self) -> usize;

    fn world_size(&self) -> usize;

    /// Replaces the elements of `tensor` (f32; on a GPU of any type) by the sums over all ranks. The sum is taken in rank order, from rank 0 up, for
    /// every element, so that all ranks end with the same bits.
    fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<()>;

    /// Every rank's `mine`, in rank order. Lengths may differ between ranks.
    fn all_gather(&self, mine: &[f32]) -> Result<Vec<Vec<f32>>>;

    /// Returns once every rank has come here.
    fn barrier(&self) -> Result<()>;

    /// Whether sums may be part of work that a device records and replays: they must be put on its stream and nowhere
    /// else, and then every rank records at the same time.
    fn can_be_recorded(&self) -> bool {
        false
    }

    /// Other ranks that a call of this one waits for right now; after an error, those that it found late, gone or out of step. For
    /// whoever watches from another thread and asks what a step hangs on.
    fn awaited(&self) -> Vec<usize>;

    /// Fails the group: calls that wait on any rank, and all later ones, return an error at once. Safe to call from any thread,
    /// any number of times.
    fn abort(&self);
}

/// Where rank 0 leaves the id of the NCCL group that it begins, for the others to find. Calls may wait, not without end.
pub trait NcclIds: Send + Sync {
    /// Leaves the id. Rank 0 does, once.
    ///
    /// # Errors
    /// Says why it could not be left.
    fn publish(&self, id: &[u8]) -> Result<(), String>;

    /// The id, which has been left.
    ///
    /// # Errors
    /// Says why it could not be found.
    fn fetch(&self) -> Result<Vec<u8>, String>;
}

/// What joins ranks that have met over `host`: NCCL where every rank has a GPU of its own, else `host`. All ranks call it together,
/// once. NCCL's id goes through `ids`; where there is no such place, over `host`.
///
/// # Errors
/// When the GPUs cannot be joined, or a rank is lost meanwhile.
pub fn between_devices(
    host: Arc<dyn Collective>,
    device: &Device,
    ids: Option<&dyn NcclIds>,
) -> Result<Arc<dyn Collective>> {
    match device {
        Device::Cpu(_) => Ok(host),
        Device::Cuda(device) => join_gpus(host, device, ids),
    }
}

#[cfg(feature = "cuda")]
use nccl::join as join_gpus;

#[cfg(not(feature = "cuda"))]
fn join_gpus(
    _: Arc<dyn Collective>,
    device: &CudaDevice,
    _: Option<&dyn NcclIds>,
) -> Result<Arc<dyn Collective>> {
    match *device {}
}

/// What the ranks are doing together; sent along, so that ranks that disagree find out instead of adding unlike things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Operation {
    AllReduce = 1,
    AllGather = 2,
    Barrier = 3,
    /// The second half of an all-reduce in pieces: the summed pieces travel.
    SharePieces = 4,
}

/// Adds `part` to `sum`, element by element.
fn add_assign(sum: &mut [f32], part: &[f32]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
}
