//! The executor that computes: rank 0 on the calling thread, every other rank through a [`PeerRank`]. Ranks run the same
//! plan side by side and meet in the collective; only rank 0's draw counts.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use inkstone_engine::{StepOutput, StepPlan};

use super::{Executor, ExecutorError, SequenceSetup};
use crate::group::rank::{RankCommand, RankRunner};

/// Commands that may wait for a rank: all sequences an engine holds may be admitted before its next step.
const RANK_QUEUE: usize = 1024;

/// A rank other than 0, wherever it runs.
pub trait PeerRank: Send {
    /// Its number.
    fn rank(&self) -> usize;
    /// Hands it a command without waiting.
    fn send(&mut self, command: RankCommand) -> Result<(), ExecutorError>;
}

/// See the module's text.
pub struct DeviceExecutor {
    own: RankRunner,
    peers: Vec<Box<dyn PeerRank>>,
}

impl DeviceExecutor {
    /// Joins rank 0 with its peers.
    pub fn new(own: RankRunner, peers: Vec<Box<dyn PeerRank>>) -> Self {
        Self { own, peers }
    }

    fn send_all(&mut self, command: &RankCommand) -> Result<(), ExecutorError> {
        self.peers
            .iter_mut()
            .try_for_each(|peer| peer.send(command.clone()))
    }
}

impl Executor for DeviceExecutor {
    fn admit(&mut self, setup: Arc<SequenceSetup>) -> Result<(), ExecutorError> {
        self.send_all(&RankCommand::Admit(Arc::clone(&setup)))?;
        self.own.admit(setup);
        Ok(())
    }

    fn execute(&mut self, plan: Arc<StepPlan>) -> Result<StepOutput, ExecutorError> {
        self.send_all(&RankCommand::Step(Arc::clone(&plan)))?;
        self.own.run(&plan)
    }
}

/// Starts `runners` (ranks 1 and up of a group in this process) on threads of their own. A thread ends with its executor,
/// or at the first error, which fails the collective and with it the whole group.
pub fn local_ranks(runners: Vec<RankRunner>) -> std::io::Result<Vec<Box<dyn PeerRank>>> {
    runners
        .into_iter()
        .map(|runner| Ok(Box::new(LocalRank::start(runner)?) as Box<dyn PeerRank>))
        .collect()
}

struct LocalRank {
    rank: usize,
    commands: Option<mpsc::SyncSender<RankCommand>>,
    thread: Option<JoinHandle<()>>,
}

impl LocalRank {
    fn start(mut runner: RankRunner) -> std::io::Result<Self> {
        let rank = runner.rank();
        let (commands, receiver) = mpsc::sync_channel(RANK_QUEUE);
        let thread = thread::Builder::new()
            .name(format!("rank-{rank}"))
            .spawn(move || {
                for command in receiver {
                    if let Err(error) = runner.follow(command) {
                        tracing::error!(rank, %error, "a rank failed");
                        return;
                    }
                }
            })?;
        Ok(Self {
            rank,
            commands: Some(commands),
            thread: Some(thread),
        })
    }
}

impl PeerRank for LocalRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn send(&mut self, command: RankCommand) -> Result<(), ExecutorError> {
        self.commands
            .as_ref()
            .and_then(|commands| commands.try_send(command).ok())
            .ok_or(ExecutorError::RankGone { rank: self.rank })
    }
}

impl Drop for LocalRank {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(rank = self.rank, "a rank's thread panicked");
        }
    }
}
