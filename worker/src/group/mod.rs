//! A language group: the leader's loop, the ranks that run its plans, and how plans travel to ranks in other processes.

pub mod join;
pub mod joined;
pub mod leader;
pub mod life;
pub mod plan_stream;
pub mod rank;
