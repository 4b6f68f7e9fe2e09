//! gRPC package `inkstone.v1`, a file for each service.

pub(crate) mod chat;
mod chat_request;
pub(crate) mod cluster;
pub(crate) mod composition;
pub(crate) mod deadline;
mod faults;
pub(crate) mod model;
