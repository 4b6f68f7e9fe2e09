//! A language group and a vision worker that write down what they are asked and answer by a script, behind a real coordinator:
//! what reaches the workers can be held against the specification to the byte, and every answer that a model could give, given.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use inkstone_interface::{
    description::ModelDescription, picture_geometry::PictureGeometry, tokenizer::Tokenizer,
    tokenizer::Trust,
};
use inkstone_model::{checkpoint::Checkpoint, synthesize::Preset};
use inkstone_proto::worker::v1::{
    Accepted, BeamAnswer, BeamAnswers, ConnectRequest, ConnectResponse, DescribeLanguageRequest,
    DescribeLanguageResponse, DescribeVisionRequest, DescribeVisionResponse, EndReason, Ended,
    GenerateRequest, GetFeaturesRequest, GetFeaturesResponse, LoadReport, PutPictureRequest,
    PutPictureResponse, RefusalReason, Refused, RequestEvent, Started, Submit, Tokens,
    connect_request::Message,
    language_service_server::{LanguageService, LanguageServiceServer},
    prompt_part::Part,
    put_picture_request,
    request_event::Event,
    vision_service_server::{VisionService, VisionServiceServer},
};
use inkstone_tests::process::Process;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
    time::{interval, sleep},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{
        Server,
        server::{Router, TcpIncoming},
    },
};

use crate::cluster_fixture::{program, small_model};

/// How a picture is written in prompts as texts.
pub(super) const PLACEHOLDER: &str = "<image>";

/// Which vocabulary is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vocabulary {
    /// The small checkpoint's.
    Small,
    /// The published one, where it is at hand.
    Real,
}

impl Vocabulary {
    /// The bytes of `tokenizer.model`; none where it is not at hand, which is said.
    pub(super) fn read(self) -> Option<Vec<u8>> {
        let file = match self {
            Self::Small => Path::new(small_model()).join("tokenizer.model"),
            Self::Real => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
                let beside = ["../shared", "../../shared"].map(|shared| {
                    let shared = root.join(shared);
                    shared.join("tokenizer/tokenizer.model")
                });
                let named = std::env::var_os("INKSTONE_TOKENIZER").map(Into::into);
                let found = beside.iter().find(|file| file.exists());
                named.unwrap_or_else(|| found.unwrap_or(&beside[0]).clone())
            }
        };
        let bytes = std::fs::read(&file).ok();
        if bytes.is_none() {
            eprintln!("skipped: {} is absent", file.display());
        }
        bytes
    }
}

/// What the scripted model is.
pub(super) struct Model {
    pub(super) tokenizer: Tokenizer,
    tokenizer_model: Vec<u8>,
    description: ModelDescription,
    context: usize,
    picture_tokens: u32,
}

impl Model {
    /// A composition model with this vocabulary; none where it is not at hand.
    pub(super) fn with(vocabulary: Vocabulary) -> Option<Self> {
        let tokenizer_model = vocabulary.read()?;
        let tokenizer = Tokenizer::from_model_bytes(&tokenizer_model).expect("it is one");
        let small = Checkpoint::open(Path::new(small_model())).expect("it ships");
        let mut description = small.description().clone();
        description.name = "scripted".into();
        if vocabulary == Vocabulary::Real {
            description.config = Preset::Composition7b.config();
            description.picture = PictureGeometry {
                side: 224,
                patch_size: 14,
                hd: None,
            };
        }
        description.max_prompt_tokens = 4096;
        let picture_tokens = match vocabulary {
            Vocabulary::Small => 64,
            Vocabulary::Real => 256,
        };
        Some(Self {
            tokenizer,
            tokenizer_model,
            description,
            context: 4096,
            picture_tokens,
        })
    }

    pub(super) fn small() -> Self {
        Self::with(Vocabulary::Small).expect("the small checkpoint is in the repository")
    }

    /// The same with another context.
    pub(super) fn with_context(mut self, context: usize) -> Self {
        self.context = context;
        self.description.max_prompt_tokens = context;
        self
    }
}

/// A request that reached the language group.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) request: GenerateRequest,
    /// Its prompt as a text, with [`PLACEHOLDER`]s; `<s>` is left out.
    pub(super) text: String,
}

impl Asked {
    /// Ids of the stretches of text, with `None` for each picture between them.
    pub(super) fn pieces(&self) -> Vec<Option<Vec<u32>>> {
        let parts = self.request.prompt.iter();
        let piece = |part: &inkstone_proto::worker::v1::PromptPart| match &part.part {
            Some(Part::Tokens(span)) => Some(span.ids.clone()),
            Some(Part::Picture(_)) => None,
            None => panic!("an empty part"),
        };
        parts.map(piece).collect()
    }

    /// Digests of its pictures, in order.
    pub(super) fn pictures(&self) -> Vec<Vec<u8>> {
        let parts = self.request.prompt.iter();
        let digests = parts.filter_map(|part| match &part.part {
            Some(Part::Picture(picture)) => Some(picture.digest.to_vec()),
            _ => None,
        });
        digests.collect()
    }

    /// Positions of its prompt.
    pub(super) fn num_tokens(&self) -> usize {
        let parts = self.request.prompt.iter();
        let sizes = parts.map(|part| match &part.part {
            Some(Part::Tokens(span)) => span.ids.len(),
            Some(Part::Picture(picture)) => picture.num_tokens as usize,
            None => 0,
        });
        sizes.sum()
    }

    pub(super) fn step(&self) -> Step {
        Step::of(&self.text)
    }
}

/// Which question of the procedure a prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Article,
    Places,
    /// And for which place.
    Caption(u32),
    Choice,
    Edit,
}

impl Step {
    fn of(text: &str) -> Self {
        if text.ends_with("适合插入图像的行是") {
            return Self::Places;
        }
        if text.ends_with("最合适的图是") {
            return Self::Choice;
        }
        if text.ends_with("标题是\"") {
            let (_, place) = text.rsplit_once("给出适合在<Seg").expect("it names one");
            let (place, _) = place.split_once('>').expect("it names one");
            return Self::Caption(place.parse().expect("a number"));
        }
        let edits = [
            "改写以下段落：",
            "扩写以下段落：",
            "缩写以下段落：",
            "在以下两段中插入一段。",
        ];
        let is_edit = |words: &&str| text.contains(&format!("]user\n{words}"));
        match edits.iter().any(is_edit) {
            true => Self::Edit,
            false => Self::Article,
        }
    }
}

/// What the model says.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// This, and ends.
    Say(String),
    /// The same, with this pause before every few tokens.
    SaySlowly(String, Duration),
    /// It begins, and fails.
    Fail(RefusalReason, &'static str),
    /// It begins, and never says a word.
    Hang,
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Self::Say(text.to_owned())
    }
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// What the workers were asked.
#[derive(Default)]
struct Heard {
    asked: Vec<Asked>,
    /// Bytes of the pictures that were put.
    put: Vec<Vec<u8>>,
    num_cancelled: usize,
    num_running: usize,
}

/// The workers.
#[derive(Clone)]
pub(super) struct Workers {
    model: Arc<Model>,
    script: Arc<Script>,
    heard: Arc<Mutex<Heard>>,
}

impl Workers {
    fn new(model: Model, script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            model: Arc::new(model),
            script: Arc::new(script),
            heard: Arc::default(),
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("nobody panics with it")
    }

    fn text_of(&self, request: &GenerateRequest) -> String {
        let tokenizer = &self.model.tokenizer;
        let parts = request.prompt.iter().enumerate();
        let texts = parts.map(|(number, part)| match &part.part {
            Some(Part::Tokens(span)) => {
                let ids = match span.ids.split_first() {
                    Some((first, rest)) if number == 0 && *first == tokenizer.bos_id() => rest,
                    _ => &span.ids,
                };
                tokenizer.decode_with_special(ids)
            }
            Some(Part::Picture(_)) => PLACEHOLDER.to_owned(),
            None => String::new(),
        });
        texts.collect()
    }

    /// Takes a request on and says what the script wants.
    async fn play(self, submit: Submit, events: mpsc::Sender<ConnectResponse>) {
        let handle = submit.handle;
        let request = submit.request.expect("a request");
        let asked = Asked {
            text: self.text_of(&request),
            request,
        };
        self.heard().asked.push(asked.clone());
        let reply = (self.script)(&asked);
        let tell = async |event: Event| {
            let event = RequestEvent {
                handle,
                event: Some(event),
            };
            let response = ConnectResponse {
                events: vec![event],
                ..ConnectResponse::default()
            };
            events.send(response).await.is_ok()
        };
        tell(Event::Accepted(Accepted {})).await;
        let (text, pause) = match reply {
            Reply::Say(text) => (text, Duration::ZERO),
            Reply::SaySlowly(text, pause) => (text, pause),
            Reply::Fail(reason, message) => {
                tell(Event::Started(Started { cached_tokens: 0 })).await;
                let refused = Refused {
                    reason: reason.into(),
                    message: message.to_owned(),
                };
                tell(Event::Refused(refused)).await;
                return;
            }
            Reply::Hang => {
                tell(Event::Started(Started { cached_tokens: 0 })).await;
                return std::future::pending().await;
            }
        };
        tell(Event::Started(Started { cached_tokens: 0 })).await;
        let (ids, reason) = self.answer(&asked.request, &text);
        if asked.request.beam.is_some() {
            let answer = BeamAnswer {
                ids,
                score: -1.0,
                reason: reason.into(),
            };
            let answers = vec![answer];
            tell(Event::Beams(BeamAnswers { answers })).await;
            return;
        }
        let mut first_index = 0;
        for ids in ids.chunks(4) {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let tokens = Tokens {
                branch: 0,
                first_index,
                ids: ids.to_vec(),
                infos: vec![],
            };
            first_index += ids.len() as u32;
            tell(Event::Tokens(tokens)).await;
        }
        let ended = Ended {
            branch: 0,
            reason: reason.into(),
        };
        tell(Event::Ended(ended)).await;
    }

    /// The ids of an answer, as long as it may be.
    fn answer(&self, request: &GenerateRequest, text: &str) -> (Vec<u32>, EndReason) {
        let mut ids = self.model.tokenizer.encode(text, Trust::Untrusted);
        ids.extend(request.stop_token_ids.last());
        let most = request.max_new_tokens as usize;
        let reason = match ids.len() > most || request.stop_token_ids.is_empty() {
            true => EndReason::Length,
            false => EndReason::Stop,
        };
        ids.truncate(most);
        (ids, reason)
    }

    async fn listen(
        self,
        mut requests: Streaming<ConnectRequest>,
        events: mpsc::Sender<ConnectResponse>,
    ) {
        let mut running: HashMap<u64, AbortHandle> = HashMap::new();
        let mut signs_of_life = interval(Duration::from_millis(100));
        loop {
            running.retain(|_, task| !task.is_finished());
            self.heard().num_running = running.len();
            tokio::select! {
                request = requests.message() => match request.ok().flatten().and_then(|it| it.message) {
                    Some(Message::Submit(submit)) => {
                        let handle = submit.handle;
                        let task = tokio::spawn(self.clone().play(submit, events.clone()));
                        running.insert(handle, task.abort_handle());
                    }
                    Some(Message::Cancel(cancel)) => {
                        if let Some(task) = running.remove(&cancel.handle) {
                            task.abort();
                            self.heard().num_cancelled += 1;
                        }
                    }
                    None => break,
                },
                _ = signs_of_life.tick() => {
                    let load = LoadReport {
                        running: running.len() as u32,
                        blocks_total: 4096,
                        rows_per_second: 1000.0,
                        max_running: 256,
                        ..LoadReport::default()
                    };
                    let response = ConnectResponse {
                        load: Some(load),
                        ..ConnectResponse::default()
                    };
                    if events.send(response).await.is_err() {
                        break;
                    }
                }
            }
        }
        running.into_values().for_each(|task| task.abort());
    }
}

#[tonic::async_trait]
impl LanguageService for Workers {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<ConnectResponse, Status>> + Send>>;

    async fn describe_language(
        &self,
        _: Request<DescribeLanguageRequest>,
    ) -> Result<Response<DescribeLanguageResponse>, Status> {
        let model = &self.model;
        Ok(Response::new(DescribeLanguageResponse {
            description_json: model.description.to_json(),
            tokenizer_model: model.tokenizer_model.clone().into(),
            added_tokens: HashMap::new(),
            world_size: 1,
            epoch: 1,
            max_sequence_tokens: model.context as u32,
            cache_namespace: b"scripted".as_slice().into(),
        }))
    }

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (events, told) = mpsc::channel(1024);
        tokio::spawn(self.clone().listen(request.into_inner(), events));
        let told = tokio_stream::StreamExt::map(ReceiverStream::new(told), Ok);
        Ok(Response::new(Box::pin(told)))
    }
}

#[tonic::async_trait]
impl VisionService for Workers {
    type GetFeaturesStream =
        Pin<Box<dyn Stream<Item = Result<GetFeaturesResponse, Status>> + Send>>;

    async fn describe_vision(
        &self,
        _: Request<DescribeVisionRequest>,
    ) -> Result<Response<DescribeVisionResponse>, Status> {
        Ok(Response::new(DescribeVisionResponse {
            description_json: self.model.description.to_json(),
        }))
    }

    async fn put_picture(
        &self,
        request: Request<Streaming<PutPictureRequest>>,
    ) -> Result<Response<PutPictureResponse>, Status> {
        let mut pieces = request.into_inner();
        let mut file = Vec::new();
        while let Some(piece) = pieces.message().await? {
            if let Some(put_picture_request::Part::Chunk(chunk)) = piece.part {
                file.extend_from_slice(&chunk);
            }
        }
        if !is_picture(&file) {
            return Err(Status::invalid_argument("the file is no picture"));
        }
        let digest = digest(&file).into();
        self.heard().put.push(file);
        Ok(Response::new(PutPictureResponse {
            digest,
            num_tokens: self.model.picture_tokens,
            width: 28,
            height: 28,
        }))
    }

    async fn get_features(
        &self,
        _: Request<GetFeaturesRequest>,
    ) -> Result<Response<Self::GetFeaturesStream>, Status> {
        Err(Status::not_found("nothing is encoded here"))
    }
}

fn is_picture(file: &[u8]) -> bool {
    let starts: [&[u8]; 3] = [b"BM", b"\x89PNG", b"\xff\xd8\xff"];
    file.len() > 54 && starts.iter().any(|start| file.starts_with(start))
}

/// What a picture is called in prompts.
pub(super) fn digest(file: &[u8]) -> Vec<u8> {
    let word = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        (salt, file).hash(&mut hasher);
        hasher.finish().to_le_bytes()
    };
    (0..4).flat_map(word).collect()
}

/// Serves at an address of its own.
async fn listen(services: Router) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let serving = tokio::spawn(async move {
        let served = services.serve_with_incoming(TcpIncoming::from(listener));
        served.await.expect("it serves");
    });
    (address, serving)
}

/// The workers behind a real coordinator.
pub(super) struct Scripted {
    pub(super) address: String,
    pub(super) coordinator: Option<Process>,
    workers: Workers,
    /// Where they listen: the language group, and the vision worker.
    pub(super) worker_addresses: (String, String),
    serving: [JoinHandle<()>; 2],
}

impl Scripted {
    /// Starts a coordinator with these arguments, whose model is this and says what the script wants.
    pub(super) async fn start(
        model: Model,
        arguments: &[&str],
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let mut scripted = Self::without_coordinator(model, script).await;
        let (language, vision) = scripted.worker_addresses.clone();
        let mut all = vec![
            "coordinator",
            "--grpc",
            "127.0.0.1:0",
            "--language",
            &language,
            "--vision",
            &vision,
        ];
        all.extend(arguments);
        let coordinator = Process::start(program(), &all);
        scripted.address = coordinator.wait_for("coordinator ready", "address");
        scripted.coordinator = Some(coordinator);
        scripted
    }

    /// The workers alone.
    pub(super) async fn without_coordinator(
        model: Model,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let workers = Workers::new(model, script);
        let language = LanguageServiceServer::new(workers.clone());
        let (language, serving_language) = listen(Server::builder().add_service(language)).await;
        let vision = VisionServiceServer::new(workers.clone());
        let (vision, serving_vision) = listen(Server::builder().add_service(vision)).await;
        Self {
            address: String::new(),
            coordinator: None,
            workers,
            worker_addresses: (language, vision),
            serving: [serving_language, serving_vision],
        }
    }

    /// All that the language group was asked, in order.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.workers.heard().asked.clone()
    }

    /// The same, and forgets it.
    pub(super) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.workers.heard().asked)
    }

    /// The pictures that were put, in order.
    pub(super) fn put(&self) -> Vec<Vec<u8>> {
        self.workers.heard().put.clone()
    }

    /// Answers that run.
    pub(super) fn num_running(&self) -> usize {
        self.workers.heard().num_running
    }

    /// Waits until no answer runs any more.
    pub(super) async fn wait_until_idle(&self) {
        for _ in 0..600 {
            if self.num_running() == 0 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("answers still run that nobody waits for");
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.workers.model.tokenizer
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        for serving in &self.serving {
            serving.abort();
        }
    }
}
