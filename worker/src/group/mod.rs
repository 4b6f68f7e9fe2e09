//! A language group: the leader's loop, the ranks that run its plans, and how plans travel to ranks in other processes.

pub mod join;
pub mod leader;
pub mod plan_stream;
pub mod rank;
