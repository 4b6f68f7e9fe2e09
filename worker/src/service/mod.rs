//! The gRPC services of workers: wire types in, domain calls out.

pub mod group;
pub mod health;
pub mod language;
pub(crate) mod listener;
pub mod vision;
