//! The goldens on GPUs, the emulated one and the real one where there is one: f32 within the tolerance of any f32 implementation, the
//! halves within what the official code itself loses by them (goldens, "Tolerances": about three times its own difference).
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::sync::Arc;

use super::*;
use crate::collectives::between_devices;

/// Devices for whole models. The emulator takes minutes for one, so it is asked for with `INKSTONE_LONG_TESTS`; the ops' own tests run
/// on it always.
fn gpus() -> Vec<(&'static str, Device)> {
    let is_long = std::env::var_os("INKSTONE_LONG_TESTS").is_some();
    let mut devices = crate::ops::cuda::gpus();
    devices.retain(|(name, _)| is_long || *name != "emulator");
    devices
}

fn load_on(device: &Device, dir: PathBuf, dtype: DType) -> LanguageModel {
    let options = LoadOptions {
        device: device.clone(),
        dtype: Some(dtype),
    };
    LanguageModel::load(
        &Checkpoint::open(&dir).unwrap(),
        Shard::SINGLE,
        &options,
        &|_| {},
    )
    .unwrap()
}

/// Largest and root mean square difference.
fn differences(found: &[f32], wanted: &[f32]) -> (f32, f32) {
    assert_eq!(found.len(), wanted.len());
    let squares: f64 = found
        .iter()
        .zip(wanted)
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum();
    let mean = squares / found.len() as f64;
    (largest_difference(found, wanted), mean.sqrt() as f32)
}

#[track_caller]
fn assert_within(what: &str, found: &[f32], wanted: &[f32], limits: (f32, f32)) {
    let (largest, mean) = differences(found, wanted);
    crate::goldens::say(&format!(
        "{what}: largest {largest}, mean {mean}, allowed {limits:?}"
    ));
    assert!(
        largest <= limits.0 && mean <= limits.1,
        "{what}: largest {largest}, mean {mean}, allowed {limits:?}"
    );
}

/// The rows of a picture prompt whose logits the goldens hold.
fn kept(goldens: &Goldens, logits: &[f32], vocab_size: usize) -> Vec<f32> {
    let rows = goldens.ids("one.keep");
    let rows = rows
        .iter()
        .flat_map(|&row| &logits[row as usize * vocab_size..][..vocab_size]);
    rows.copied().collect()
}

#[test]
fn f32_on_a_gpu_is_the_reference_s() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    for (name, device) in gpus() {
        crate::goldens::say(name);
        let model = load_on(&device, goldens.folder.join("checkpoint"), DType::F32);
        goldens.assert_close(
            "text40.logits",
            &logits_of(&model, &goldens.ids("text40.ids")),
        );
        let prompt = PicturePrompt::one(&goldens, &device);
        let (logits, _) = picture_logits(&model, &prompt, usize::MAX, &SingleCollective);
        goldens.assert_close(
            "one.logits",
            &kept(&goldens, &logits, model.config.vocab_size),
        );
        let wanted = goldens.ids("gen.text_chat.tokens");
        let prompt = goldens.ids("text_chat.ids");
        let (tokens, _) = generate(&model, &prompt, wanted.len(), 7, 1.0, &SingleCollective);
        assert_eq!(tokens, wanted, "{name}");
    }
}

#[test]
fn halves_on_a_gpu_lose_what_the_reference_loses() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let (_, text) = goldens.f32("text40.logits");
    let (_, picture) = goldens.f32("one.logits");
    for (name, device) in gpus() {
        for (dtype, text_limits, picture_limits) in [
            (DType::BF16, (1.32, 0.246), (0.93, 0.15)),
            (DType::F16, (0.138, 0.0285), (0.114, 0.0192)),
        ] {
            let model = load_on(&device, goldens.folder.join("checkpoint"), dtype);
            let found = logits_of(&model, &goldens.ids("text40.ids"));
            assert_within(
                &format!("{name} {dtype:?} text"),
                &found,
                &text,
                text_limits,
            );
            let prompt = PicturePrompt::one(&goldens, &device);
            let prompt = PicturePrompt {
                picture: prompt.picture.to_dtype(dtype).unwrap(),
                ..prompt
            };
            let (found, _) = picture_logits(&model, &prompt, 20, &SingleCollective);
            let found = kept(&goldens, &found, model.config.vocab_size);
            assert_within(
                &format!("{name} {dtype:?} picture"),
                &found,
                &picture,
                picture_limits,
            );
        }
    }
}

/// Heads of 128, so that the fast kernels run: prefill in chunks, then decode over several blocks.
#[test]
fn heads_of_128_agree_with_the_cpu() {
    let Some(goldens) = Goldens::open("xc2-rope-tiny") else {
        return;
    };
    let dir = goldens.folder.join("checkpoint");
    let prompt = &goldens.ids("ids")[..70];
    for (name, device) in gpus() {
        for (dtype, limit) in [(DType::BF16, 0.05), (DType::F16, 0.01)] {
            let cpu = load(dir.clone(), Shard::SINGLE, Some(dtype));
            let wanted = logits_of(&cpu, prompt);
            let scale = (wanted.iter().map(|x| x * x).sum::<f32>() / wanted.len() as f32).sqrt();
            let model = load_on(&device, dir.clone(), dtype);
            let limits = (limit * scale * 6.0, limit * scale);
            assert_within(
                &format!("{name} {dtype:?} prefill"),
                &logits_of(&model, prompt),
                &wanted,
                limits,
            );
            // The same row by row, through the decode kernel from the first chunk on.
            let mut sequence = Sequence::new(prompt, 1, 2);
            let mut cache = model.new_kv_cache(2 * sequence.blocks.len());
            let mut found = Vec::new();
            while sequence.num_computed < prompt.len() {
                let len = if sequence.num_computed == 0 { 40 } else { 1 };
                let out = forward(
                    &model,
                    &mut cache,
                    vec![sequence.chunk(len, LogitsRows::All)],
                    &SingleCollective,
                );
                sequence.num_computed += len;
                found.extend(out.logits.to_f32_vec().unwrap());
            }
            assert_within(
                &format!("{name} {dtype:?} row by row"),
                &found,
                &wanted,
                limits,
            );
        }
    }
}

/// Two ranks on one GPU, joined by the host's collective.
#[test]
fn two_ranks_on_one_gpu_equal_one() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let dir = goldens.folder.join("checkpoint");
    let ids = goldens.ids("text40.ids");
    for (name, device) in gpus() {
        let wanted = logits_of(&load_on(&device, dir.clone(), DType::F32), &ids);
        let slices: Vec<Vec<f32>> = thread::scope(|scope| {
            let ends = LocalCollective::group(2, DEADLINE);
            let ranks: Vec<_> = ends
                .into_iter()
                .enumerate()
                .map(|(rank, end)| {
                    let (device, dir, ids) = (device.clone(), &dir, &ids);
                    scope.spawn(move || {
                        // Of one GPU, which NCCL does not join with itself.
                        let end = between_devices(Arc::new(end), &device, None).unwrap();
                        let options = LoadOptions {
                            device,
                            dtype: Some(DType::F32),
                        };
                        let shard = Shard {
                            rank,
                            world_size: 2,
                        };
                        let model = LanguageModel::load(
                            &Checkpoint::open(dir).unwrap(),
                            shard,
                            &options,
                            &|_| {},
                        )
                        .unwrap();
                        let sequence = Sequence::new(ids, 0, 1);
                        let mut cache = model.new_kv_cache(sequence.blocks.len());
                        let chunk = sequence.chunk(usize::MAX, LogitsRows::All);
                        forward(&model, &mut cache, vec![chunk], end.as_ref())
                            .logits
                            .to_f32_vec()
                            .unwrap()
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        let half = slices[0].len() / ids.len();
        let rows = (0..ids.len()).flat_map(|row| {
            slices
                .iter()
                .flat_map(move |slice| &slice[row * half..][..half])
        });
        let found: Vec<f32> = rows.copied().collect();
        assert!(largest_difference(&found, &wanted) < 2e-4, "{name}");
    }
}

/// A rank alone, joined by NCCL all the same; where there is none, that is said.
#[test]
fn nccl_joins_gpus_or_says_that_it_is_missing() {
    for (name, device) in gpus() {
        let joined = between_devices(Arc::new(SingleCollective), &device, None);
        let collective = match joined {
            Ok(collective) => collective,
            Err(error) => {
                eprintln!("skipped on {name}: {error}");
                assert!(error.to_string().contains("libnccl.so"), "{error}");
                continue;
            }
        };
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let values = [1.0, -2.5, 0.0, 1024.0];
            let ours = Tensor::from_f32(&device, &[2, 2], &values).unwrap();
            let mut ours = ours.to_dtype(dtype).unwrap();
            collective.all_reduce_sum(&mut ours).unwrap();
            assert_eq!(ours.to_f32_vec().unwrap(), values, "{name} {dtype:?}");
        }
        collective.barrier().unwrap();
        collective.abort();
        let mut late = Tensor::from_f32(&device, &[1], &[1.0]).unwrap();
        assert!(collective.all_reduce_sum(&mut late).is_err(), "{name}");
    }
}
