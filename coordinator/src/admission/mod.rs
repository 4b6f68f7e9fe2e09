//! Who runs when not all can: a queue in which tenants take turns by what they were served, bounded in every way, in front of groups that are
//! given no more than they can run. `queue` and what it is made of decide, without clock and without waiting; here is the
//! door that requests stand at.

mod cost;
mod fair_queue;
mod metrics;
mod queue;
mod room;
mod shed;
#[cfg(test)]
mod tests;
mod throughput;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{queue::Asked, shed::ShedReason};

use self::{
    cost::{PromptCost, RequestCost},
    fair_queue::Ticket,
    queue::{AdmissionQueue, Bounds, Verdict},
    room::{Room, RoomEstimator},
};
use crate::{
    cluster_load::GroupLoad,
    config::{Limits, Timeouts},
    error::RequestError,
    request::PromptSize,
    worker_client::Priority,
};

/// How often it is looked whether the groups have more room, while requests wait. Leaders report four times a second.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Tokens of an answer that are charged together: half of what a step of a few requests draws, and far less than a turn.
const CHARGED_TOGETHER: u32 = 16;

/// Where the groups' loads are read.
pub(crate) trait LoadSource: Send + Sync {
    /// What the leaders of groups said last, of those that said something.
    fn loads(&self) -> Vec<GroupLoad>;
}

/// The door: requests come in, wait for their turn, and run.
pub(crate) struct Admission {
    state: Mutex<State>,
    source: Arc<dyn LoadSource>,
    started: Instant,
    /// Tenants take turns; otherwise first come, first served.
    is_fair: bool,
    /// The longest wait.
    queue_limit: Duration,
    /// What a client is told where nothing is known.
    retry_after: Duration,
}

struct State {
    queue: AdmissionQueue,
    rooms: RoomEstimator,
    waiting: HashMap<Ticket, Waiter>,
    open_to: OpenTo,
}

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenTo {
    All,
    /// What goes on with something that was begun before.
    GoingOn,
    None,
}

impl OpenTo {
    fn lets_in(self, goes_on: bool) -> bool {
        match self {
            Self::All => true,
            Self::GoingOn => goes_on,
            Self::None => false,
        }
    }
}

/// Whom to tell, and what they are told.
struct Waiter {
    turn: oneshot::Sender<Result<(), RequestError>>,
    tenant: Bytes,
    cost: RequestCost,
    goes_on: bool,
}

/// A request's place, from the door to its end: dropping it gives the place back. What the request is served is charged
/// here, once, however often it is moved from one group to another.
pub(crate) struct Place {
    admission: Arc<Admission>,
    ticket: Ticket,
    /// Tokens that came and are not charged yet.
    uncharged: AtomicU32,
    /// Whether tokens came at all.
    has_tokens: AtomicBool,
}

impl Admission {
    pub(crate) fn new(limits: &Limits, timeouts: &Timeouts, source: Arc<dyn LoadSource>) -> Self {
        let bounds = Bounds {
            running: limits.max_requests,
            queued: limits.max_queued_requests,
            queued_per_tenant: match limits.fair_queueing {
                true => limits.max_queued_per_tenant,
                false => limits.max_queued_requests,
            },
            queued_tokens: limits.max_queued_tokens as u64,
            queued_tokens_per_tenant: match limits.fair_queueing {
                true => limits.max_queued_tokens_per_tenant as u64,
                false => limits.max_queued_tokens as u64,
            },
            queued_bytes: limits.max_queued_bytes as u64,
        };
        metrics::describe();
        let state = State {
            queue: AdmissionQueue::new(bounds),
            rooms: RoomEstimator::default(),
            waiting: HashMap::new(),
            open_to: OpenTo::All,
        };
        Self {
            state: Mutex::new(state),
            source,
            started: Instant::now(),
            is_fair: limits.fair_queueing,
            queue_limit: timeouts.queued,
            retry_after: timeouts.retry_after,
        }
    }

    /// Waits for this request's turn, as long as its deadline and the longest wait allow. Dropping the future leaves the
    /// queue.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        asked: Asked,
        deadline: Option<Instant>,
    ) -> Result<Arc<Place>, RequestError> {
        let asked = match self.is_fair {
            true => asked,
            false => Asked {
                tenant: Bytes::new(),
                priority: Priority::Interactive,
                ..asked
            },
        };
        let (began, priority) = (Instant::now(), asked.priority);
        let (place, turn) = self.enter(asked)?;
        let end = began + self.queue_limit;
        let deadline = deadline.unwrap_or(end).min(end);
        let answer = tokio::select! {
            // A turn that came is taken.
            biased;
            turn = turn => turn.unwrap_or_else(|_| {
                Err(RequestError::Internal("the queue lost a request".into()))
            }),
            () = sleep_until(deadline) => Err(if deadline < end {
                RequestError::DeadlineExceeded
            } else {
                place.waited_too_long()
            }),
        };
        metrics::waited(priority, began.elapsed());
        answer.map(|()| Arc::new(place))
    }

    /// Sends away all that wait, and whoever comes from now on, but for what goes on with something that was begun before.
    pub(crate) fn close_to_new(&self) {
        self.close_to(OpenTo::GoingOn);
    }

    /// Sends away all that wait, and whoever comes from now on.
    pub(crate) fn close(&self) {
        self.close_to(OpenTo::None);
    }

    fn close_to(&self, open_to: OpenTo) {
        let mut state = self.lock();
        state.open_to = open_to;
        let now = self.now();
        for ticket in state.queue.waiting() {
            let waiter = state.waiting.get(&ticket);
            if waiter.is_some_and(|waiter| open_to.lets_in(waiter.goes_on)) {
                continue;
            }
            state.queue.leave(ticket, now);
            state.tell(ticket, Err(self.shutting_down()));
        }
        state.measure();
    }

    /// Lets requests go as the groups say that they have room, until `stop`.
    pub(crate) async fn keep_looking(self: Arc<Self>, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            let mut state = self.lock();
            if !state.waiting.is_empty() {
                self.pump(&mut state);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn shutting_down(&self) -> RequestError {
        RequestError::ShuttingDown {
            retry_after: self.retry_after,
        }
    }

    /// A place in the queue, and the word that the turn has come.
    fn enter(
        self: &Arc<Self>,
        asked: Asked,
    ) -> Result<(Place, oneshot::Receiver<Result<(), RequestError>>), RequestError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.open_to.lets_in(asked.goes_on) {
            return Err(self.shutting_down());
        }
        let now = self.now();
        let room = state.rooms.room(&self.source.loads(), now);
        let (sender, turn) = oneshot::channel();
        let waiter = Waiter {
            turn: sender,
            tenant: asked.tenant.clone(),
            cost: asked.cost,
            goes_on: asked.goes_on,
        };
        let (ticket, verdicts) = state.queue.enter(asked, &room, now);
        state.waiting.insert(ticket, waiter);
        self.carry_out(state, verdicts, &room, now);
        drop(guard);
        let place = Place {
            admission: self.clone(),
            ticket,
            uncharged: AtomicU32::new(0),
            has_tokens: AtomicBool::new(false),
        };
        Ok((place, turn))
    }

    fn pump(&self, state: &mut State) {
        let now = self.now();
        let room = state.rooms.room(&self.source.loads(), now);
        let verdicts = state.queue.pump(&room);
        self.carry_out(state, verdicts, &room, now);
    }

    fn carry_out(&self, state: &mut State, verdicts: Vec<Verdict>, room: &Room, now: Duration) {
        for verdict in verdicts {
            match verdict {
                Verdict::Go(ticket) => state.tell(ticket, Ok(())),
                Verdict::Shed(ticket, reason) => {
                    let error = self.overloaded(state, ticket, reason, room, now);
                    state.tell(ticket, Err(error));
                }
            }
        }
        state.measure();
    }

    /// The error of a request that is sent away, with the time after which it should come again.
    fn overloaded(
        &self,
        state: &mut State,
        ticket: Ticket,
        reason: ShedReason,
        room: &Room,
        now: Duration,
    ) -> RequestError {
        metrics::shed(reason);
        let computed = state.waiting.get(&ticket).and_then(|waiter| {
            let (tenant, cost) = (&waiter.tenant, &waiter.cost);
            state.queue.retry_after(tenant, reason, cost, room, now)
        });
        RequestError::Overloaded {
            reason,
            retry_after: computed.unwrap_or(self.retry_after),
        }
    }
}

impl State {
    fn tell(&mut self, ticket: Ticket, answer: Result<(), RequestError>) {
        if let Some(waiter) = self.waiting.remove(&ticket) {
            // Whoever left is about to say so.
            let _ = waiter.turn.send(answer);
        }
    }

    fn measure(&self) {
        for priority in [Priority::Interactive, Priority::Batch] {
            metrics::queued(priority, self.queue.queued(priority));
        }
    }
}

impl Place {
    /// The prompt is known: what was charged for the guess is put right. Once is enough, and again does no harm.
    pub(crate) fn rendered(&self, size: PromptSize) {
        let picture_tokens = u64::from(size.picture_tokens);
        let prompt = PromptCost {
            text_tokens: u64::from(size.prompt_tokens).saturating_sub(picture_tokens),
            picture_tokens,
        };
        self.admission.lock().queue.rendered(self.ticket, prompt);
    }

    /// A group was chosen for it, which has so many positions of its prompt to compute. Whether it goes in front of those that wait
    /// there.
    pub(crate) fn routed(&self, rows: u64) -> bool {
        let mut state = self.admission.lock();
        state.queue.routed(self.ticket, rows);
        if !state.waiting.is_empty() {
            self.admission.pump(&mut state);
        }
        state.queue.goes_first(self.ticket)
    }

    /// So many tokens of its answers were drawn for the first time.
    pub(crate) fn drawn(&self, tokens: usize) {
        if tokens == 0 {
            // Not the first ones: it was started, or tells of its prompt.
            return;
        }
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let uncharged = self.uncharged.fetch_add(tokens, Ordering::Relaxed) + tokens;
        let is_first = !self.has_tokens.load(Ordering::Relaxed);
        if is_first || uncharged >= CHARGED_TOGETHER {
            self.has_tokens.store(true, Ordering::Relaxed);
            let mut state = self.admission.lock();
            self.charge(&mut state);
            // The prompt is computed, so another may be given ahead.
            if is_first && !state.waiting.is_empty() {
                self.admission.pump(&mut state);
            }
        }
    }

    /// All its tokens are drawn, though they may not be read yet: its place in the group is free.
    pub(crate) fn all_drawn(&self) {
        let mut state = self.admission.lock();
        self.charge(&mut state);
        state.queue.all_drawn(self.ticket, self.admission.now());
        if !state.waiting.is_empty() {
            self.admission.pump(&mut state);
        }
    }

    fn charge(&self, state: &mut State) {
        let tokens = self.uncharged.swap(0, Ordering::Relaxed);
        if tokens > 0 {
            let now = self.admission.now();
            state.queue.drawn(self.ticket, tokens.into(), now);
        }
    }

    fn waited_too_long(&self) -> RequestError {
        let admission = &*self.admission;
        let mut guard = admission.lock();
        let state = &mut *guard;
        let now = admission.now();
        let room = state.rooms.room(&admission.source.loads(), now);
        let reason = ShedReason::WaitedTooLong {
            limit: admission.queue_limit,
        };
        admission.overloaded(state, self.ticket, reason, &room, now)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        self.charge(&mut state);
        state.waiting.remove(&self.ticket);
        state.queue.leave(self.ticket, self.admission.now());
        self.admission.pump(&mut state);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.ticket.0).finish()
    }
}
