//! A language group among the members: one life of it, as a new epoch is another member.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use inkstone_cluster::{Epoch, GroupId, LanguageGroup, NodeAddress};
use inkstone_interface::description::ModelDescription;
use inkstone_prefix::{BlockHashes, Span, block_hashes, rope_class, salt};
use tokio::{
    sync::Mutex,
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{
    cluster_load::GroupLoad,
    model::ServedModel,
    routing::Outlook,
    worker_client::{
        Generation, GenerationStream, LanguageClient, LanguageDescription, PromptPiece, WorkerError,
    },
};

/// How long a request waits for a group to describe itself; most groups did before they were asked for anything.
const KNOW_LIMIT: Duration = Duration::from_secs(2);
/// Between two questions to a group that does not describe itself, the first and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A language group.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    leader: NodeAddress,
    /// The life that the member list means; none: the list does not say.
    listed_epoch: Option<Epoch>,
    client: Arc<dyn LanguageClient>,
    known: Arc<Mutex<Option<Known>>>,
    /// What it is known by, for those who cannot wait.
    namespace: std::sync::Mutex<Option<(Epoch, Bytes)>>,
    num_running: Arc<AtomicUsize>,
    learning: std::sync::Mutex<Option<AbortHandle>>,
}

/// What a group said of itself.
#[derive(Debug, Clone)]
struct Known {
    model: ModelDescription,
    epoch: Epoch,
}

/// A request that a group took on.
pub(crate) struct Placed {
    /// What happens to it.
    pub(crate) stream: GenerationStream,
    pub(crate) group: GroupId,
    pub(crate) epoch: Epoch,
    /// Positions of its prompt that the group was expected to have.
    pub(crate) predicted_cached_tokens: u32,
}

impl Group {
    /// Begins to learn what the group serves.
    pub(super) fn new(member: &LanguageGroup, client: Arc<dyn LanguageClient>) -> Arc<Self> {
        let group = Arc::new(Self {
            id: member.id.clone(),
            leader: member.leader.clone(),
            listed_epoch: member.epoch,
            client,
            known: Arc::default(),
            namespace: std::sync::Mutex::default(),
            num_running: Arc::default(),
            learning: std::sync::Mutex::default(),
        });
        let learning = tokio::spawn(learn(Arc::downgrade(&group))).abort_handle();
        *group.learning.lock().expect("no panic while locked") = Some(learning);
        group
    }

    /// Whether this is that member: the same life at the same place.
    pub(super) fn is(&self, member: &LanguageGroup) -> bool {
        self.id == member.id && self.leader == member.leader && self.listed_epoch == member.epoch
    }

    /// Asks the group what it serves.
    pub(crate) async fn describe(&self) -> Result<LanguageDescription, WorkerError> {
        self.client.describe().await
    }

    /// What it last said of its load.
    pub(super) fn load(&self) -> Option<GroupLoad> {
        let (report, age) = self.client.pulse().last_report()?;
        let known = self.namespace().map(|(epoch, _)| epoch);
        Some(GroupLoad {
            group: self.id.clone(),
            epoch: known.or(self.listed_epoch),
            age,
            report,
        })
    }

    /// What to think of it for this request.
    pub(super) fn outlook(&self, blocks: &mut PromptBlocks<'_>) -> Outlook {
        let num_running = self.num_running.load(Ordering::Relaxed);
        let hashes = match self.namespace() {
            Some((_, namespace)) => blocks.under(namespace),
            None => None,
        };
        self.client.pulse().outlook(hashes, num_running)
    }

    /// Has it run the request, or says why it does not.
    pub(super) async fn generate(
        &self,
        model: &ServedModel,
        generation: &Generation,
        blocks: &mut PromptBlocks<'_>,
        outlook: &Outlook,
    ) -> Result<Placed, WorkerError> {
        let epoch = self.known_epoch(model).await?;
        let num_new = blocks.num_tokens().saturating_sub(outlook.cached_tokens);
        let hashes = match self.namespace() {
            Some((_, namespace)) => blocks.under(namespace),
            None => None,
        };
        // Before the answer, so that requests that come meanwhile know of this one.
        let sent = self.client.pulse().sent(num_new as u64, hashes);
        let place = generation.place.upgrade();
        let goes_first = place.is_some_and(|place| place.routed(num_new as u64));
        let generation = &Generation {
            first_in_line: generation.first_in_line || goes_first,
            ..generation.clone()
        };
        let answer = match self.generate_in(epoch, generation).await {
            Err(WorkerError::EpochMismatch(_)) => {
                self.forget(epoch).await;
                let epoch = self.known_epoch(model).await?;
                let stream = self.generate_in(epoch, generation).await;
                stream.map(|stream| (stream, epoch))
            }
            answer => answer.map(|stream| (stream, epoch)),
        };
        match answer {
            Ok((mut stream, epoch)) => {
                stream.keep(sent);
                self.client.pulse().thrives();
                Ok(Placed {
                    stream,
                    group: self.id.clone(),
                    epoch,
                    predicted_cached_tokens: u32::try_from(outlook.cached_tokens)
                        .unwrap_or(u32::MAX),
                })
            }
            Err(error) => {
                if error.is_about_this_worker() && !matches!(error, WorkerError::Busy { .. }) {
                    self.client.pulse().failed();
                }
                Err(error)
            }
        }
    }

    async fn generate_in(
        &self,
        epoch: Epoch,
        generation: &Generation,
    ) -> Result<GenerationStream, WorkerError> {
        let generation = Generation {
            epoch,
            ..generation.clone()
        };
        let running = Running::count(&self.num_running);
        let mut events = self.client.generate(generation).await?;
        // The count falls when the stream is dropped, at its end or before.
        events.keep(running);
        Ok(events)
    }

    /// The group's life, once it is known to serve this model.
    async fn known_epoch(&self, model: &ServedModel) -> Result<Epoch, WorkerError> {
        let known = timeout(KNOW_LIMIT, self.know()).await.unwrap_or_else(|_| {
            let seconds = KNOW_LIMIT.as_secs_f32();
            let message = format!("the leader did not describe itself within {seconds} s");
            Err(WorkerError::Silent(message))
        });
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                self.client.pulse().failed();
                return Err(error);
            }
        };
        if let Err(error) = check_model(model, &known.model, &self.leader) {
            // Asked again next time: whoever runs the group may mend it.
            self.forget(known.epoch).await;
            self.client.pulse().failed();
            return Err(error);
        }
        Ok(known.epoch)
    }

    /// What the group said of itself; asks it only the first time.
    async fn know(&self) -> Result<Known, WorkerError> {
        let mut known = self.known.lock().await;
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let answer = self.client.describe().await?;
        if let Some(listed) = self.listed_epoch
            && answer.epoch < listed
        {
            let found = answer.epoch;
            return Err(WorkerError::EpochMismatch(format!(
                "wanted epoch {listed}, the leader is still in epoch {found}"
            )));
        }
        tracing::info!(group = %self.id, epoch = %answer.epoch, "language group described itself");
        *self.namespace.lock().expect("no panic while locked") =
            Some((answer.epoch, answer.cache_namespace));
        let told = known.insert(Known {
            model: answer.model,
            epoch: answer.epoch,
        });
        Ok(told.clone())
    }

    async fn forget(&self, gone: Epoch) {
        let mut known = self.known.lock().await;
        // Another request may have learnt the new one already.
        if known.as_ref().is_some_and(|known| known.epoch == gone) {
            *known = None;
        }
    }

    fn namespace(&self) -> Option<(Epoch, Bytes)> {
        self.namespace
            .lock()
            .expect("no panic while locked")
            .clone()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(learning) = self.learning.lock().expect("no panic while locked").take() {
            learning.abort();
        }
    }
}

/// Learns what a group serves before anybody asks for it, for as long as it is a member.
async fn learn(group: std::sync::Weak<Group>) {
    let mut pause = FIRST_PAUSE;
    while let Some(member) = group.upgrade() {
        if member.know().await.is_ok() {
            return;
        }
        drop(member);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

pub(super) fn check_model(
    model: &ServedModel,
    found: &ModelDescription,
    worker: &NodeAddress,
) -> Result<(), WorkerError> {
    if model.is(found) {
        return Ok(());
    }
    Err(WorkerError::OtherModel {
        wanted: model.description.name.clone(),
        found: found.name.clone(),
        worker: worker.clone(),
    })
}

/// The names of a prompt's blocks, which depend on the group's namespace; all groups of a model have the same one.
pub(super) struct PromptBlocks<'a> {
    prompt: &'a [PromptPiece],
    owner: &'a [u8],
    num_tokens: usize,
    rope_class: u32,
    hashes: Option<(Bytes, BlockHashes)>,
}

impl<'a> PromptBlocks<'a> {
    pub(super) fn new(model: &ServedModel, generation: &'a Generation) -> Self {
        let num_tokens = generation.prompt.iter().map(PromptPiece::num_tokens).sum();
        let fixed_up_to = model.description.config.rope_base_fixed_up_to();
        Self {
            prompt: &generation.prompt,
            owner: &generation.cache_salt,
            num_tokens,
            rope_class: rope_class(num_tokens, fixed_up_to),
            hashes: None,
        }
    }

    pub(super) fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// The names in this namespace; none where a picture's name is of a kind that cannot be part of them.
    fn under(&mut self, namespace: Bytes) -> Option<&BlockHashes> {
        let is_computed = matches!(&self.hashes, Some((computed, _)) if *computed == namespace);
        if !is_computed {
            let spans: Option<Vec<_>> = self.prompt.iter().map(span).collect();
            let salt = salt(&namespace, self.owner, self.rope_class);
            self.hashes = Some((namespace, block_hashes(salt, &spans?)));
        }
        self.hashes.as_ref().map(|(_, hashes)| hashes)
    }
}

fn span(piece: &PromptPiece) -> Option<Span<'_>> {
    match piece {
        PromptPiece::Tokens(ids) => Some(Span::Tokens(ids)),
        PromptPiece::Picture(picture) => Some(Span::Picture {
            digest: picture.digest.0.as_ref().try_into().ok()?,
            num_tokens: picture.num_tokens as usize,
        }),
    }
}

/// A request that runs on a group, counted while it lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn count(num_running: &Arc<AtomicUsize>) -> Self {
        num_running.fetch_add(1, Ordering::Relaxed);
        Self(num_running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
