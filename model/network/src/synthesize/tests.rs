//! What a synthesised folder must be: a checkpoint like the published ones, and the same each time.

mod range;

use std::path::Path;

use inkstone_interface::description::Variant;
use inkstone_interface::tokenizer::{Tokenizer, Trust};

use super::*;
use crate::checkpoint::{Checkpoint, Slice};

fn silent(_: LoadProgress<'_>) {}

fn make(preset: Preset, seed: u64, out: &Path) {
    synthesize(preset, seed, out, SynthesizeOptions::default(), &silent).unwrap();
}

/// Names and contents of a folder's files.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn tiny_presets_open_as_the_variant_they_are() {
    let temp = tempfile::tempdir().unwrap();
    for preset in [Preset::Tiny, Preset::TinyFourKhd, Preset::TinyTwoFive] {
        let out = temp.path().join(preset.name());
        make(preset, 1, &out);
        let checkpoint = Checkpoint::open(&out).unwrap();
        assert_eq!(
            checkpoint.description().variant,
            preset.variant(),
            "{preset}"
        );
        assert_eq!(
            checkpoint.description().picture.side,
            preset.side(),
            "{preset}"
        );
        assert_eq!(
            *checkpoint.partial_lora(),
            preset.structure().partial_lora,
            "{preset}"
        );
    }
}

#[test]
fn same_seed_gives_the_same_bytes_and_another_seed_others() {
    let temp = tempfile::tempdir().unwrap();
    let [a, b, other] = ["a", "b", "other"].map(|name| temp.path().join(name));
    make(Preset::Tiny, 1, &a);
    make(Preset::Tiny, 1, &b);
    make(Preset::Tiny, 2, &other);
    assert_eq!(contents(&a), contents(&b));
    let different: Vec<String> = contents(&a)
        .into_iter()
        .zip(contents(&other))
        .filter(|(a, b)| a != b)
        .map(|((name, _), _)| name)
        .collect();
    assert_eq!(different, ["model.safetensors"]);
}

#[test]
fn a_hollow_model_opens_like_a_full_one_and_takes_no_room() {
    use std::os::unix::fs::MetadataExt;

    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("vl-7b");
    let options = SynthesizeOptions {
        hollow: true,
        ..SynthesizeOptions::default()
    };
    let bytes = synthesize(Preset::Vl7b, 0, &out, options, &silent).unwrap();
    let checkpoint = Checkpoint::open(&out).unwrap();
    assert_eq!(checkpoint.description().variant, Variant::Xc2);
    assert_eq!(checkpoint.description().weight_bytes, bytes);
    // Blocks of 512 bytes, tokenizer and all.
    let blocks: u64 = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().blocks())
        .sum();
    assert!(
        bytes > 17_000_000_000 && blocks * 512 < 20_000_000,
        "{blocks}"
    );
}

#[test]
fn folder_that_is_not_empty_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("mine"), "kept").unwrap();
    let error = synthesize(
        Preset::Tiny,
        1,
        temp.path(),
        SynthesizeOptions::default(),
        &silent,
    )
    .unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert_eq!(
        contents(temp.path()),
        [("mine".to_owned(), b"kept".to_vec())]
    );
}

#[test]
fn failure_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    // Something else takes the place while the weights are being made.
    let progress = |_: LoadProgress<'_>| {
        std::fs::create_dir_all(out.join("taken")).unwrap();
    };
    assert!(
        synthesize(
            Preset::Tiny,
            1,
            &out,
            SynthesizeOptions::default(),
            &progress
        )
        .is_err()
    );
    let left: Vec<_> = std::fs::read_dir(temp.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["out"]);
}

#[test]
fn shards_hold_the_same_tensors_as_one_file() {
    let temp = tempfile::tempdir().unwrap();
    let [whole, sharded] = ["whole", "sharded"].map(|name| temp.path().join(name));
    make(Preset::Tiny, 1, &whole);
    let options = SynthesizeOptions {
        max_file_bytes: 500_000,
        ..SynthesizeOptions::default()
    };
    synthesize(Preset::Tiny, 1, &sharded, options, &silent).unwrap();
    let shards = contents(&sharded)
        .into_iter()
        .filter(|(name, _)| name.contains("-of-"))
        .count();
    assert!(shards > 2, "{shards} shards");
    let (a, b) = (
        Checkpoint::open(&whole).unwrap(),
        Checkpoint::open(&sharded).unwrap(),
    );
    for tensor in a.tensors() {
        let [a, b] = [&a, &b].map(|from| {
            from.reader(&silent)
                .read(tensor.name, Slice::Whole, None)
                .unwrap()
        });
        assert_eq!(a.bytes.as_slice(), b.bytes.as_slice(), "{}", tensor.name);
    }
}

#[test]
fn stored_type_changes_rounding_only() {
    let temp = tempfile::tempdir().unwrap();
    let [exact, rounded] = [DType::F32, DType::BF16].map(|dtype| {
        let out = temp.path().join(format!("{dtype:?}"));
        let options = SynthesizeOptions {
            dtype,
            ..SynthesizeOptions::default()
        };
        synthesize(Preset::Tiny, 1, &out, options, &silent).unwrap();
        let checkpoint = Checkpoint::open(&out).unwrap();
        let loaded = checkpoint
            .reader(&silent)
            .read("output.weight", Slice::Whole, Some(DType::BF16))
            .unwrap();
        loaded.bytes
    });
    assert_eq!(exact.as_slice(), rounded.as_slice());
}

#[test]
fn tokenizer_has_the_marks_at_the_places_of_the_real_one() {
    for preset in [Preset::Tiny, Preset::Quarter, Preset::Vl7b] {
        let vocab_size = preset.config().vocab_size;
        let tokenizer =
            Tokenizer::from_model_bytes(&vocabulary::tokenizer_model(vocab_size).unwrap()).unwrap();
        assert_eq!(tokenizer.vocab_size(), vocab_size, "{preset}");
        let last = vocab_size as u32 - 1;
        assert_eq!(tokenizer.piece_id("[UNUSED_TOKEN_146]"), Some(last));
        assert_eq!(tokenizer.piece_id("[UNUSED_TOKEN_0]"), Some(last - 146));
        assert_eq!(tokenizer.piece_id("<0x00>"), Some(3));
    }
}

#[test]
fn tokenizer_round_trips_and_finds_its_words() {
    let text = "The picture shows a small dog.\n请为以下文章配图：\t🙂 x=1";
    for vocab_size in [505, 1024, 92544] {
        let tokenizer =
            Tokenizer::from_model_bytes(&vocabulary::tokenizer_model(vocab_size).unwrap()).unwrap();
        let ids = tokenizer.encode(text, Trust::Untrusted);
        assert_eq!(tokenizer.decode(&ids), text, "{vocab_size}");
    }
    let tokenizer =
        Tokenizer::from_model_bytes(&vocabulary::tokenizer_model(23136).unwrap()).unwrap();
    for word in [" picture", " the", " describe", "文", "世界"] {
        assert_eq!(tokenizer.encode(word, Trust::Trusted).len(), 1, "{word}");
    }
}

#[test]
fn vocabulary_that_cannot_be_made_is_refused() {
    for size in [0, 504, 10_000_000] {
        let error = vocabulary::tokenizer_model(size).unwrap_err().to_string();
        assert!(error.contains("wanted from 505 to"), "{error}");
    }
}

#[test]
fn seven_b_presets_have_the_published_sizes() {
    // Spec section 11.
    for (preset, parameters) in [
        (Preset::Vl7b, 8_666_838_016u64),
        (Preset::Composition7b, 8_665_845_760),
        (Preset::FourKhd7b, 8_597_499_904),
        (Preset::TwoFive7b, 8_679_813_120),
    ] {
        let tensors = inventory(&preset.config(), &preset.structure());
        let found: u64 = tensors
            .iter()
            .map(|tensor| tensor.shape.num_elements().unwrap() as u64)
            .sum();
        assert_eq!(found, parameters, "{preset}");
    }
    let tensors = inventory(&Preset::Vl7b.config(), &Preset::Vl7b.structure());
    assert_eq!(tensors.len(), 940);
    assert_eq!(Preset::Vl7b.variant(), Variant::Xc2);
}
