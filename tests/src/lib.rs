//! What end-to-end tests share: processes of the real binary, alone and as a cluster that can be hurt in every way, and clients
//! that speak to them.

// Tests read the environment and say what they do.
#![allow(clippy::print_stderr, reason = "tests say what they ran")]

pub mod cases;
pub mod client;
pub mod cluster;
pub mod etcd;
pub mod load;
pub mod network;
pub mod pictures;
pub mod process;
pub mod relay;
pub mod report;
