//! A group of ranks in this process, driven as the leader drives it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use inkstone_engine::{
    BeamAnswer, Decoding, DrawFailure, DrawnToken, EndReason, EngineLimits, EngineRequest, Event,
    Priority, PromptSpan, RequestId, Resumed, Scheduler, Stats,
};
use inkstone_model::{
    checkpoint::{Checkpoint, Shard},
    clip::PictureFeatures,
    collectives::{Collective, LocalCollective, SingleCollective},
    device::Device,
    internlm2::LanguageModel,
    load_options::LoadOptions,
    sampling::SamplingParams,
    synthesize::{Preset, SynthesizeOptions, synthesize},
    tensor::DType,
};

use super::super::*;
use crate::{
    constraint::ConstraintVocabulary,
    executor::{PictureDigest, PromptPart, SequenceSampling},
    group::rank::RankRunner,
    loading::vocabulary_in,
};

/// A picture's features in the tiny model: the tower's width.
const FEATURE_WIDTH: usize = 64;

/// The model, loaded for one rank and for two, and what constraints need.
pub(super) struct Model {
    one: Vec<Arc<LanguageModel>>,
    two: Vec<Arc<LanguageModel>>,
    pub(super) vocabulary: Arc<ConstraintVocabulary>,
}

pub(super) fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny");
        let options = SynthesizeOptions {
            dtype: DType::F32,
            ..SynthesizeOptions::default()
        };
        synthesize(Preset::Tiny, 5, &path, options, &|_| {}).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let options = LoadOptions {
            dtype: None,
            device: Device::cpu(1),
        };
        let load = |world_size: usize| {
            let shards = (0..world_size).map(|rank| Shard { rank, world_size });
            let ranks = shards
                .map(|shard| LanguageModel::load(&checkpoint, shard, &options, &|_| {}).unwrap());
            ranks.map(Arc::new).collect()
        };
        Model {
            one: load(1),
            two: load(2),
            vocabulary: vocabulary_in(&path, &checkpoint).unwrap(),
        }
    })
}

/// The ranks of a group on their threads.
fn executor(setting: Setting) -> DeviceExecutor {
    let deadline = Duration::from_secs(60);
    let (runners, channel) = runners(setting.world_size, setting.num_blocks, deadline);
    let mut runners = runners.into_iter();
    let own = runners.next().unwrap();
    let peers = runners.map(|runner| {
        let rank = LocalRank::start(runner, channel.0.clone()).unwrap();
        Box::new(rank) as Box<dyn PeerRank>
    });
    let peers = peers.collect();
    DeviceExecutor::start(own, peers, channel, deadline).unwrap()
}

pub(super) fn runners(
    world_size: usize,
    num_blocks: usize,
    deadline: Duration,
) -> (Vec<RankRunner>, (RankFailures, RankReports)) {
    let (models, ends): (_, Vec<Arc<dyn Collective>>) = match world_size {
        1 => (&model().one, vec![Arc::new(SingleCollective)]),
        2 => {
            let ends = LocalCollective::group(2, deadline).into_iter();
            let ends = ends.map(|end| Arc::new(end) as Arc<dyn Collective>);
            (&model().two, ends.collect())
        }
        other => panic!("the model is not loaded for {other} ranks"),
    };
    let vocabulary = &model().vocabulary;
    let runners = models.iter().zip(ends).map(|(model, end)| {
        RankRunner::new(Arc::clone(model), num_blocks, end, Arc::clone(vocabulary))
    });
    (runners.collect(), RankFailures::channel())
}

/// A request of a test.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) prompt: Vec<PromptPart>,
    pub(super) sampling: SequenceSampling,
    pub(super) stop_token_ids: Vec<u32>,
    pub(super) decoding: Decoding,
    pub(super) max_new_tokens: usize,
    pub(super) priority: Priority,
    pub(super) prompt_logprobs: bool,
    pub(super) salt: u8,
    /// What an earlier run drew.
    pub(super) resumed: Vec<Resumed>,
}

impl Ask {
    pub(super) fn text(ids: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            prompt: vec![PromptPart::Tokens(ids)],
            sampling: SequenceSampling::default(),
            stop_token_ids: Vec::new(),
            decoding: Decoding::Sample { branches: 1 },
            max_new_tokens,
            priority: Priority::Interactive,
            prompt_logprobs: false,
            salt: 0,
            resumed: Vec::new(),
        }
    }

    pub(super) fn sampled(mut self, seed: u64) -> Self {
        self.sampling.params = SamplingParams {
            temperature: 0.9,
            top_p: 0.95,
            top_k: 50,
            repetition_penalty: 1.1,
            presence_penalty: 0.2,
            frequency_penalty: 0.1,
            seed,
            ..SamplingParams::default()
        };
        self
    }

    fn engine_request(&self, id: RequestId) -> EngineRequest {
        let span = |part: &PromptPart| match part {
            PromptPart::Tokens(ids) => PromptSpan::Tokens(ids.clone()),
            PromptPart::Picture { digest, num_tokens } => PromptSpan::Picture {
                digest: digest.0,
                num_tokens: *num_tokens,
            },
        };
        EngineRequest {
            id,
            prompt: self.prompt.iter().map(span).collect(),
            cache_salt: [self.salt; 32],
            decoding: self.decoding,
            max_new_tokens: self.max_new_tokens,
            stop_token_ids: self.stop_token_ids.clone(),
            priority: self.priority,
            prompt_logprobs: self.prompt_logprobs,
            pictures_ready: false,
            resumed: self.resumed.clone(),
            first_in_line: !self.resumed.is_empty(),
        }
    }

    fn setup(&self, id: RequestId) -> RequestSetup {
        RequestSetup {
            id,
            prompt: self.prompt.clone(),
            sampling: self.sampling.clone(),
            stop_token_ids: self.stop_token_ids.clone(),
            resumed: self.resumed_by_branch(),
        }
    }

    fn resumed_by_branch(&self) -> Vec<Vec<u32>> {
        let mut drawn = vec![Vec::new(); 8];
        for known in &self.resumed {
            drawn[known.branch].clone_from(&known.token_ids);
        }
        drawn
    }

    /// What was told of it before.
    fn told(&self) -> Answer {
        let mut told = Answer::default();
        for known in &self.resumed {
            let drawn = &known.token_ids;
            if !drawn.is_empty() {
                told.branches.insert(known.branch, drawn.clone());
            }
            if known.has_ended {
                let stops = drawn
                    .last()
                    .is_some_and(|id| self.stop_token_ids.contains(id));
                let reason = match stops {
                    true => EndReason::Stop,
                    false => EndReason::Length,
                };
                told.ends.insert(known.branch, reason);
            }
        }
        told
    }

    fn pictures(&self) -> Vec<Arc<EncodedPicture>> {
        let mut pictures = BTreeMap::new();
        for part in &self.prompt {
            if let PromptPart::Picture { digest, num_tokens } = part {
                pictures.insert(*digest, features(*digest, *num_tokens));
            }
        }
        pictures.into_values().collect()
    }
}

/// The same digest always has the same features, and another one others.
fn features(digest: PictureDigest, num_tokens: usize) -> Arc<EncodedPicture> {
    let seed = f32::from(digest.0[0]);
    let value = |at: usize| ((at as f32 + 1.0) * (seed + 1.3)).sin();
    let data = (0..num_tokens * FEATURE_WIDTH).map(value).collect();
    Arc::new(EncodedPicture {
        digest,
        features: PictureFeatures::new(num_tokens, FEATURE_WIDTH, data),
    })
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// The tokens of each branch, in order.
    pub(super) branches: BTreeMap<usize, Vec<u32>>,
    /// The log-probabilities of those that were drawn in this run, where they were asked for.
    pub(super) logprobs: BTreeMap<usize, Vec<Option<f32>>>,
    pub(super) ends: BTreeMap<usize, EndReason>,
    pub(super) beams: Vec<BeamAnswer>,
    pub(super) prompt_logprobs: Vec<Option<DrawnToken>>,
    pub(super) failure: Option<DrawFailure>,
    pub(super) was_cancelled: bool,
}

/// What a run of a whole group showed.
pub(super) struct Outcome {
    pub(super) answers: Vec<Answer>,
    pub(super) stats: Stats,
    /// Requests whose pictures were asked for.
    pub(super) picture_requests: usize,
}

/// How a group is set up for a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) world_size: usize,
    pub(super) num_blocks: usize,
    pub(super) max_step_tokens: usize,
    pub(super) max_running: usize,
}

/// A request, the turn it comes, and the turn it is cancelled.
pub(super) type Timed = (Ask, usize, Option<usize>);

/// Runs `asks` as the leader does: the next step is prepared while one runs.
pub(super) fn run(setting: Setting, asks: &[Timed]) -> Outcome {
    let mut scheduler = Scheduler::new(EngineLimits {
        num_blocks: setting.num_blocks,
        max_step_tokens: setting.max_step_tokens,
        max_running: setting.max_running,
        max_waiting: 1000,
        max_wait_steps: 50,
    });
    let mut executor = executor(setting);
    let mut answers: Vec<Answer> = asks.iter().map(|(ask, ..)| ask.told()).collect();
    let mut in_flight: Option<Arc<StepPlan>> = None;
    // Pictures on their way, with the turn they arrive.
    let mut due: HashMap<RequestId, usize> = HashMap::new();
    let mut picture_requests = 0;
    let last_arrival = asks.iter().map(|(_, arrival, _)| *arrival).max();
    for turn in 0.. {
        assert!(turn < 20_000, "the group does not come to an end");
        // While a step runs, every other request comes when what it drew is applied, and joins the step that is prepared.
        let is_late = |index: usize| in_flight.is_some() && index % 2 == 1;
        let (late, early): (Vec<_>, Vec<_>) = asks
            .iter()
            .enumerate()
            .filter(|(_, (_, arrival, _))| *arrival == turn)
            .partition(|(index, _)| is_late(*index));
        let admit = |scheduler: &mut Scheduler,
                     executor: &mut DeviceExecutor,
                     coming: Vec<(usize, &Timed)>| {
            for (index, (ask, ..)) in coming {
                let id = RequestId(index as u64 + 1);
                scheduler.submit(ask.engine_request(id)).unwrap();
                executor.admit(Arc::new(ask.setup(id))).unwrap();
            }
        };
        admit(&mut scheduler, &mut executor, early);
        for (index, (_, _, cancel)) in asks.iter().enumerate() {
            if *cancel == Some(turn) && scheduler.cancel(RequestId(index as u64 + 1)) {
                answers[index].was_cancelled = true;
            }
        }
        let arrived: Vec<_> = due.extract_if(|_, due| *due <= turn).collect();
        for (id, _) in arrived {
            let pictures = asks[id.0 as usize - 1].0.pictures();
            executor.pictures(id, pictures).unwrap();
            scheduler.pictures_ready(id);
        }
        let mut prepared = scheduler.prepare();
        let mut events = scheduler.take_events();
        let was_idle = in_flight.is_none();
        if let Some(plan) = in_flight.take() {
            let output = executor.finish().unwrap();
            events.extend(scheduler.apply(&plan, &output).unwrap());
            admit(&mut scheduler, &mut executor, late);
            scheduler.join(&mut prepared);
            events.extend(scheduler.take_events());
        }
        if let Some(plan) = scheduler.seal(prepared) {
            let plan = Arc::new(plan);
            executor.start(Arc::clone(&plan)).unwrap();
            in_flight = Some(plan);
        }
        for event in events {
            if let Event::NeedsPictures { request } = event {
                picture_requests += 1;
                due.insert(request, turn + 1 + request.0 as usize % 5);
            } else {
                note(&mut answers, event);
            }
        }
        let nothing_comes = Some(turn) >= last_arrival && due.is_empty();
        if was_idle && in_flight.is_none() && nothing_comes {
            break;
        }
    }
    assert_eq!(scheduler.load().running + scheduler.load().waiting, 0);
    Outcome {
        answers,
        stats: scheduler.stats(),
        picture_requests,
    }
}

fn note(answers: &mut [Answer], event: Event) {
    let answer = |request: RequestId| request.0 as usize - 1;
    match event {
        Event::Started { .. } | Event::NeedsPictures { .. } => {}
        Event::PromptLogprobs {
            request,
            first,
            tokens,
        } => {
            let known = &mut answers[answer(request)].prompt_logprobs;
            assert_eq!(known.len(), first, "told once, in order");
            known.extend(tokens);
        }
        Event::Token {
            request,
            branch,
            index,
            token,
        } => {
            let answer = &mut answers[answer(request)];
            let tokens = answer.branches.entry(branch).or_default();
            assert_eq!(tokens.len(), index, "told once, in order");
            tokens.push(token.token_id);
            let logprobs = answer.logprobs.entry(branch).or_default();
            logprobs.push(token.logprob);
        }
        Event::Ended {
            request,
            branch,
            reason,
        } => {
            answers[answer(request)].ends.insert(branch, reason);
        }
        Event::Beams {
            request,
            answers: beams,
        } => answers[answer(request)].beams = beams,
        Event::Failed { request, reason } => answers[answer(request)].failure = Some(reason),
    }
}
