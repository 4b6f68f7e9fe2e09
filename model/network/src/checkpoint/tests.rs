//! What an opened checkpoint says and reads, on the published formats.

use std::path::{Path, PathBuf};

use inkstone_interface::description::Variant;

use super::*;
use crate::tensor::DType;

fn silent(_: LoadProgress<'_>) {}

/// Golden checkpoints made with the official code, where this machine has them.
fn goldens() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    ["tests/goldens", "shared/goldens"]
        .into_iter()
        .map(|dir| root.join(dir))
        .find(|dir| dir.is_dir())
}

fn golden_checkpoints() -> Vec<PathBuf> {
    let models = goldens().into_iter().flat_map(|dir| subfolders(&dir));
    models
        .flat_map(|model| subfolders(&model))
        .filter(|dir| dir.join("config.json").is_file())
        .collect()
}

fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

#[test]
fn golden_checkpoints_of_every_format_open() {
    for dir in golden_checkpoints() {
        let checkpoint =
            Checkpoint::open(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let variant = checkpoint.description().variant;
        let wanted = match dir.to_string_lossy() {
            path if path.contains("4khd") => Variant::Xc2FourKhd,
            path if path.contains("2d5") => Variant::Xc2d5,
            _ => Variant::Xc2,
        };
        assert_eq!(variant, wanted, "{}", dir.display());
        assert_eq!(
            checkpoint.partial_lora().wqkv.scale,
            1.0,
            "{}",
            dir.display()
        );
        let reader = checkpoint.reader(&silent);
        for tensor in checkpoint.tensors() {
            let loaded = reader
                .read(tensor.name, Slice::Whole, Some(DType::F32))
                .unwrap();
            let values: &[f32] = bytemuck::cast_slice(loaded.bytes.as_slice());
            assert!(
                values.iter().all(|value| value.is_finite()),
                "{}",
                tensor.name
            );
        }
        assert_eq!(reader.bytes_read(), checkpoint.description().weight_bytes);
    }
}

#[test]
fn torch_and_safetensors_files_hold_the_same_weights() {
    let Some(model) = goldens().map(|dir| dir.join("xc2-vl-tiny")) else {
        return;
    };
    let [a, b] = ["checkpoint-bf16-sharded", "checkpoint-bin-sharded"]
        .map(|name| Checkpoint::open(&model.join(name)).unwrap());
    let (from_a, from_b) = (a.reader(&silent), b.reader(&silent));
    for tensor in a.tensors() {
        let read = |reader: &Reader<'_>| reader.read(tensor.name, Slice::Whole, None).unwrap();
        assert_eq!(
            read(&from_a).bytes.as_slice(),
            read(&from_b).bytes.as_slice(),
            "{}",
            tensor.name
        );
    }
}
