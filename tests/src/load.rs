//! Clients that ask, compare every token with the answer that nothing disturbed, and measure how long they had to wait.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use inkstone_proto::v1::{
    ChatRequest, ChatResponse, Delta, FinishReason, Finished, chat_response::Event,
    chat_service_client::ChatServiceClient,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    cases::Case,
    report::{Outcome, Receipt, Report},
};

/// A stream that says nothing for so long hangs.
const HANG: Duration = Duration::from_secs(60);

/// How long a client asks again and again where it is refused.
const REFUSED: Duration = Duration::from_secs(60);

/// Rows are rounded differently in other company, and cached keys and values are half precision, which multiplies it.
const LOGPROB_TOLERANCE: f32 = 1e-2;

/// All that was said in answer to a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spoken {
    /// By their number.
    pub answers: BTreeMap<u32, SpokenAnswer>,
    /// Tokens of all of them.
    pub completion_tokens: u32,
}

/// One answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpokenAnswer {
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// Their log-probabilities, when asked for.
    pub logprobs: Vec<f32>,
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// The stop string that ended it.
    pub stop_string: String,
}

/// How far a stream is.
#[derive(Debug, Default)]
pub struct Progress {
    tokens: AtomicU32,
    /// The coordinator and the group of a stream that began.
    whose: Mutex<(String, Option<String>)>,
}

impl Progress {
    fn reset(&self, coordinator: &str) {
        self.tokens.store(0, Ordering::Relaxed);
        *self.whose() = (coordinator.to_owned(), None);
    }

    fn begin(&self, receipt: Option<&Receipt>) {
        self.whose().1 = receipt.map(|receipt| receipt.group.clone());
    }

    fn whose(&self) -> MutexGuard<'_, (String, Option<String>)> {
        self.whose.lock().expect("nobody panics with it")
    }
}

/// What came of following a stream.
pub struct Followed {
    /// What was said, if it ended well.
    pub spoken: Result<Spoken, Trouble>,
    /// When events came.
    pub events: Vec<Instant>,
    /// Who ran it, as was said at the start and at the end.
    pub receipts: Vec<(Instant, Receipt)>,
}

/// Why an answer is not what it should be.
#[derive(Debug)]
pub enum Trouble {
    /// An error came instead.
    Refused(Status),
    /// Anything else.
    Wrong(String),
}

/// Reads a stream to its end, checking that its events are numbered without gaps and in order, and counts its tokens.
pub async fn follow(mut stream: Streaming<ChatResponse>, progress: &Progress) -> Followed {
    let mut followed = Followed {
        spoken: Ok(Spoken::default()),
        events: Vec::new(),
        receipts: Vec::new(),
    };
    followed.spoken = read(&mut stream, progress, &mut followed).await;
    followed
}

async fn read(
    stream: &mut Streaming<ChatResponse>,
    progress: &Progress,
    followed: &mut Followed,
) -> Result<Spoken, Trouble> {
    let mut spoken = Spoken::default();
    let mut finished = None;
    let mut seq = 0;
    loop {
        let message = timeout(HANG, stream.message());
        let message = message.await.map_err(|_| {
            Trouble::Wrong(format!("it hangs: nothing for {HANG:?} after event {seq}"))
        })?;
        let Some(response) = message.map_err(Trouble::Refused)? else {
            break;
        };
        followed.events.push(Instant::now());
        if response.seq != seq || finished.is_some() {
            return Err(Trouble::Wrong(format!(
                "event {} came where {seq} was due",
                response.seq
            )));
        }
        seq += 1;
        match response.event {
            Some(Event::Started(started)) => {
                let receipt = started.routing.map(Receipt::from);
                progress.begin(receipt.as_ref());
                let now = Instant::now();
                followed.receipts.extend(receipt.map(|it| (now, it)));
            }
            Some(Event::Delta(delta)) => {
                let tokens = u32::try_from(delta.token_ids.len()).unwrap_or(u32::MAX);
                progress.tokens.fetch_add(tokens, Ordering::Relaxed);
                spoken.add(delta);
            }
            Some(Event::AnswerFinished(end)) => {
                let answer = spoken.answers.entry(end.answer).or_default();
                answer.reason = end.reason();
                answer.stop_string = end.stop_string;
            }
            Some(Event::Finished(end)) => finished = Some(end),
            Some(Event::PromptLogprobs(_)) => {}
            None => return Err(Trouble::Wrong("an event without content".into())),
        }
    }
    let finished = finished.ok_or_else(|| Trouble::Wrong("it ends without Finished".into()))?;
    spoken.end(finished);
    if let Ok(Some(trailers)) = stream.trailers().await {
        let receipt = Receipt::from_trailers(&trailers);
        let now = Instant::now();
        followed.receipts.extend(receipt.map(|it| (now, it)));
    }
    Ok(spoken)
}

impl Spoken {
    fn add(&mut self, delta: Delta) {
        let answer = self.answers.entry(delta.answer).or_default();
        answer.token_ids.extend(delta.token_ids);
        answer.text += &delta.text;
        let logprobs = delta.logprobs.iter().filter_map(|one| one.logprob);
        answer.logprobs.extend(logprobs);
    }

    fn end(&mut self, finished: Finished) {
        let first = self.answers.entry(0).or_default();
        first.reason = finished.reason();
        first.stop_string = finished.stop_string;
        self.completion_tokens = finished.usage.map_or(0, |usage| usage.completion_tokens);
    }

    /// Where this is not what was due.
    fn difference(&self, due: &Self) -> Option<String> {
        for (number, due) in &due.answers {
            let Some(answer) = self.answers.get(number) else {
                return Some(format!("answer {number} is missing"));
            };
            let same = answer.token_ids.iter().zip(&due.token_ids);
            let same = same.take_while(|(one, other)| one == other).count();
            if answer.token_ids != due.token_ids {
                return Some(format!(
                    "answer {number} has {} tokens, {} were due; the first {same} are equal, then comes {:?} instead of {:?}",
                    answer.token_ids.len(),
                    due.token_ids.len(),
                    &answer.token_ids[same..answer.token_ids.len().min(same + 8)],
                    &due.token_ids[same..due.token_ids.len().min(same + 8)],
                ));
            }
            let logprobs = || answer.logprobs.iter().zip(&due.logprobs);
            let far = logprobs().position(|(one, other)| (one - other).abs() > LOGPROB_TOLERANCE);
            if let Some(at) = far.or((answer.logprobs.len() != due.logprobs.len()).then_some(0)) {
                return Some(format!(
                    "answer {number} has {} log-probabilities, {} were due; at {at} they are {:?} and {:?}",
                    answer.logprobs.len(),
                    due.logprobs.len(),
                    answer.logprobs.get(at),
                    due.logprobs.get(at),
                ));
            }
            let rest = |one: &SpokenAnswer| (one.text.clone(), one.reason, one.stop_string.clone());
            if rest(answer) != rest(due) {
                return Some(format!("answer {number} is {answer:?}, due was {due:?}"));
            }
        }
        let counts = |one: &Self| (one.answers.len(), one.completion_tokens);
        (counts(self) != counts(due)).then(|| {
            let (found, due) = (counts(self), counts(due));
            format!("answers and tokens are {found:?}, due were {due:?}")
        })
    }
}

/// How clients behave.
#[derive(Debug, Clone)]
pub struct Clients {
    /// Coordinators, dealt out in turn.
    pub addresses: Vec<String>,
    /// So many ask side by side.
    pub streams: usize,
    /// Ask again and again, until told to stop.
    pub repeat: bool,
    /// Go to the next coordinator where one does not answer at all, as behind a load balancer.
    pub elsewhere: bool,
}

/// Clients at work.
pub struct Load {
    clients: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    clients: Clients,
    cases: Vec<Arc<Case>>,
    is_stopped: AtomicBool,
    /// The answers that clients listen to at present.
    progress: Vec<Progress>,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Load {
    /// Starts asking.
    pub fn start(clients: Clients, cases: &[Arc<Case>]) -> Self {
        let shared = Arc::new(Shared {
            progress: (0..clients.streams).map(|_| Progress::default()).collect(),
            clients,
            cases: cases.to_vec(),
            is_stopped: AtomicBool::new(false),
            outcomes: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        for number in 0..shared.clients.streams {
            let shared = Arc::clone(&shared);
            clients.spawn(async move { shared.run(number).await });
        }
        Self { clients, shared }
    }

    /// Waits until every client listens to an answer of which it has at least so many tokens, and tells when that was.
    pub async fn wait_until_all_run(&self, tokens: u32) -> Instant {
        let started = Instant::now();
        let slow = |one: &Progress| one.tokens.load(Ordering::Relaxed) < tokens;
        while self.shared.progress.iter().any(slow) {
            self.assert_no_failure();
            assert!(
                started.elapsed() < HANG * 2,
                "they do not all run: {:?}",
                self.shared.progress
            );
            sleep(Duration::from_millis(5)).await;
        }
        Instant::now()
    }

    fn assert_no_failure(&self) {
        let outcomes = self.shared.outcomes();
        let failure = outcomes.iter().find(|one| one.failure.is_some());
        if let Some(failure) = failure.map(ToString::to_string) {
            drop(outcomes);
            panic!("before any fault: {failure}");
        }
    }

    /// The group that began most of the answers that clients of these coordinators listen to.
    pub fn busiest_group(&self, is_asked: impl Fn(&str) -> bool) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for progress in &self.shared.progress {
            let (coordinator, group) = progress.whose().clone();
            if let Some(group) = group.filter(|_| is_asked(&coordinator)) {
                *counts.entry(group).or_default() += 1;
            }
        }
        let busiest = counts.into_iter().max_by_key(|(_, count)| *count);
        busiest.expect("answers run, and say where").0
    }

    /// Answers that came to their end.
    pub fn num_done(&self) -> usize {
        self.shared.outcomes().len()
    }

    /// Lets every client finish what it listens to, and tells how all went.
    pub async fn finish(self) -> Report {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        let clients = self.clients.join_all();
        let ended = timeout(HANG * 5, clients).await;
        assert!(ended.is_ok(), "clients still wait after {:?}", HANG * 5);
        Report::new(std::mem::take(&mut *self.shared.outcomes()))
    }
}

impl Shared {
    fn outcomes(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.outcomes.lock().expect("no client panics")
    }

    async fn run(&self, number: usize) {
        let mut round = 0;
        let mut coordinator = number;
        loop {
            let case = (number + round * self.clients.streams) % self.cases.len();
            let outcome = self.ask(number, &mut coordinator, &self.cases[case]).await;
            self.outcomes().push(outcome);
            round += 1;
            if !self.clients.repeat || self.is_stopped.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Asks until an answer begins, and follows it.
    async fn ask(&self, number: usize, coordinator: &mut usize, case: &Case) -> Outcome {
        let progress = &self.progress[number];
        let started = Instant::now();
        let mut turned_away = 0;
        loop {
            let address = &self.clients.addresses[*coordinator % self.clients.addresses.len()];
            progress.reset(address);
            let followed = match open(address, &case.request).await {
                Ok(stream) => follow(stream, progress).await,
                Err(status) => Followed {
                    spoken: Err(Trouble::Refused(status)),
                    events: Vec::new(),
                    receipts: Vec::new(),
                },
            };
            if followed.events.is_empty()
                && started.elapsed() < REFUSED
                && let Err(Trouble::Refused(status)) = &followed.spoken
                && self.is_to_try_again(status)
            {
                turned_away += 1;
                if status.code() != Code::ResourceExhausted {
                    *coordinator += 1;
                }
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            let failure = match followed.spoken {
                Ok(spoken) => spoken.difference(&case.right),
                Err(Trouble::Refused(status)) => Some(format!("{status:?}")),
                Err(Trouble::Wrong(what)) => Some(what),
            };
            return Outcome {
                kind: case.kind,
                coordinator: address.clone(),
                started,
                ended: Instant::now(),
                events: followed.events,
                receipts: followed.receipts,
                turned_away,
                failure,
            };
        }
    }

    fn is_to_try_again(&self, status: &Status) -> bool {
        match status.code() {
            // It says to come back: there are more requests than it takes.
            Code::ResourceExhausted => true,
            Code::Unavailable => self.clients.elsewhere,
            // The connection was reset before anything was said: nobody is there any more.
            Code::Unknown => self.clients.elsewhere && status.message() == "transport error",
            _ => false,
        }
    }
}

async fn open(address: &str, request: &ChatRequest) -> Result<Streaming<ChatResponse>, Status> {
    let endpoint = Channel::from_shared(format!("http://{address}"));
    let endpoint = endpoint
        .map_err(|error| Status::invalid_argument(error.to_string()))?
        .connect_timeout(Duration::from_secs(2));
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = ChatServiceClient::new(channel).max_encoding_message_size(64 << 20);
    Ok(client.chat(request.clone()).await?.into_inner())
}
