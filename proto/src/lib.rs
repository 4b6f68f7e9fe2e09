//! The `.proto` files and what is generated from them, nothing else. Wire types stop at the edges of the crates that
//! use them: inside are domain types, checked once on receipt.

/// The public interface.
#[expect(clippy::all, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("inkstone.v1");
}

/// Between the processes of a cluster.
pub mod worker {
    /// Version 1 of the internal interface.
    #[expect(clippy::all, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("inkstone.worker.v1");
    }
}

/// Descriptors of all files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inkstone.bin"));
