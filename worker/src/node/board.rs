//! What a node says of itself: one status, put together from what its parts say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use inkstone_cluster::{
    Announcement, Epoch, LanguageStatus, NodeStatus, Phase, ShardKey, VisionStatus,
};

use crate::{
    group::life::{Breakage, GroupLife},
    progress::{LoadProgress, ProgressSink},
};

/// Between two reports of how far loading is: each is a write to the registry.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);

/// Values of the registry are small; the log has the whole reason.
const MAX_REASON_BYTES: usize = 500;

/// See the module's text.
pub(super) struct StatusBoard {
    announcement: Arc<dyn Announcement>,
    status: Mutex<NodeStatus>,
}

impl StatusBoard {
    pub(super) fn new(announcement: Arc<dyn Announcement>) -> Self {
        announcement.set_status(NodeStatus::default());
        Self {
            announcement,
            status: Mutex::new(NodeStatus::default()),
        }
    }

    /// How far the node is with a life of a group.
    pub(super) fn language(&self, life: &GroupLife, phase: Phase) {
        self.change(|status| {
            status.language = Some(LanguageStatus {
                group: life.group.clone(),
                epoch: life.epoch,
                phase,
            });
        });
    }

    /// A life broke.
    pub(super) fn language_failed(&self, life: &GroupLife, breakage: &Breakage) {
        let Breakage {
            mut reason,
            suspects,
        } = breakage.clone();
        tracing::warn!(%life, reason, ?suspects, "this life of the language group broke");
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        self.language(life, Phase::Failed { reason, suspects });
    }

    /// The node has no part in a group.
    pub(super) fn language_idle(&self) {
        self.change(|status| status.language = None);
    }

    /// The encoder cannot be started.
    pub(super) fn vision_failed(&self, epoch: Epoch, mut reason: String) {
        tracing::error!(%epoch, reason, "the picture encoder cannot be started");
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        let suspects = BTreeSet::new();
        self.vision(Some((epoch, Phase::Failed { reason, suspects })));
    }

    /// How far the node is with encoding pictures; none: it is not asked to.
    pub(super) fn vision(&self, part: Option<(Epoch, Phase)>) {
        self.change(|status| {
            status.vision = part.map(|(epoch, phase)| VisionStatus { epoch, phase });
        });
    }

    /// Which shards are in memory.
    pub(super) fn kept(&self, kept: BTreeSet<ShardKey>) {
        self.change(|status| status.kept = kept);
    }

    /// Puts the sum of several parts' progress into the status of whichever part loads, now and then, and hands each report on.
    pub(super) fn progress(
        self: &Arc<Self>,
        hand_on: ProgressSink,
        set: impl Fn(&mut NodeStatus, Phase) + Send + Sync + 'static,
    ) -> ProgressSink {
        let board = Arc::clone(self);
        let seen = Mutex::new((BTreeMap::new(), None::<Instant>));
        Arc::new(move |at: LoadProgress| {
            hand_on(at.clone());
            let mut seen = seen.lock().expect("no code panics while it counts bytes");
            let (parts, told) = &mut *seen;
            parts.insert(at.part, (at.bytes_done, at.bytes_total));
            if told.is_some_and(|told| told.elapsed() < PROGRESS_PAUSE) {
                return;
            }
            *told = Some(Instant::now());
            let phase = Phase::Loading {
                done_bytes: parts.values().map(|(done, _)| done).sum(),
                total_bytes: parts.values().map(|(_, total)| total).sum(),
            };
            board.change(|status| set(status, phase));
        })
    }

    fn change(&self, change: impl FnOnce(&mut NodeStatus)) {
        let mut status = self.lock();
        let before = status.clone();
        change(&mut status);
        if *status != before {
            // With the lock held, so that the last one said is the last one written.
            self.announcement.set_status(status.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, NodeStatus> {
        self.status
            .lock()
            .expect("no code panics while it changes the status")
    }
}

/// Reports how far a language part is, as long as it loads.
pub(super) fn language_loading(status: &mut NodeStatus, phase: Phase) {
    if let Some(language) = &mut status.language
        && matches!(language.phase, Phase::Loading { .. })
    {
        language.phase = phase;
    }
}

/// Reports how far a vision part is, as long as it loads.
pub(super) fn vision_loading(status: &mut NodeStatus, phase: Phase) {
    if let Some(vision) = &mut status.vision
        && matches!(vision.phase, Phase::Loading { .. })
    {
        vision.phase = phase;
    }
}
