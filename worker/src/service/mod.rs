//! The gRPC services of workers: wire types in, domain calls out.

pub mod language;
pub mod vision;
