//! Ranks on GPUs joined by NCCL. They have met over sockets or in a process already, and go on to use that for what the host gathers
//! (candidates, a few numbers): it is there without waiting for a stream, and knows whom it waits for. Sums of activations go from GPU
//! to GPU and are put on each rank's stream like any op; nobody waits for them but what comes after. A rank that is lost is found by
//! those who watch the step, and their abort ends every wait here too.
//!
//! Not yet run on a GPU.
#![expect(unsafe_code, reason = "calls of NCCL")]

use std::{
    ffi::c_void,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicUsize, Ordering},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use cudarc::nccl::{
    result::{self, NcclError},
    sys::{self, ncclDataType_t, ncclRedOp_t},
};

use super::{Collective, CollectiveError, NcclIds, Result};
use crate::{
    device::CudaDevice,
    tensor::{DType, Tensor, TensorError},
};

/// How long ranks that have met may take to find each other's GPUs.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes that name a group that is being formed.
const ID_LEN: usize = 128;

/// One rank's end of a group of GPUs.
pub struct NcclCollective {
    host: Arc<dyn Collective>,
    device: CudaDevice,
    /// Null once the group is aborted.
    communicator: AtomicPtr<sys::ncclComm>,
    /// Calls into NCCL that have not returned.
    in_call: AtomicUsize,
}

/// What joins ranks that have met over `host` and have a GPU each; `host` itself where two of them share one, which NCCL does not join.
/// All ranks call it together.
///
/// # Errors
/// When NCCL is not there on any of the ranks, or finds no way from one to another.
pub(super) fn join(
    host: Arc<dyn Collective>,
    device: &CudaDevice,
    ids: Option<&dyn NcclIds>,
) -> Result<Arc<dyn Collective>> {
    let identities = gather_bytes(host.as_ref(), &device.identity()?)?;
    let is_shared = |one| identities.iter().filter(|other| *other == one).count() > 1;
    if identities.iter().any(is_shared) {
        return Ok(host);
    }
    // Whoever has no NCCL says so to all: the others would wait for it.
    let has_nccl = host.all_gather(&[f32::from(u8::from(is_present()))])?;
    let without: Vec<usize> = (0..has_nccl.len())
        .filter(|rank| has_nccl[*rank] != [1.0])
        .collect();
    if !without.is_empty() {
        return Err(unsupported(format!(
            "libnccl.so cannot be opened by ranks {without:?}; install NCCL 2.28 or later there, link libnccl.so to libnccl.so.2, \
             and put it on LD_LIBRARY_PATH"
        )));
    }
    let id = exchange_id(host.as_ref(), ids)?;
    Ok(Arc::new(NcclCollective::enter(host, device, id)?))
}

/// The id that rank 0 makes, on every rank.
fn exchange_id(host: &dyn Collective, ids: Option<&dyn NcclIds>) -> Result<[u8; ID_LEN]> {
    let mut own = Vec::new();
    if host.rank() == 0 {
        let id = result::get_uniqueid().map_err(|error| failed("make an id", error))?;
        own = id.internal.map(|byte| byte as u8).to_vec();
    }
    let id = match ids {
        None => gather_bytes(host, &own)?.swap_remove(0),
        Some(ids) => {
            let lost = |reason: String| aborted(&format!("NCCL's id did not arrive: {reason}"));
            if host.rank() == 0 {
                ids.publish(&own).map_err(lost)?;
            }
            host.barrier()?;
            match host.rank() {
                0 => own,
                _ => ids.fetch().map_err(lost)?,
            }
        }
    };
    <[u8; ID_LEN]>::try_from(id).map_err(|id| CollectiveError::LengthMismatch {
        rank: host.rank(),
        peer: 0,
        wanted: ID_LEN,
        found: id.len(),
    })
}

/// Every rank's bytes: a collective carries numbers, of which whole ones below 256 come as they went.
fn gather_bytes(host: &dyn Collective, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mine: Vec<f32> = mine.iter().copied().map(f32::from).collect();
    let all = host.all_gather(&mine)?.into_iter();
    Ok(all
        .map(|theirs| theirs.into_iter().map(|number| number as u8).collect())
        .collect())
}

impl NcclCollective {
    fn enter(host: Arc<dyn Collective>, device: &CudaDevice, id: [u8; ID_LEN]) -> Result<Self> {
        let (world, rank) = (int(host.world_size())?, int(host.rank())?);
        let bound = device.clone();
        // NCCL has no deadline of its own: should a rank be lost in this very moment, the thread that waits is left behind.
        let (entered, hear) = sync_channel(1);
        thread::Builder::new()
            .name(format!("nccl-{rank}"))
            .spawn(move || {
                let outcome = bound.bind().map_err(CollectiveError::from).and_then(|()| {
                    let internal = id.map(|byte| byte as std::ffi::c_char);
                    let mut communicator = ptr::null_mut();
                    // SAFETY: the context is bound; the id is what NCCL made.
                    unsafe {
                        result::comm_init_rank(
                            &mut communicator,
                            world,
                            sys::ncclUniqueId { internal },
                            rank,
                        )
                    }
                    .map_err(|error| failed("join the group", error))?;
                    Ok(AtomicPtr::new(communicator))
                });
                if let Err(unheard) = entered.send(outcome)
                    && let Ok(communicator) = unheard.0
                {
                    // SAFETY: nobody else was given it.
                    let _ = unsafe { result::comm_abort(communicator.into_inner()) };
                }
            })
            .map_err(|error| aborted(&format!("no thread to join NCCL on: {error}")))?;
        let communicator = match hear.recv_timeout(JOIN_DEADLINE) {
            Ok(outcome) => outcome?,
            Err(RecvTimeoutError::Timeout) => {
                return Err(CollectiveError::DeadlineExceeded {
                    rank: host.rank(),
                    missing: (0..host.world_size())
                        .filter(|peer| *peer != host.rank())
                        .collect(),
                    waited: JOIN_DEADLINE,
                    deadline: JOIN_DEADLINE,
                });
            }
            Err(RecvTimeoutError::Disconnected) => return Err(aborted("joining NCCL panicked")),
        };
        Ok(Self {
            host,
            device: device.clone(),
            communicator,
            in_call: AtomicUsize::new(0),
        })
    }

    /// Calls NCCL with the communicator, unless the group was aborted.
    fn call(
        &self,
        what: &str,
        call: impl FnOnce(sys::ncclComm_t) -> Result<result::NcclStatus, NcclError>,
    ) -> Result<()> {
        self.device.bind()?;
        self.in_call.fetch_add(1, Ordering::SeqCst);
        let communicator = self.communicator.load(Ordering::SeqCst);
        let called = (!communicator.is_null()).then(|| call(communicator));
        self.in_call.fetch_sub(1, Ordering::SeqCst);
        match called {
            None => Err(aborted("by this rank")),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                self.abort();
                Err(failed(what, error))
            }
        }
    }
}

impl Collective for NcclCollective {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn world_size(&self) -> usize {
        self.host.world_size()
    }

    fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<()> {
        let count = tensor.num_elements();
        let dtype = match tensor.dtype() {
            DType::F32 => ncclDataType_t::ncclFloat32,
            DType::BF16 => ncclDataType_t::ncclBfloat16,
            DType::F16 => ncclDataType_t::ncclFloat16,
        };
        tensor.check_unshared("all_reduce_sum")?;
        let (buffer, start) = tensor.cuda_buffer("all_reduce_sum")?;
        let at = (buffer.address() + start as u64) as *mut c_void;
        let stream = self.device.stream();
        self.call("sum", |communicator| {
            // SAFETY: the tensor's own memory, used by nobody else on this stream until the sum is done.
            unsafe {
                result::all_reduce(
                    at,
                    at,
                    count,
                    dtype,
                    ncclRedOp_t::ncclSum,
                    communicator,
                    stream.cast(),
                )
            }
        })
    }

    // Sums are on the stream and could be recorded. Whether an abort ends the wait of a recorded one must be tried on several GPUs first:
    // until then `can_be_recorded` stays as it is, and groups of several GPUs launch their decode steps op by op.
    fn all_gather(&self, mine: &[f32]) -> Result<Vec<Vec<f32>>> {
        self.host.all_gather(mine)
    }

    fn barrier(&self) -> Result<()> {
        self.host.barrier()
    }

    fn awaited(&self) -> Vec<usize> {
        self.host.awaited()
    }

    fn abort(&self) {
        self.host.abort();
        let communicator = self.communicator.swap(ptr::null_mut(), Ordering::SeqCst);
        if communicator.is_null() {
            return;
        }
        // Calls return at once as a rule; one that hangs inside NCCL is what the abort is for, so it is not waited for long.
        let patience = Instant::now() + Duration::from_millis(200);
        while self.in_call.load(Ordering::SeqCst) > 0 && Instant::now() < patience {
            thread::yield_now();
        }
        // SAFETY: taken out above, so aborted once; NCCL allows it from any thread and while kernels run.
        let _ = unsafe { result::comm_abort(communicator) };
    }
}

impl Drop for NcclCollective {
    fn drop(&mut self) {
        self.abort();
    }
}

fn is_present() -> bool {
    // SAFETY: opens a library, whose initialisers are NVIDIA's.
    unsafe { sys::is_culib_present() }
}

fn int(number: usize) -> Result<i32> {
    i32::try_from(number).map_err(|_| unsupported("more ranks than NCCL counts".to_owned()))
}

fn unsupported(reason: String) -> CollectiveError {
    CollectiveError::Tensor(TensorError::Unsupported {
        what: "NCCL",
        reason,
    })
}

fn aborted(reason: &str) -> CollectiveError {
    CollectiveError::Aborted {
        reason: reason.to_owned(),
    }
}

fn failed(what: &str, error: NcclError) -> CollectiveError {
    CollectiveError::Aborted {
        reason: format!("NCCL could not {what}: {:?}", error.0),
    }
}
