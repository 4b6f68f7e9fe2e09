//! What is let in, what waits, and what is sent away. Pure: time and what the groups can take come in as values, and what is to be done comes out
//! as verdicts.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use inkstone_interface::picture_geometry::PictureGeometry;

use super::{
    cost::{PromptCost, RequestCost, output_units},
    fair_queue::{Amount, Candidate, FairQueue, Measure, Queued, Ticket},
    room::Room,
    shed::ShedReason,
    throughput::Throughput,
};
use crate::{
    request::{ChatRequest, Content},
    worker_client::Priority,
};

/// The share of places, of each kind, that is kept for tenants of which nothing runs, while there is more than one tenant: so
/// that one of them need not wait for another's answer to end. A sixteenth costs a lone crowd that much of a batch.
const KEPT_SHARE: u64 = 16;
/// The share of their places that groups are given on top while there is one tenant only, so that no place is empty while the next request
/// is on its way.
const SURPLUS_SHARE: u64 = 8;
/// The share of the caches that prompts may fill; answers grow into the rest before somebody has to give way.
const FILLED_PERCENT: u64 = 90;
/// The same for tenants of which nothing runs, and for a lone one.
const FILLED_PERCENT_NEWCOMER: u64 = 95;
/// The least and the most that a client is told to wait.
const RETRY_AFTER: std::ops::RangeInclusive<f64> = 0.1..=60.0;

/// Bounds of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Requests that run at once, whatever the groups can take.
    pub(crate) running: usize,
    pub(crate) queued: usize,
    pub(crate) queued_per_tenant: usize,
    pub(crate) queued_tokens: u64,
    pub(crate) queued_tokens_per_tenant: u64,
    pub(crate) queued_bytes: u64,
}

/// Who asks for what.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) tenant: Bytes,
    pub(crate) priority: Priority,
    pub(crate) cost: RequestCost,
    /// It goes on with what was begun before: let in while no others are any more.
    pub(crate) goes_on: bool,
}

impl Asked {
    /// What `request` asks of a model that takes pictures so.
    pub(crate) fn by(request: &ChatRequest, pictures: &PictureGeometry) -> Self {
        Self {
            tenant: request.tenant.clone(),
            priority: request.priority,
            cost: RequestCost::estimate(request, pictures),
            goes_on: match &request.content {
                Content::Chat { .. } => false,
                Content::Composition(composed) => composed.goes_on,
            },
        }
    }
}

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may run.
    Go(Ticket),
    /// It is sent away.
    Shed(Ticket, ShedReason),
}

/// Requests that run and requests that wait.
#[derive(Debug)]
pub(crate) struct AdmissionQueue {
    bounds: Bounds,
    queue: FairQueue,
    running: HashMap<Ticket, Running>,
    sequences: u64,
    /// Prompt positions of requests that run and have said nothing yet.
    pending_tokens: u64,
    /// Those of them that are to be computed, as far as is known what groups have in their caches.
    pending_rows: u64,
    throughput: Throughput,
    next_ticket: u64,
}

/// A request that was let in and has not ended.
#[derive(Debug)]
struct Running {
    tenant: Bytes,
    priority: Priority,
    /// Charged so far for its prompt.
    prompt: PromptCost,
    sequences: u64,
    is_pending: bool,
    /// While it is pending: positions of its prompt that are to be computed.
    rows: u64,
    /// Nothing of its tenant ran when it went, but others did: it waits for no prompt of theirs.
    goes_first: bool,
    /// All its tokens are drawn: it takes no place in a group any more, though they may not be read yet.
    is_drawn: bool,
    output_tokens: u64,
}

impl AdmissionQueue {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            queue: FairQueue::default(),
            running: HashMap::new(),
            sequences: 0,
            pending_tokens: 0,
            pending_rows: 0,
            throughput: Throughput::default(),
            next_ticket: 0,
        }
    }

    /// A request came. Whether it goes, waits or is sent away is among the verdicts, which may be about others too.
    pub(crate) fn enter(
        &mut self,
        asked: Asked,
        room: &Room,
        now: Duration,
    ) -> (Ticket, Vec<Verdict>) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let Asked {
            tenant,
            priority,
            cost,
            goes_on: _,
        } = asked;
        let output = self.throughput.expected_output(cost.max_output_tokens);
        let queued = Queued {
            ticket,
            cost,
            tokens: cost.prompt.tokens().saturating_add(output),
            since: now,
        };
        self.queue.push(tenant.clone(), priority, queued);
        let mut verdicts = self.pump(room);
        if !self.running.contains_key(&ticket) {
            self.keep_bounds(ticket, &tenant, priority, now, &mut verdicts);
        }
        (ticket, verdicts)
    }

    /// Lets go who can: called when something ended, or the groups have more room.
    pub(crate) fn pump(&mut self, room: &Room) -> Vec<Verdict> {
        let mut verdicts = vec![];
        while self.queue.amount().requests > 0 {
            let Some(next) = self.queue.candidates().find(|next| self.fits(next, room)) else {
                break;
            };
            self.go(&next);
            verdicts.push(Verdict::Go(next.queued.ticket));
        }
        verdicts
    }

    /// A request is over, or nobody waits for it any more, whether it ran or waited.
    pub(crate) fn leave(&mut self, ticket: Ticket, now: Duration) {
        self.all_drawn(ticket, now);
        if let Some(gone) = self.running.remove(&ticket) {
            if gone.is_pending {
                self.pending_tokens -= gone.prompt.tokens();
                self.pending_rows -= gone.rows;
            } else {
                self.throughput.answered(gone.output_tokens);
            }
        } else {
            self.queue.remove(ticket, now);
        }
    }

    /// Nothing more is drawn for a request: its place in a group is free, and its tenant has one less that runs. It counts among the
    /// requests of this coordinator until its answer is read.
    pub(crate) fn all_drawn(&mut self, ticket: Ticket, now: Duration) {
        let Some(running) = self.running.get_mut(&ticket) else {
            return;
        };
        if !std::mem::replace(&mut running.is_drawn, true) {
            self.sequences -= running.sequences;
            self.queue.ended(&running.tenant, now);
        }
    }

    /// The prompt of a request that runs is known: what was charged for the guess is put right.
    pub(crate) fn rendered(&mut self, ticket: Ticket, prompt: PromptCost) {
        let Some(running) = self.running.get_mut(&ticket) else {
            return;
        };
        let guess = std::mem::replace(&mut running.prompt, prompt);
        if running.is_pending {
            self.pending_tokens -= guess.tokens();
            self.pending_tokens += prompt.tokens();
            self.pending_rows -= std::mem::replace(&mut running.rows, prompt.tokens());
            self.pending_rows += running.rows;
        }
        let units = i128::from(prompt.units()) - i128::from(guess.units());
        let units = i64::try_from(units).unwrap_or(0);
        self.queue.charge(&running.tenant, running.priority, units);
    }

    /// A group was chosen for a request that runs, which has so many positions of its prompt to compute.
    pub(crate) fn routed(&mut self, ticket: Ticket, rows: u64) {
        if let Some(running) = self.running.get_mut(&ticket)
            && running.is_pending
        {
            self.pending_rows -= std::mem::replace(&mut running.rows, rows);
            self.pending_rows += rows;
        }
    }

    /// Whether a request that runs is to stand in front in its group's own queue: tenants take turns there too.
    pub(crate) fn goes_first(&self, ticket: Ticket) -> bool {
        let running = self.running.get(&ticket);
        running.is_some_and(|running| running.goes_first)
    }

    /// A request got so many more tokens of its answers.
    pub(crate) fn drawn(&mut self, ticket: Ticket, tokens: u64, now: Duration) {
        let Some(running) = self.running.get_mut(&ticket) else {
            return;
        };
        running.output_tokens = running.output_tokens.saturating_add(tokens);
        let mut served = tokens;
        if std::mem::take(&mut running.is_pending) {
            let prompt = running.prompt.tokens();
            self.pending_tokens -= prompt;
            self.pending_rows -= std::mem::take(&mut running.rows);
            served = served.saturating_add(prompt);
        }
        self.throughput.served(served, now);
        let units = i64::try_from(output_units(tokens)).unwrap_or(i64::MAX);
        self.queue.charge(&running.tenant, running.priority, units);
    }

    /// When a request that is sent away now should come again: when what is ahead of it will have been served; none where no
    /// rate is known.
    pub(crate) fn retry_after(
        &mut self,
        tenant: &[u8],
        reason: ShedReason,
        cost: &RequestCost,
        room: &Room,
        now: Duration,
    ) -> Option<Duration> {
        let all = self.queue.amount().tokens;
        let ahead = match reason {
            // The others' turns come between those of the tenant.
            ShedReason::TenantRequests { .. }
            | ShedReason::TenantTokens { .. }
            | ShedReason::Displaced => {
                let own = self.queue.amount_of_tenant(tenant).tokens;
                own.saturating_mul(self.queue.num_waiting_tenants().max(1) as u64)
                    .min(all)
            }
            ShedReason::Requests { .. }
            | ShedReason::Tokens { .. }
            | ShedReason::Bytes { .. }
            | ShedReason::WaitedTooLong { .. } => all,
        };
        let output = self.throughput.expected_output(cost.max_output_tokens);
        let own = cost.prompt.tokens().saturating_add(output);
        let seen = self.throughput.rate(now);
        let rate = seen.or(room.rows_per_second.map(|rate| rate as f64))?;
        let seconds = ahead.saturating_add(own) as f64 / rate;
        let seconds = seconds.clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end());
        Some(Duration::from_secs_f64(seconds))
    }

    /// All that wait, to be sent away.
    pub(crate) fn waiting(&self) -> Vec<Ticket> {
        self.queue.waiting()
    }

    /// What waits with this priority.
    pub(crate) fn queued(&self, priority: Priority) -> Amount {
        self.queue.amount_of(priority)
    }

    /// Whether a request may go now.
    fn fits(&self, next: &Candidate, room: &Room) -> bool {
        let running = self.running.len();
        if running == 0 {
            // Whatever the groups say: somebody else may fill them, and they have a queue of their own.
            return self.bounds.running > 0;
        }
        let (newcomer, is_lone) = (next.is_newcomer, self.queue.num_tenants() < 2);
        // What is kept back from this request.
        let kept = |all: u64| match newcomer || is_lone {
            true => 0,
            false => all / KEPT_SHARE,
        };
        let most = self.bounds.running as u64;
        let has_place = (running as u64) < most - kept(most);
        let has_sequences = room.sequences.is_none_or(|all| {
            // More than a half wait for no more than that: the group's own queue sees to the rest.
            let wanted = u64::from(next.queued.cost.sequences).min(all / 2).max(1);
            let surplus = if is_lone { all / SURPLUS_SHARE } else { 0 };
            self.sequences + wanted <= all - kept(all) + surplus
        });
        let prompt = next.queued.cost.prompt.tokens();
        let has_tokens = room.tokens.is_none_or(|tokens| {
            let percent = match newcomer || is_lone {
                true => FILLED_PERCENT_NEWCOMER,
                false => FILLED_PERCENT,
            };
            let taken = tokens.used + self.pending_tokens + prompt;
            taken <= tokens.total * percent / 100
        });
        let is_near = newcomer
            || room
                .ahead_tokens
                .is_none_or(|ahead| self.pending_rows == 0 || self.pending_rows + prompt <= ahead);
        has_place && has_sequences && has_tokens && is_near
    }

    fn go(&mut self, next: &Candidate) {
        self.queue.go(next);
        let cost = next.queued.cost;
        let running = Running {
            tenant: next.tenant.clone(),
            priority: next.priority,
            prompt: cost.prompt,
            sequences: cost.sequences.into(),
            is_pending: true,
            rows: cost.prompt.tokens(),
            goes_first: next.is_newcomer
                && next.priority == Priority::Interactive
                && !self.running.is_empty(),
            is_drawn: false,
            output_tokens: 0,
        };
        self.sequences += running.sequences;
        self.pending_tokens += cost.prompt.tokens();
        self.pending_rows += cost.prompt.tokens();
        self.running.insert(next.queued.ticket, running);
    }

    /// Sends away whoever is too many now that this request waits: itself, or one of a tenant that has more waiting.
    fn keep_bounds(
        &mut self,
        ticket: Ticket,
        tenant: &Bytes,
        priority: Priority,
        now: Duration,
        verdicts: &mut Vec<Verdict>,
    ) {
        let own = self.queue.amount_of_tenant(tenant);
        let bounds = self.bounds;
        let limit = bounds.queued_per_tenant;
        if own.requests > limit && bounds.queued > 0 {
            return self.shed(ticket, ShedReason::TenantRequests { limit }, now, verdicts);
        }
        let limit = bounds.queued_tokens_per_tenant;
        if own.tokens > limit {
            return self.shed(ticket, ShedReason::TenantTokens { limit }, now, verdicts);
        }
        while let Some((measure, reason)) = self.passed_bound() {
            let other = self.queue.displaced_by(tenant, priority, measure);
            match other.filter(|&other| other != ticket) {
                Some(other) => self.shed(other, ShedReason::Displaced, now, verdicts),
                None => return self.shed(ticket, reason, now, verdicts),
            }
        }
    }

    fn passed_bound(&self) -> Option<(Measure, ShedReason)> {
        let (all, bounds) = (self.queue.amount(), self.bounds);
        if all.requests > bounds.queued {
            let limit = bounds.queued;
            return Some((Measure::Requests, ShedReason::Requests { limit }));
        }
        if all.tokens > bounds.queued_tokens {
            let limit = bounds.queued_tokens;
            return Some((Measure::Tokens, ShedReason::Tokens { limit }));
        }
        let limit = bounds.queued_bytes;
        (all.bytes > limit).then_some((Measure::Bytes, ShedReason::Bytes { limit }))
    }

    fn shed(
        &mut self,
        ticket: Ticket,
        reason: ShedReason,
        now: Duration,
        verdicts: &mut Vec<Verdict>,
    ) {
        self.queue.remove(ticket, now);
        verdicts.push(Verdict::Shed(ticket, reason));
    }
}

#[cfg(test)]
mod tests;
