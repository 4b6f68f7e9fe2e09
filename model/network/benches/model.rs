//! How fast the language model prefills and decodes on this machine, beside what the machine allows: reading the weights at
//! the memory's rate for decoding, the best matrix product library for prefill. The model has random weights and is made once, in the
//! target folder.
//!
//! ```text
//! cargo bench -p inkstone-model --bench model [-- --preset tiny|quarter|...]
//! ```
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its table and its progress"
)]

mod ceilings;

use std::{
    hint::black_box,
    net::TcpListener,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use inkstone_interface::config::ModelConfig;
use inkstone_model::{
    checkpoint::{Checkpoint, Shard},
    collectives::{Collective, LocalCollective, SingleCollective, TcpCollective, TcpMember},
    device::Device,
    internlm2::{Batch, BatchSequence, Input, LanguageModel, LogitsRows},
    kv_cache::{BLOCK_TOKENS, KvCache},
    load_options::LoadOptions,
    synthesize::{Preset, SynthesizeOptions, synthesize},
    tensor::DType,
};

const SEED: u64 = 7;
const DEADLINE: Duration = Duration::from_secs(120);
/// Each figure is the best of this many runs: others may use the machine meanwhile.
const NUM_RUNS: usize = 3;

fn main() {
    let preset = preset();
    let dir = checkpoint(preset);
    let sizes = Sizes::of(preset);
    let config = Checkpoint::open(&dir)
        .expect("the checkpoint was just made")
        .config()
        .clone();
    println!(
        "preset {}, prompt of {} tokens in chunks of {}, {} tokens decoded after it",
        preset.name(),
        sizes.prompt,
        sizes.chunk,
        sizes.decode
    );
    print_ceilings_and_rows(&dir, &config, &sizes);
}

fn print_ceilings_and_rows(dir: &Path, config: &ModelConfig, sizes: &Sizes) {
    let num_threads = 2;
    let memory_rate = ceilings::memory_rate(num_threads);
    let gemm_rate = ceilings::library_gemm_rate(num_threads, sizes.chunk, 4096, 4096);
    println!(
        "memory: {:.1} GB/s read by {num_threads} threads; gemm crate: {:.1} GFLOP/s in f32\n",
        memory_rate / 1e9,
        gemm_rate / 1e9
    );
    println!(
        "{:<6} {:<16} {:>14} {:>10} {:>8} | {:>14} {:>10} {:>8} | {:>14}",
        "weights",
        "ranks x threads",
        "prefill tok/s",
        "GFLOP/s",
        "of GEMM",
        "decode tok/s",
        "GB/s",
        "of mem",
        "batch 8 tok/s"
    );
    for dtype in [DType::F32, DType::BF16] {
        for (name, world_size, by_tcp) in [
            ("1 x 2", 1, false),
            ("2 x 1 threads", 2, false),
            ("2 x 1 sockets", 2, true),
        ] {
            eprint!("\rmeasuring {dtype:?} {name} ...          ");
            let figures = on_ranks(world_size, by_tcp, |shard, collective| {
                let device = Device::cpu(num_threads / world_size);
                let options = LoadOptions {
                    device,
                    dtype: Some(dtype),
                };
                let checkpoint = Checkpoint::open(dir).expect("the checkpoint opens");
                let model = LanguageModel::load(&checkpoint, shard, &options, &|_| {});
                measure(&model.expect("the checkpoint loads"), sizes, collective)
            });
            let leader = &figures[0];
            let flops = leader.prefill_rate * prefill_flops(config, sizes);
            let bytes: f64 = figures.iter().map(|figures| figures.decode_bytes).sum();
            eprint!("\r                                        \r");
            println!(
                "{:<7} {:<16} {:>14.1} {:>10.1} {:>7.0}% | {:>14.2} {:>10.2} {:>7.0}% | {:>14.2}",
                format!("{dtype:?}"),
                name,
                leader.prefill_rate,
                flops / 1e9,
                100.0 * flops / gemm_rate,
                leader.decode_rate,
                leader.decode_rate * bytes / 1e9,
                100.0 * leader.decode_rate * bytes / memory_rate,
                leader.batch_rate,
            );
        }
    }
}

/// How much is run.
struct Sizes {
    prompt: usize,
    chunk: usize,
    decode: usize,
}

impl Sizes {
    fn of(preset: Preset) -> Self {
        let is_tiny = preset.config().hidden_size < 1024;
        Self {
            prompt: if is_tiny { 256 } else { 1024 },
            chunk: 512,
            decode: if is_tiny { 64 } else { 24 },
        }
    }
}

/// What a rank measured: tokens per second, and bytes that one decoded token reads there.
struct Figures {
    prefill_rate: f64,
    decode_rate: f64,
    batch_rate: f64,
    decode_bytes: f64,
}

fn measure(model: &LanguageModel, sizes: &Sizes, collective: &dyn Collective) -> Figures {
    let total = sizes.prompt + sizes.decode;
    let batch_size = 8;
    let blocks_each = total.div_ceil(BLOCK_TOKENS);
    let mut cache = model.new_kv_cache(blocks_each * batch_size);
    let tables: Vec<Vec<u32>> = (0..batch_size)
        .map(|i| {
            (0..blocks_each)
                .map(|block| (block * batch_size + i) as u32)
                .collect()
        })
        .collect();
    let config = model.config();
    let ids: Vec<u32> = (0..total)
        .map(|i| (i * 7919 % config.vocab_size) as u32)
        .collect();
    let mut run = Run {
        model,
        cache: &mut cache,
        collective,
        ids: &ids,
        sizes,
    };
    run.prefill(&tables[0]);
    let prefill = best(|| run.prefill(&tables[0]));
    let decode = best(|| run.decode(&tables[..1]));
    tables[1..].iter().for_each(|table| run.prefill(table));
    let batch = best(|| run.decode(&tables));
    let shard = model.shard();
    let per_token = KvCache::block_bytes(config, shard, model.kv_dtype()) / BLOCK_TOKENS;
    let context = sizes.prompt + sizes.decode / 2;
    Figures {
        prefill_rate: sizes.prompt as f64 / prefill,
        decode_rate: sizes.decode as f64 / decode,
        batch_rate: (sizes.decode * batch_size) as f64 / batch,
        decode_bytes: (model.decode_weight_bytes() + per_token * context) as f64,
    }
}

struct Run<'a> {
    model: &'a LanguageModel,
    cache: &'a mut KvCache,
    collective: &'a dyn Collective,
    ids: &'a [u32],
    sizes: &'a Sizes,
}

impl Run<'_> {
    fn prefill(&mut self, table: &[u32]) {
        let chunks = self.ids[..self.sizes.prompt].chunks(self.sizes.chunk);
        for (index, chunk) in chunks.enumerate() {
            self.step(&[table], index * self.sizes.chunk, chunk);
        }
    }

    fn decode(&mut self, tables: &[Vec<u32>]) {
        let tables: Vec<&[u32]> = tables.iter().map(Vec::as_slice).collect();
        for offset in 0..self.sizes.decode {
            let position = self.sizes.prompt + offset;
            self.step(&tables, position, &self.ids[position..position + 1]);
        }
    }

    fn step(&mut self, tables: &[&[u32]], start: usize, ids: &[u32]) {
        let sequences = tables.iter().map(|block_table| BatchSequence {
            start,
            inputs: vec![Input::Tokens(ids)],
            block_table,
            rope_length: self.sizes.prompt,
            logits: LogitsRows::Last,
        });
        let batch = Batch {
            sequences: sequences.collect(),
        };
        let out = self.model.forward(&batch, self.cache, self.collective);
        black_box(out.expect("the batch is sound"));
    }
}

/// Seconds of the fastest run.
fn best(run: impl FnMut()) -> f64 {
    ceilings::best(NUM_RUNS, run)
}

/// Runs `task` on each rank of a group.
fn on_ranks<T: Send>(
    world_size: usize,
    by_tcp: bool,
    task: impl Fn(Shard, &dyn Collective) -> T + Sync,
) -> Vec<T> {
    if world_size == 1 {
        return vec![task(Shard::SINGLE, &SingleCollective)];
    }
    let mut local = LocalCollective::group(world_size, DEADLINE).into_iter();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let leader = listener.local_addr().expect("the listener has an address");
    thread::scope(|scope| {
        let (task, listener) = (&task, &listener);
        let ranks: Vec<_> = (0..world_size)
            .map(|rank| {
                let (shard, end) = (Shard { rank, world_size }, local.next().expect("an end"));
                scope.spawn(move || {
                    if !by_tcp {
                        return task(shard, &end);
                    }
                    let member = TcpMember {
                        group: "benchmark".into(),
                        epoch: 1,
                        rank,
                        world_size,
                        join_deadline: DEADLINE,
                        deadline: DEADLINE,
                    };
                    let end = match rank {
                        0 => TcpCollective::lead(listener, &member),
                        _ => TcpCollective::join(leader, &member),
                    };
                    task(shard, &end.expect("the group forms"))
                })
            })
            .collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().expect("the rank ends"))
            .collect()
    })
}

/// Multiplications and additions for one prompt token, in the linears and in attention at the average context.
fn prefill_flops(config: &ModelConfig, sizes: &Sizes) -> f64 {
    let (hidden, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
    let kv_width = (config.num_key_value_heads * config.head_dim()) as f64;
    let linears = hidden * (2.0 * hidden + 2.0 * kv_width + 3.0 * inner);
    let attention = 2.0 * hidden * sizes.prompt as f64 / 2.0;
    2.0 * config.num_hidden_layers as f64 * (linears + attention)
}

fn preset() -> Preset {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--preset");
    match arguments.nth(1) {
        None => Preset::Quarter,
        Some(name) => name.parse().unwrap_or_else(|error| panic!("{error}")),
    }
}

/// The folder of the preset's checkpoint, which is made if it is not there.
fn checkpoint(preset: Preset) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("model-{}", preset.name()));
    if !dir.is_dir() {
        let progress = |progress: inkstone_model::checkpoint::LoadProgress<'_>| {
            let percent = 100 * progress.bytes_done / progress.bytes_total.max(1);
            eprint!("\rmaking {} ... {percent}% ", dir.display());
        };
        synthesize(preset, SEED, &dir, SynthesizeOptions::default(), &progress)
            .unwrap_or_else(|error| panic!("{error}"));
        eprintln!();
    }
    dir
}
