//! The gRPC clients of the workers, against services that put the fakes behind real gRPC.

use std::{collections::HashMap, sync::Mutex};

use futures::{Stream, StreamExt, stream::BoxStream};
use inkstone_cluster::{GroupId, LanguageGroup, Members};
use inkstone_proto::worker::v1::{
    self as worker_wire,
    language_service_server::{LanguageService, LanguageServiceServer},
    vision_service_server::{VisionService, VisionServiceServer},
};
use tokio::{runtime::Runtime, sync::mpsc, task::AbortHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Response,
    transport::{Server, server::TcpIncoming},
};
use tonic_types::ErrorDetails;

use super::*;
use crate::{
    app,
    worker_client::{
        Decoding, EndReason, Generation, GenerationEvent, LanguageClient, PictureDigest,
        PictureUpload, PlacedPicture, Priority, PromptPiece, Resumed, Sampling, TokenBatch,
        VisionClient, WorkerError,
        fake::{self, CORRUPT, Step},
    },
};

/// A process with workers in it: a runtime of its own, so that killing it breaks its connections.
struct WorkerProcess {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl WorkerProcess {
    async fn start(cluster: &FakeCluster, uploads: &Uploads, address: &str) -> Self {
        let listener = loop {
            // The port of a process that was killed is free a moment later.
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let language = LanguageServiceServer::new(Language(cluster.clone()));
        let vision = VisionServiceServer::new(Vision(cluster.clone(), uploads.clone()));
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let server = Server::builder().add_service(language).add_service(vision);
            let incoming = TcpIncoming::from(listener);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Sizes of the pieces in which pictures came, by picture.
type Uploads = Arc<Mutex<HashMap<bytes::Bytes, Vec<usize>>>>;

struct Language(FakeCluster);

struct Vision(FakeCluster, Uploads);

#[tonic::async_trait]
impl LanguageService for Language {
    async fn describe_language(
        &self,
        _: Request<worker_wire::DescribeLanguageRequest>,
    ) -> Result<Response<worker_wire::DescribeLanguageResponse>, Status> {
        let description = self.0.group().describe().await.map_err(status)?;
        Ok(Response::new(worker_wire::DescribeLanguageResponse {
            description_json: description.model.to_json(),
            tokenizer_model: description.tokenizer_model,
            added_tokens: description.added_tokens.into_iter().collect(),
            world_size: 1,
            epoch: description.epoch.0,
            max_sequence_tokens: description.max_sequence_tokens as u32,
            cache_namespace: description.cache_namespace,
        }))
    }

    type ConnectStream = BoxStream<'static, Result<worker_wire::ConnectResponse, Status>>;

    async fn connect(
        &self,
        call: Request<Streaming<worker_wire::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(serve_call(self.0.clone(), call.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

type Sender = mpsc::Sender<Result<worker_wire::ConnectResponse, Status>>;

/// Runs what is submitted until the call ends, as a leader does.
async fn serve_call(
    cluster: FakeCluster,
    mut calls: impl Stream<Item = Result<worker_wire::ConnectRequest, Status>> + Unpin,
    sender: Sender,
) {
    use worker_wire::connect_request::Message;
    let mut running = HashMap::<u64, AbortHandle>::new();
    let heartbeat = tokio::spawn(beat(sender.clone()));
    while let Some(Ok(call)) = calls.next().await {
        match call.message.unwrap() {
            Message::Submit(submit) => {
                let run = run(cluster.clone(), submit.request.unwrap());
                let told = tell(submit.handle, run, sender.clone());
                running.insert(submit.handle, tokio::spawn(told).abort_handle());
            }
            Message::Cancel(cancel) => {
                if let Some(task) = running.remove(&cancel.handle) {
                    task.abort();
                }
            }
        }
    }
    heartbeat.abort();
    for task in running.into_values() {
        task.abort();
    }
}

/// Says that the leader is there.
async fn beat(sender: Sender) {
    let mut beats = tokio::time::interval(Duration::from_millis(100));
    loop {
        beats.tick().await;
        let response = worker_wire::ConnectResponse {
            load: Some(worker_wire::LoadReport::default()),
            ..Default::default()
        };
        if sender.send(Ok(response)).await.is_err() {
            return;
        }
    }
}

async fn tell(
    handle: u64,
    events: impl Stream<Item = worker_wire::request_event::Event>,
    sender: Sender,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let event = worker_wire::RequestEvent {
            handle,
            event: Some(event),
        };
        let events = vec![event];
        let response = worker_wire::ConnectResponse {
            events,
            ..Default::default()
        };
        if sender.send(Ok(response)).await.is_err() {
            return;
        }
    }
}

/// What the fake group says of a request.
fn run(
    cluster: FakeCluster,
    request: worker_wire::GenerateRequest,
) -> impl Stream<Item = worker_wire::request_event::Event> {
    use worker_wire::request_event::Event;
    let opened = async move { cluster.group().generate(generation(request)).await };
    futures::stream::once(opened).flat_map(|opened| match opened {
        Ok(events) => {
            let said = events.map(|event| event.map_or_else(refused, event_to_wire));
            let accepted = Event::Accepted(worker_wire::Accepted {});
            futures::stream::iter([accepted]).chain(said).boxed()
        }
        Err(error) => futures::stream::iter([refused(error)]).boxed(),
    })
}

fn refused(error: WorkerError) -> worker_wire::request_event::Event {
    use worker_wire::RefusalReason;
    let reason = match &error {
        WorkerError::FeaturesMissing => RefusalReason::FeaturesMissing,
        WorkerError::EpochMismatch(_) => RefusalReason::Epoch,
        WorkerError::Refused(_) => RefusalReason::Invalid,
        WorkerError::Busy { .. } => RefusalReason::Busy,
        WorkerError::Faulty(_) => RefusalReason::Internal,
        _ => RefusalReason::NotServing,
    };
    worker_wire::request_event::Event::Refused(worker_wire::Refused {
        reason: reason.into(),
        message: error.to_string(),
    })
}

#[tonic::async_trait]
impl VisionService for Vision {
    async fn describe_vision(
        &self,
        _: Request<worker_wire::DescribeVisionRequest>,
    ) -> Result<Response<worker_wire::DescribeVisionResponse>, Status> {
        let model = self.0.vision_workers[0].describe().await.map_err(status)?;
        let description_json = model.to_json();
        Ok(Response::new(worker_wire::DescribeVisionResponse {
            description_json,
        }))
    }

    async fn put_picture(
        &self,
        call: Request<Streaming<worker_wire::PutPictureRequest>>,
    ) -> Result<Response<worker_wire::PutPictureResponse>, Status> {
        use worker_wire::put_picture_request::Part;
        let mut pieces = call.into_inner();
        let Some(Part::Header(header)) = pieces.message().await?.unwrap().part else {
            return Err(Status::invalid_argument("the first piece is the header"));
        };
        let mut data = vec![];
        let mut sizes = vec![];
        while let Some(piece) = pieces.message().await? {
            let Some(Part::Chunk(chunk)) = piece.part else {
                return Err(Status::invalid_argument("chunks follow the header"));
            };
            sizes.push(chunk.len());
            data.extend_from_slice(&chunk);
        }
        assert_eq!(data.len() as u64, header.num_bytes);
        let data = bytes::Bytes::from(data);
        self.1.lock().unwrap().insert(data.clone(), sizes);
        let upload = PictureUpload {
            data,
            hd_num: header.hd_num,
            encode_soon: header.encode_soon,
            deadline: None,
        };
        let placed = self.0.vision_workers[0].put_picture(upload).await;
        let placed = placed.map_err(status)?;
        Ok(Response::new(worker_wire::PutPictureResponse {
            digest: placed.digest.0,
            num_tokens: placed.num_tokens,
            width: 1,
            height: 1,
        }))
    }

    type GetFeaturesStream = BoxStream<'static, Result<worker_wire::GetFeaturesResponse, Status>>;

    async fn get_features(
        &self,
        _: Request<worker_wire::GetFeaturesRequest>,
    ) -> Result<Response<Self::GetFeaturesStream>, Status> {
        Err(Status::unimplemented(
            "leaders ask for features, not the coordinator",
        ))
    }
}

/// Statuses as workers make them.
fn status(error: WorkerError) -> Status {
    match error {
        WorkerError::Refused(reason) => Status::invalid_argument(reason),
        WorkerError::Busy {
            message,
            retry_after,
        } => {
            let details = ErrorDetails::with_retry_info(retry_after);
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        other => Status::unavailable(other.to_string()),
    }
}

/// The request as the fake takes it: its pictures are those of the fake worker, wherever that one listens.
fn generation(wire: worker_wire::GenerateRequest) -> Generation {
    use worker_wire::prompt_part::Part;
    let parts = wire.prompt.into_iter();
    let prompt = parts.map(|part| match part.part.unwrap() {
        Part::Tokens(span) => PromptPiece::Tokens(span.ids),
        Part::Picture(picture) => PromptPiece::Picture(PlacedPicture {
            digest: PictureDigest(picture.digest),
            num_tokens: picture.num_tokens,
            worker: "vision-0:7000".parse().unwrap(),
        }),
    });
    let sampling = wire.sampling.unwrap();
    Generation {
        request_id: wire.request_id,
        epoch: inkstone_cluster::Epoch(wire.epoch),
        prompt: prompt.collect(),
        sampling: Sampling {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed: sampling.seed,
            logit_bias: vec![],
            min_new_tokens: sampling.min_new_tokens,
            num_logprobs: sampling.num_logprobs,
            constraint: None,
        },
        decoding: Decoding::Sample {
            branches: wire.branches,
        },
        max_new_tokens: wire.max_new_tokens,
        stop_token_ids: wire.stop_token_ids,
        priority: Priority::Interactive,
        cache_salt: wire.cache_salt,
        prompt_logprobs: wire.prompt_logprobs,
        place: std::sync::Weak::new(),
        resumed: wire
            .resumed
            .into_iter()
            .map(|resumed| Resumed {
                branch: resumed.branch,
                ids: resumed.ids,
                ended: resumed.ended,
            })
            .collect(),
        first_in_line: wire.first_in_line,
    }
}

fn event_to_wire(event: GenerationEvent) -> worker_wire::request_event::Event {
    use worker_wire::request_event::Event;
    match event {
        GenerationEvent::Started { cached_tokens } => {
            Event::Started(worker_wire::Started { cached_tokens })
        }
        GenerationEvent::Tokens(TokenBatch {
            branch,
            first_index,
            ids,
            ..
        }) => Event::Tokens(worker_wire::Tokens {
            branch,
            first_index,
            ids,
            infos: vec![],
        }),
        GenerationEvent::Ended { branch, reason } => Event::Ended(worker_wire::Ended {
            branch,
            reason: match reason {
                EndReason::Stop => worker_wire::EndReason::Stop.into(),
                EndReason::Length => worker_wire::EndReason::Length.into(),
            },
        }),
        GenerationEvent::PromptLogprobs { .. } | GenerationEvent::Beams(_) => {
            unreachable!("no script of these tests says so")
        }
    }
}

/// A coordinator as the command line starts it, over the workers of two processes.
async fn coordinator(language: &WorkerProcess, vision: &WorkerProcess) -> Coordinator {
    let mut config = Config::for_members(Members {
        language_groups: vec![LanguageGroup {
            id: GroupId::new("0"),
            leader: language.address.to_string().parse().unwrap(),
            epoch: None,
        }],
        vision_workers: vec![vision.address.to_string().parse().unwrap()],
    })
    .unwrap();
    config.timeouts.first_group = Duration::from_millis(200);
    config.timeouts.recovery = Duration::from_secs(20);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let (sender, receiver) = oneshot::channel();
    let serving = tokio::spawn(app::serve(config, listener, shutdown.clone(), sender));
    let mut coordinator = Coordinator {
        address,
        shutdown,
        serving,
        ready: Some(receiver),
    };
    coordinator.ready().await;
    coordinator
}

struct Cluster {
    fakes: FakeCluster,
    uploads: Uploads,
    language: WorkerProcess,
    vision: WorkerProcess,
}

impl Cluster {
    async fn start() -> Self {
        let fakes = FakeCluster::new(1, 1);
        let uploads = Uploads::default();
        Self {
            language: WorkerProcess::start(&fakes, &uploads, "127.0.0.1:0").await,
            vision: WorkerProcess::start(&fakes, &uploads, "127.0.0.1:0").await,
            fakes,
            uploads,
        }
    }
}

fn about_picture(data: &[u8]) -> wire::ChatRequest {
    let parts = vec![picture_part(data), text_part("what is this?")];
    conversation(vec![message(wire::Role::User, parts)])
}

#[tokio::test]
async fn a_picture_travels_in_chunks_and_the_answer_comes_back() {
    let cluster = Cluster::start().await;
    let coordinator = coordinator(&cluster.language, &cluster.vision).await;
    let data: Vec<u8> = (0..600 * 1024).map(|index| (index % 251) as u8).collect();
    let answer = coordinator.chat(about_picture(&data)).await.unwrap();
    let answer = Answer::read(answer).await;
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.started.picture_tokens, fake::PICTURE_TOKENS);
    let sizes = cluster.uploads.lock().unwrap()[data.as_slice()].clone();
    assert_eq!(sizes, [256 * 1024, 256 * 1024, 88 * 1024]);
    coordinator.stop().await.unwrap();
}

#[tokio::test]
async fn reasons_of_workers_survive_the_wire() {
    let cluster = Cluster::start().await;
    let coordinator = coordinator(&cluster.language, &cluster.vision).await;
    let status = coordinator.refusal(about_picture(CORRUPT)).await;
    check_error(&status, Code::InvalidArgument, "PICTURE_REFUSED");
    assert_eq!(field_paths(&status), ["messages[0].parts[0].picture"]);
    assert!(
        status.message().contains("unexpected end of file"),
        "{status:?}"
    );

    let group = cluster.fakes.group();
    group.script(fake::Script::Refuse(WorkerError::FeaturesMissing));
    let answer = coordinator.chat(about_picture(b"fine")).await.unwrap();
    assert_eq!(Answer::read(answer).await.text(), "hello");

    group.restart();
    let answer = coordinator.chat(question("hi")).await.unwrap();
    assert_eq!(Answer::read(answer).await.text(), "hello");

    group.script(fake::Script::Refuse(WorkerError::Busy {
        message: "full".into(),
        retry_after: None,
    }));
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::ResourceExhausted, "CLUSTER_FULL");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");

    let stopping = WorkerError::Unavailable("the group is stopping".into());
    for _ in 0..2 {
        group.script(fake::Script::Refuse(stopping.clone()));
    }
    let answer = coordinator.chat(question("hi")).await.unwrap();
    assert_eq!(
        Answer::read(answer).await.text(),
        "hello",
        "it is asked again"
    );

    let fault = WorkerError::Faulty("logits are not finite".into());
    group.play([Step::Text("hello"), Step::Fail(fault)]);
    let answer = coordinator.chat(question("hi")).await.unwrap();
    let status = Answer::read(answer).await.end.unwrap_err();
    check_error(&status, Code::Internal, "INTERNAL");
    assert!(status.message().contains("not finite"), "{status:?}");
}

#[tokio::test]
async fn going_away_ends_the_call_to_the_leader() {
    let cluster = Cluster::start().await;
    let coordinator = coordinator(&cluster.language, &cluster.vision).await;
    let pause = Duration::from_millis(5);
    cluster
        .fakes
        .group()
        .play([Step::Repeat("word ".into(), pause)]);
    let mut answer = coordinator.chat(question("hi")).await.unwrap();
    for seq in 0..3 {
        next(&mut answer, seq).await.unwrap().unwrap();
    }
    assert_eq!(cluster.fakes.group().num_running(), 1);
    drop(answer);
    let group = cluster.fakes.group();
    eventually("the leader's sequence ends", || group.num_running() == 0).await;
}

#[tokio::test]
async fn an_answer_goes_on_when_its_leader_was_killed_and_is_back() {
    let mut cluster = Cluster::start().await;
    let coordinator = coordinator(&cluster.language, &cluster.vision).await;
    let group = cluster.fakes.group();
    group.play([Step::Text("hello"), Step::Pause(PATIENCE)]);
    let mut answer = coordinator.chat(question("hi")).await.unwrap();
    for seq in 0..2 {
        next(&mut answer, seq).await.unwrap().unwrap();
    }
    let address = cluster.language.address.to_string();
    drop(cluster.language);
    // A new request does not wait as long as one that was running.
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::Unavailable, "LANGUAGE_UNAVAILABLE");

    group.restart();
    group.play([Step::Text(" world"), Step::End(EndReason::Stop)]);
    cluster.language = WorkerProcess::start(&cluster.fakes, &cluster.uploads, &address).await;
    let last = [
        next(&mut answer, 2).await.unwrap().unwrap(),
        next(&mut answer, 3).await.unwrap().unwrap(),
    ];
    assert!(
        matches!(&last[0], Event::Delta(delta) if delta.text == " world"),
        "{last:?}"
    );
    assert!(matches!(&last[1], Event::Finished(_)), "{last:?}");
    let asked = group.asked();
    let last = asked.last().unwrap();
    assert!(last.first_in_line);
    let told = Resumed {
        branch: 0,
        ids: fake::encode("hello"),
        ended: false,
    };
    assert_eq!(last.resumed, [told], "it survives the wire");
    let answer = coordinator.chat(question("hi")).await.unwrap();
    assert_eq!(Answer::read(answer).await.text(), "hello");
}
