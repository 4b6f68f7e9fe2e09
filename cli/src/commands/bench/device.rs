//! `inkstone bench device`: what the network does on one device, forward by forward, without a server: each figure beside its limit,
//! the memory's and the matrix unit's speed as this very device shows them in the same run. Random
//! weights, unless told otherwise, are written first.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, ensure};
use inkstone_model::{
    checkpoint::{Checkpoint, Shard},
    clip::{
        PictureFeatures, VisionModel,
        preprocess::{PreparedPicture, RgbPicture, prepare},
    },
    collectives::SingleCollective,
    device::Device,
    internlm2::{Batch, BatchSequence, Input, LanguageModel, LogitsRows},
    kv_cache::{BLOCK_TOKENS, KvCache},
    load_options::LoadOptions,
    ops::{elementwise::add_assign, linear::linear},
    sampling::{self, RowSampling, SamplingParams},
    synthesize::Preset,
    tensor::{DType, Tensor},
};
use serde::Serialize;

use super::engine::make_weights;
use crate::{
    arguments::{BenchDeviceArguments, DeviceChoice},
    commands::client::write_out,
    telemetry::Console,
};

/// Decode steps of a row, after as many warm ones.
const STEPS: usize = 16;
/// What tokens are drawn with: as chats are, unless they ask for something else.
const DRAWN: SamplingParams = SamplingParams {
    temperature: 1.0,
    top_k: 50,
    top_p: 0.8,
    min_p: 0.0,
    repetition_penalty: 1.005,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    seed: 1,
    num_logprobs: None,
};
/// Runs of everything else, after one warm one.
const RUNS: usize = 3;

pub(crate) fn run(arguments: BenchDeviceArguments, console: &Console) -> anyhow::Result<()> {
    let dir = weights_dir(&arguments);
    let settings = arguments.engine.model_settings(dir.clone(), 1)?;
    let options = LoadOptions {
        device: settings.open_device(0)?,
        dtype: settings.dtype,
    };
    if arguments.engine.model.is_none() && !dir.exists() {
        make_weights(preset(&arguments), &dir, console)?;
    }
    let table = Table::new(arguments.json);
    let roofs = Roofs::measure(&options.device, arguments.small)?;
    table.row("memory, y += x", roofs.memory / 1e9, "GB/s", None)?;
    table.row(
        "matrix product, bf16",
        roofs.product / 1e12,
        "TFLOP/s",
        None,
    )?;

    let checkpoint = Checkpoint::open(&dir)?;
    let model = loading(&checkpoint, &options, &table)?;
    let bench = Bench {
        model: &model,
        roofs: &roofs,
        small: arguments.small,
        decode_graphs: !arguments.engine.no_decode_graphs,
    };
    bench.decoding(&table)?;
    bench.prefill(&table)?;
    bench.picture(&table)?;
    drop(model);
    vision(&checkpoint, &options, &roofs, arguments.small, &table)
}

/// The folder of weights: the given one, or one of random weights, which is written unless it is there.
fn weights_dir(arguments: &BenchDeviceArguments) -> PathBuf {
    let made = || arguments.work.join(preset(arguments).name());
    arguments.engine.model.clone().unwrap_or_else(made)
}

/// The shape of random weights. A CPU would take hours for the 7B's figures.
fn preset(arguments: &BenchDeviceArguments) -> Preset {
    arguments.preset.unwrap_or(match arguments.engine.device {
        DeviceChoice::Cpu => Preset::Quarter,
        DeviceChoice::Cuda => Preset::Vl7b,
    })
}

fn loading(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    table: &Table,
) -> anyhow::Result<LanguageModel> {
    let bytes = checkpoint.language_bytes(Shard::SINGLE)? as f64;
    let load = || -> anyhow::Result<_> {
        let started = Instant::now();
        let model = LanguageModel::load(checkpoint, Shard::SINGLE, options, &|_| ())?;
        options.device.synchronize()?;
        Ok((model, started.elapsed().as_secs_f64()))
    };
    // Once for the page cache.
    drop(load()?);
    let (model, seconds) = load()?;
    table.row(
        "loading from the page cache",
        bytes / seconds / 1e9,
        "GB/s",
        Some((5.0, "goal")),
    )?;
    Ok(model)
}

/// What the device can do at best.
struct Roofs {
    /// Bytes a second, read and written.
    memory: f64,
    /// Floating-point operations a second.
    product: f64,
}

impl Roofs {
    fn measure(device: &Device, small: bool) -> anyhow::Result<Self> {
        let (elements, side) = if small {
            (1 << 20, 256)
        } else {
            (1 << 30, 8192)
        };
        let dtype = device.activation_dtype(DType::BF16);
        let x = Tensor::try_zeros(device, dtype, &[elements])?;
        let mut y = Tensor::try_zeros(device, dtype, &[elements])?;
        let seconds = best(device, RUNS, || {
            add_assign(&mut y, &x)?;
            Ok(())
        })?;
        let memory = 3.0 * (elements * dtype.num_bytes()) as f64 / seconds;
        drop((x, y));
        // Zeros would flatter: they spare the circuits, and the clock stays up.
        let values: Vec<f32> = noise(side * side).collect();
        let x = Tensor::from_f32(device, &[side, side], &values)?;
        let w = x.to_dtype(DType::BF16)?;
        let x = x.to_dtype(dtype)?;
        let seconds = best(device, RUNS, || {
            linear(&x, &w, None)?;
            Ok(())
        })?;
        let product = 2.0 * (side as f64).powi(3) / seconds;
        Ok(Self { memory, product })
    }
}

struct Bench<'a> {
    model: &'a LanguageModel,
    roofs: &'a Roofs,
    small: bool,
    decode_graphs: bool,
}

impl Bench<'_> {
    fn decoding(&self, table: &Table) -> anyhow::Result<()> {
        let rows: &[(usize, usize)] = match self.small {
            true => &[(1, 32), (3, 40)],
            false => &[(1, 512), (64, 1536), (256, 1536)],
        };
        let weight_bytes = self.model.decode_weight_bytes() as f64;
        let block_bytes = KvCache::block_bytes(
            self.model.config(),
            self.model.shard(),
            self.model.kv_dtype(),
        );
        for &(batch, context) in rows {
            let mut cache = self.cache(batch * (context + STEPS * 2 + 2).div_ceil(BLOCK_TOKENS));
            let tables = tables(batch, context + STEPS * 2 + 2);
            let row = RowSampling {
                params: DRAWN,
                ..RowSampling::default()
            };
            let draws = vec![row; batch];
            let step = |cache: &mut KvCache, at: usize, is_drawn: bool| -> anyhow::Result<()> {
                let ids = vec![[at as u32 % 1000]; batch];
                let sequences = tables
                    .iter()
                    .zip(&ids)
                    .map(|(blocks, id)| sequence(at, vec![Input::Tokens(id)], blocks));
                let out = self.model.forward(
                    &Batch {
                        sequences: sequences.collect(),
                    },
                    cache,
                    &SingleCollective,
                )?;
                if is_drawn {
                    let first_id = self.model.first_vocab_id();
                    sampling::sample(&out.logits, first_id, &draws, &SingleCollective)?;
                }
                Ok(())
            };
            // Seconds of a step, with its tokens drawn or all of its logits left where they are.
            let measure = |cache: &mut KvCache, is_drawn: bool| -> anyhow::Result<f64> {
                (0..STEPS).try_for_each(|index| step(cache, context + index, is_drawn))?;
                self.model.device().synchronize()?;
                let started = Instant::now();
                (0..STEPS).try_for_each(|index| step(cache, context + STEPS + index, is_drawn))?;
                self.model.device().synchronize()?;
                Ok(started.elapsed().as_secs_f64() / STEPS as f64)
            };
            let mut figures = vec![("decode, op by op", measure(&mut cache, false)?)];
            let most_rows = if self.decode_graphs { batch } else { 0 };
            let recorded =
                self.model
                    .record_decode(&mut cache, &SingleCollective, most_rows, &|_, _| ())?;
            if recorded > 0 {
                figures.push(("decode", measure(&mut cache, false)?));
            }
            figures.push(("decode and draw", measure(&mut cache, true)?));
            let kv_bytes = (batch * context / BLOCK_TOKENS * block_bytes) as f64;
            let roof = batch as f64 / ((weight_bytes + kv_bytes) / self.roofs.memory);
            for (what, seconds) in figures {
                table.row(
                    &format!("{what}, {batch} x {context}"),
                    batch as f64 / seconds,
                    "tokens/s",
                    Some((roof, "weights + KV at memory's speed")),
                )?;
            }
        }
        Ok(())
    }

    fn prefill(&self, table: &Table) -> anyhow::Result<()> {
        let num_tokens = if self.small { 64 } else { 4096 };
        let ids: Vec<u32> = (0..num_tokens as u32).map(|id| id % 1000 + 3).collect();
        let seconds = self.prompt(&[Input::Tokens(&ids)])?;
        let rate = self.prompt_flops(num_tokens) / seconds;
        let name = format!(
            "prefill, {num_tokens} tokens of text ({:.1} ms)",
            seconds * 1e3
        );
        table.row(
            &name,
            rate / 1e12,
            "TFLOP/s",
            Some((self.roofs.product / 1e12, "matrix product")),
        )
    }

    fn picture(&self, table: &Table) -> anyhow::Result<()> {
        let picture_rows = if self.small { 25 } else { 1225 };
        let width = self.model.config().vision().hidden_size;
        let features =
            PictureFeatures::new(picture_rows, width, noise(picture_rows * width).collect());
        let projected = self.model.project(&features)?;
        let rows = 0..projected.rows();
        let ids: Vec<u32> = (0..40).collect();
        let text_ids: Vec<u32> = (0..picture_rows as u32 + 40).collect();
        let with = self.prompt(&[
            Input::Picture {
                projected: &projected,
                rows,
            },
            Input::Tokens(&ids),
        ])?;
        let without = self.prompt(&[Input::Tokens(&text_ids)])?;
        let name = format!(
            "a picture of {picture_rows} rows + 40 tokens ({:.1} ms), over the same rows as text",
            with * 1e3
        );
        table.row(&name, with / without, "x", Some((1.12, "goal")))
    }

    /// Seconds of a forward over a prompt, whose last row's logits are made.
    fn prompt(&self, inputs: &[Input<'_>]) -> anyhow::Result<f64> {
        let num_rows: usize = inputs.iter().map(Input::num_rows).sum();
        let mut cache = self.cache(num_rows.div_ceil(BLOCK_TOKENS));
        let blocks = &tables(1, num_rows)[0];
        best(self.model.device(), RUNS, || {
            let sequences = vec![sequence(0, inputs.to_vec(), blocks)];
            self.model
                .forward(&Batch { sequences }, &mut cache, &SingleCollective)?;
            Ok(())
        })
    }

    /// Operations of a prompt of text: two for each weight of the layers and row, and attention, of which each row has half.
    fn prompt_flops(&self, num_rows: usize) -> f64 {
        let config = self.model.config();
        let head = config.vocab_size * config.hidden_size;
        let weights = self.model.decode_weight_bytes() / self.model.kv_dtype().num_bytes() - head;
        let width = config.num_attention_heads * config.head_dim();
        let attention = 4 * config.num_hidden_layers * width * num_rows / 2;
        2.0 * head as f64 + (num_rows * (2 * weights + attention)) as f64
    }

    fn cache(&self, num_blocks: usize) -> KvCache {
        self.model.new_kv_cache(num_blocks)
    }
}

fn vision(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    roofs: &Roofs,
    small: bool,
    table: &Table,
) -> anyhow::Result<()> {
    let model = VisionModel::load(checkpoint, options, &|_| ())?;
    let side = model.geometry().side;
    let pixels: Vec<u8> = noise((side * side * 3) as usize)
        .map(|x| (x * 127.0 + 128.0) as u8)
        .collect();
    let picture = prepare(&RgbPicture::new(side, side, pixels), model.geometry(), 1)
        .context("a picture of the model's size")?;
    for count in if small { [1, 2] } else { [1, 32] } {
        let pictures: Vec<&PreparedPicture> = vec![&picture; count];
        let seconds = best(&options.device, RUNS, || {
            model.encode(&pictures)?;
            Ok(())
        })?;
        if count == 1 {
            table.row(
                "vision, a picture",
                seconds * 1e3,
                "ms",
                Some((6.0, "goal")),
            )?;
        } else {
            let flops = vision_flops(checkpoint, side) * count as f64;
            let name = format!("vision, {count} pictures ({:.1} ms)", seconds * 1e3);
            table.row(
                &name,
                flops / seconds / 1e12,
                "TFLOP/s",
                Some((roofs.product / 1e12, "matrix product")),
            )?;
        }
    }
    Ok(())
}

/// Operations of one square in the tower.
fn vision_flops(checkpoint: &Checkpoint, side: u32) -> f64 {
    let config = checkpoint.config().vision();
    let (width, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
    let rows = f64::from((side / config.patch_size).pow(2) + 1);
    let layer =
        rows * 2.0 * (4.0 * width * width + 2.0 * width * inner) + 4.0 * rows * rows * width;
    layer * config.num_hidden_layers as f64
}

/// Blocks of `count` sequences of `len` positions, in turn.
fn tables(count: usize, len: usize) -> Vec<Vec<u32>> {
    let num_blocks = len.div_ceil(BLOCK_TOKENS);
    (0..count)
        .map(|index| {
            (0..num_blocks)
                .map(|block| (block * count + index) as u32)
                .collect()
        })
        .collect()
}

fn sequence<'a>(start: usize, inputs: Vec<Input<'a>>, block_table: &'a [u32]) -> BatchSequence<'a> {
    BatchSequence {
        start,
        inputs,
        block_table,
        rope_length: 1,
        logits: LogitsRows::Last,
    }
}

/// The shortest of several runs after a warm one, in seconds.
fn best(
    device: &Device,
    runs: usize,
    mut work: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    work()?;
    device.synchronize()?;
    let mut shortest = f64::MAX;
    for _ in 0..runs {
        let started = Instant::now();
        work()?;
        device.synchronize()?;
        shortest = shortest.min(started.elapsed().as_secs_f64());
    }
    ensure!(shortest > 0.0, "the clock stands still");
    Ok(shortest)
}

/// Numbers in -1..1 without structure.
fn noise(count: usize) -> impl Iterator<Item = f32> {
    let mut state = 0x9e37_79b9_u32;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

/// Prints a row as soon as it is known: a run that is cut off has said what it found.
struct Table {
    json: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    what: &'a str,
    value: f64,
    unit: &'a str,
    limit: Option<f64>,
    limit_is: Option<&'a str>,
    share: Option<f64>,
}

impl Table {
    fn new(json: bool) -> Self {
        Self { json }
    }

    fn row(
        &self,
        what: &str,
        value: f64,
        unit: &str,
        limit: Option<(f64, &str)>,
    ) -> anyhow::Result<()> {
        let share = limit.map(|(limit, _)| value / limit);
        let line = if self.json {
            let (limit, limit_is) = (limit.map(|limit| limit.0), limit.map(|limit| limit.1));
            serde_json::to_string(&Row {
                what,
                value,
                unit,
                limit,
                limit_is,
                share,
            })?
        } else {
            let beside =
                limit.map(|(limit, name)| format!("{:>5.2} of {limit:.1} ({name})", value / limit));
            format!(
                "{what:<64} {value:>10.2} {unit:<9} {}",
                beside.unwrap_or_default()
            )
        };
        Ok(write_out(&(line.trim_end().to_owned() + "\n"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_have_blocks_of_their_own() {
        let tables = tables(3, 40);
        let mut all: Vec<u32> = tables.concat();
        all.sort_unstable();
        assert_eq!(all, (0..9).collect::<Vec<u32>>());
    }
}
