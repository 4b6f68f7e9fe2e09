//! What is in the group's prefix cache, for connections that follow it each at their own pace. The loop writes what changed after
//! each step and waits for no reader. A reader is told changes since it read last; one that is new, or lags behind the changes that are
//! kept, is told all there is.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, TryLockError},
};

use inkstone_engine::{CacheChange, Scheduler};

/// Changes that are kept for readers.
const MAX_CHANGES: usize = 1 << 16;
/// Blocks that are told together at most, so that a message stays small.
const MAX_TOGETHER: usize = 1 << 15;

/// See the module's text.
#[derive(Default)]
pub(super) struct CacheFeed(Mutex<Book>);

#[derive(Default)]
struct Book {
    /// All that is in the cache, by short hashes.
    held: HashSet<u64>,
    /// The last changes.
    changes: VecDeque<CacheChange>,
    /// How many came before them.
    num_before: u64,
}

/// How far a reader has read.
#[derive(Debug, Default)]
pub(super) struct CacheCursor {
    /// Changes that it knows of; none: nothing at all.
    num_known: Option<u64>,
    /// The rest of all there was when it was told all.
    rest: Vec<u64>,
}

/// Blocks that came into the cache and that left it, by short hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheUpdate {
    /// What was told before is to be forgotten.
    pub is_reset: bool,
    /// Came.
    pub added: Vec<u64>,
    /// Left; none of them is in `added`.
    pub removed: Vec<u64>,
}

impl CacheFeed {
    /// Takes down what changed. While a reader has the book that is put off, unless the loop can `wait`, as it can before it sleeps.
    pub(super) fn write(&self, scheduler: &mut Scheduler, wait: bool) {
        let mut book = match self.0.try_lock() {
            Ok(book) => book,
            Err(TryLockError::WouldBlock) if !wait => return,
            Err(_) => self.lock(),
        };
        let changes = scheduler.take_cache_changes();
        if changes.is_incomplete {
            book.replace(scheduler.cached_hashes());
        } else {
            book.append(changes.changes);
        }
    }

    /// What a reader does not know yet, or a part of that; nothing when it knows all.
    pub(super) fn read(&self, cursor: &mut CacheCursor) -> Option<CacheUpdate> {
        if !cursor.rest.is_empty() {
            return Some(cursor.next_of_rest(false));
        }
        let book = self.lock();
        match cursor.num_known {
            Some(known) if known >= book.num_before => book.changes_after(known, cursor),
            Some(_) | None => {
                cursor.num_known = Some(book.num_changes());
                cursor.rest = book.held.iter().copied().collect();
                drop(book);
                Some(cursor.next_of_rest(true))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0
            .lock()
            .expect("no code panics while it holds the book")
    }
}

impl Book {
    fn num_changes(&self) -> u64 {
        self.num_before + self.changes.len() as u64
    }

    fn append(&mut self, changes: Vec<CacheChange>) {
        for change in &changes {
            match change {
                CacheChange::Added(hash) => self.held.insert(*hash),
                CacheChange::Removed(hash) => self.held.remove(hash),
            };
        }
        self.changes.extend(changes);
        let too_many = self.changes.len().saturating_sub(MAX_CHANGES);
        self.changes.drain(..too_many);
        self.num_before += too_many as u64;
    }

    /// The changes are not known: every reader has to be told all.
    fn replace(&mut self, held: impl Iterator<Item = u64>) {
        self.held = held.collect();
        self.num_before = self.num_changes() + 1;
        self.changes.clear();
    }

    /// Of a block that came and left only the last counts.
    fn changes_after(&self, known: u64, cursor: &mut CacheCursor) -> Option<CacheUpdate> {
        let first = usize::try_from(known - self.num_before).unwrap_or(usize::MAX);
        let end = self.changes.len().min(first.saturating_add(MAX_TOGETHER));
        if first >= end {
            return None;
        }
        let mut last: HashMap<u64, bool> = HashMap::new();
        for change in self.changes.range(first..end) {
            match change {
                CacheChange::Added(hash) => last.insert(*hash, true),
                CacheChange::Removed(hash) => last.insert(*hash, false),
            };
        }
        cursor.num_known = Some(self.num_before + end as u64);
        let mut update = CacheUpdate::default();
        for (hash, is_held) in last {
            match is_held {
                true => update.added.push(hash),
                false => update.removed.push(hash),
            }
        }
        Some(update)
    }
}

impl CacheCursor {
    fn next_of_rest(&mut self, is_reset: bool) -> CacheUpdate {
        let kept = self.rest.len().saturating_sub(MAX_TOGETHER);
        CacheUpdate {
            is_reset,
            added: self.rest.split_off(kept),
            removed: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader and what it makes of what it is told.
    #[derive(Default)]
    struct Reader {
        cursor: CacheCursor,
        held: HashSet<u64>,
        num_resets: usize,
    }

    impl Reader {
        fn read(&mut self, feed: &CacheFeed) {
            while let Some(update) = feed.read(&mut self.cursor) {
                assert!(update.added.len() + update.removed.len() <= MAX_TOGETHER);
                if update.is_reset {
                    self.held.clear();
                    self.num_resets += 1;
                }
                self.held.extend(update.added);
                for hash in update.removed {
                    self.held.remove(&hash);
                }
            }
        }
    }

    fn changes(range: std::ops::Range<u64>) -> Vec<CacheChange> {
        range.map(CacheChange::Added).collect()
    }

    #[test]
    fn a_reader_is_told_all_once_and_then_what_changes() {
        let feed = CacheFeed::default();
        feed.lock().append(changes(0..10));
        let mut reader = Reader::default();
        reader.read(&feed);
        assert_eq!(reader.held, (0..10).collect());
        feed.lock().append(vec![
            CacheChange::Removed(3),
            CacheChange::Added(11),
            CacheChange::Removed(11),
            CacheChange::Removed(4),
            CacheChange::Added(4),
        ]);
        reader.read(&feed);
        assert_eq!(reader.held, feed.lock().held);
        assert_eq!(reader.num_resets, 1);
        assert_eq!(feed.read(&mut reader.cursor), None);
    }

    #[test]
    fn a_reader_that_lags_is_told_all_and_the_book_stays_bounded() {
        let feed = CacheFeed::default();
        let mut reader = Reader::default();
        reader.read(&feed);
        for round in 0..40 {
            feed.lock()
                .append(changes(round * 5000..round * 5000 + 5000));
            let gone = (0..4000).map(|at| CacheChange::Removed(round * 5000 + at));
            feed.lock().append(gone.collect());
        }
        assert!(feed.lock().changes.len() <= MAX_CHANGES);
        reader.read(&feed);
        assert_eq!(reader.held, feed.lock().held);
        assert_eq!((reader.held.len(), reader.num_resets), (40_000, 2));
    }

    #[test]
    fn when_changes_were_lost_every_reader_is_told_all() {
        let feed = CacheFeed::default();
        feed.lock().append(changes(0..10));
        let mut reader = Reader::default();
        reader.read(&feed);
        feed.lock().replace(5..20);
        reader.read(&feed);
        assert_eq!(reader.held, (5..20).collect());
        assert_eq!(reader.num_resets, 2);
        feed.lock().append(changes(20..21));
        reader.read(&feed);
        assert_eq!((reader.held.len(), reader.num_resets), (16, 2));
    }

    #[test]
    fn the_loop_does_not_wait_for_a_reader() {
        let feed = CacheFeed::default();
        let mut scheduler = Scheduler::new(inkstone_engine::EngineLimits {
            num_blocks: 1,
            max_step_tokens: 1,
            max_running: 1,
            max_waiting: 1,
            max_wait_steps: 1,
        });
        let book = feed.lock();
        feed.write(&mut scheduler, false);
        drop(book);
        feed.write(&mut scheduler, true);
    }
}
