//! Compiles the `.proto` files with protox, so that no `protoc` is needed to build the project.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PUBLIC_FILES: [&str; 4] = [
    "inkstone/v1/chat.proto",
    "inkstone/v1/cluster.proto",
    "inkstone/v1/composition.proto",
    "inkstone/v1/model.proto",
];
const WORKER_FILES: [&str; 3] = [
    "inkstone/worker/v1/group.proto",
    "inkstone/worker/v1/language.proto",
    "inkstone/worker/v1/vision.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = PUBLIC_FILES.into_iter().chain(WORKER_FILES);
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("inkstone.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(protox::compile(PUBLIC_FILES, ["proto"])?)?;
    // Workers' clients are made over a channel; a constructor that connects would be called as the method `Connect` is.
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(protox::compile(WORKER_FILES, ["proto"])?)?;
    Ok(())
}
