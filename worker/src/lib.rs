//! What runs a model: the step loop of a language group, the ranks that execute its plans, and the vision worker.
//!
//! `language` and `picture_encoder` start the two kinds of process; `group/leader.rs` is the loop that everything else serves.

pub mod config;
pub mod executor;
mod feature_fetcher;
pub mod group;
pub mod language;
pub mod picture_encoder;
pub mod progress;
pub mod service;
pub mod vision;
