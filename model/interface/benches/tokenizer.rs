//! How fast text becomes ids and back, beside the `tokenizers` crate with the same pieces in the same run.
//!
//! With `INKSTONE_TOKENIZER` naming a `tokenizer.model` (or `shared/tokenizer` beside the workspace) the real pieces
//! are used, else synthetic ones. The peer keeps all merges in one list, so where two pieces have the same score it
//! may choose the other: how many ids differ is printed first.

use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use inkstone_interface::tokenizer::{Tokenizer, Trust, synthetic};
use prost::Message;
use serde_json::json;

const WORDS: [&str; 24] = [
    "the",
    "picture",
    "shows",
    "a",
    "small",
    "boat",
    "on",
    "calm",
    "water",
    "and",
    "two",
    "people",
    "internationally",
    "请",
    "描述",
    "这张图片",
    "秋天的北京",
    "一艘小船",
    "平静的水面",
    "，",
    "。",
    "多模态",
    "2024",
    "(x)",
];

fn main_group(criterion: &mut Criterion) {
    let model = model_bytes();
    let tokenizer = Tokenizer::from_model_bytes(&model).expect("the model is a tokenizer");
    let peer = peer(&model);
    for (name, text) in texts() {
        report_difference(name, &tokenizer, &peer, &text);
        let mut group = criterion.benchmark_group(format!("encode {name}"));
        group
            .sample_size(10)
            .throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("inkstone", |bencher| {
            bencher.iter(|| tokenizer.encode(black_box(&text), Trust::Untrusted));
        });
        group.bench_function("tokenizers", |bencher| {
            bencher.iter(|| {
                peer.encode_fast(black_box(text.as_str()), false)
                    .expect("the peer encodes")
            });
        });
        group.finish();
    }
    bench_decoding(criterion, &tokenizer);
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    group.bench_function("inkstone", |bencher| {
        bencher.iter(|| {
            Tokenizer::from_model_bytes(black_box(&model)).expect("the model is a tokenizer")
        });
    });
    group.finish();
}

fn bench_decoding(criterion: &mut Criterion, tokenizer: &Tokenizer) {
    let ids = tokenizer.encode(&texts()[0].1, Trust::Untrusted);
    let mut group = criterion.benchmark_group("decode");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(ids.len() as u64));
    group.bench_function("at once", |bencher| {
        bencher.iter(|| tokenizer.decode(black_box(&ids)))
    });
    group.bench_function("token by token", |bencher| {
        bencher.iter(|| {
            let mut decoder = tokenizer.stream_decoder();
            ids.iter().map(|&id| decoder.push(id).len()).sum::<usize>()
        });
    });
    group.finish();
}

/// Names and texts: a long document, a question, and a run in which everything may merge with everything.
fn texts() -> [(&'static str, String); 3] {
    [
        ("mixed 256 KiB", mixed(256 << 10)),
        ("question 200 B", mixed(200)),
        ("one letter 16 KiB", "a".repeat(16 << 10)),
    ]
}

/// English and Chinese in about equal parts, the same at every run.
fn mixed(num_bytes: usize) -> String {
    let mut state = 1_u64;
    let mut text = String::new();
    while text.len() < num_bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = WORDS[(state >> 33) as usize % WORDS.len()];
        if word.is_ascii() {
            text.push(' ');
        }
        text.push_str(word);
        if state >> 59 == 0 {
            text.push('\n');
        }
    }
    text
}

fn model_bytes() -> Vec<u8> {
    let file = std::env::var_os("INKSTONE_TOKENIZER").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../shared/tokenizer/tokenizer.model"
            ))
        },
        PathBuf::from,
    );
    std::fs::read(file).unwrap_or_else(|_| synthetic::model_bytes(&WORDS))
}

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    /// Absent or 1 is normal, 4 is user-defined.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

/// The same pieces as a BPE of the `tokenizers` crate: every way to make a piece of two, in the order of scores.
fn peer(model: &[u8]) -> tokenizers::Tokenizer {
    let pieces = Model::decode(model)
        .expect("the model is a protobuf")
        .pieces;
    let vocab: serde_json::Map<String, serde_json::Value> = pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.piece.clone(), id.into()))
        .collect();
    let mut normal: Vec<&Piece> = pieces
        .iter()
        .filter(|piece| piece.kind.is_none_or(|kind| kind == 1))
        .collect();
    normal.sort_by(|a, b| b.score.total_cmp(&a.score));
    let merges: Vec<(&str, &str)> = normal
        .iter()
        .flat_map(|piece| {
            piece
                .piece
                .char_indices()
                .skip(1)
                .map(|(cut, _)| piece.piece.split_at(cut))
        })
        .filter(|(left, right)| vocab.contains_key(*left) && vocab.contains_key(*right))
        .collect();
    let added: Vec<_> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| piece.kind == Some(4) && !piece.piece.starts_with('['))
        .map(|(id, piece)| {
            json!({"id": id, "content": piece.piece, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": false})
        })
        .collect();
    let description = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": merges},
    });
    tokenizers::Tokenizer::from_bytes(description.to_string())
        .expect("the description is a tokenizer")
}

#[expect(clippy::print_stderr, reason = "a benchmark reports on the terminal")]
fn report_difference(name: &str, tokenizer: &Tokenizer, peer: &tokenizers::Tokenizer, text: &str) {
    let ours = tokenizer.encode(text, Trust::Untrusted);
    let theirs = peer.encode_fast(text, false).expect("the peer encodes");
    let differing = ours
        .iter()
        .zip(theirs.get_ids())
        .filter(|(ours, theirs)| ours != theirs)
        .count();
    eprintln!(
        "{name}: {} ids, {} of the peer, {differing} differ",
        ours.len(),
        theirs.get_ids().len()
    );
}

criterion_group!(benches, main_group);
criterion_main!(benches);
