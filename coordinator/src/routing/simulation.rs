//! The choice of groups against groups that are not there: prompts that share long beginnings, caches that hold some of them, steps that take
//! their time, and reports that are a quarter of a second old.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{CacheChange, Outlook, PrefixIndex, Router, RoutingPolicy};
use crate::cluster_load::LoadReport;

const BLOCK: usize = 16;
const NUM_GROUPS: usize = 4;
const NUM_BEGINNINGS: u64 = 40;
const BEGINNING_BLOCKS: u64 = 93;
/// Own blocks of a prompt, the last of which is begun only.
const OWN_BLOCKS: u64 = 5;
const ANSWER_TOKENS: usize = 16;
/// More than a group's share of the beginnings, and less than all of them.
const CACHE_BLOCKS: usize = 2500;
const STEP_ROWS: usize = 1024;
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// What a step takes for the weights, and rows a second beyond what that hides.
const LEAST_STEP: Duration = Duration::from_millis(5);
const ROWS_PER_SECOND: f64 = 28_000.0;

/// What groups say of their speed.
#[derive(Clone, Copy, PartialEq)]
enum Rates {
    /// About how fast they compute prompts; group 0 is so many times slower than the others.
    OfPrompts { slow_factor: f64 },
    /// Rows by seconds, lately: how busy they are.
    OfAllSteps,
}

struct Prompt {
    blocks: Vec<u64>,
}

impl Prompt {
    /// Those of all requests from the same draws, whatever the policy.
    fn new(number: u64) -> Self {
        let beginning = super::scatter(7, number as usize) % NUM_BEGINNINGS;
        let shared = (0..BEGINNING_BLOCKS).map(|at| 1 + beginning * 1000 + at);
        let own = (0..OWN_BLOCKS).map(|at| 1_000_000 + number * 1000 + at);
        Self {
            blocks: shared.chain(own).collect(),
        }
    }

    fn num_tokens(&self) -> usize {
        self.blocks.len() * BLOCK - BLOCK / 2
    }

    fn covered(&self, holds: impl Fn(u64) -> bool) -> usize {
        let whole = &self.blocks[..self.blocks.len() - 1];
        whole.iter().take_while(|block| holds(**block)).count() * BLOCK
    }
}

/// Blocks by their last use.
#[derive(Default)]
struct Cache {
    used: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
    clock: u64,
    added: Vec<u64>,
    removed: Vec<u64>,
}

impl Cache {
    /// The beginning is used last: it is given up after what follows it.
    fn use_all(&mut self, blocks: &[u64]) {
        for &block in blocks.iter().rev() {
            self.clock += 1;
            match self.used.insert(block, self.clock) {
                Some(before) => drop(self.by_use.remove(&before)),
                None => self.added.push(block),
            }
            self.by_use.insert(self.clock, block);
        }
        while self.used.len() > CACHE_BLOCKS {
            let (_, block) = self.by_use.pop_first().expect("as many as in `used`");
            self.used.remove(&block);
            self.removed.push(block);
        }
    }
}

struct Run {
    prompt: Prompt,
    prefill_left: usize,
    answer_left: usize,
}

struct Group {
    speed: f64,
    cache: Cache,
    queue: VecDeque<Prompt>,
    running: Vec<Run>,
    /// What the step that runs computes of each running prompt, and its end.
    step: Option<(Vec<usize>, Duration)>,
    /// Faded rows and seconds.
    lately: (f64, f64),
    // What the coordinator knows.
    known: PrefixIndex,
    report: Option<(LoadReport, Duration)>,
    unreported: Vec<(Duration, usize)>,
    num_running: usize,
}

struct World {
    begin: Instant,
    now: Duration,
    rates: Rates,
    router: Router,
    groups: Vec<Group>,
    cached: usize,
    asked: usize,
    sent_to: [usize; NUM_GROUPS],
}

impl World {
    fn new(policy: RoutingPolicy, rates: Rates) -> Self {
        let group = |index| Group {
            speed: match rates {
                Rates::OfPrompts { slow_factor } if index == 0 => ROWS_PER_SECOND / slow_factor,
                _ => ROWS_PER_SECOND,
            },
            cache: Cache::default(),
            queue: VecDeque::new(),
            running: vec![],
            step: None,
            lately: (0.0, 0.0),
            known: PrefixIndex::default(),
            report: Some((LoadReport::default(), Duration::ZERO)),
            unreported: vec![],
            num_running: 0,
        };
        Self {
            begin: Instant::now(),
            now: Duration::ZERO,
            rates,
            router: Router::new(policy),
            groups: (0..NUM_GROUPS).map(group).collect(),
            cached: 0,
            asked: 0,
            sent_to: [0; NUM_GROUPS],
        }
    }

    fn send(&mut self, number: u64) {
        let prompt = Prompt::new(number);
        let at = self.begin + self.now;
        let outlooks = self.groups.iter().map(|group| Outlook {
            report: group.report.map(|(report, when)| (report, self.now - when)),
            rows_per_second: group
                .report
                .map_or(0.0, |(report, _)| report.rows_per_second),
            num_running: group.num_running,
            unreported_requests: group.unreported.len() as u32,
            unreported_rows: group.unreported.iter().map(|(_, rows)| *rows as u64).sum(),
            cached_tokens: prompt.covered(|block| group.known.holds(block, at)),
            is_avoided: false,
        });
        let outlooks: Vec<_> = outlooks.collect();
        let draw = super::scatter(3, number as usize);
        let chosen = self.router.rank(prompt.num_tokens(), &outlooks, draw)[0];
        let group = &mut self.groups[chosen];
        let rows = prompt.num_tokens() - outlooks[chosen].cached_tokens;
        group.unreported.push((self.now, rows));
        group.known.expect(prompt.blocks.iter().copied(), at);
        group.num_running += 1;
        group.queue.push_back(prompt);
        self.sent_to[chosen] += 1;
    }

    fn begin_step(&mut self, index: usize) {
        let group = &mut self.groups[index];
        for prompt in std::mem::take(&mut group.queue) {
            let cached = prompt.covered(|block| group.cache.used.contains_key(&block));
            self.cached += cached;
            self.asked += prompt.num_tokens();
            group.running.push(Run {
                prefill_left: prompt.num_tokens() - cached,
                prompt,
                answer_left: ANSWER_TOKENS,
            });
        }
        if group.running.is_empty() {
            return;
        }
        let mut left = STEP_ROWS;
        let rows = group.running.iter().map(|run| match run.prefill_left {
            0 => 1,
            prefill => {
                let rows = prefill.min(left);
                left -= rows;
                rows
            }
        });
        let rows: Vec<usize> = rows.collect();
        let num_rows = rows.iter().sum::<usize>() as f64;
        let took = Duration::from_secs_f64(num_rows / group.speed).max(LEAST_STEP);
        let (rows_lately, seconds) = group.lately;
        group.lately = (
            rows_lately * 0.95 + num_rows,
            seconds * 0.95 + took.as_secs_f64(),
        );
        group.step = Some((rows, self.now + took));
    }

    /// How many requests are done with the step.
    fn end_step(&mut self, index: usize) -> usize {
        let group = &mut self.groups[index];
        let Some((rows, _)) = group.step.take() else {
            return 0;
        };
        for (run, rows) in group.running.iter_mut().zip(rows) {
            let had_prefill = run.prefill_left > 0;
            run.prefill_left = run.prefill_left.saturating_sub(rows);
            if run.prefill_left == 0 {
                run.answer_left -= usize::from(rows > 0);
            }
            if had_prefill && run.prefill_left == 0 {
                group.cache.use_all(&run.prompt.blocks);
            }
        }
        let before = group.running.len();
        group.running.retain(|run| run.answer_left > 0);
        let num_done = before - group.running.len();
        group.num_running -= num_done;
        num_done
    }

    fn report(&mut self) {
        for (index, group) in self.groups.iter_mut().enumerate() {
            let prefill = group.running.iter().map(|run| run.prefill_left);
            let queued = group.queue.iter().map(Prompt::num_tokens);
            let (rows, seconds) = group.lately;
            let rate = match self.rates {
                // Estimates differ.
                _ if seconds == 0.0 => 0.0,
                Rates::OfPrompts { .. } => group.speed * (0.85 + 0.1 * index as f64),
                Rates::OfAllSteps => rows / seconds,
            };
            let report = LoadReport {
                waiting: group.queue.len() as u32,
                running: group.running.len() as u32,
                prefill_tokens: (prefill.sum::<usize>() + queued.sum::<usize>()) as u64,
                blocks_cached: group.cache.used.len() as u32,
                blocks_total: CACHE_BLOCKS as u32,
                rows_per_second: rate as f32,
                ..LoadReport::default()
            };
            group.report = Some((report, self.now));
            group.unreported.clear();
            let held = &group.cache.used;
            let removed: Vec<_> = std::mem::take(&mut group.cache.removed);
            let added: Vec<_> = std::mem::take(&mut group.cache.added);
            group.known.apply(&CacheChange {
                reset: false,
                added: added
                    .into_iter()
                    .filter(|block| held.contains_key(block))
                    .collect(),
                removed: removed
                    .into_iter()
                    .filter(|block| !held.contains_key(block))
                    .collect(),
            });
        }
    }

    fn run(mut self, requests: u64, concurrency: usize) -> Came {
        let (mut next, mut num_done) = (0, 0);
        let mut next_report = REPORT_EVERY;
        while num_done < requests {
            let open = (next - num_done) as usize;
            for _ in open..concurrency.min(open + (requests - next) as usize) {
                self.send(next);
                next += 1;
            }
            for index in 0..NUM_GROUPS {
                if self.groups[index].step.is_none() {
                    self.begin_step(index);
                }
            }
            let ends = self
                .groups
                .iter()
                .filter_map(|group| Some(group.step.as_ref()?.1));
            self.now = ends.chain([next_report]).min().expect("there is a report");
            if self.now == next_report {
                self.report();
                next_report += REPORT_EVERY;
            }
            for index in 0..NUM_GROUPS {
                let group = &self.groups[index];
                if group.step.as_ref().is_some_and(|(_, end)| *end <= self.now) {
                    num_done += self.end_step(index) as u64;
                }
            }
        }
        Came {
            hit_rate: self.cached as f64 / self.asked as f64,
            requests_per_second: requests as f64 / self.now.as_secs_f64(),
            sent_to: self.sent_to,
        }
    }
}

/// What came of it.
#[derive(Debug)]
struct Came {
    hit_rate: f64,
    requests_per_second: f64,
    sent_to: [usize; NUM_GROUPS],
}

const REQUESTS: u64 = 600;
const ALIKE: Rates = Rates::OfPrompts { slow_factor: 1.0 };

fn came(policy: RoutingPolicy, rates: Rates) -> Came {
    World::new(policy, rates).run(REQUESTS, 16)
}

/// When each beginning is computed once.
fn best_hit_rate() -> f64 {
    let mut seen = HashSet::new();
    let prompts: Vec<_> = (0..REQUESTS).map(Prompt::new).collect();
    let again = prompts
        .iter()
        .filter(|prompt| !seen.insert(prompt.blocks[0]));
    let found = again.count() * BEGINNING_BLOCKS as usize * BLOCK;
    found as f64 / prompts.iter().map(Prompt::num_tokens).sum::<usize>() as f64
}

#[test]
fn prompts_that_begin_alike_find_their_beginnings_and_all_groups_work() {
    let by_cost = came(RoutingPolicy::PredictedCost, ALIKE);
    let best = best_hit_rate();
    assert!(best - by_cost.hit_rate <= 0.05, "{by_cost:?}, best {best}");
    for other in [RoutingPolicy::RoundRobin, RoutingPolicy::LeastLoaded] {
        let other = came(other, ALIKE);
        assert!(
            by_cost.hit_rate > other.hit_rate + 0.1,
            "{by_cost:?} {other:?}"
        );
        assert!(
            by_cost.requests_per_second >= other.requests_per_second,
            "{by_cost:?} {other:?}"
        );
    }
    for sent in by_cost.sent_to {
        assert!(
            sent as u64 > REQUESTS / NUM_GROUPS as u64 / 3,
            "{by_cost:?}"
        );
    }
}

#[test]
fn a_slow_group_gets_less_and_the_others_bear_it() {
    let slow = came(
        RoutingPolicy::PredictedCost,
        Rates::OfPrompts { slow_factor: 5.0 },
    );
    let [first, others @ ..] = slow.sent_to;
    for other in others {
        assert!(2 * first < other, "{slow:?}");
    }
    assert!(best_hit_rate() - slow.hit_rate <= 0.08, "{slow:?}");
}

/// Rows by seconds are higher where more prompts are computed, so that who has some gets more, and who has none looks slow. That is why leaders
/// tell what a row more takes.
#[test]
fn rates_that_tell_how_busy_groups_are_would_load_them_unevenly() {
    let few = |rates| World::new(RoutingPolicy::PredictedCost, rates).run(REQUESTS, 2);
    let (uneven, even) = (few(Rates::OfAllSteps), few(ALIKE));
    let spread = |came: &Came| {
        let [most, least] = [came.sent_to.iter().max(), came.sent_to.iter().min()];
        *most.expect("groups") as f64 / *least.expect("groups") as f64
    };
    assert!(best_hit_rate() - even.hit_rate <= 0.05, "{even:?}");
    assert!(spread(&uneven) > 2.0 * spread(&even), "{uneven:?} {even:?}");
}
