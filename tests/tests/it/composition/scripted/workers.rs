//! The workers themselves: a language group and a vision worker in one.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use inkstone_interface::tokenizer::Trust;
use inkstone_proto::worker::v1::{
    Accepted, BeamAnswer, BeamAnswers, ConnectRequest, ConnectResponse, DescribeLanguageRequest,
    DescribeLanguageResponse, DescribeVisionRequest, DescribeVisionResponse, EndReason, Ended,
    GenerateRequest, GetFeaturesRequest, GetFeaturesResponse, LoadReport, PutPictureRequest,
    PutPictureResponse, Refused, RequestEvent, Started, Submit, Tokens, connect_request::Message,
    language_service_server::LanguageService, prompt_part::Part, put_picture_request,
    request_event::Event, vision_service_server::VisionService,
};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{interval, sleep},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Asked, Model, PLACEHOLDER, Reply};

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// What the workers were asked.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) asked: Vec<Asked>,
    /// Bytes of the pictures that were put.
    pub(super) put: Vec<Vec<u8>>,
    num_cancelled: usize,
    pub(super) num_running: usize,
}

/// The workers.
#[derive(Clone)]
pub(super) struct Workers {
    pub(super) model: Arc<Model>,
    script: Arc<Script>,
    heard: Arc<Mutex<Heard>>,
}

impl Workers {
    pub(super) fn new(
        model: Model,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self {
            model: Arc::new(model),
            script: Arc::new(script),
            heard: Arc::default(),
        }
    }

    pub(super) fn heard(&self) -> MutexGuard<'_, Heard> {
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
pub(in super::super) fn digest(file: &[u8]) -> Vec<u8> {
    let word = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        (salt, file).hash(&mut hasher);
        hasher.finish().to_le_bytes()
    };
    (0..4).flat_map(word).collect()
}
