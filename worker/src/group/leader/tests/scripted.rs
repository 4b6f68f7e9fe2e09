//! An executor that draws by script, pictures on a shelf, and what a leader over them is asked and heard.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use inkstone_engine::{Decoding, Draw, DrawKind, Drawn, DrawnToken, Priority, StepOutput};
use inkstone_model::clip::PictureFeatures;

use super::super::*;
use crate::executor::{PictureDigest, PromptPart, RequestSetup, SequenceSampling};

pub(super) const STOP: u32 = 2;
/// A real step takes a while; without it a test could not cancel in the middle.
pub(super) const STEP: Duration = Duration::from_millis(1);

/// Draws the number of the token; keeps what it was told.
#[derive(Default)]
pub(super) struct Scripted {
    pub(super) fail_at_step: Option<u64>,
    /// Steps from this one on do not come to an end before it is let go.
    pub(super) hang_at_step: Option<u64>,
    pub(super) running: Option<Arc<StepPlan>>,
    pub(super) seen: Arc<Seen>,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) admitted: AtomicUsize,
    pub(super) steps: AtomicUsize,
    pub(super) retired: AtomicUsize,
    pub(super) pictures: AtomicUsize,
    /// Positions that were computed, over all steps.
    pub(super) rows: AtomicUsize,
    pub(super) let_go: AtomicBool,
}

impl Executor for Scripted {
    fn admit(&mut self, _: Arc<RequestSetup>) -> Result<(), ExecutorError> {
        self.seen.admitted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn pictures(
        &mut self,
        _: RequestId,
        pictures: Vec<Arc<EncodedPicture>>,
    ) -> Result<(), ExecutorError> {
        self.seen
            .pictures
            .fetch_add(pictures.len(), Ordering::SeqCst);
        Ok(())
    }

    fn start(&mut self, plan: Arc<StepPlan>) -> Result<(), ExecutorError> {
        assert!(self.running.is_none(), "one step at a time");
        self.seen.steps.fetch_add(1, Ordering::SeqCst);
        self.seen
            .retired
            .fetch_add(plan.retired.len(), Ordering::SeqCst);
        self.seen.rows.fetch_add(plan.num_rows(), Ordering::SeqCst);
        self.running = Some(plan);
        Ok(())
    }

    fn finish(&mut self) -> Result<StepOutput, ExecutorError> {
        let plan = self.running.take().expect("a step runs");
        if self.fail_at_step == Some(plan.step) {
            return Err(ExecutorError::RankGone {
                rank: 1,
                reason: "it was killed".to_owned(),
            });
        }
        thread::sleep(STEP);
        let hangs = self.hang_at_step.is_some_and(|step| plan.step >= step);
        while hangs && !self.seen.let_go.load(Ordering::SeqCst) {
            thread::sleep(STEP);
        }
        let draw = |draw: Draw| match draw.kind {
            DrawKind::Tokens { branches, .. } => {
                let token = DrawnToken::plain(100 + draw.token_index as u32);
                Drawn::Tokens(vec![token; branches])
            }
            DrawKind::Candidates { .. } => panic!("no beams here"),
        };
        let items = plan.items.iter();
        let drawn = items.filter_map(|item| item.draw.map(|d| (item.sequence, draw(d))));
        Ok(StepOutput {
            drawn: drawn.collect(),
            prompt_logprobs: Vec::new(),
        })
    }

    fn suspects(&self) -> Vec<usize> {
        vec![1]
    }
}

/// Gives each picture after a while, except those it does not have.
#[derive(Clone, Default)]
pub(super) struct Shelf {
    pub(super) fetches: Arc<Mutex<Vec<Vec<PictureDigest>>>>,
    pub(super) missing: Option<PictureDigest>,
}

impl PictureSource for Shelf {
    fn fetch(
        &self,
        pictures: Vec<PictureRef>,
    ) -> BoxFuture<'static, Result<Vec<Arc<EncodedPicture>>, FetchError>> {
        let digests = pictures.iter().map(|picture| picture.digest).collect();
        self.fetches.lock().unwrap().push(digests);
        let missing = self.missing;
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let give = |picture: PictureRef| match missing == Some(picture.digest) {
                true => Err(FetchError::Missing {
                    address: picture.vision_address,
                    digest: picture.digest,
                }),
                false => Ok(Arc::new(EncodedPicture {
                    digest: picture.digest,
                    features: PictureFeatures::new(
                        picture.num_tokens,
                        1,
                        vec![0.0; picture.num_tokens],
                    ),
                })),
            };
            pictures.into_iter().map(give).collect()
        })
    }
}

pub(super) fn limits() -> EngineLimits {
    EngineLimits {
        num_blocks: 64,
        max_step_tokens: 64,
        max_running: 4,
        max_waiting: 8,
        max_wait_steps: 100,
    }
}

pub(super) fn start(executor: Scripted) -> (Leader, Arc<Seen>) {
    start_with(executor, Shelf::default())
}

pub(super) fn start_with(executor: Scripted, shelf: Shelf) -> (Leader, Arc<Seen>) {
    let seen = Arc::clone(&executor.seen);
    let leader = Leader::start(limits(), Box::new(executor), Box::new(shelf)).unwrap();
    (leader, seen)
}

pub(super) fn text(handle: u64, prompt_tokens: u32, max_new_tokens: usize) -> Submission {
    let first = 1000 * handle as u32;
    Submission {
        handle,
        prompt: vec![PromptPart::Tokens((first..first + prompt_tokens).collect())],
        pictures: Vec::new(),
        sampling: SequenceSampling::default(),
        stop_token_ids: vec![STOP],
        cache_salt: [0; 32],
        decoding: Decoding::Sample { branches: 1 },
        max_new_tokens,
        priority: Priority::Interactive,
        prompt_logprobs: false,
        resumed: Vec::new(),
        first_in_line: false,
    }
}

/// A question about a picture of 48 positions.
pub(super) fn question(handle: u64, picture: u8) -> Submission {
    let digest = PictureDigest([picture; 32]);
    let num_tokens = 48;
    let words = (0..4).map(|word| 1000 * handle as u32 + word).collect();
    Submission {
        prompt: vec![
            PromptPart::Picture { digest, num_tokens },
            PromptPart::Tokens(words),
        ],
        pictures: vec![PictureRef {
            digest,
            num_tokens,
            vision_address: "http://127.0.0.1:1".to_owned(),
        }],
        ..text(handle, 0, 3)
    }
}

/// Reads until the answers of `handles` are over; gives what each was told.
pub(super) async fn hear(
    events: &mut ConnectionEvents,
    handles: &[u64],
) -> HashMap<u64, Vec<OwnerEvent>> {
    let mut heard: HashMap<u64, Vec<OwnerEvent>> = HashMap::new();
    let mut left = handles.len();
    let is_last =
        |event: &OwnerEvent| matches!(event, OwnerEvent::Ended { .. } | OwnerEvent::Refused { .. });
    while left > 0 {
        let next = tokio::time::timeout(Duration::from_secs(20), events.next());
        let told = next.await.expect("events come").expect("it goes on");
        for told in told.expect("the connection holds") {
            left -= usize::from(is_last(&told.event) && handles.contains(&told.handle));
            heard.entry(told.handle).or_default().push(told.event);
        }
    }
    heard
}

pub(super) fn token(index: usize) -> OwnerEvent {
    OwnerEvent::Token {
        branch: 0,
        index,
        token: DrawnToken::plain(100 + index as u32),
    }
}

pub(super) fn tokens_in(events: &[OwnerEvent]) -> usize {
    let is_token = |event: &&OwnerEvent| matches!(event, OwnerEvent::Token { .. });
    events.iter().filter(is_token).count()
}

pub(super) async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(STEP).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap_or_else(|_| panic!("waited for: {what}"));
}

pub(super) async fn hear_some(events: &mut ConnectionEvents) -> Vec<OwnerEvent> {
    let told = events.next().await.unwrap().unwrap();
    told.into_iter().map(|told| told.event).collect()
}
