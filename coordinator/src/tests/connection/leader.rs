//! A leader that says what a test tells it to say, and what a test asks of it.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use inkstone_cluster::Epoch;
use inkstone_proto::worker::v1::{
    self as worker_wire, connect_request::Message, language_service_server::LanguageService,
    language_service_server::LanguageServiceServer, request_event::Event as Said,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Response,
    transport::{Server, server::TcpIncoming},
};

use super::super::*;
use crate::{
    config::Timeouts,
    worker_client::{
        Constraint, Decoding, Generation, GenerationEvent, GenerationStream, GrpcConnector,
        LanguageClient, Priority, PromptPiece, Sampling, WorkerError,
    },
};

/// A call as the leader sees it.
pub(super) struct Call {
    pub(super) requests: Streaming<worker_wire::ConnectRequest>,
    pub(super) answers: mpsc::Sender<Result<worker_wire::ConnectResponse, Status>>,
}

impl Call {
    pub(super) async fn heard(&mut self) -> Message {
        let request = timeout(PATIENCE, self.requests.next()).await;
        let request = request.expect("a request in time");
        request.expect("the call goes on").unwrap().message.unwrap()
    }

    pub(super) async fn submitted(&mut self) -> worker_wire::Submit {
        match self.heard().await {
            Message::Submit(submit) => submit,
            Message::Cancel(cancel) => panic!("{cancel:?}"),
        }
    }

    /// One message about several requests.
    pub(super) async fn say(&self, events: impl IntoIterator<Item = (u64, Said)>) {
        let events = events.into_iter().map(|(handle, said)| {
            let event = Some(said);
            worker_wire::RequestEvent { handle, event }
        });
        let events = events.collect();
        let said = self.answers.send(Ok(worker_wire::ConnectResponse {
            events,
            ..Default::default()
        }));
        let said = timeout(PATIENCE, said).await.expect("room in time");
        said.expect("the call goes on");
    }
}

/// Hands its calls to the test.
pub(super) struct Leader(pub(super) mpsc::Sender<Call>);

#[tonic::async_trait]
impl LanguageService for Leader {
    async fn describe_language(
        &self,
        _: Request<worker_wire::DescribeLanguageRequest>,
    ) -> Result<Response<worker_wire::DescribeLanguageResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    type ConnectStream = BoxStream<'static, Result<worker_wire::ConnectResponse, Status>>;

    async fn connect(
        &self,
        call: Request<Streaming<worker_wire::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (answers, receiver) = mpsc::channel(4);
        let requests = call.into_inner();
        let call = Call { requests, answers };
        self.0.send(call).await.expect("the test runs");
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

/// A leader's calls, and a client of it.
pub(super) async fn leader(
    change: impl FnOnce(&mut Timeouts),
) -> (mpsc::Receiver<Call>, Arc<dyn LanguageClient>) {
    let (sender, calls) = mpsc::channel(4);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(LanguageServiceServer::new(Leader(sender)));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let mut timeouts = Timeouts {
        // These leaders say nothing by themselves.
        silence: PATIENCE,
        ..Timeouts::default()
    };
    change(&mut timeouts);
    let connector = GrpcConnector::new(timeouts);
    (
        calls,
        connector.language(&address.to_string().parse().unwrap()),
    )
}

pub(super) async fn next_call(calls: &mut mpsc::Receiver<Call>) -> Call {
    let call = timeout(PATIENCE, calls.recv()).await;
    call.expect("a call in time").expect("the leader runs")
}

pub(super) fn generation(decoding: Decoding) -> Generation {
    Generation {
        request_id: "mine".into(),
        epoch: Epoch(3),
        prompt: [PromptPiece::Tokens(vec![1, 2])].into(),
        sampling: Sampling {
            temperature: 0.5,
            top_k: 4,
            top_p: 0.75,
            min_p: 0.125,
            repetition_penalty: 1.5,
            presence_penalty: 0.25,
            frequency_penalty: -0.25,
            seed: 7,
            logit_bias: vec![(3, -2.0), (9, 1.0)],
            min_new_tokens: 2,
            num_logprobs: Some(1),
            constraint: Some(Constraint::Regex("a+".into())),
        },
        decoding,
        max_new_tokens: 100_000,
        stop_token_ids: vec![2],
        priority: Priority::Batch,
        cache_salt: Bytes::from_static(b"tenant"),
        prompt_logprobs: true,
        place: std::sync::Weak::new(),
        resumed: vec![],
        first_in_line: false,
    }
}

/// Starts a request whose call is there already, or comes.
pub(super) fn start(
    client: &Arc<dyn LanguageClient>,
    decoding: Decoding,
) -> JoinHandle<Result<GenerationStream, WorkerError>> {
    let client = client.clone();
    tokio::spawn(async move { client.generate(generation(decoding)).await })
}

pub(super) const ONE: Decoding = Decoding::Sample { branches: 1 };

pub(super) fn accepted() -> Said {
    Said::Accepted(worker_wire::Accepted {})
}

pub(super) fn tokens(first_index: u32, ids: Vec<u32>) -> Said {
    Said::Tokens(worker_wire::Tokens {
        branch: 0,
        first_index,
        ids,
        infos: vec![],
    })
}

pub(super) fn ended() -> Said {
    Said::Ended(worker_wire::Ended {
        branch: 0,
        reason: worker_wire::EndReason::Stop.into(),
    })
}

/// Starts a request and has it accepted.
pub(super) async fn running(
    client: &Arc<dyn LanguageClient>,
    call: &mut Call,
) -> (u64, GenerationStream) {
    let starting = start(client, ONE);
    let handle = call.submitted().await.handle;
    call.say([(handle, accepted())]).await;
    (handle, starting.await.unwrap().unwrap())
}

/// The first request on a new call.
pub(super) async fn first(
    client: &Arc<dyn LanguageClient>,
    calls: &mut mpsc::Receiver<Call>,
) -> (Call, u64, GenerationStream) {
    let starting = start(client, ONE);
    let mut call = next_call(calls).await;
    let handle = call.submitted().await.handle;
    call.say([(handle, accepted())]).await;
    (call, handle, starting.await.unwrap().unwrap())
}

/// The ids that come, up to the end or an error.
pub(super) async fn read(
    stream: impl Stream<Item = Result<GenerationEvent, WorkerError>>,
) -> (Vec<u32>, Result<(), WorkerError>) {
    let mut stream = std::pin::pin!(stream);
    let mut ids = vec![];
    loop {
        let event = timeout(PATIENCE, stream.next()).await;
        match event.expect("an event in time") {
            Some(Ok(GenerationEvent::Tokens(batch))) => ids.extend(batch.ids),
            Some(Ok(_)) => {}
            Some(Err(error)) => return (ids, Err(error)),
            None => return (ids, Ok(())),
        }
    }
}

/// A leader's heartbeat.
pub(super) async fn beat(call: &Call) {
    let beat = worker_wire::ConnectResponse {
        load: Some(worker_wire::LoadReport {
            running: 3,
            rows_per_second: 500.0,
            ..Default::default()
        }),
        cache: Some(worker_wire::CacheEvents {
            reset: true,
            added: vec![1],
            removed: vec![],
        }),
        ..Default::default()
    };
    call.answers.send(Ok(beat)).await.unwrap();
}
