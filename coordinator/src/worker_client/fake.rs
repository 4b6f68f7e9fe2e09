//! A cluster for tests that answers from a script and keeps books: which pictures are held where, which sequences run,
//! which were dropped before their end.

mod tale;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use inkstone_cluster::{Epoch, GroupId, LanguageGroup, Members, NodeAddress};
use inkstone_interface::{
    description::ModelDescription,
    tokenizer::{Tokenizer, Trust, synthetic},
};

use tokio::{sync::watch, task::AbortHandle};

pub(crate) use tale::Tale;

use super::{
    Connector, EndReason, Generation, GenerationEvent, GenerationStream, LanguageClient,
    LanguageDescription, PictureDigest, PictureUpload, PlacedPicture, PromptPiece, Pulse, Sampling,
    TokenBatch, VisionClient, WorkerError,
    generation_queue::{GenerationWriter, generation_queue},
};

/// Positions of every picture: a square of 28 pixels has two by two patches.
pub(crate) const PICTURE_TOKENS: u32 = 4;
/// Uploads that begin like this are refused as if they were no picture.
pub(crate) const CORRUPT: &[u8] = b"corrupt";
pub(crate) const MAX_PROMPT_TOKENS: usize = 2000;
pub(crate) const MAX_SEQUENCE_TOKENS: usize = 2100;

/// Members at made-up addresses.
#[derive(Clone)]
pub(crate) struct FakeCluster {
    pub(crate) groups: Vec<Arc<FakeGroup>>,
    pub(crate) vision_workers: Vec<Arc<FakeVisionWorker>>,
    leaders: HashMap<NodeAddress, Arc<FakeGroup>>,
    workers: HashMap<NodeAddress, Arc<FakeVisionWorker>>,
}

impl FakeCluster {
    pub(crate) fn new(num_groups: usize, num_vision_workers: usize) -> Self {
        let workers: Vec<_> = (0..num_vision_workers)
            .map(|index| Arc::new(FakeVisionWorker::new(address("vision", index))))
            .collect();
        let workers_by_address: HashMap<_, _> = workers
            .iter()
            .map(|worker| (worker.address.clone(), worker.clone()))
            .collect();
        let groups: Vec<_> = (0..num_groups)
            .map(|index| {
                Arc::new(FakeGroup::new(
                    address("leader", index),
                    workers_by_address.clone(),
                ))
            })
            .collect();
        Self {
            leaders: groups
                .iter()
                .map(|group| (group.address.clone(), group.clone()))
                .collect(),
            workers: workers_by_address,
            groups,
            vision_workers: workers,
        }
    }

    pub(crate) fn members(&self) -> Members {
        let groups = self.groups.iter().enumerate();
        Members {
            language_groups: groups
                .map(|(index, group)| LanguageGroup {
                    id: GroupId::new(index.to_string()),
                    leader: group.address.clone(),
                    epoch: None,
                })
                .collect(),
            vision_workers: self
                .vision_workers
                .iter()
                .map(|worker| worker.address.clone())
                .collect(),
        }
    }

    /// The only group.
    pub(crate) fn group(&self) -> &FakeGroup {
        &self.groups[0]
    }
}

fn address(role: &str, index: usize) -> NodeAddress {
    let text = format!("{role}-{index}:7000");
    text.parse().expect("a host and a port")
}

impl Connector for FakeCluster {
    fn language(&self, leader: &NodeAddress) -> Arc<dyn LanguageClient> {
        self.leaders[leader].clone()
    }

    fn vision(&self, worker: &NodeAddress) -> Arc<dyn VisionClient> {
        self.workers[worker].clone()
    }
}

/// What a group does with the next sequence it is given.
pub(crate) enum Script {
    /// Refuses to start.
    Refuse(WorkerError),
    /// Never says whether it takes the sequence.
    NeverOpen,
    /// Does this, one after the other.
    Play(Vec<Step>),
    /// Tells its tale from where the request was resumed, and is lost after so many events of it.
    TellUntil(usize, WorkerError),
}

/// A step of a request. It is told that it started before its first step, unless that says so itself or fails.
#[derive(Clone)]
pub(crate) enum Step {
    /// The tokens of this text, all at once, of answer 0.
    Text(&'static str),
    /// These tokens, all at once, of answer 0.
    Tokens(Vec<u32>),
    /// The end of answer 0.
    End(EndReason),
    /// The tokens of this text, of this answer.
    TextOf(u32, &'static str),
    /// The end of this answer.
    EndOf(u32, EndReason),
    /// Whatever else can happen.
    Event(GenerationEvent),
    Fail(WorkerError),
    /// Nothing for this long.
    Pause(Duration),
    /// The text again and again, with a pause after each, without end.
    Repeat(String, Duration),
}

/// A language group.
pub(crate) struct FakeGroup {
    pub(crate) address: NodeAddress,
    model: Mutex<ModelDescription>,
    /// Where the features of prompts are looked for.
    vision_workers: HashMap<NodeAddress, Arc<FakeVisionWorker>>,
    epoch: Mutex<Epoch>,
    away: AtomicBool,
    scripts: Mutex<VecDeque<Script>>,
    /// For requests whose ids end so, after the last dot.
    scripts_for: Mutex<HashMap<&'static str, VecDeque<Script>>>,
    tale: Mutex<Option<Tale>>,
    pulse: Arc<Pulse>,
    /// Counts how often what it runs was lost, and why the last time.
    lost: watch::Sender<(usize, Option<WorkerError>)>,
    asked: Mutex<Vec<Generation>>,
    num_running: Arc<AtomicUsize>,
}

impl FakeGroup {
    fn new(
        address: NodeAddress,
        vision_workers: HashMap<NodeAddress, Arc<FakeVisionWorker>>,
    ) -> Self {
        Self {
            address,
            model: Mutex::new(model_description()),
            vision_workers,
            epoch: Mutex::new(Epoch(1)),
            away: AtomicBool::new(false),
            scripts: Mutex::default(),
            scripts_for: Mutex::default(),
            tale: Mutex::default(),
            pulse: Arc::default(),
            lost: watch::channel((0, None)).0,
            asked: Mutex::default(),
            num_running: Arc::default(),
        }
    }

    /// What it answers where no script says otherwise.
    pub(crate) fn tell(&self, tale: Tale) {
        *self.tale.lock().unwrap() = Some(tale);
    }

    /// Appends to what it does with coming sequences. Without a script, and without a tale, it says "hello" and ends its turn.
    pub(crate) fn script(&self, script: Script) {
        self.scripts.lock().unwrap().push_back(script);
    }

    /// The same for the next request whose id ends so, after its last dot; such scripts go before the others.
    pub(crate) fn script_for(&self, name: &'static str, script: Script) {
        let mut scripts = self.scripts_for.lock().unwrap();
        scripts.entry(name).or_default().push_back(script);
    }

    /// Forgets the scripts that were not played yet.
    pub(crate) fn clear_scripts(&self) {
        self.scripts.lock().unwrap().clear();
    }

    /// All that it runs ends with this.
    pub(crate) fn lose(&self, error: WorkerError) {
        self.pulse.failed();
        self.lost.send_modify(|(count, why)| {
            *count += 1;
            *why = Some(error);
        });
    }

    /// Plays these steps for the next sequence that has no script yet.
    pub(crate) fn play(&self, steps: impl Into<Vec<Step>>) {
        self.script(Script::Play(steps.into()));
    }

    /// Sequences it was asked to run, refused ones too.
    pub(crate) fn asked(&self) -> Vec<Generation> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn num_running(&self) -> usize {
        self.num_running.load(Ordering::SeqCst)
    }

    /// It cannot be reached from now on, or can again.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// It is started anew.
    pub(crate) fn restart(&self) {
        self.epoch.lock().unwrap().0 += 1;
    }

    /// It serves another model from now on.
    pub(crate) fn set_model(&self, model: ModelDescription) {
        *self.model.lock().unwrap() = model;
    }

    fn check_reachable(&self) -> Result<(), WorkerError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(WorkerError::Unavailable("connection refused".into())),
            false => Ok(()),
        }
    }

    fn check(&self, generation: &Generation) -> Result<(), WorkerError> {
        self.check_reachable()?;
        if generation.epoch != *self.epoch.lock().unwrap() {
            return Err(WorkerError::EpochMismatch("wanted another epoch".into()));
        }
        let missing = generation.prompt.iter().any(|piece| match piece {
            PromptPiece::Tokens(_) => false,
            PromptPiece::Picture(picture) => {
                !self.vision_workers[&picture.worker].holds(&picture.digest)
            }
        });
        match missing {
            true => Err(WorkerError::FeaturesMissing),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl LanguageClient for FakeGroup {
    async fn describe(&self) -> Result<LanguageDescription, WorkerError> {
        self.check_reachable()?;
        Ok(LanguageDescription {
            model: self.model.lock().unwrap().clone(),
            epoch: *self.epoch.lock().unwrap(),
            ..language_description()
        })
    }

    async fn generate(&self, generation: Generation) -> Result<GenerationStream, WorkerError> {
        self.asked.lock().unwrap().push(generation.clone());
        self.check(&generation)?;
        let name = generation.request_id.rsplit('.').next();
        let script = name.and_then(|name| {
            let mut scripts = self.scripts_for.lock().unwrap();
            scripts.get_mut(name).and_then(VecDeque::pop_front)
        });
        let script = script.or_else(|| self.scripts.lock().unwrap().pop_front());
        let stop = tokenizer().end_of_turn_id();
        let steps = match script {
            Some(Script::Refuse(error)) => return Err(error),
            Some(Script::NeverOpen) => {
                let _running = Running::count(&self.num_running);
                std::future::pending().await
            }
            Some(Script::Play(steps)) => steps,
            Some(Script::TellUntil(num_events, error)) => {
                let tale = self.tale.lock().unwrap().clone().expect("there is a tale");
                let mut steps = tale.rest(&generation);
                steps.truncate(num_events);
                steps.push(Step::Fail(error));
                steps
            }
            None => match &*self.tale.lock().unwrap() {
                Some(tale) => tale.rest(&generation),
                None => vec![
                    Step::Text("hello"),
                    Step::Tokens(vec![stop]),
                    Step::End(EndReason::Stop),
                ],
            },
        };
        let resumed = generation.resumed.iter();
        let counts = resumed.map(|answer| (answer.branch, answer.ids.len() as u32));
        let counts = counts.collect();
        // Scripts may say more than was asked for.
        let (writer, mut stream) = generation_queue(&Generation {
            max_new_tokens: u32::MAX,
            ..generation
        });
        writer.accept();
        let mut lost = self.lost.subscribe();
        let playing = async move {
            tokio::select! {
                () = play(steps, counts, &writer) => {}
                Ok(()) = lost.changed() => {
                    let why = lost.borrow().1.clone();
                    writer.fail(why.expect("it says why"));
                }
            }
        };
        let playing = tokio::spawn(playing).abort_handle();
        stream.keep(Playing {
            playing,
            _running: Running::count(&self.num_running),
        });
        Ok(stream)
    }

    fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }
}

/// Does one step after the other. So many tokens of each answer were told before.
async fn play(steps: Vec<Step>, mut counts: HashMap<u32, u32>, writer: &GenerationWriter) {
    let tells_start = matches!(
        steps.first(),
        Some(Step::Event(GenerationEvent::Started { .. }) | Step::Fail(_))
    );
    if !tells_start {
        writer.push(GenerationEvent::Started { cached_tokens: 0 });
    }
    let mut tokens = |branch: u32, ids: Vec<u32>| {
        let count = counts.entry(branch).or_insert(0);
        let first_index = *count;
        *count += ids.len() as u32;
        GenerationEvent::Tokens(TokenBatch {
            branch,
            first_index,
            ids,
            infos: vec![],
        })
    };
    for step in steps {
        let event = match step {
            Step::Text(text) => tokens(0, encode(text)),
            Step::Tokens(ids) => tokens(0, ids),
            Step::End(reason) => GenerationEvent::Ended { branch: 0, reason },
            Step::TextOf(branch, text) => tokens(branch, encode(text)),
            Step::EndOf(branch, reason) => GenerationEvent::Ended { branch, reason },
            Step::Event(event) => event,
            Step::Fail(error) => return writer.fail(error),
            Step::Pause(pause) => {
                tokio::time::sleep(pause).await;
                continue;
            }
            Step::Repeat(text, pause) => loop {
                tokio::time::sleep(pause).await;
                if !writer.push(tokens(0, encode(&text))) {
                    return;
                }
            },
        };
        writer.push(event);
    }
}

/// A request that runs until the stream is dropped.
struct Playing {
    playing: AbortHandle,
    _running: Running,
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.playing.abort();
    }
}

struct Running(Arc<AtomicUsize>);

impl Running {
    fn count(num_running: &Arc<AtomicUsize>) -> Self {
        num_running.fetch_add(1, Ordering::SeqCst);
        Self(num_running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A vision worker.
pub(crate) struct FakeVisionWorker {
    pub(crate) address: NodeAddress,
    model: Mutex<ModelDescription>,
    held: Mutex<HashSet<PictureDigest>>,
    uploads: Mutex<Vec<PictureUpload>>,
    away: AtomicBool,
    evicts_at_once: AtomicBool,
}

impl FakeVisionWorker {
    fn new(address: NodeAddress) -> Self {
        Self {
            address,
            model: Mutex::new(model_description()),
            held: Mutex::default(),
            uploads: Mutex::default(),
            away: AtomicBool::new(false),
            evicts_at_once: AtomicBool::new(false),
        }
    }

    /// Pictures it was given, refused ones too.
    pub(crate) fn uploads(&self) -> Vec<PictureUpload> {
        self.uploads.lock().unwrap().clone()
    }

    /// It forgets the features of all pictures.
    pub(crate) fn evict_all(&self) {
        self.held.lock().unwrap().clear();
    }

    /// Features are gone before anybody can ask for them.
    pub(crate) fn evict_at_once(&self) {
        self.evicts_at_once.store(true, Ordering::SeqCst);
    }

    /// It cannot be reached from now on.
    pub(crate) fn set_away(&self) {
        self.away.store(true, Ordering::SeqCst);
        self.evict_all();
    }

    /// It encodes for another model from now on.
    pub(crate) fn set_model(&self, model: ModelDescription) {
        *self.model.lock().unwrap() = model;
    }

    fn holds(&self, digest: &PictureDigest) -> bool {
        self.held.lock().unwrap().contains(digest)
    }

    fn check_reachable(&self) -> Result<(), WorkerError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(WorkerError::Unavailable("connection refused".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl VisionClient for FakeVisionWorker {
    async fn describe(&self) -> Result<ModelDescription, WorkerError> {
        self.check_reachable()?;
        Ok(self.model.lock().unwrap().clone())
    }

    async fn put_picture(&self, upload: PictureUpload) -> Result<PlacedPicture, WorkerError> {
        self.check_reachable()?;
        self.uploads.lock().unwrap().push(upload.clone());
        if upload.data.starts_with(CORRUPT) {
            let reason = "cannot decode the picture: unexpected end of file";
            return Err(WorkerError::Refused(reason.into()));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&upload.hd_num.to_le_bytes());
        hasher.update(&upload.data);
        let digest = Bytes::copy_from_slice(hasher.finalize().as_bytes());
        let digest = PictureDigest(digest);
        if !self.evicts_at_once.load(Ordering::SeqCst) {
            self.held.lock().unwrap().insert(digest.clone());
        }
        Ok(PlacedPicture {
            digest,
            num_tokens: PICTURE_TOKENS,
            worker: self.address.clone(),
        })
    }
}

/// The tokenizer of the fake model.
pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::from_model_bytes(&tokenizer_model()).expect("a synthetic tokenizer is sound")
}

/// The plainest way to choose tokens.
pub(crate) fn greedy() -> Sampling {
    Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: 0,
        logit_bias: vec![],
        min_new_tokens: 0,
        num_logprobs: None,
        constraint: None,
    }
}

/// The tokens of an answer's text.
pub(crate) fn encode(text: &str) -> Vec<u32> {
    tokenizer().encode(text, Trust::Untrusted)
}

fn tokenizer_model() -> Vec<u8> {
    synthetic::model_bytes(&["hello", " world", "word "])
}

/// What a fake group says it serves.
pub(crate) fn language_description() -> LanguageDescription {
    LanguageDescription {
        model: model_description(),
        tokenizer_model: tokenizer_model().into(),
        added_tokens: BTreeMap::new(),
        epoch: Epoch(1),
        max_sequence_tokens: MAX_SEQUENCE_TOKENS,
        cache_namespace: Bytes::from_static(b"fake"),
    }
}

/// A small model of release 2.0 with pictures of four tokens.
pub(crate) fn model_description() -> ModelDescription {
    let low_rank = r#"{"rank": 8, "scale": 1.0}"#;
    let json = format!(
        r#"{{
        "name": "fake-vl", "variant": "xc2",
        "config": {{
            "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "max_position_embeddings": 4096, "max_length": {MAX_PROMPT_TOKENS}, "bias": false,
            "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2
        }},
        "picture": {{"side": 28, "patch_size": 14, "hd": null}},
        "partial_lora": {{
            "wqkv": {low_rank}, "wo": {low_rank}, "w1": {low_rank}, "w3": {low_rank}, "w2": {low_rank}
        }},
        "max_prompt_tokens": {MAX_PROMPT_TOKENS}, "weight_bytes": 1000
    }}"#
    );
    ModelDescription::from_json(&json).expect("the description is sound")
}
