//! What runs a model: the step loop of a language group, the ranks that execute its plans, and the vision worker.
//!
//! `language`, `rank_process` and `picture_encoder` start the kinds of process that are told by flags what to run, `node` the one that
//! the registry tells; `group/leader.rs` is the loop that everything else serves.

pub mod config;
pub mod constraint;
pub mod executor;
mod feature_fetcher;
pub mod group;
pub mod language;
mod loading;
pub mod node;
pub mod picture_encoder;
pub mod progress;
pub mod rank_process;
pub mod service;
mod simulated_group;
pub mod vision;
