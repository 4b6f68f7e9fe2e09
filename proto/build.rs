//! Compiles the `.proto` files with protox, so that no `protoc` is needed to build the project.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 5] = [
    "inkstone/v1/chat.proto",
    "inkstone/v1/model.proto",
    "inkstone/worker/v1/group.proto",
    "inkstone/worker/v1/language.proto",
    "inkstone/worker/v1/vision.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("inkstone.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
