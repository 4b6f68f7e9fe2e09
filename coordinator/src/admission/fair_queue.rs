//! Who goes next: tenants take turns by what they were served (virtual token counters, from "Fairness in Serving Large Language Models",
//! OSDI '24). Each tenant has a counter for each priority, which is charged for prompts when they leave the queue and for answers as
//! they are drawn; the waiting tenant with the lowest counter goes next. Who comes back after it had nothing waiting is lifted to the lowest
//! counter of those who wait: time spent away earns nothing.
//!
//! Pure: time comes in as values.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::cost::RequestCost;
use crate::worker_client::Priority;

/// How long the counter of a tenant that does nothing is kept. 10 minutes: whoever stays away longer than most people wait owes nothing.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Tenants that do nothing and are remembered at most, some 200 bytes each; past it those go first that were away longest.
const MAX_REMEMBERED: usize = 4096;
/// After so many interactive requests in a row, one batch request goes: an eighth of all turns.
const TURNS_BEFORE_BATCH: u32 = 7;

/// A request's number in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// A request that waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Queued {
    pub(crate) ticket: Ticket,
    pub(crate) cost: RequestCost,
    /// Tokens that it will take, answer included: a guess.
    pub(crate) tokens: u64,
    /// When it came.
    pub(crate) since: Duration,
}

/// What waits, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) requests: usize,
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
}

/// Which kind of amount is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    Requests,
    Tokens,
    Bytes,
}

/// The requests that wait, and what every tenant was served.
#[derive(Debug, Default)]
pub(crate) struct FairQueue {
    tenants: HashMap<Bytes, Tenant>,
    /// Those that neither wait nor run, by when that began.
    idle: BTreeSet<(Duration, Bytes)>,
    /// Where every request that waits stands.
    places: HashMap<Ticket, (Bytes, Priority)>,
    amounts: [Amount; 2],
    /// The counter of whoever left the queue last, of each priority: what a tenant is lifted to when nobody waits.
    floors: [u64; 2],
    /// Interactive requests that went since a batch request went while one waited.
    turns: u32,
}

#[derive(Debug, Default)]
struct Tenant {
    lanes: [Lane; 2],
    /// Requests that left the queue and have not ended.
    running: usize,
    /// Set while it neither waits nor runs.
    idle_since: Option<Duration>,
}

#[derive(Debug, Default)]
struct Lane {
    counter: u64,
    queued: VecDeque<Queued>,
    amount: Amount,
}

/// A request that could go next.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) tenant: Bytes,
    pub(crate) priority: Priority,
    pub(crate) queued: Queued,
    /// Nothing of its tenant runs.
    pub(crate) is_newcomer: bool,
}

impl Amount {
    /// One kind of it.
    pub(crate) fn of(self, measure: Measure) -> u64 {
        match measure {
            Measure::Requests => self.requests as u64,
            Measure::Tokens => self.tokens,
            Measure::Bytes => self.bytes,
        }
    }

    fn add(&mut self, queued: &Queued) {
        self.requests += 1;
        self.tokens += queued.tokens;
        self.bytes += queued.cost.bytes;
    }

    fn take(&mut self, queued: &Queued) {
        self.requests -= 1;
        self.tokens -= queued.tokens;
        self.bytes -= queued.cost.bytes;
    }

    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            tokens: self.tokens + other.tokens,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl FairQueue {
    /// All that waits.
    pub(crate) fn amount(&self) -> Amount {
        self.amounts[0].plus(self.amounts[1])
    }

    /// What waits with this priority.
    pub(crate) fn amount_of(&self, priority: Priority) -> Amount {
        self.amounts[line(priority)]
    }

    /// What waits of this tenant.
    pub(crate) fn amount_of_tenant(&self, tenant: &[u8]) -> Amount {
        let found = self.tenants.get(tenant);
        found.map_or_else(Amount::default, |tenant| {
            tenant.lanes[0].amount.plus(tenant.lanes[1].amount)
        })
    }

    /// Tenants that wait, run, or did so lately.
    pub(crate) fn num_tenants(&self) -> usize {
        self.tenants.len()
    }

    /// Tenants that wait.
    pub(crate) fn num_waiting_tenants(&self) -> usize {
        let tenants = self.tenants.values();
        tenants.filter(|tenant| !tenant.waits_nowhere()).count()
    }

    /// Lets a request wait.
    pub(crate) fn push(&mut self, tenant: Bytes, priority: Priority, queued: Queued) {
        self.forget(queued.since);
        let line = line(priority);
        let lowest = self.lowest_counter(line).unwrap_or(self.floors[line]);
        let entry = self.tenants.entry(tenant.clone()).or_default();
        if let Some(since) = entry.idle_since.take() {
            self.idle.remove(&(since, tenant.clone()));
        }
        let lane = &mut entry.lanes[line];
        if lane.queued.is_empty() {
            lane.counter = lane.counter.max(lowest);
        }
        lane.queued.push_back(queued);
        lane.amount.add(&queued);
        self.amounts[line].add(&queued);
        self.places.insert(queued.ticket, (tenant, priority));
    }

    /// Takes a request out that does not wait any more; says whether it was there.
    pub(crate) fn remove(&mut self, ticket: Ticket, now: Duration) -> Option<Queued> {
        let (tenant, priority) = self.places.remove(&ticket)?;
        let line = line(priority);
        let lane = &mut self.tenants.get_mut(&tenant)?.lanes[line];
        let at = lane.queued.iter().position(|q| q.ticket == ticket)?;
        let queued = lane.queued.remove(at)?;
        lane.amount.take(&queued);
        self.amounts[line].take(&queued);
        self.rest(tenant, now);
        Some(queued)
    }

    /// The request that goes next, and, where that one must wait for room, the next one of a tenant of which nothing runs.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = Candidate> {
        let first = match (self.amounts[0].requests, self.amounts[1].requests) {
            (_, 0) => Priority::Interactive,
            (0, _) => Priority::Batch,
            _ if self.turns >= TURNS_BEFORE_BATCH => Priority::Batch,
            _ => Priority::Interactive,
        };
        let newcomer = || self.lowest(Priority::Interactive, |tenant| tenant.running == 0);
        let head = self.lowest(first, |_| true);
        head.into_iter()
            .chain(std::iter::once_with(newcomer).flatten())
    }

    /// A candidate goes: its prompt is charged, and its tenant has one more that runs.
    pub(crate) fn go(&mut self, candidate: &Candidate) {
        let line = line(candidate.priority);
        let is_batch = candidate.priority == Priority::Batch;
        let batch_waits = self.amounts[1].requests > 0;
        self.turns = match is_batch || !batch_waits {
            true => 0,
            false => self.turns.saturating_add(1),
        };
        let ticket = candidate.queued.ticket;
        self.places.remove(&ticket);
        let Some(tenant) = self.tenants.get_mut(&candidate.tenant) else {
            return;
        };
        tenant.running += 1;
        let lane = &mut tenant.lanes[line];
        self.floors[line] = self.floors[line].max(lane.counter);
        lane.counter = lane
            .counter
            .saturating_add(candidate.queued.cost.prompt.units());
        // A candidate is always the head of its lane.
        if let Some(queued) = lane.queued.pop_front() {
            lane.amount.take(&queued);
            self.amounts[line].take(&queued);
        }
    }

    /// Charges what a tenant was served, or gives back what was charged too much.
    pub(crate) fn charge(&mut self, tenant: &[u8], priority: Priority, units: i64) {
        if let Some(tenant) = self.tenants.get_mut(tenant) {
            let counter = &mut tenant.lanes[line(priority)].counter;
            *counter = counter.saturating_add_signed(units);
        }
    }

    /// A request that went has ended.
    pub(crate) fn ended(&mut self, tenant: &Bytes, now: Duration) {
        if let Some(entry) = self.tenants.get_mut(tenant) {
            entry.running = entry.running.saturating_sub(1);
            self.rest(tenant.clone(), now);
        }
    }

    /// The newest request of the tenant that has most waiting, by this measure: it makes room for another of `tenant`. Batch requests
    /// make room for interactive ones; otherwise only a tenant that has more waiting does.
    pub(crate) fn displaced_by(
        &self,
        tenant: &[u8],
        priority: Priority,
        measure: Measure,
    ) -> Option<Ticket> {
        let most_of = |line: usize| {
            let tenants = self.tenants.iter();
            let waiting = tenants.filter(|(_, tenant)| !tenant.lanes[line].queued.is_empty());
            // By name where they are equal, so that the same is chosen each time.
            waiting.max_by_key(|(name, tenant)| (tenant.lanes[line].amount.of(measure), *name))
        };
        let newest = |tenant: &Tenant, line: usize| {
            let last = tenant.lanes[line].queued.back();
            last.map(|queued| queued.ticket)
        };
        if priority == Priority::Interactive
            && let Some((_, most)) = most_of(1)
        {
            return newest(most, 1);
        }
        let line = line(priority);
        let own = self.tenants.get(tenant)?.lanes[line].amount.of(measure);
        let (_, most) = most_of(line)?;
        (most.lanes[line].amount.of(measure) > own).then(|| newest(most, line))?
    }

    /// All that wait, to be sent away.
    pub(crate) fn waiting(&self) -> Vec<Ticket> {
        self.places.keys().copied().collect()
    }

    /// The oldest request of the tenant with the lowest counter among those that `may`.
    fn lowest(&self, priority: Priority, may: impl Fn(&Tenant) -> bool) -> Option<Candidate> {
        let line = line(priority);
        let waiting = self.tenants.iter().filter_map(|(name, tenant)| {
            let queued = tenant.lanes[line].queued.front()?;
            may(tenant).then_some((name, tenant, queued))
        });
        // Of equals the one that waits longer: nobody is passed for ever by tenants that were never seen before.
        let lowest =
            waiting.min_by_key(|(_, tenant, queued)| (tenant.lanes[line].counter, queued.ticket));
        lowest.map(|(name, tenant, queued)| Candidate {
            tenant: name.clone(),
            priority,
            queued: *queued,
            is_newcomer: tenant.running == 0 && priority == Priority::Interactive,
        })
    }

    fn lowest_counter(&self, line: usize) -> Option<u64> {
        let lanes = self.tenants.values().map(|tenant| &tenant.lanes[line]);
        let waiting = lanes.filter(|lane| !lane.queued.is_empty());
        waiting.map(|lane| lane.counter).min()
    }

    /// Notes when a tenant has nothing to do any more.
    fn rest(&mut self, name: Bytes, now: Duration) {
        if let Some(tenant) = self.tenants.get_mut(&name)
            && tenant.running == 0
            && tenant.waits_nowhere()
            && tenant.idle_since.is_none()
        {
            tenant.idle_since = Some(now);
            self.idle.insert((now, name));
        }
        self.forget(now);
    }

    /// Forgets tenants that did nothing for long, and those that are too many.
    fn forget(&mut self, now: Duration) {
        while let Some((since, _)) = self.idle.first() {
            if self.idle.len() <= MAX_REMEMBERED && now.saturating_sub(*since) < REMEMBERED {
                break;
            }
            if let Some((_, name)) = self.idle.pop_first() {
                self.tenants.remove(&name);
            }
        }
    }
}

impl Tenant {
    fn waits_nowhere(&self) -> bool {
        self.lanes.iter().all(|lane| lane.queued.is_empty())
    }
}

fn line(priority: Priority) -> usize {
    match priority {
        Priority::Interactive => 0,
        Priority::Batch => 1,
    }
}

#[cfg(test)]
mod tests;
