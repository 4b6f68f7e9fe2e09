//! Random company: whatever arrives, leaves, gives way, forks or is found in the cache, the books are right after every call,
//! and each request gets exactly what it gets alone.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::{STOP, ranks::Ranks};
use crate::*;

/// All that a request was told.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    /// Of a sampled request: answers it is to get.
    num_branches: usize,
    branches: BTreeMap<usize, Vec<u32>>,
    ended: BTreeMap<usize, EndReason>,
    beams: Vec<BeamAnswer>,
    prompt_logprobs: Vec<Option<DrawnToken>>,
    is_over: bool,
}

#[derive(Clone, Debug)]
enum Action {
    Submit(EngineRequest),
    /// The `nth` of the live requests.
    Cancel(usize),
    Step,
}

/// A group: the engine, its ranks and the one who listens.
struct Group {
    scheduler: Scheduler,
    ranks: Ranks,
    in_flight: Option<(StepPlan, StepOutput)>,
    answers: BTreeMap<RequestId, Answer>,
    /// Steps until the pictures of a request are there.
    fetching: HashMap<RequestId, usize>,
    max_step_tokens: usize,
}

impl Group {
    fn new(limits: EngineLimits) -> Self {
        Self {
            max_step_tokens: limits.max_step_tokens,
            scheduler: Scheduler::new(limits),
            ranks: Ranks::default(),
            in_flight: None,
            answers: BTreeMap::new(),
            fetching: HashMap::new(),
        }
    }

    /// Queues a request that an earlier run was cut off in.
    fn resume(&mut self, request: EngineRequest) {
        let told = told(&request);
        assert!(self.submit(request.clone()), "{request:?}");
        self.answers.insert(request.id, told);
    }

    fn submit(&mut self, request: EngineRequest) -> bool {
        if self.scheduler.submit(request.clone()).is_err() {
            return false;
        }
        self.ranks.admit(&request);
        let num_branches = match request.decoding {
            Decoding::Sample { branches } => branches,
            Decoding::Beam(_) => 0,
        };
        self.answers.insert(
            request.id,
            Answer {
                num_branches,
                ..Answer::default()
            },
        );
        self.scheduler.check_integrity();
        true
    }

    fn cancel(&mut self, nth: usize) {
        let live: Vec<RequestId> = self
            .answers
            .iter()
            .filter(|(_, answer)| !answer.is_over)
            .map(|(id, _)| *id)
            .collect();
        if let Some(id) = live.get(nth % live.len().max(1)) {
            assert!(self.scheduler.cancel(*id));
            assert!(!self.scheduler.cancel(*id), "it is over");
            self.answers.remove(id);
            self.scheduler.check_integrity();
        }
    }

    /// Prepares while the step before is in flight. `early` is done between the two, where the plan is decided but not written.
    fn step(&mut self, prepare_ahead: bool, early: impl FnOnce(&mut Self)) -> bool {
        let ready: Vec<RequestId> = self
            .fetching
            .iter()
            .filter(|(_, steps)| **steps == 0)
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            self.fetching.remove(&id);
            if self.scheduler.pictures_ready(id) {
                self.ranks.pictures(id);
            }
        }
        self.fetching.values_mut().for_each(|steps| *steps -= 1);
        if !prepare_ahead {
            self.finish();
        }
        let mut prepared = self.scheduler.prepare();
        self.scheduler.check_integrity();
        early(self);
        self.finish();
        if prepare_ahead {
            self.scheduler.join(&mut prepared);
            self.scheduler.check_integrity();
        }
        let plan = self.scheduler.seal(prepared);
        self.scheduler.check_integrity();
        let events = self.scheduler.take_events();
        self.hear(events);
        let Some(plan) = plan else {
            return !self.fetching.is_empty();
        };
        assert!(plan.num_rows() <= self.max_step_tokens, "{plan}");
        let output = self.ranks.run(&plan);
        self.in_flight = Some((plan, output));
        true
    }

    fn finish(&mut self) {
        if let Some((plan, output)) = self.in_flight.take() {
            let events = self
                .scheduler
                .apply(&plan, &output)
                .expect("it answers the plan");
            self.scheduler.check_integrity();
            self.hear(events);
        }
    }

    fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            let id = event.request();
            let answer = self
                .answers
                .get_mut(&id)
                .expect("nothing is said of what was cancelled");
            assert!(!answer.is_over, "{event:?} after the end");
            match event {
                Event::Started { .. } => {}
                Event::NeedsPictures { .. } => assert!(self.fetching.insert(id, 3).is_none()),
                Event::PromptLogprobs { first, tokens, .. } => {
                    assert_eq!(first, answer.prompt_logprobs.len());
                    answer.prompt_logprobs.extend(tokens);
                }
                Event::Token {
                    branch,
                    index,
                    token,
                    ..
                } => {
                    assert!(!answer.ended.contains_key(&branch));
                    let tokens = answer.branches.entry(branch).or_default();
                    assert_eq!(tokens.len(), index, "each token once, in order");
                    tokens.push(token.token_id);
                }
                Event::Ended { branch, reason, .. } => {
                    assert!(answer.ended.insert(branch, reason).is_none());
                    answer.is_over = answer.ended.len() == answer.num_branches;
                }
                Event::Beams { answers, .. } => {
                    answer.beams = answers;
                    answer.is_over = true;
                }
                Event::Failed { reason, .. } => panic!("{id}: {reason:?}"),
            }
        }
    }

    /// Does as told; requests are named by their place, from `first` on. What is not a step may come between the hands of one as well.
    fn act(&mut self, actions: &[Action], first: u64, prepare_ahead: bool) {
        let mut actions = (first..).zip(actions).peekable();
        while let Some((number, action)) = actions.next() {
            if !matches!(action, Action::Step) {
                self.ask(number, action);
                continue;
            }
            let early = actions.next_if(|(_, next)| !matches!(next, Action::Step));
            self.step(prepare_ahead, |group| {
                if let Some((number, action)) = early {
                    group.ask(number, action);
                }
            });
        }
    }

    fn ask(&mut self, number: u64, action: &Action) {
        match action {
            Action::Submit(request) => {
                self.submit(EngineRequest {
                    id: RequestId(number),
                    ..request.clone()
                });
            }
            Action::Cancel(nth) => self.cancel(*nth),
            Action::Step => unreachable!("the caller steps"),
        }
    }

    fn drain(&mut self, prepare_ahead: bool) {
        for _ in 0..5000 {
            if !self.step(prepare_ahead, |_| {}) {
                break;
            }
        }
        let load = self.scheduler.load();
        assert_eq!(
            (load.waiting, load.running, load.blocks_used),
            (0, 0, 0),
            "all come to their end"
        );
    }
}

fn limits() -> EngineLimits {
    EngineLimits {
        num_blocks: 24,
        max_step_tokens: 24,
        max_running: 8,
        max_waiting: 8,
        max_wait_steps: 12,
    }
}

fn run(actions: &[Action], limits: EngineLimits, prepare_ahead: bool) -> Group {
    let mut group = Group::new(limits);
    group.act(actions, 0, prepare_ahead);
    group.drain(prepare_ahead);
    group
}

fn alone(request: &EngineRequest) -> Answer {
    let limits = EngineLimits {
        num_blocks: 200,
        max_step_tokens: 200,
        ..limits()
    };
    let mut group = Group::new(limits);
    assert!(group.submit(request.clone()));
    group.drain(false);
    group.answers.remove(&request.id).expect("it was heard of")
}

/// Equal sizes, digests that differ in one bit, and ends at and off the edges of blocks.
fn picture() -> impl Strategy<Value = PromptSpan> {
    (0..6_u8).prop_map(|number| {
        let mut digest = [7; 32];
        digest[31] ^= number;
        PromptSpan::Picture {
            digest,
            num_tokens: [20, 20, 20, 20, 5, 32][usize::from(number)],
        }
    })
}

/// Few texts, so that prompts often begin alike.
fn text() -> impl Strategy<Value = PromptSpan> {
    (
        1..3_u32,
        prop_oneof![Just(1_usize), Just(7), Just(16), Just(30)],
    )
        .prop_map(|(kind, len)| {
            PromptSpan::Tokens((0..len as u32).map(|at| 1 + kind * at).collect())
        })
}

fn decoding() -> impl Strategy<Value = Decoding> {
    prop_oneof![
        4 => Just(Decoding::Sample { branches: 1 }),
        2 => (2..4_usize).prop_map(|branches| Decoding::Sample { branches }),
        2 => (1..4_usize, any::<bool>(), -1..3_i8).prop_map(|(width, early_stopping, penalty)| {
            let length_penalty = f32::from(penalty);
            Decoding::Beam(BeamParams { width, num_answers: width, length_penalty, early_stopping })
        }),
    ]
}

fn any_request() -> impl Strategy<Value = EngineRequest> {
    let prompt = prop::collection::vec(prop_oneof![picture(), text()], 1..4);
    (
        prompt,
        0..2_u8,
        decoding(),
        1..70_usize,
        any::<(bool, bool)>(),
        0..6_u8,
    )
        .prop_map(
            |(prompt, salt, decoding, max_new_tokens, (is_batch, pictures_ready), logprobs)| {
                EngineRequest {
                    id: RequestId(0),
                    prompt,
                    cache_salt: [salt; 32],
                    decoding,
                    max_new_tokens,
                    stop_token_ids: vec![STOP],
                    priority: if is_batch {
                        Priority::Batch
                    } else {
                        Priority::Interactive
                    },
                    prompt_logprobs: logprobs == 0,
                    pictures_ready,
                    resumed: Vec::new(),
                    first_in_line: false,
                }
            },
        )
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => any_request().prop_map(Action::Submit),
        1 => (0..8_usize).prop_map(Action::Cancel),
        8 => Just(Action::Step),
    ];
    prop::collection::vec(action, 1..90)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_request_gets_what_it_gets_alone(
        actions in actions(),
        prepare_ahead in any::<bool>(),
        num_blocks in 10..30_usize,
        max_step_tokens in 8..40_usize,
    ) {
        let group = run(&actions, EngineLimits { num_blocks, max_step_tokens, ..limits() }, prepare_ahead);
        for (id, answer) in &group.answers {
            let Action::Submit(request) = &actions[id.0 as usize] else { unreachable!() };
            let request = EngineRequest { id: *id, ..request.clone() };
            prop_assert_eq!(answer, &alone(&request), "request {}", id);
        }
    }
}

/// What a request needs to go on elsewhere. Of each branch some tokens were drawn last that nobody heard of; or all were heard of, and
/// not the end.
fn cut_off(request: &EngineRequest, answer: &Answer, unheard: &[usize]) -> EngineRequest {
    let branches = match request.decoding {
        Decoding::Sample { branches } => branches,
        Decoding::Beam(_) => 0,
    };
    let resumed = (0..branches).zip(unheard).map(|(branch, unheard)| {
        let drawn = answer.branches.get(&branch).cloned().unwrap_or_default();
        let heard = drawn.len().saturating_sub(unheard / 2);
        Resumed {
            branch,
            has_ended: *unheard == 0 && answer.ended.contains_key(&branch),
            token_ids: drawn[..heard].to_vec(),
        }
    });
    EngineRequest {
        resumed: resumed.collect(),
        first_in_line: true,
        pictures_ready: false,
        ..request.clone()
    }
}

/// What the owner of a resumed request heard before.
fn told(request: &EngineRequest) -> Answer {
    let Decoding::Sample { branches } = request.decoding else {
        return Answer::default();
    };
    let mut told = Answer {
        num_branches: branches,
        ..Answer::default()
    };
    for known in &request.resumed {
        if !known.token_ids.is_empty() {
            told.branches.insert(known.branch, known.token_ids.clone());
        }
        if known.has_ended {
            let is_stop = known.token_ids.last() == Some(&STOP);
            let reason = match is_stop {
                true => EndReason::Stop,
                false => EndReason::Length,
            };
            told.ended.insert(known.branch, reason);
        }
    }
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A group is gone in the middle of a run; another takes its requests over, beside its own.
    #[test]
    fn each_request_that_moves_gets_what_it_gets_alone(
        before in actions(),
        beside in actions(),
        unheard in prop::collection::vec(0..6_usize, 16),
        num_blocks in 10..30_usize,
        prepare_ahead in any::<bool>(),
    ) {
        let request_of = |id: &RequestId| match &before[id.0 as usize] {
            Action::Submit(request) => EngineRequest { id: *id, ..request.clone() },
            Action::Cancel(_) | Action::Step => unreachable!("only submissions have answers"),
        };
        let limits = EngineLimits { num_blocks, ..limits() };
        let mut gone = Group::new(limits.clone());
        gone.act(&before, 0, prepare_ahead);
        let mut group = Group::new(EngineLimits { max_waiting: 100, ..limits });
        let half = beside.len() / 2;
        // Other names than those of the requests that move.
        group.act(&beside[..half], 1000, prepare_ahead);
        let mut moved = Vec::new();
        let cut = gone.answers.iter().filter(|(_, answer)| !answer.is_over);
        for (at, (id, answer)) in cut.enumerate() {
            let request = cut_off(&request_of(id), answer, &unheard[at % 8..]);
            if request.answers_to_tell() > 0 {
                group.resume(request);
                moved.push(*id);
            }
        }
        group.act(&beside[half..], 2000, prepare_ahead);
        group.drain(prepare_ahead);
        for id in moved {
            if let Some(answer) = group.answers.get(&id) {
                prop_assert_eq!(answer, &alone(&request_of(&id)), "request {}", id);
            }
        }
    }
}

/// The random runs above do meet what they are about.
#[test]
fn random_runs_preempt_evict_copy_and_hit() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut total = Stats::default();
    let mut copies = 0;
    for round in 0..150 {
        let actions = actions()
            .new_tree(&mut runner)
            .expect("no filters")
            .current();
        let group = run(&actions, limits(), round % 2 == 0);
        let stats = group.scheduler.stats();
        total.cached_tokens += stats.cached_tokens;
        total.evictions += stats.evictions;
        total.preemptions += stats.preemptions;
        copies += group.ranks.num_copies;
    }
    assert!(total.cached_tokens > 1000, "{total:?}");
    assert!(total.evictions > 100, "{total:?}");
    assert!(total.preemptions > 50, "{total:?}");
    assert!(copies > 100, "{copies} copies");
}
