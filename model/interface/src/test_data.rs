//! Files that are too large for the repository: the real tokenizer and the reference's golden data. Tests look for
//! them in `$INKSTONE_SHARED`, or in `shared` beside the workspace, and skip where they are absent.

use std::path::PathBuf;

/// The bytes of a file of the shared data, or `None` after saying that the test skips it.
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub(crate) fn read(path: &str) -> Option<Vec<u8>> {
    let root = std::env::var_os("INKSTONE_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let file = root.join(path);
    let bytes = std::fs::read(&file).ok();
    if bytes.is_none() {
        eprintln!("skipped: {} is absent", file.display());
    }
    bytes
}
