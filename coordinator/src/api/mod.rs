//! The interfaces that clients see: wire types in, one domain call, wire types out.

pub(crate) mod error;
pub(crate) mod grpc;
