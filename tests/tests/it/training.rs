//! The training program beside the network that serves: a few steps of it make a checkpoint that loads here, and its PyTorch
//! network and ours compute the same. Needs a Python with `model/training/requirements.txt`, named by
//! `INKSTONE_TRAINING_PYTHON`; says that it skips where there is none.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use inkstone_model::{
    checkpoint::{Checkpoint, Shard},
    clip::{
        VisionModel,
        preprocess::{DecodeLimits, decode_picture, prepare},
    },
    collectives::SingleCollective,
    device::Device,
    internlm2::{Batch, BatchSequence, Input, LanguageModel, LogitsRows},
    load_options::LoadOptions,
    tensor::{DType, Tensor},
};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

/// Largest difference of a logit or a feature: sums of float32 in another order.
const ATOL: f32 = 2e-3;

/// A prompt as `compare.py` takes it: -1 stands for a picture row.
#[derive(Debug, Deserialize, Serialize)]
struct Case {
    name: String,
    ids: Vec<i64>,
    pictures: Vec<PathBuf>,
}

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs a script of the training program; `false` where there is no Python for it.
fn run_script(name: &str, arguments: &[&Path]) -> bool {
    let Some(python) = std::env::var_os("INKSTONE_TRAINING_PYTHON") else {
        println!("skipped: INKSTONE_TRAINING_PYTHON does not name a Python with PyTorch");
        return false;
    };
    let status = Command::new(python)
        .arg(folder("model/training").join(name))
        .args(arguments)
        .env("OMP_NUM_THREADS", "2")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .status()
        .expect("INKSTONE_TRAINING_PYTHON runs");
    assert!(status.success(), "{name} failed");
    true
}

/// Our network on one device.
struct Network {
    tower: VisionModel,
    language: LanguageModel,
}

/// What the network computes of a case.
struct Computed {
    features: Vec<f32>,
    projected: Vec<f32>,
    /// `[ids.len(), vocab_size]`
    logits: Vec<f32>,
}

impl Network {
    fn load(checkpoint: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(checkpoint)?;
        let options = LoadOptions {
            device: Device::cpu(2),
            dtype: Some(DType::F32),
        };
        let shard = Shard {
            rank: 0,
            world_size: 1,
        };
        Ok(Self {
            tower: VisionModel::load(&checkpoint, &options, &|_| ())?,
            language: LanguageModel::load(&checkpoint, shard, &options, &|_| ())?,
        })
    }

    fn run(&self, case: &Case, pictures: &Path) -> Result<Computed> {
        let (mut features, mut projected) = (Vec::new(), Vec::new());
        for picture in &case.pictures {
            let bytes = fs::read(pictures.join(picture))?;
            let picture = decode_picture(&bytes, &DecodeLimits::default())?;
            let prepared = prepare(&picture, self.tower.geometry(), 1)?;
            let encoded = self.tower.encode(&[&prepared])?;
            let encoded = encoded.first().context("features of the picture")?;
            features.extend_from_slice(encoded.data());
            projected.push(self.language.project(encoded)?);
        }
        let logits = self.logits(&case.ids, &projected)?;
        let values = projected.iter().map(Tensor::to_f32_vec);
        Ok(Computed {
            features,
            projected: values.collect::<Result<Vec<_>, _>>()?.concat(),
            logits,
        })
    }

    fn logits(&self, ids: &[i64], projected: &[Tensor]) -> Result<Vec<f32>> {
        let tokens: Vec<u32> = ids
            .iter()
            .map(|id| u32::try_from(*id).unwrap_or(0))
            .collect();
        let (mut inputs, mut pictures, mut at) = (Vec::new(), projected.iter(), 0);
        while at < ids.len() {
            if ids[at] < 0 {
                let projected = pictures.next().context("a picture for its rows")?;
                let rows = 0..projected.rows();
                at += rows.len();
                inputs.push(Input::Picture { projected, rows });
            } else {
                let len = ids[at..].iter().take_while(|id| **id >= 0).count();
                inputs.push(Input::Tokens(&tokens[at..at + len]));
                at += len;
            }
        }
        let block_table: Vec<u32> = (0..ids.len().div_ceil(16) as u32).collect();
        let batch = Batch {
            sequences: vec![BatchSequence {
                start: 0,
                inputs,
                block_table: &block_table,
                rope_length: ids.len(),
                logits: LogitsRows::All,
            }],
        };
        let mut cache = self.language.new_kv_cache(block_table.len());
        let output = self
            .language
            .forward(&batch, &mut cache, &SingleCollective)?;
        Ok(output.logits.to_f32_vec()?)
    }
}

/// Numbers of the other implementation.
fn numbers(file: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>> {
    let tensor = file.tensor(name)?;
    let (words, _) = tensor.data().as_chunks::<4>();
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

fn assert_close(what: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let differences = found.iter().zip(wanted).map(|(a, b)| (a - b).abs());
    let largest = differences.fold(0.0, f32::max);
    assert!(largest <= ATOL, "{what}: off by {largest}, at most {ATOL}");
}

/// Holds our network against what `compare.py` wrote.
fn compare(checkpoint: &Path, cases: &Path, expected: &Path) -> Result<()> {
    let network = Network::load(checkpoint)?;
    let expected = fs::read(expected)?;
    let expected = SafeTensors::deserialize(&expected)?;
    let pictures = cases.parent().context("a folder")?;
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(cases)?)?;
    for case in &cases {
        let computed = network.run(case, pictures)?;
        let wanted = |part: &str| numbers(&expected, &format!("{}.{part}", case.name));
        if !case.pictures.is_empty() {
            assert_close("tower", &computed.features, &wanted("vit")?);
            assert_close("projector", &computed.projected, &wanted("proj")?);
        }
        assert_close(&case.name, &computed.logits, &wanted("logits")?);
    }
    assert!(cases.len() >= 2);
    Ok(())
}

#[test]
fn a_few_steps_of_training_make_a_checkpoint_that_both_implementations_agree_on() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let work = work.path();
    if !run_script("smoke.py", &[work]) {
        return;
    }
    compare(
        &work.join("checkpoint"),
        &work.join("cases.json"),
        &work.join("expected.safetensors"),
    )
    .expect("both compute");
}

#[test]
fn both_implementations_agree_on_the_checkpoint_that_ships() {
    let checkpoint = folder("model/pretrained/inkstone-small");
    let samples = fs::read(checkpoint.join("samples/descriptions.json")).expect("it is there");
    let samples: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&samples).expect("an object");
    let words: Vec<i64> = (300..420).step_by(3).collect();
    let with_pictures = |count: usize| Case {
        name: format!("pictures{count}"),
        ids: [vec![1], vec![-1; 64 * count], words.clone()].concat(),
        pictures: samples
            .keys()
            .take(count)
            .map(|name| checkpoint.join("samples").join(name))
            .collect(),
    };
    let cases: Vec<Case> = (0..3).map(with_pictures).collect();
    let work = tempfile::tempdir().expect("a temporary folder");
    let (cases_file, expected) = (
        work.path().join("cases.json"),
        work.path().join("expected.safetensors"),
    );
    fs::write(&cases_file, serde_json::to_vec(&cases).expect("JSON")).expect("it is written");
    if run_script("compare.py", &[&checkpoint, &cases_file, &expected]) {
        compare(&checkpoint, &cases_file, &expected).expect("both compute");
    }
}
