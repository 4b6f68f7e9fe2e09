//! The executor that computes: every rank of the group, each on a thread of its own or in another process, behind a
//! [`PeerRank`]. Ranks run the same plan side by side and meet in the collective; only rank 0's draw counts. So the leader's
//! thread is free while a step runs, and hears of it when rank 0 is done, when a rank ends, or when the deadline passes: at most the
//! one that is set, and much sooner once it is known how long steps take ([`StepPace`]).

mod pace;

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use inkstone_engine::{RequestId, StepOutput, StepPlan};
use inkstone_model::collectives::Collective;

use self::pace::StepPace;
use super::{EncodedPicture, Executor, ExecutorError, RequestSetup};
use crate::group::rank::{RankCommand, RankRunner};

/// Commands that may wait for a rank. The leader hands over a few hundred at most between two steps, and a rank has taken
/// them all by the end of the second.
pub(crate) const RANK_QUEUE: usize = 1024;
/// Reports that may wait for the executor: a step's output, and the end of every rank of the widest group.
const REPORT_QUEUE: usize = 256;
/// Once a rank failed, how long to wait for another one to say that it failed first.
const CAUSE_GRACE: Duration = Duration::from_millis(50);
/// How long a rank's thread gets to end once its commands have.
const THREAD_GRACE: Duration = Duration::from_secs(2);

/// A rank, wherever it runs.
pub trait PeerRank: Send {
    /// Its number.
    fn rank(&self) -> usize;
    /// Hands it a command without waiting.
    fn send(&mut self, command: RankCommand) -> Result<(), ExecutorError>;
}

/// See the module's text.
pub struct DeviceExecutor {
    /// Rank 0 first.
    ranks: Vec<Box<dyn PeerRank>>,
    reports: mpsc::Receiver<Report>,
    /// Rank 0's end, to free ranks that wait for one that is gone.
    collective: Arc<dyn Collective>,
    pace: StepPace,
    running: Option<Running>,
    /// Set when it fails.
    suspects: Vec<usize>,
}

struct Running {
    step: u64,
    num_rows: usize,
    since: Instant,
    deadline: Duration,
}

enum Report {
    Done { step: u64, output: StepOutput },
    Failed(ExecutorError),
}

/// Where whoever watches over a rank tells of its end. Cheap to clone.
#[derive(Clone)]
pub struct RankFailures {
    reports: mpsc::SyncSender<Report>,
}

/// The executor's end of [`RankFailures`].
pub struct RankReports {
    reports: mpsc::Receiver<Report>,
}

impl RankFailures {
    /// Both ends.
    pub fn channel() -> (Self, RankReports) {
        let (sender, receiver) = mpsc::sync_channel(REPORT_QUEUE);
        (Self { reports: sender }, RankReports { reports: receiver })
    }

    /// Fails the step that runs, or the next one.
    pub fn report(&self, error: ExecutorError) {
        // Where so many reports wait that there is no room, the executor will find one of them.
        let _ = self.reports.try_send(Report::Failed(error));
    }
}

impl DeviceExecutor {
    /// Joins rank 0, which runs on a thread of its own from here on, with its peers. `collective` is rank 0's end.
    pub fn start(
        own: RankRunner,
        peers: Vec<Box<dyn PeerRank>>,
        (failures, reports): (RankFailures, RankReports),
        step_deadline: Duration,
    ) -> std::io::Result<Self> {
        let collective = own.collective();
        let mut ranks: Vec<Box<dyn PeerRank>> = vec![Box::new(LocalRank::start(own, failures)?)];
        ranks.extend(peers);
        Ok(Self {
            ranks,
            reports: reports.reports,
            collective,
            pace: StepPace::new(step_deadline),
            running: None,
            suspects: Vec::new(),
        })
    }

    fn send_all(&mut self, command: &RankCommand) -> Result<(), ExecutorError> {
        let sent = self
            .ranks
            .iter_mut()
            .try_for_each(|rank| rank.send(command.clone()));
        sent.map_err(|error| self.fail(error))
    }

    /// The step that runs hangs. Whoever rank 0 waits for is to blame, and if it waits for nobody, rank 0.
    fn time_out(&mut self, step: u64, deadline: Duration) -> ExecutorError {
        let mut missing = self.collective.awaited();
        if missing.is_empty() {
            missing.push(0);
        }
        self.collective.abort();
        self.suspects.clone_from(&missing);
        ExecutorError::Deadline {
            step,
            deadline,
            missing,
        }
    }

    /// Frees all ranks from their waits. The error is that of the rank that failed first, as far as it is known: others fail because it did.
    fn fail(&mut self, error: ExecutorError) -> ExecutorError {
        let mut errors = vec![error];
        while let Ok(report) = self.reports.recv_timeout(CAUSE_GRACE) {
            if let Report::Failed(error) = report {
                errors.push(error);
            }
        }
        self.collective.abort();
        for error in &errors {
            tracing::error!(%error, "a rank failed");
        }
        let is_gone = |error: &ExecutorError| matches!(error, ExecutorError::RankGone { .. });
        let cause = errors.iter().position(is_gone).unwrap_or(0);
        let cause = errors.swap_remove(cause);
        self.suspects = match &cause {
            ExecutorError::RankGone { rank, .. } => vec![*rank],
            ExecutorError::Rank { rank, .. } => match self.collective.awaited() {
                none if none.is_empty() => vec![*rank],
                awaited => awaited,
            },
            ExecutorError::Deadline { missing, .. } => missing.clone(),
            ExecutorError::OutOfOrder { .. } => Vec::new(),
        };
        cause
    }
}

impl Executor for DeviceExecutor {
    fn admit(&mut self, setup: Arc<RequestSetup>) -> Result<(), ExecutorError> {
        self.send_all(&RankCommand::Admit(setup))
    }

    fn pictures(
        &mut self,
        request: RequestId,
        pictures: Vec<Arc<EncodedPicture>>,
    ) -> Result<(), ExecutorError> {
        self.send_all(&RankCommand::Pictures { request, pictures })
    }

    fn start(&mut self, plan: Arc<StepPlan>) -> Result<(), ExecutorError> {
        if let Some(running) = &self.running {
            return Err(ExecutorError::OutOfOrder {
                asked: "start a step",
                found: format!("step {} is not finished", running.step),
            });
        }
        let (step, num_rows) = (plan.step, plan.num_rows());
        self.send_all(&RankCommand::Step(plan))?;
        self.running = Some(Running {
            step,
            num_rows,
            since: Instant::now(),
            deadline: self.pace.deadline(num_rows),
        });
        Ok(())
    }

    fn finish(&mut self) -> Result<StepOutput, ExecutorError> {
        let Some(running) = self.running.take() else {
            return Err(ExecutorError::OutOfOrder {
                asked: "finish a step",
                found: "none was started".to_owned(),
            });
        };
        let Running { step, deadline, .. } = running;
        let left = deadline.saturating_sub(running.since.elapsed());
        match self.reports.recv_timeout(left) {
            Ok(Report::Done {
                step: found,
                output,
            }) if found == step => {
                self.pace.record(running.num_rows, running.since.elapsed());
                Ok(output)
            }
            Ok(Report::Done { step: found, .. }) => Err(self.fail(ExecutorError::OutOfOrder {
                asked: "finish a step",
                found: format!("rank 0 ran step {found} instead of {step}"),
            })),
            Ok(Report::Failed(error)) => Err(self.fail(error)),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(self.time_out(step, deadline)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(self.fail(gone(0, "its thread ended")))
            }
        }
    }

    fn suspects(&self) -> Vec<usize> {
        self.suspects.clone()
    }
}

/// A rank on a thread of this process. The thread ends with its commands, or at the first error, which fails the
/// collective and with it the whole group.
pub struct LocalRank {
    rank: usize,
    commands: Option<mpsc::SyncSender<RankCommand>>,
    /// Hears nothing, and its end when the thread ends.
    ended: mpsc::Receiver<()>,
}

impl LocalRank {
    /// Starts the thread. Its end is told to `failures`.
    pub fn start(mut runner: RankRunner, failures: RankFailures) -> std::io::Result<Self> {
        let rank = runner.rank();
        let (commands, receiver) = mpsc::sync_channel(RANK_QUEUE);
        let (alive, ended) = mpsc::sync_channel(0);
        thread::Builder::new()
            .name(format!("rank-{rank}"))
            .spawn(move || {
                let _alive: mpsc::SyncSender<()> = alive;
                let mut end = RankEnd {
                    rank,
                    failures,
                    collective: runner.collective(),
                    error: Some(gone(rank, "its thread panicked")),
                };
                for command in receiver {
                    match runner.follow(command) {
                        Ok(None) => {}
                        Ok(Some((step, output))) if rank == 0 => {
                            // At most one step runs: there is room.
                            let _ = end.failures.reports.try_send(Report::Done { step, output });
                        }
                        Ok(Some(_)) => {}
                        Err(error) => {
                            end.error = Some(error);
                            return;
                        }
                    }
                }
                end.error = None;
            })?;
        Ok(Self {
            rank,
            commands: Some(commands),
            ended,
        })
    }
}

/// However a rank's thread ends, the group hears of it: first why, then through the collective.
struct RankEnd {
    rank: usize,
    failures: RankFailures,
    collective: Arc<dyn Collective>,
    error: Option<ExecutorError>,
}

impl Drop for RankEnd {
    fn drop(&mut self) {
        if let Some(error) = self.error.take() {
            tracing::error!(rank = self.rank, %error, "a rank's thread ends");
            self.failures.report(error);
            self.collective.abort();
        }
    }
}

impl PeerRank for LocalRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn send(&mut self, command: RankCommand) -> Result<(), ExecutorError> {
        let commands = self.commands.as_ref();
        match commands.map(|commands| commands.try_send(command)) {
            Some(Ok(())) => Ok(()),
            Some(Err(mpsc::TrySendError::Full(_))) => Err(gone(
                self.rank,
                &format!("{RANK_QUEUE} commands wait for it already"),
            )),
            Some(Err(mpsc::TrySendError::Disconnected(_))) | None => {
                Err(gone(self.rank, "its thread ended"))
            }
        }
    }
}

impl Drop for LocalRank {
    fn drop(&mut self) {
        self.commands = None;
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.ended.recv_timeout(THREAD_GRACE) {
            // It hangs in a computation: nobody can end it, and nobody waits for it any more.
            tracing::error!(rank = self.rank, "a rank's thread is left behind");
        }
    }
}

fn gone(rank: usize, reason: &str) -> ExecutorError {
    ExecutorError::RankGone {
        rank,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
