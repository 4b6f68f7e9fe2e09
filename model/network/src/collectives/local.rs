//! Ranks that are threads of one process. Each rank copies its part into a slot that all can read, meets the others at a
//! barrier, and sums the slots in rank order. Slots come in two sets used in turn: a set is written again only after the
//! barrier of the call between, by when everyone has read it, so that one barrier per call is enough.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Collective, CollectiveError, Operation, Result, add_assign, backoff::Backoff};
use crate::tensor::Tensor;

/// One rank's end of a group of threads. Dropping an end fails the group for those still in it.
pub struct LocalCollective {
    rank: usize,
    /// How many calls this rank has begun.
    num_calls: AtomicUsize,
    group: Arc<Group>,
}

struct Group {
    deadline: Duration,
    slots: [Vec<RwLock<Slot>>; 2],
    /// Arrivals over the life of the group: call `n` is complete when all ranks have arrived `n` times.
    num_arrived: AtomicUsize,
    is_aborted: AtomicBool,
    num_sleeping: AtomicUsize,
    /// Why the group was aborted; also the lock of `wake`.
    reason: Mutex<Option<String>>,
    wake: Condvar,
}

struct Slot {
    /// The call that the rank was in when it wrote the data, counted from one.
    call: usize,
    operation: Operation,
    data: Vec<f32>,
}

impl LocalCollective {
    /// The ends of a group of `world_size` ranks, in rank order. A call that waits longer than `deadline` fails the group.
    pub fn group(world_size: usize, deadline: Duration) -> Vec<Self> {
        let slots = || {
            (0..world_size)
                .map(|_| RwLock::new(Slot::empty()))
                .collect()
        };
        let group = Arc::new(Group {
            deadline,
            slots: [slots(), slots()],
            num_arrived: AtomicUsize::new(0),
            is_aborted: AtomicBool::new(false),
            num_sleeping: AtomicUsize::new(0),
            reason: Mutex::new(None),
            wake: Condvar::new(),
        });
        let end = |rank| Self {
            rank,
            num_calls: AtomicUsize::new(0),
            group: group.clone(),
        };
        (0..world_size).map(end).collect()
    }

    /// Puts `data` in this rank's slot and returns the set of slots once all ranks have done so.
    fn exchange(&self, operation: Operation, data: &[f32]) -> Result<&[RwLock<Slot>]> {
        let call = self.num_calls.fetch_add(1, Ordering::Relaxed) + 1;
        let slots = &self.group.slots[call % 2];
        write(&slots[self.rank]).fill(call, operation, data);
        match self.group.arrive_and_wait(call * self.world_size()) {
            Wait::Done => Ok(slots),
            Wait::Aborted(reason) => Err(CollectiveError::Aborted { reason }),
            Wait::Late(waited) => Err(self.fail(CollectiveError::DeadlineExceeded {
                rank: self.rank,
                missing: (0..slots.len())
                    .filter(|&peer| read(&slots[peer]).call != call)
                    .collect(),
                waited,
                deadline: self.group.deadline,
            })),
        }
    }

    /// Fails the group with `error`, which is handed back.
    fn fail(&self, error: CollectiveError) -> CollectiveError {
        self.group.abort(&error.to_string());
        error
    }

    /// A rank's slot of a completed call, found to be of the operation and, where given, the length that this rank has.
    fn part<'a>(
        &self,
        slots: &'a [RwLock<Slot>],
        peer: usize,
        operation: Operation,
        len: Option<usize>,
    ) -> Result<RwLockReadGuard<'a, Slot>> {
        let slot = read(&slots[peer]);
        if slot.operation != operation {
            return Err(self.fail(CollectiveError::OutOfStep {
                rank: self.rank,
                peer,
                wanted: format!("{operation:?}"),
                found: format!("{:?}", slot.operation),
            }));
        }
        if let Some(wanted) = len.filter(|&len| len != slot.data.len()) {
            return Err(self.fail(CollectiveError::LengthMismatch {
                rank: self.rank,
                peer,
                wanted,
                found: slot.data.len(),
            }));
        }
        Ok(slot)
    }
}

impl Collective for LocalCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.group.slots[0].len()
    }

    fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<()> {
        tensor.change_f32(|sum| {
            let slots = self.exchange(Operation::AllReduce, sum)?;
            let part = |peer| self.part(slots, peer, Operation::AllReduce, Some(sum.len()));
            let parts: Vec<_> = (0..slots.len()).map(part).collect::<Result<_>>()?;
            sum.copy_from_slice(&parts[0].data);
            for part in &parts[1..] {
                add_assign(sum, &part.data);
            }
            Ok(())
        })
    }

    fn all_gather(&self, mine: &[f32]) -> Result<Vec<Vec<f32>>> {
        let slots = self.exchange(Operation::AllGather, mine)?;
        let copy = |peer| {
            Ok(self
                .part(slots, peer, Operation::AllGather, None)?
                .data
                .clone())
        };
        (0..slots.len()).map(copy).collect()
    }

    fn barrier(&self) -> Result<()> {
        let slots = self.exchange(Operation::Barrier, &[])?;
        for peer in 0..slots.len() {
            drop(self.part(slots, peer, Operation::Barrier, None)?);
        }
        Ok(())
    }

    fn awaited(&self) -> Vec<usize> {
        let call = self.num_calls.load(Ordering::Relaxed);
        let has_met = self.group.num_arrived.load(Ordering::SeqCst) >= call * self.world_size();
        if has_met {
            return Vec::new();
        }
        let slots = self.group.slots[call % 2].iter().enumerate();
        let is_late = |slot: &RwLock<Slot>| slot.try_read().is_ok_and(|slot| slot.call != call);
        slots
            .filter(|(peer, slot)| *peer != self.rank && is_late(slot))
            .map(|(peer, _)| peer)
            .collect()
    }

    fn abort(&self) {
        self.group.abort(&format!("by rank {}", self.rank));
    }
}

impl Drop for LocalCollective {
    fn drop(&mut self) {
        self.group.abort(&format!("rank {} left", self.rank));
    }
}

/// How a wait for the other ranks ended.
enum Wait {
    Done,
    Aborted(String),
    Late(Duration),
}

impl Group {
    /// Arrives, and waits until `wanted` arrivals have been counted. A call that all ranks reached is done even if the group was
    /// aborted just after.
    fn arrive_and_wait(&self, wanted: usize) -> Wait {
        if self.is_aborted.load(Ordering::SeqCst) {
            return Wait::Aborted(reason_text(&self.lock_reason()));
        }
        if self.num_arrived.fetch_add(1, Ordering::SeqCst) + 1 == wanted {
            self.wake_sleepers();
            return Wait::Done;
        }
        let mut backoff = Backoff::start();
        while backoff.spin() {
            if self.num_arrived.load(Ordering::SeqCst) >= wanted {
                return Wait::Done;
            }
            if self.is_aborted.load(Ordering::SeqCst) {
                return Wait::Aborted(reason_text(&self.lock_reason()));
            }
        }
        self.sleep(wanted, &backoff)
    }

    /// Waits off the processor. Whoever changes the outcome looks at `num_sleeping` afterwards, and the sleeper looks at the
    /// outcome after it has counted itself, both in sequentially consistent order: one of them sees the other.
    fn sleep(&self, wanted: usize, backoff: &Backoff) -> Wait {
        let mut reason = self.lock_reason();
        self.num_sleeping.fetch_add(1, Ordering::SeqCst);
        let end = loop {
            if self.num_arrived.load(Ordering::SeqCst) >= wanted {
                break Wait::Done;
            }
            if self.is_aborted.load(Ordering::SeqCst) {
                break Wait::Aborted(reason_text(&reason));
            }
            let waited = backoff.waited();
            let Some(left) = self.deadline.checked_sub(waited) else {
                break Wait::Late(waited);
            };
            (reason, _) = self
                .wake
                .wait_timeout(reason, left)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.num_sleeping.fetch_sub(1, Ordering::SeqCst);
        end
    }

    fn abort(&self, why: &str) {
        self.lock_reason().get_or_insert_with(|| why.to_owned());
        self.is_aborted.store(true, Ordering::SeqCst);
        self.wake_sleepers();
    }

    fn wake_sleepers(&self) {
        if self.num_sleeping.load(Ordering::SeqCst) > 0 {
            let _reason = self.lock_reason();
            self.wake.notify_all();
        }
    }

    fn lock_reason(&self) -> MutexGuard<'_, Option<String>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn empty() -> Self {
        Self {
            call: 0,
            operation: Operation::Barrier,
            data: Vec::new(),
        }
    }

    fn fill(&mut self, call: usize, operation: Operation, data: &[f32]) {
        self.call = call;
        self.operation = operation;
        self.data.clear();
        self.data.extend_from_slice(data);
    }
}

// A rank that panics with a slot locked also drops its end, which fails the group: nobody uses what it left.
fn read(slot: &RwLock<Slot>) -> RwLockReadGuard<'_, Slot> {
    slot.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(slot: &RwLock<Slot>) -> RwLockWriteGuard<'_, Slot> {
    slot.write().unwrap_or_else(PoisonError::into_inner)
}

fn reason_text(reason: &Option<String>) -> String {
    reason.as_deref().unwrap_or("no reason given").to_owned()
}
