//! The times by which placing goes.

use std::time::Duration;

/// How patient placing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// A node that is missing counts as lost after this. Half a second: its lease has run out already, so it was silent for seconds.
    pub lost_after: Duration,
    /// The same where most nodes went missing together: then it is the registry that lost them, and they write themselves down
    /// anew within a third of their lease. 5 s.
    pub lost_together_after: Duration,
    /// How long a node that a failure was blamed on is used only where no other is there. A minute.
    pub suspect_for: Duration,
    /// Before a node that a failure was blamed on is used again at all; doubled with each failure. Half a second.
    pub first_backoff: Duration,
    /// At most this. 30 s, less than `suspect_for`, so that failures add up.
    pub longest_backoff: Duration,
    /// A group that does not serve and says nothing new counts as failed after this. 5 minutes: the first forward of a large model
    /// on a processor takes that long at worst.
    pub stalled_after: Duration,
    /// A node that goes on with what was taken from it is given something new after this in any case. A minute: twice the grace
    /// time of its streams.
    pub released_after: Duration,
    /// When nodes come, how long to wait for more to choose from; four times that at most. 200 ms: those that are started together
    /// come together.
    pub gather_for: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lost_after: Duration::from_millis(500),
            lost_together_after: Duration::from_secs(5),
            suspect_for: Duration::from_secs(60),
            first_backoff: Duration::from_millis(500),
            longest_backoff: Duration::from_secs(30),
            stalled_after: Duration::from_secs(300),
            released_after: Duration::from_secs(60),
            gather_for: Duration::from_millis(200),
        }
    }
}
