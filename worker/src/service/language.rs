//! `LanguageService` on a group's leader.

mod events;
mod submission;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, RwLock},
    time::Duration,
};

use futures::{Stream, stream};
use inkstone_proto::worker::v1::{
    ConnectRequest, ConnectResponse, DescribeLanguageRequest, DescribeLanguageResponse, Submit,
    connect_request::Message, language_service_server::LanguageService,
};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, Sleep},
};
use tonic::{Request, Response, Status, Streaming};

pub use self::submission::RequestTerms;
use crate::{
    constraint::ConstraintVocabulary,
    group::leader::{Connection, ConnectionEvents, LeaderHandle, Refusal, Submission},
};

/// Constraints that are compiled at the same time, over all connections.
const COMPILES_AT_ONCE: usize = 2;
/// Between two load reports of a connection: callers are promised one every 250 ms.
const REPORT_EVERY: Duration = Duration::from_millis(150);
/// Requests of a connection whose constraints wait to be compiled; past it they are refused as busy.
const MAX_COMPILING: usize = 64;
/// What a process answers that leads no group.
const NO_GROUP: &str = "this process leads no language group now";

/// See the module's text. Cheap to clone; it answers UNAVAILABLE until the group is there, and while it drains.
#[derive(Clone)]
pub struct LanguageServer {
    stage: Arc<RwLock<Stage>>,
    compiles: Arc<Semaphore>,
}

/// A group that serves.
#[derive(Clone)]
pub struct Serving {
    /// What DescribeLanguage answers; `cache_namespace` is filled in from `terms`.
    pub description: DescribeLanguageResponse,
    /// What a request is checked against.
    pub terms: Arc<RequestTerms>,
    /// For constraints, which are compiled here before a rank sees them: what cannot be followed is refused.
    pub vocabulary: Arc<ConstraintVocabulary>,
    /// The way to the engine.
    pub leader: LeaderHandle,
}

enum Stage {
    Serving(Box<Serving>),
    /// And why not.
    NotServing(&'static str),
}

impl LanguageServer {
    /// Takes no work yet.
    pub fn new() -> Self {
        Self {
            stage: Arc::new(RwLock::new(Stage::NotServing(NO_GROUP))),
            compiles: Arc::new(Semaphore::new(COMPILES_AT_ONCE)),
        }
    }

    /// Answers that a group is on its way.
    pub fn load(&self) {
        self.set_stage(Stage::NotServing(
            "the language group is loading its weights",
        ));
    }

    /// Takes work from now on.
    pub fn start(&self, mut serving: Serving) {
        // Coordinators derive salts from what requests are salted with.
        serving.description.cache_namespace = serving.terms.cache_namespace().to_vec().into();
        self.set_stage(Stage::Serving(Box::new(serving)));
    }

    /// Takes no new work from now on; what runs goes on.
    pub fn drain(&self) {
        self.set_stage(Stage::NotServing("the language group is stopping"));
    }

    /// Answers that there is no group here (any more).
    pub fn clear(&self) {
        self.set_stage(Stage::NotServing(NO_GROUP));
    }

    fn set_stage(&self, stage: Stage) {
        *self.stage.write().expect("nobody panics with the stage") = stage;
    }

    fn serving(&self) -> Result<Serving, Status> {
        match &*self.stage.read().expect("nobody panics with the stage") {
            Stage::Serving(serving) => Ok(Serving::clone(serving)),
            Stage::NotServing(reason) => Err(Status::unavailable(*reason)),
        }
    }

    /// Reads what a coordinator asks, until it ends its side of the call.
    async fn take_requests(self, connection: Connection, mut requests: Streaming<ConnectRequest>) {
        let mut compiling: HashMap<u64, JoinHandle<()>> = HashMap::new();
        // A broken call shows on its other side too: there its requests end.
        while let Ok(Some(request)) = requests.message().await {
            compiling.retain(|_, task| !task.is_finished());
            match request.message {
                Some(Message::Submit(submit)) => {
                    self.submit(&connection, submit, &mut compiling).await;
                }
                Some(Message::Cancel(cancel)) => {
                    if let Some(task) = compiling.remove(&cancel.handle) {
                        task.abort();
                        let _ = task.await;
                    }
                    connection.cancel(cancel.handle).await;
                }
                None => tracing::debug!("a coordinator sent an empty message"),
            }
        }
        for (_, task) in compiling {
            let _ = task.await;
        }
        connection.end_input().await;
    }

    async fn submit(
        &self,
        connection: &Connection,
        submit: Submit,
        compiling: &mut HashMap<u64, JoinHandle<()>>,
    ) {
        let handle = submit.handle;
        let serving = match self.serving() {
            Ok(serving) => serving,
            Err(status) => {
                let message = status.message().to_owned();
                return connection.refuse(handle, Refusal::NotServing, message);
            }
        };
        match serving.terms.check(handle, submit.request) {
            Err((reason, message)) => connection.refuse(handle, reason, message),
            Ok(submission) if submission.sampling.constraint.is_none() => {
                connection.submit(submission).await;
            }
            Ok(_) if compiling.len() >= MAX_COMPILING => {
                let message = format!("{MAX_COMPILING} constraints wait to be compiled already");
                connection.refuse(handle, Refusal::Busy, message);
            }
            Ok(submission) => {
                let task = self.clone().compile_and_submit(
                    connection.clone(),
                    submission,
                    serving.vocabulary,
                );
                compiling.insert(handle, tokio::spawn(task));
            }
        }
    }

    /// Off the connection's own task, so that other requests do not wait for a compiler.
    async fn compile_and_submit(
        self,
        connection: Connection,
        submission: Submission,
        vocabulary: Arc<ConstraintVocabulary>,
    ) {
        let Ok(_permit) = self.compiles.acquire().await else {
            return;
        };
        let form = submission.sampling.constraint.clone();
        let compile = move || form.map_or(Ok(()), |form| vocabulary.compile(&form).map(drop));
        let compiled = tokio::task::spawn_blocking(compile).await;
        match compiled.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => connection.submit(submission).await,
            Err(message) => connection.refuse(submission.handle, Refusal::Invalid, message),
        }
    }
}

impl Default for LanguageServer {
    fn default() -> Self {
        Self::new()
    }
}

#[tonic::async_trait]
impl LanguageService for LanguageServer {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<ConnectResponse, Status>> + Send>>;

    async fn describe_language(
        &self,
        _: Request<DescribeLanguageRequest>,
    ) -> Result<Response<DescribeLanguageResponse>, Status> {
        Ok(Response::new(self.serving()?.description))
    }

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (connection, events) = self.serving()?.leader.connect().await;
        tokio::spawn(self.clone().take_requests(connection, request.into_inner()));
        // When the caller goes away tonic drops this stream, and with it `events`: that ends the caller's requests.
        let responses = stream::unfold(Responses::new(events), Responses::next);
        Ok(Response::new(Box::pin(responses)))
    }
}

/// What a caller is sent.
struct Responses {
    events: ConnectionEvents,
    next_report: Pin<Box<Sleep>>,
}

impl Responses {
    /// The first of them is a report.
    fn new(events: ConnectionEvents) -> Self {
        Self {
            events,
            next_report: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// What happened to the caller's requests, as soon as something did; and now and then how the group is, whatever the leader's loop
    /// does. A caller that does not read holds nothing up here: nothing is made before it is sent.
    async fn next(mut self) -> Option<(Result<ConnectResponse, Status>, Self)> {
        let told = tokio::select! {
            biased;
            () = &mut self.next_report => None,
            told = self.events.next() => Some(told?),
        };
        let mut response = ConnectResponse::default();
        match told {
            Some(Ok(told)) => response.events = events::to_wire(told),
            Some(Err(reason)) => return Some((Err(Status::unavailable(reason)), self)),
            None => {
                response.load = Some(events::load_to_wire(self.events.report()));
                self.next_report
                    .as_mut()
                    .reset(Instant::now() + REPORT_EVERY);
            }
        }
        response.cache = self.events.cache_update().map(events::cache_to_wire);
        Some((Ok(response), self))
    }
}

#[cfg(test)]
mod tests;
