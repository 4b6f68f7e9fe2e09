//! What an opened checkpoint says and reads, on the published formats.

mod damage;
mod hostile;
mod models;
pub(super) mod torch_file;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use inkstone_interface::description::Variant;
use tempfile::TempDir;

use super::*;
use crate::synthesize::{Preset, SynthesizeOptions, synthesize};
use crate::tensor::DType;
use models::Model;
use torch_file::{TorchFile, TorchTensor};

fn silent(_: LoadProgress<'_>) {}

fn tiny() -> (TempDir, Checkpoint) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("tiny");
    synthesize(Preset::Tiny, 1, &dir, SynthesizeOptions::default(), &silent).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    (temp, checkpoint)
}

fn read_f32(checkpoint: &Checkpoint, name: &str, slice: Slice) -> (Vec<usize>, Vec<f32>) {
    let loaded = checkpoint
        .reader(&silent)
        .read(name, slice, Some(DType::F32))
        .unwrap();
    (
        loaded.shape,
        bytemuck::cast_slice(loaded.bytes.as_slice()).to_vec(),
    )
}

/// Golden checkpoints made with the official code, where this machine has them.
fn goldens() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    ["shared/goldens", "tests/goldens"]
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
    let Some(goldens) = goldens() else { return };
    let model = goldens.join("xc2-vl-tiny");
    if !model.is_dir() {
        return;
    }
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

#[test]
fn slices_of_all_ranks_put_together_are_the_whole_tensor() {
    let (_temp, checkpoint) = tiny();
    for world_size in [2, 4] {
        for tensor in checkpoint.tensors() {
            let (shape, whole) = read_f32(&checkpoint, tensor.name, Slice::Whole);
            let mut together = vec![0f32; whole.len()];
            for rank in 0..world_size {
                let shard = Shard { rank, world_size };
                let slice = shard::slice_for(tensor.kind, shard, checkpoint.config());
                let (part_shape, part) = read_f32(&checkpoint, tensor.name, slice.clone());
                let columns = shape.get(1).copied().unwrap_or(1);
                match slice {
                    Slice::Whole => together.copy_from_slice(&part),
                    Slice::Rows(rows) => {
                        together[rows.start * columns..rows.end * columns].copy_from_slice(&part)
                    }
                    Slice::Columns(range) => {
                        for (row, part) in part.chunks(part_shape[1]).enumerate() {
                            together[row * columns..][range.clone()].copy_from_slice(part);
                        }
                    }
                }
            }
            assert_eq!(together, whole, "{} over {world_size}", tensor.name);
        }
    }
}

#[test]
fn one_of_two_ranks_reads_about_half() {
    let (_temp, checkpoint) = tiny();
    let reader = checkpoint.reader(&silent);
    let shard = Shard {
        rank: 1,
        world_size: 2,
    };
    for tensor in checkpoint
        .tensors()
        .filter(|tensor| matches!(tensor.kind, TensorKind::Linear(_)))
    {
        let slice = shard::slice_for(tensor.kind, shard, checkpoint.config());
        reader.read(tensor.name, slice, None).unwrap();
    }
    let linears = checkpoint
        .tensors()
        .filter(|tensor| matches!(tensor.kind, TensorKind::Linear(_)));
    assert_eq!(
        2 * reader.bytes_read(),
        linears.map(|tensor| tensor.num_bytes()).sum::<u64>()
    );
    let [whole, half] =
        [Shard::SINGLE, shard].map(|shard| checkpoint.language_bytes(shard).unwrap() as f64);
    assert!(half / whole < 0.65, "{}", half / whole);
}

#[test]
fn reading_converts_rounding_to_nearest_even() {
    let (_temp, checkpoint) = tiny();
    let name = "model.layers.2.feed_forward.w2.weight";
    let (_, values) = read_f32(&checkpoint, name, Slice::Columns(3..300));
    let halves = checkpoint
        .reader(&silent)
        .read(name, Slice::Columns(3..300), Some(DType::F16))
        .unwrap();
    let halves: &[half::f16] = bytemuck::cast_slice(halves.bytes.as_slice());
    let wanted: Vec<half::f16> = values
        .iter()
        .map(|&value| half::f16::from_f32(value))
        .collect();
    assert_eq!(halves, wanted);
}

#[test]
fn loaded_bytes_are_aligned_to_cache_lines() {
    let (_temp, checkpoint) = tiny();
    for tensor in checkpoint.tensors() {
        let loaded = checkpoint
            .reader(&silent)
            .read(tensor.name, Slice::Whole, None)
            .unwrap();
        assert_eq!(
            loaded.bytes.as_slice().as_ptr() as usize % 64,
            0,
            "{}",
            tensor.name
        );
        assert_eq!(loaded.dtype, DType::BF16);
    }
}

#[test]
fn progress_names_each_tensor_and_ends_at_the_total() {
    let (_temp, checkpoint) = tiny();
    let seen = RefCell::new(Vec::new());
    let progress = |at: LoadProgress<'_>| {
        assert_eq!(at.bytes_total, checkpoint.vision_bytes());
        seen.borrow_mut()
            .push((at.tensor.to_owned(), at.bytes_done));
    };
    let reader = checkpoint
        .reader(&progress)
        .expecting(checkpoint.vision_bytes());
    let tower: Vec<_> = checkpoint
        .tensors()
        .filter(|tensor| tensor.kind.is_vision())
        .collect();
    for tensor in &tower {
        reader.read(tensor.name, Slice::Whole, None).unwrap();
    }
    let seen = seen.take();
    assert_eq!(seen.len(), tower.len());
    assert!(seen.is_sorted_by_key(|(_, done)| *done));
    assert_eq!(
        seen.last().map(|(_, done)| *done),
        Some(checkpoint.vision_bytes())
    );
}

#[test]
fn slice_outside_its_tensor_is_refused() {
    let (_temp, checkpoint) = tiny();
    let reader = checkpoint.reader(&silent);
    let backwards = std::ops::Range { start: 4, end: 2 };
    for (name, slice) in [
        ("output.weight", Slice::Rows(0..1025)),
        ("output.weight", Slice::Columns(0..129)),
        ("output.weight", Slice::Rows(backwards)),
        ("model.norm.weight", Slice::Columns(0..1)),
    ] {
        let error = reader.read(name, slice, None).unwrap_err();
        assert!(matches!(error, CheckpointError::BadSlice { .. }), "{error}");
    }
    assert!(matches!(
        reader.read("absent", Slice::Whole, None),
        Err(CheckpointError::NoSuchTensor { .. })
    ));
}

/// `output.weight` stored transposed, and both norms of layer 0 in one storage.
#[test]
fn torch_tensors_with_strides_and_shared_storages_are_read_right() {
    let model = Model::tiny();
    let mut file = TorchFile::of(&model);
    let [rows, columns] = [1024, 128];
    let output: Vec<f32> = (0..rows * columns).map(|index| index as f32).collect();
    let stored: Vec<u8> = (0..columns)
        .flat_map(|column| (0..rows).map(move |row| row * columns + column))
        .flat_map(|index| output[index].to_le_bytes())
        .collect();
    file.replace(
        "output.weight",
        TorchTensor {
            storage: "transposed".to_owned(),
            offset: 0,
            shape: vec![rows, columns],
            strides: vec![1, rows],
        },
    );
    file.storages.push(("transposed".to_owned(), stored));
    let norms: Vec<u8> = (0..300)
        .flat_map(|index| (index as f32).to_le_bytes())
        .collect();
    file.storages.push(("norms".to_owned(), norms));
    for (name, offset) in [("attention_norm", 7), ("ffn_norm", 100)] {
        let tensor = TorchTensor {
            storage: "norms".to_owned(),
            offset,
            shape: vec![columns],
            strides: vec![1],
        };
        file.replace(&format!("model.layers.0.{name}.weight"), tensor);
    }
    let temp = model.write_torch(&file);
    let checkpoint = Checkpoint::open(temp.path()).unwrap();
    assert_eq!(
        read_f32(&checkpoint, "output.weight", Slice::Whole),
        (vec![rows, columns], output.clone())
    );
    let (_, part) = read_f32(&checkpoint, "output.weight", Slice::Rows(5..7));
    assert_eq!(part, output[5 * columns..7 * columns]);
    let (_, norm) = read_f32(&checkpoint, "model.layers.0.ffn_norm.weight", Slice::Whole);
    assert_eq!((norm[0], norm[127]), (100.0, 227.0));
}

#[test]
fn tensors_of_no_effect_and_of_other_modes_are_let_pass() {
    let mut model = Model::tiny();
    model.add("vit.vision_tower.vision_model.post_layernorm.weight", &[64]);
    model.add(
        "vit.vision_tower.vision_model.embeddings.position_ids",
        &[1, 257],
    );
    model.add("model.layers.0.attention.rotary_emb.inv_freq", &[8]);
    model.add(
        "model.layers.0.attention.wqkv.lora_sft_A.weight",
        &[16, 128],
    );
    let temp = model.write();
    let checkpoint = Checkpoint::open(temp.path()).unwrap();
    assert!(
        checkpoint
            .tensors()
            .all(|tensor| !tensor.name.contains("lora_sft"))
    );
    assert_eq!(checkpoint.inspect(1).unwrap().ignored_tensors, 4);
}

#[test]
fn low_rank_scale_is_two_only_where_wqkv_alone_has_rank_eight() {
    for (wqkv, others, scale) in [(8, 16, 2.0), (8, 8, 1.0), (16, 16, 1.0), (16, 8, 1.0)] {
        let mut model = Model::tiny();
        model.set_ranks(wqkv, others);
        let temp = model.write();
        let checkpoint = Checkpoint::open(temp.path()).unwrap();
        let plora = checkpoint.partial_lora();
        assert_eq!((plora.wqkv.rank, plora.wqkv.scale), (wqkv, scale));
        assert_eq!((plora.w2.rank, plora.w2.scale), (others, 1.0));
    }
}

#[test]
fn inspection_adds_up() {
    let (_temp, checkpoint) = tiny();
    for width in [1, 2, 4] {
        let inspection = checkpoint.inspect(width).unwrap();
        assert_eq!(
            inspection.parts.iter().map(|row| row.bytes).sum::<u64>(),
            inspection.bytes
        );
        assert_eq!(
            inspection
                .parts
                .iter()
                .map(|row| row.parameters)
                .sum::<u64>(),
            inspection.parameters
        );
        assert_eq!(
            inspection.shards.iter().map(|row| row.bytes).sum::<u64>(),
            inspection.bytes
        );
        let per_rank: u64 = inspection.shards.iter().map(|row| row.bytes_per_rank).sum();
        assert_eq!(per_rank, inspection.language_bytes_per_rank);
        let shard = Shard {
            rank: 0,
            world_size: width,
        };
        assert_eq!(
            checkpoint.language_bytes(shard).unwrap(),
            inspection.language_bytes_per_rank
        );
        // Keys and values of 4 layers, 4 heads of 16 numbers, 2 bytes each.
        assert_eq!(
            inspection.kv_bytes_per_token_per_rank,
            2 * 4 * 4 * 16 * 2 / width as u64
        );
    }
    assert!(checkpoint.inspect(3).is_err());
}

#[test]
fn inspection_prints_what_is_split_how() {
    let (_temp, checkpoint) = tiny();
    let text = checkpoint.inspect(2).unwrap().to_string();
    for line in [
        "tiny (xc2, pictures of 224 pixels)",
        "tensor parallel 2",
        "feed_forward.w2.Plora_A",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let wo = text
        .lines()
        .find(|line| line.starts_with("attention.wo "))
        .unwrap();
    assert!(wo.contains("columns"), "{wo}");
}
