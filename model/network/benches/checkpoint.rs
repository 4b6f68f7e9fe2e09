//! How fast a model is made, opened and read, each step beside the limit of the machine measured in the same run: the
//! same bytes written or copied as they are.
//!
//! `cargo bench -p inkstone-model --bench checkpoint`
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use inkstone_model::checkpoint::shard::slice_for;
use inkstone_model::checkpoint::{Checkpoint, Shard};
use inkstone_model::synthesize::{Preset, SynthesizeOptions, synthesize};
use inkstone_model::tensor::DType;

fn main() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    println!("checkpoint: preset quarter, files in the page cache, best of several runs\n");
    println!("{:<52} {:>9} {:>9} {:>9}", "step", "MB", "ms", "MB/s");
    let dir = temp.path().join("quarter");
    making(&dir);
    let checkpoint = Checkpoint::open(&dir).expect("a sound checkpoint");
    let opening = best(5, || Checkpoint::open(&dir).expect("a sound checkpoint"));
    println!(
        "{:<52} {:>9} {:>9.2}",
        "open and check",
        "",
        millis(opening)
    );
    reading(&checkpoint, &dir);
}

fn making(dir: &Path) {
    let mut bytes = 0;
    let time = best(2, || {
        let _ = std::fs::remove_dir_all(dir);
        bytes = synthesize(
            Preset::Quarter,
            1,
            dir,
            SynthesizeOptions::default(),
            &|_| {},
        )
        .expect("a model");
    });
    row("synthesize", bytes, time);
    let copy = dir.with_file_name("copy");
    let block = vec![1u8; 8 << 20];
    let time = best(2, || {
        let mut file = std::fs::File::create(&copy).expect("a file");
        for _ in 0..bytes as usize / block.len() {
            file.write_all(&block).expect("room on the disk");
        }
    });
    row("  limit: write as many bytes", bytes, time);
    std::fs::remove_file(copy).expect("the file is there");
}

fn reading(checkpoint: &Checkpoint, dir: &Path) {
    for (world_size, dtype) in [
        (1, None),
        (2, None),
        (4, None),
        (1, Some(DType::F32)),
        (1, Some(DType::F16)),
    ] {
        let shard = Shard {
            rank: 0,
            world_size,
        };
        let time = best(3, || read(checkpoint, shard, dtype));
        let to = dtype.map_or("as stored".to_owned(), |dtype| format!("as {dtype:?}"));
        let bytes = read(checkpoint, shard, dtype);
        row(&format!("read rank 0 of {world_size}, {to}"), bytes, time);
    }
    let file = dir.join("model.safetensors");
    let bytes = std::fs::metadata(&file).expect("the weights").len();
    let time = best(3, || std::fs::read(&file).expect("the weights"));
    row(
        "  limit: read the whole file as it is (threads: 1)",
        bytes,
        time,
    );
}

/// Reads what a rank of the language model holds and gives the bytes of it.
fn read(checkpoint: &Checkpoint, shard: Shard, dtype: Option<DType>) -> u64 {
    let silent = |_: inkstone_model::checkpoint::LoadProgress<'_>| {};
    let reader = checkpoint.reader(&silent);
    for tensor in checkpoint
        .tensors()
        .filter(|tensor| !tensor.kind.is_vision())
    {
        let slice = slice_for(tensor.kind, shard, checkpoint.config());
        black_box(
            reader
                .read(tensor.name, slice, dtype)
                .expect("a sound tensor"),
        );
    }
    reader.bytes_read()
}

fn best<T>(runs: usize, mut work: impl FnMut() -> T) -> Duration {
    let time = |_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    };
    (0..runs).map(time).min().unwrap_or_default()
}

fn row(step: &str, bytes: u64, time: Duration) {
    let megabytes = bytes as f64 / 1e6;
    let rate = megabytes / time.as_secs_f64();
    println!(
        "{step:<52} {megabytes:>9.0} {:>9.0} {rate:>9.0}",
        millis(time)
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
