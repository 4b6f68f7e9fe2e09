//! The pool itself. One word, `state`, says which call is running, whether threads may still join it and how many have;
//! a thread that has joined keeps the call alive until it leaves, and one that comes late finds the call closed.

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    thread::{self, JoinHandle},
};

/// How often an idle thread looks for the next call before it sleeps: some tens of microseconds, the time between two
/// ops of a decode step. The waiting caller spins as often before it yields the core.
const NUM_SPINS: usize = 2000;

/// `state` = call number << CALL_SHIFT | OPEN | number of threads that have joined the call.
const OPEN: usize = 1 << 15;
const JOINED: usize = OPEN - 1;
const CALL_SHIFT: u32 = 16;

/// A fixed set of threads, the calling one included; clones share them.
#[derive(Clone)]
pub(crate) struct ThreadPool {
    owner: Arc<Owner>,
}

/// Ends the threads when the last clone of the pool goes.
struct Owner {
    shared: Arc<Shared>,
    /// Held for the length of a call, so that calls from several threads take turns.
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    state: AtomicUsize,
    /// The running call. Written by the caller while the call is closed and nobody has joined; read after joining.
    call: UnsafeCell<Call>,
    next_task: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    num_sleeping: AtomicUsize,
    caller_sleeps: AtomicBool,
    stop: AtomicBool,
    lock: Mutex<()>,
    call_opened: Condvar,
    last_left: Condvar,
}

/// A closure that lives on the caller's stack, with its type forgotten.
#[derive(Clone, Copy)]
struct Call {
    run: unsafe fn(*const (), usize),
    task: *const (),
    num_tasks: usize,
}

// SAFETY: `call` is guarded by the protocol of `state`, and what it points to is `Sync` (see `parallel_for`).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

thread_local! {
    /// Set while this thread runs a task of any pool: calls from within run in place.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

impl ThreadPool {
    pub(crate) fn new(num_threads: usize) -> Self {
        let shared = Arc::new(Shared::new());
        let start = |index: usize| {
            let shared = shared.clone();
            let thread = thread::Builder::new().name(format!("ops-{index}"));
            thread
                .spawn(move || shared.work())
                .expect("the operating system gives threads")
        };
        let workers = (1..num_threads).map(start).collect();
        Self {
            owner: Arc::new(Owner {
                shared,
                turn: Mutex::new(()),
                workers,
            }),
        }
    }

    pub(crate) fn num_threads(&self) -> usize {
        self.owner.workers.len() + 1
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.owner, &other.owner)
    }

    /// Runs `task(0..num_tasks)`, each once, and returns when all are done; a panic in a task is passed on.
    pub(crate) fn parallel_for<F: Fn(usize) + Sync>(&self, num_tasks: usize, task: &F) {
        if num_tasks <= 1 || self.owner.workers.is_empty() || IN_TASK.get() {
            (0..num_tasks).for_each(task);
            return;
        }
        /// # Safety
        /// `task` points to a living `F`.
        unsafe fn run<F: Fn(usize)>(task: *const (), index: usize) {
            // SAFETY: promised by the caller.
            let task = unsafe { &*task.cast::<F>() };
            task(index);
        }
        let _turn = lock(&self.owner.turn);
        self.owner.shared.run(Call {
            run: run::<F>,
            task: (&raw const *task).cast(),
            num_tasks,
        });
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.lock));
        self.shared.call_opened.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks, so it ends in order; there is nobody to tell if it did not.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn new() -> Self {
        unsafe fn nothing(_: *const (), _: usize) {}
        Self {
            state: AtomicUsize::new(0),
            call: UnsafeCell::new(Call {
                run: nothing,
                task: std::ptr::null(),
                num_tasks: 0,
            }),
            next_task: AtomicUsize::new(0),
            panic: Mutex::new(None),
            num_sleeping: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            lock: Mutex::new(()),
            call_opened: Condvar::new(),
            last_left: Condvar::new(),
        }
    }

    /// The caller's side: open the call, take part, close it, wait for those who joined. Calls take turns.
    fn run(&self, call: Call) {
        // SAFETY: the last call is closed and all who joined have left, so nobody reads `call` now.
        unsafe { *self.call.get() = call };
        self.next_task.store(0, Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) >> CALL_SHIFT).wrapping_add(1);
        self.state
            .store(number << CALL_SHIFT | OPEN, Ordering::SeqCst);
        self.wake_sleepers(call.num_tasks - 1);
        self.take_tasks(&call);
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        self.wait_until_all_left();
        if let Some(panic) = lock(&self.panic).take() {
            resume_unwind(panic);
        }
    }

    fn take_tasks(&self, call: &Call) {
        IN_TASK.set(true);
        loop {
            let index = self.next_task.fetch_add(1, Ordering::Relaxed);
            if index >= call.num_tasks {
                break;
            }
            // SAFETY: the caller holds the closure until everybody who joined has left, and this thread has not.
            let outcome =
                catch_unwind(AssertUnwindSafe(|| unsafe { (call.run)(call.task, index) }));
            if let Err(panic) = outcome {
                self.next_task.store(call.num_tasks, Ordering::Relaxed);
                lock(&self.panic).get_or_insert(panic);
            }
        }
        IN_TASK.set(false);
    }

    fn wake_sleepers(&self, num_wanted: usize) {
        fence(Ordering::SeqCst);
        let num_sleeping = self.num_sleeping.load(Ordering::SeqCst);
        if num_sleeping == 0 {
            return;
        }
        // A thread that counts itself asleep looks at `state` once more under the lock before it waits.
        drop(lock(&self.lock));
        for _ in 0..num_wanted.min(num_sleeping) {
            self.call_opened.notify_one();
        }
    }

    fn wait_until_all_left(&self) {
        let all_left = || self.state.load(Ordering::SeqCst) & JOINED == 0;
        for _ in 0..NUM_SPINS {
            if all_left() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.lock);
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while !all_left() {
            guard = self
                .last_left
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    /// The life of a worker.
    fn work(&self) {
        let mut seen = 0;
        while let Some(call) = self.join_next_call(&mut seen) {
            self.take_tasks(&call);
            self.leave();
        }
    }

    fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::SeqCst);
        if before & (OPEN | JOINED) == 1 && self.caller_sleeps.load(Ordering::SeqCst) {
            drop(lock(&self.lock));
            self.last_left.notify_one();
        }
    }

    /// Waits for a call other than number `seen` and joins it; `None` when the pool ends.
    fn join_next_call(&self, seen: &mut usize) -> Option<Call> {
        loop {
            if let Some(call) = self.spin_for_call(seen) {
                return Some(call);
            }
            let mut guard = lock(&self.lock);
            self.num_sleeping.fetch_add(1, Ordering::SeqCst);
            while !self.stop.load(Ordering::SeqCst)
                && !is_open(self.state.load(Ordering::SeqCst), *seen)
            {
                guard = self
                    .call_opened
                    .wait(guard)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            self.num_sleeping.fetch_sub(1, Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
        }
    }

    fn spin_for_call(&self, seen: &mut usize) -> Option<Call> {
        for _ in 0..NUM_SPINS {
            if let Some(call) = self.try_join(seen) {
                return Some(call);
            }
            std::hint::spin_loop();
        }
        None
    }

    fn try_join(&self, seen: &mut usize) -> Option<Call> {
        let state = self.state.load(Ordering::Relaxed);
        if !is_open(state, *seen) {
            return None;
        }
        // Fails when the call has closed or another thread joined meanwhile; the next look decides.
        self.state
            .compare_exchange(state, state + 1, Ordering::SeqCst, Ordering::Relaxed)
            .ok()?;
        *seen = state >> CALL_SHIFT;
        // SAFETY: this thread has joined, so the caller does not write `call` until it leaves.
        Some(unsafe { *self.call.get() })
    }
}

fn is_open(state: usize, seen: usize) -> bool {
    state & OPEN != 0 && state >> CALL_SHIFT != seen
}

/// No state is left half changed under these locks, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
