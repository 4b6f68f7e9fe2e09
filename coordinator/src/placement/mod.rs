//! Who is told to run what. [`plan`] is pure: from what the registry holds, what is remembered of failures, and the time, to the
//! changes that bring the cluster closer to what is wanted. [`apply`] writes them, on the one coordinator that is elected for it.
//!
//! A node runs ranks of at most one group. What serves is never taken away to make something else, except where a node is to be
//! relieved of its work, or where the wanted form of the groups changed: that rolls through them one at a time.

pub(crate) mod apply;
mod health;
mod language;
mod memory;
mod nodes;
mod plan;
mod policy;
mod select;
mod vision;

pub(crate) use memory::{Memory, Moment};
pub(crate) use plan::{Loads, Plan, plan};
pub use policy::Policy;

#[cfg(test)]
mod tests;
