//! What end-to-end tests share: processes of the real binary, and a client that speaks to them.

pub mod client;
pub mod process;
