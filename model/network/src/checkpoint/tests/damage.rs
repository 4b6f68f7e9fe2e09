//! Each way in which a model folder can be wrong, and what is said about it: the file, the tensor, what was wanted and
//! found, and what to do.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::models::{Model, edit_header};
use super::torch_file::{TorchFile, TorchTensor, archive, zip};
use crate::checkpoint::Checkpoint;
use crate::synthesize::Preset;

const OUTPUT: &str = "output.weight";
const INDEX: &str = "model.safetensors.index.json";

/// Checks that the folder is refused with a message that has each of `parts`.
#[track_caller]
fn assert_refused(dir: &Path, parts: &[&str]) {
    let error = match Checkpoint::open(dir) {
        Ok(_) => panic!("the checkpoint should be refused"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(
            error.contains(part),
            "wanted a message with {part:?}, found: {error}"
        );
    }
}

fn weights(temp: &TempDir) -> std::path::PathBuf {
    temp.path().join("model.safetensors")
}

/// A model in two shards.
fn sharded() -> TempDir {
    let model = Model::tiny();
    let bytes: u64 = model.tensors.iter().map(|tensor| tensor.num_bytes()).sum();
    Model {
        max_file_bytes: bytes * 7 / 10,
        ..model
    }
    .write()
}

fn edit_index(temp: &TempDir, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = temp.path().join(INDEX);
    let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn folder_without_config_or_weights_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    assert_refused(temp.path(), &["config.json"]);
    let temp = Model::tiny().write();
    fs::remove_file(weights(&temp)).unwrap();
    assert_refused(
        temp.path(),
        &[
            "no weights in",
            "model.safetensors.index.json",
            "found none",
            "point to",
        ],
    );
}

#[test]
fn missing_tensor_is_named_with_its_shape() {
    let mut model = Model::tiny();
    model.remove(OUTPUT);
    model.remove("model.norm.weight");
    let parts = [
        "model.norm.weight is missing",
        "wanted it with shape [128]",
        "1 more",
        "config.json belongs",
    ];
    assert_refused(model.write().path(), &parts);
    let mut model = Model::tiny();
    model.remove("model.layers.0.attention.wo.Plora_A.weight");
    assert_refused(
        model.write().path(),
        &["model.layers.0.attention.wo.Plora_A.weight is missing"],
    );
}

#[test]
fn extra_tensor_is_named_with_its_file() {
    let mut model = Model::tiny();
    model.add("model.layers.4.ffn_norm.weight", &[128]);
    let parts = [
        "model.safetensors: tensor model.layers.4.ffn_norm.weight with shape [128]",
        "or remove the tensor",
    ];
    assert_refused(model.write().path(), &parts);
}

#[test]
fn shape_is_compared_with_the_config() {
    let mut model = Model::tiny();
    model.reshape(OUTPUT, &[1000, 128]);
    let parts = [
        "model.safetensors: tensor output.weight has shape [1000, 128], wanted [1024, 128]",
        "config.json",
    ];
    assert_refused(model.write().path(), &parts);
}

#[test]
fn ranks_must_be_equal_in_every_layer() {
    let mut model = Model::tiny();
    model.reshape("model.layers.3.attention.wo.Plora_A.weight", &[8, 128]);
    let parts = ["model.layers.3.attention.wo.Plora_A.weight has shape [8, 128], wanted [16, 128]"];
    assert_refused(model.write().path(), &parts);
}

#[test]
fn weights_must_be_floating_point() {
    let temp = Model::tiny().write();
    edit_header(&weights(&temp), |header| {
        header[OUTPUT]["dtype"] = json!("I32")
    });
    assert_refused(
        temp.path(),
        &[
            "tensor output.weight has type I32, wanted F32, BF16 or F16",
            "convert",
        ],
    );
    edit_header(&weights(&temp), |header| {
        header[OUTPUT]["dtype"] = json!("F8_E4M3")
    });
    assert_refused(temp.path(), &["has type F8_E4M3"]);
}

#[test]
fn truncated_file_is_told_with_its_lengths() {
    let temp = Model::tiny().write();
    let bytes = fs::read(weights(&temp)).unwrap();
    fs::write(weights(&temp), &bytes[..bytes.len() - 10]).unwrap();
    let found = format!("the file has {} bytes", bytes.len() - 10);
    assert_refused(
        temp.path(),
        &[
            "model.safetensors is truncated: tensor",
            &found,
            "download the file again",
        ],
    );
    fs::write(weights(&temp), &bytes[..1000]).unwrap();
    assert_refused(
        temp.path(),
        &["model.safetensors is truncated: the header ends at byte"],
    );
    fs::write(weights(&temp), []).unwrap();
    assert_refused(temp.path(), &["model.safetensors"]);
}

#[test]
fn corrupt_header_is_told() {
    let temp = Model::tiny().write();
    let mut bytes = fs::read(weights(&temp)).unwrap();
    bytes[20] = 0xff;
    fs::write(weights(&temp), &bytes).unwrap();
    assert_refused(
        temp.path(),
        &[
            "model.safetensors has a corrupt header",
            "download the file again",
        ],
    );
    bytes[..8].fill(0xff);
    fs::write(weights(&temp), &bytes).unwrap();
    assert_refused(
        temp.path(),
        &["it claims 18446744073709551615 bytes of header"],
    );
}

#[test]
fn tensor_twice_in_a_header_is_refused() {
    let temp = Model::tiny().write();
    let mut bytes = fs::read(weights(&temp)).unwrap();
    let at = bytes
        .windows(9)
        .position(|window| window == b"ffn_norm.")
        .unwrap();
    // Layer 0's other norm comes first in the header and has the same shape.
    let other = bytes
        .windows(15)
        .position(|window| window == b"attention_norm.")
        .unwrap();
    assert!(other < at);
    let name = b"model.norm.weight\"";
    let norm = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    bytes[norm..norm + name.len()].copy_from_slice(b"output.weight\"    ");
    // Now output.weight is named twice; what is between quote and colon is blank.
    fs::write(weights(&temp), &bytes).unwrap();
    assert_refused(
        temp.path(),
        &["corrupt header: tensor output.weight stands in it twice"],
    );
}

#[test]
fn offsets_must_fit_the_shape_and_the_file() {
    let temp = Model::tiny().write();
    edit_header(&weights(&temp), |header| {
        let begin = header[OUTPUT]["data_offsets"][0].as_u64().unwrap();
        header[OUTPUT]["data_offsets"] = json!([begin, begin + 4]);
    });
    assert_refused(
        temp.path(),
        &[
            "tensor output.weight has the bytes",
            "but its shape [1024, 128] takes 524288 bytes",
        ],
    );
    edit_header(&weights(&temp), |header| {
        header[OUTPUT]["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 524288])
    });
    assert_refused(
        temp.path(),
        &["is truncated: tensor output.weight ends at byte 109951"],
    );
    edit_header(&weights(&temp), |header| {
        header[OUTPUT]["data_offsets"] = json!([20, 10])
    });
    assert_refused(temp.path(), &["tensor output.weight has the bytes 20..10"]);
    edit_header(&weights(&temp), |header| {
        header[OUTPUT]["shape"] = json!([1u64 << 40, 1u64 << 40])
    });
    assert_refused(temp.path(), &["tensor output.weight", "download"]);
}

#[test]
fn overlapping_tensors_are_refused() {
    let temp = Model::tiny().write();
    edit_header(&weights(&temp), |header| {
        header[OUTPUT]["data_offsets"] = json!([4, 524292])
    });
    assert_refused(
        temp.path(),
        &["model.safetensors: the bytes of tensor output.weight overlap those of tensor model."],
    );
}

#[test]
fn missing_shard_is_named() {
    let temp = sharded();
    fs::remove_file(temp.path().join("model-00002-of-00002.safetensors")).unwrap();
    let parts = [
        "model.safetensors.index.json names the shard model-00002-of-00002.safetensors",
        "download the shard",
    ];
    assert_refused(temp.path(), &parts);
}

#[test]
fn tensor_in_another_shard_than_the_index_says_is_refused() {
    let temp = sharded();
    edit_index(&temp, |index| {
        index["weight_map"][OUTPUT] = json!("model-00001-of-00002.safetensors")
    });
    let parts = [
        "tensor output.weight is in model-00001-of-00002.safetensors, but it was found in model-0000",
        "one download",
    ];
    assert_refused(temp.path(), &parts);
}

#[test]
fn index_and_shards_must_name_the_same_tensors() {
    let temp = sharded();
    edit_index(&temp, |index| {
        index["weight_map"]["more"] = json!("model-00001-of-00002.safetensors")
    });
    assert_refused(
        temp.path(),
        &["tensor more is in model-00001-of-00002.safetensors, but it is in no shard"],
    );
    edit_index(&temp, |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map.remove("more");
        map.remove(OUTPUT);
    });
    assert_refused(
        temp.path(),
        &["tensor output.weight is in model-0000", "does not name it"],
    );
}

#[test]
fn index_must_be_one() {
    let temp = sharded();
    fs::write(temp.path().join(INDEX), "{}").unwrap();
    assert_refused(
        temp.path(),
        &[
            "model.safetensors.index.json is not a usable shard index",
            "weight_map",
        ],
    );
    fs::write(
        temp.path().join(INDEX),
        r#"{"weight_map": {"a": "../secret.safetensors"}}"#,
    )
    .unwrap();
    assert_refused(
        temp.path(),
        &["tensor a is in `../secret.safetensors`, which is no file name"],
    );
}

#[test]
fn tensor_in_two_shards_is_refused() {
    let temp = sharded();
    let [first, last] =
        ["00001", "00002"].map(|n| temp.path().join(format!("model-{n}-of-00002.safetensors")));
    fs::copy(first, last).unwrap();
    assert_refused(
        temp.path(),
        &["is both in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors"],
    );
}

#[test]
fn quantised_checkpoints_are_told_apart() {
    let mut model = Model::tiny();
    model.remove("model.layers.0.attention.wqkv.weight");
    model.add("model.layers.0.attention.wqkv.qweight", &[16, 256]);
    let parts = [
        "quantised checkpoints are not supported yet",
        "model.layers.0.attention.wqkv.qweight",
        "bfloat16 release",
    ];
    assert_refused(model.write().path(), &parts);
    let temp = Model::tiny().write();
    fs::rename(
        weights(&temp),
        temp.path().join("gptq_model-4bit-128g.safetensors"),
    )
    .unwrap();
    assert_refused(
        temp.path(),
        &[
            "quantised checkpoints are not supported yet",
            "gptq_model-4bit-128g.safetensors",
        ],
    );
}

#[test]
fn picture_side_must_agree_with_the_config() {
    let mut model = Model::tiny();
    model.config.img_size = Some(490);
    assert_refused(
        model.write().path(),
        &[
            "img_size 490",
            "has 257 rows, which is a picture of 224 pixels",
        ],
    );
    let mut model = Model::tiny();
    model.reshape(
        "vit.vision_tower.vision_model.embeddings.position_embedding.weight",
        &[258, 64],
    );
    assert_refused(
        model.write().path(),
        &["has 258 rows, wanted one more than a square number"],
    );
}

#[test]
fn separators_come_in_pairs_and_with_a_known_tile() {
    let mut model = Model::of(Preset::TinyFourKhd);
    model.remove("plora_sub_GN");
    assert_refused(
        model.write().path(),
        &["tensor plora_sub_GN is missing", "[1, 1, 1, 256]"],
    );
    let mut model = Model::of(Preset::TinyFourKhd);
    model.reshape(
        "vit.vision_tower.vision_model.embeddings.position_embedding.weight",
        &[257, 64],
    );
    assert_refused(
        model.write().path(),
        &["cannot tell which release", "a position table of 257 rows"],
    );
}

#[test]
fn torch_file_that_would_run_code_is_refused_by_name() {
    let model = Model::tiny();
    let pickle = b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.";
    let temp = model.write_torch(&TorchFile::of(&model));
    fs::write(temp.path().join("pytorch_model.bin"), archive(pickle, &[])).unwrap();
    assert_refused(
        temp.path(),
        &[
            "pytorch_model.bin asks to run `posix.system`",
            "nothing was run",
        ],
    );
}

#[test]
fn torch_file_of_something_else_is_refused() {
    let model = Model::tiny();
    let temp = model.write_torch(&TorchFile::of(&model));
    let path = temp.path().join("pytorch_model.bin");
    for (pickle, message) in [
        (b"\x80\x02]." as &[u8], "pickle opcode 0x5d"),
        (b"\x80\x02N.", "a top-level value that is no dict"),
        (
            b"\x80\x02}X\x01\0\0\0aK\x05s.",
            "entry a, which is no tensor",
        ),
        (b"\x80\x02}", "unexpected end"),
        (b"\x80\x02h\x05.", "a memo that was never stored"),
    ] {
        fs::write(&path, archive(pickle, &[])).unwrap();
        assert_refused(temp.path(), &["pytorch_model.bin", message]);
    }
    fs::write(&path, "not a zip archive").unwrap();
    assert_refused(
        temp.path(),
        &["pytorch_model.bin has a corrupt header", "no zip directory"],
    );
    fs::write(&path, zip(&[("model/version".to_owned(), b"3")])).unwrap();
    assert_refused(temp.path(), &["its zip archive has no data.pkl"]);
}

#[test]
fn torch_tensor_outside_its_storage_is_refused() {
    let model = Model::tiny();
    let shifted = TorchTensor {
        storage: "0".to_owned(),
        offset: 5,
        shape: vec![1024, 128],
        strides: vec![128, 1],
    };
    let repeated = TorchTensor {
        storage: "small".to_owned(),
        offset: 0,
        shape: vec![1024, 128],
        strides: vec![0, 0],
    };
    for tensor in [shifted, repeated] {
        let mut file = TorchFile::of(&model);
        file.storages.push(("small".to_owned(), vec![0; 4]));
        file.replace(OUTPUT, tensor);
        let parts = [
            "pytorch_model.bin: tensor output.weight of shape [1024, 128]",
            "does not fit its storage",
        ];
        assert_refused(model.write_torch(&file).path(), &parts);
    }
    let mut file = TorchFile::of(&model);
    file.storages.retain(|(key, _)| key != "3");
    assert_refused(
        model.write_torch(&file).path(),
        &["in model/data/3, which is absent"],
    );
}

#[test]
fn truncated_torch_file_is_refused() {
    let model = Model::tiny();
    let bytes = TorchFile::of(&model).bytes();
    let temp = model.write_torch(&TorchFile::of(&model));
    fs::write(
        temp.path().join("pytorch_model.bin"),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    assert_refused(
        temp.path(),
        &["pytorch_model.bin has a corrupt header", "cut short"],
    );
}
