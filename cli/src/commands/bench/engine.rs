//! `inkstone bench engine`: what batching, chunked prefill and the prefix cache bring on real weights. Each row stands beside the
//! same requests without it, on the same machine in the same run, through the whole cluster.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::ensure;
use bytes::Bytes;
use inkstone_model::synthesize::{Preset, SynthesizeOptions, synthesize};
use inkstone_worker::progress::LoadProgress;
use serde::Serialize;
use tempfile::TempDir;

use super::{
    load::{self, Arrivals, Load, Progress, Record},
    questions::{Questions, mix},
    report::{GoodLimits, LoadReport},
    samples::Summary,
};
use crate::{
    arguments::{BenchEngineArguments, ClusterArguments, EngineArguments},
    commands::client::{with_address, write_out},
    telemetry::Console,
};

/// Requests side by side in the rows about batching.
const CONCURRENCY: [u64; 3] = [1, 8, 32];
/// Tokens of a question in the rows about batching and about pictures.
const PROMPT_TOKENS: u32 = 32;
/// Short requests side by side in the rows about chunked prefill.
const SHORT_REQUESTS: u64 = 4;
/// Side of the noise that questions are about; every model scales it to its own.
const PICTURE_SIDE: u32 = 490;
/// Nobody asks for goodput here.
const NO_LIMITS: GoodLimits = GoodLimits {
    first_token_ms: f64::MAX,
    later_token_ms: f64::MAX,
};

pub(crate) fn run(arguments: BenchEngineArguments, console: &Console) -> anyhow::Result<()> {
    let model = Model::of(&arguments, console)?;
    let bench = Bench {
        model: model.path(),
        arguments,
        console,
    };
    let batching = bench.batching()?;
    let chunking = bench.chunking()?;
    let pictures = bench.pictures()?;
    if bench.arguments.json {
        let report = Report {
            batching,
            chunking,
            pictures,
        };
        return Ok(write_out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    write_out(&batching_table(&batching))?;
    write_out(&chunking_table(&chunking))?;
    write_out(&pictures.table())?;
    Ok(())
}

struct Bench<'a> {
    model: PathBuf,
    arguments: BenchEngineArguments,
    console: &'a Console,
}

#[derive(Serialize)]
struct Report {
    batching: Vec<BatchingRow>,
    chunking: Vec<ChunkingRow>,
    pictures: PictureRows,
}

#[derive(Serialize)]
struct BatchingRow {
    concurrency: u64,
    /// Output tokens a second, over that of requests one at a time.
    speed_up: f64,
    load: LoadReport,
}

#[derive(Serialize)]
struct ChunkingRow {
    max_step_tokens: usize,
    /// Of the short requests.
    short: LoadReport,
    /// Of the long prompts that come between them.
    long: LoadReport,
}

#[derive(Serialize)]
struct PictureRows {
    first: Summary,
    second: Summary,
    /// Questions without a picture.
    text_only: Summary,
    /// Positions of a question with its picture, and how many of the second one's were cached.
    prompt_tokens: u64,
    cached_tokens: u64,
    /// Of the medians, first over second.
    ratio: f64,
}

impl Bench<'_> {
    /// The same number of requests one at a time and side by side.
    fn batching(&self) -> anyhow::Result<Vec<BatchingRow>> {
        let mut rows: Vec<BatchingRow> = Vec::new();
        self.with_cluster(self.engine(), async |address| {
            self.warm_up(&address).await?;
            for concurrency in CONCURRENCY {
                let load = self.load(concurrency, self.arguments.requests, concurrency);
                let report = self.whole(&self.put(&address, &load, "batching").await?)?;
                let alone = rows
                    .first()
                    .map_or(&report, |row| &row.load)
                    .tokens_per_second;
                rows.push(BatchingRow {
                    concurrency,
                    speed_up: report.tokens_per_second / alone,
                    load: report,
                });
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// Short requests while long prompts come in, with prompts whole and in chunks.
    fn chunking(&self) -> anyhow::Result<Vec<ChunkingRow>> {
        let whole = 2 * self.arguments.long_prompt_tokens;
        let mut rows = Vec::new();
        for max_step_tokens in [whole as usize, self.arguments.chunk as usize] {
            let engine = EngineArguments {
                max_step_tokens,
                ..self.engine()
            };
            self.with_cluster(engine, async |address| {
                self.warm_up(&address).await?;
                let short = self.load(100, self.arguments.requests, SHORT_REQUESTS);
                let mut long = self.load(200, (self.arguments.requests / 8).max(2), 1);
                long.questions.prompt_tokens = self.arguments.long_prompt_tokens;
                long.questions.answer_tokens = 2;
                let (short, long) = tokio::try_join!(
                    self.put(&address, &short, "short"),
                    self.put(&address, &long, "long"),
                )?;
                rows.push(ChunkingRow {
                    max_step_tokens,
                    short: self.whole(&short)?,
                    long: self.whole(&long)?,
                });
                Ok(())
            })?;
        }
        Ok(rows)
    }

    /// Two questions about each picture, one after the other on an idle server.
    fn pictures(&self) -> anyhow::Result<PictureRows> {
        let (mut first, mut second, mut text_only) = (Vec::new(), Vec::new(), Vec::new());
        self.with_cluster(self.engine(), async |address| {
            self.warm_up(&address).await?;
            for number in 0..u64::from(self.arguments.pictures) {
                let mut load = self.load(300 + number, 1, 1);
                load.questions.answer_tokens = 2;
                text_only.extend(self.put(&address, &load, "text").await?);
                load.questions.picture = Some(Bytes::from(noise_bmp(PICTURE_SIDE, number)));
                first.extend(self.put(&address, &load, "picture").await?);
                load.questions.seed += 1000;
                second.extend(self.put(&address, &load, "again").await?);
            }
            Ok(())
        })?;
        for records in [&first, &second, &text_only] {
            self.whole(records)?;
        }
        let to_first = |records: &[Record]| {
            Summary::of(records.iter().filter_map(Record::time_to_first_token))
        };
        let rows = PictureRows {
            first: to_first(&first),
            second: to_first(&second),
            text_only: to_first(&text_only),
            prompt_tokens: second.first().map_or(0, |record| record.prompt_tokens),
            cached_tokens: second.first().map_or(0, |record| record.cached_tokens),
            ratio: 0.0,
        };
        Ok(PictureRows {
            ratio: rows.first.p50 / rows.second.p50,
            ..rows
        })
    }

    fn with_cluster(
        &self,
        engine: EngineArguments,
        work: impl AsyncFnOnce(String) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let cluster = ClusterArguments {
            server: None,
            engine,
        };
        with_address(&cluster, self.console, work)
    }

    fn engine(&self) -> EngineArguments {
        EngineArguments {
            model: Some(self.model.clone()),
            ..self.arguments.engine.clone()
        }
    }

    fn load(&self, seed: u64, requests: u32, concurrency: u64) -> Load {
        Load {
            tenant: None,
            connections: 1,
            arrivals: Arrivals::Closed { concurrency },
            requests: u64::from(requests),
            questions: Questions {
                seed,
                prompt_tokens: PROMPT_TOKENS,
                answer_tokens: self.arguments.answer_tokens,
                beginnings: None,
                picture: None,
            },
        }
    }

    /// The first request of a process pays for memory that is touched for the first time.
    async fn warm_up(&self, address: &str) -> anyhow::Result<()> {
        let load = self.load(u64::MAX, 1, 1);
        self.whole(&self.put(address, &load, "warm-up").await?)?;
        Ok(())
    }

    async fn put(
        &self,
        address: &str,
        load: &Load,
        name: &'static str,
    ) -> anyhow::Result<Vec<Record>> {
        let bar = self.console.counting_bar(name, load.requests);
        let records = load::run(address, load, Arc::new(Progress::default()), &bar).await?;
        bar.finish_and_clear();
        Ok(records)
    }

    /// The report on requests that all succeeded.
    fn whole(&self, records: &[Record]) -> anyhow::Result<LoadReport> {
        let report = LoadReport::of(records, NO_LIMITS);
        ensure!(
            report.failed == 0,
            "{} of {} requests failed: {}",
            report.failed,
            report.requests,
            report.failure.unwrap_or_default()
        );
        Ok(report)
    }
}

fn batching_table(rows: &[BatchingRow]) -> String {
    let mut table = format!(
        "{:<24} {:>10} {:>10} {:>12} {:>12} {:>12}\n",
        "requests side by side",
        "tokens/s",
        "speed-up",
        "TTFT p50 ms",
        "TTFT p99 ms",
        "token p50 ms"
    );
    for row in rows {
        let load = &row.load;
        table += &format!(
            "{:<24} {:>10.1} {:>9.2}x {:>12.1} {:>12.1} {:>12.1}\n",
            row.concurrency,
            load.tokens_per_second,
            row.speed_up,
            load.time_to_first_token_ms.p50,
            load.time_to_first_token_ms.p99,
            load.between_tokens_ms.p50
        );
    }
    table
}

fn chunking_table(rows: &[ChunkingRow]) -> String {
    let mut table = format!(
        "\n{:<24} {:>12} {:>12} {:>12} {:>12} {:>14}\n",
        "rows in a step, at most",
        "TTFT p50 ms",
        "TTFT p99 ms",
        "token p99 ms",
        "token max ms",
        "long TTFT p50"
    );
    for row in rows {
        table += &format!(
            "{:<24} {:>12.1} {:>12.1} {:>12.1} {:>12.1} {:>14.1}\n",
            row.max_step_tokens,
            row.short.time_to_first_token_ms.p50,
            row.short.time_to_first_token_ms.p99,
            row.short.between_tokens_ms.p99,
            row.short.between_tokens_ms.max,
            row.long.time_to_first_token_ms.p50
        );
    }
    table
}

impl PictureRows {
    fn table(&self) -> String {
        let mut table = format!(
            "\n{:<24} {:>12} {:>12} {:>12}\n",
            "time to first token", "p50 ms", "p90 ms", "max ms"
        );
        for (name, summary) in [
            ("a picture's first", self.first),
            ("its second question", self.second),
            ("question without picture", self.text_only),
        ] {
            table += &format!(
                "{name:<24} {:>12.1} {:>12.1} {:>12.1}\n",
                summary.p50, summary.p90, summary.max
            );
        }
        table += &format!(
            "first / second: {:.1} (goal: at least 20); {} of {} positions cached\n",
            self.ratio, self.cached_tokens, self.prompt_tokens
        );
        table
    }
}

/// The weights that are measured.
enum Model {
    Given(PathBuf),
    Made(TempDir),
}

impl Model {
    fn of(arguments: &BenchEngineArguments, console: &Console) -> anyhow::Result<Self> {
        if let Some(dir) = &arguments.engine.model {
            return Ok(Self::Given(dir.clone()));
        }
        let parent = tempfile::Builder::new()
            .prefix("inkstone-bench-")
            .tempdir()?;
        let made = Self::Made(parent);
        make_weights(arguments.preset, &made.path(), console)?;
        Ok(made)
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Given(dir) => dir.clone(),
            Self::Made(parent) => parent.path().join("model"),
        }
    }
}

/// Writes a folder of random weights.
pub(super) fn make_weights(preset: Preset, out: &Path, console: &Console) -> anyhow::Result<()> {
    console.line(&format!(
        "making random weights of the shape {preset}; --model DIR uses others"
    ));
    let progress = console.progress();
    let report = |at: inkstone_model::checkpoint::LoadProgress<'_>| {
        progress(LoadProgress {
            part: "writing".to_owned(),
            bytes_done: at.bytes_done,
            bytes_total: at.bytes_total,
        });
    };
    synthesize(preset, 0, out, SynthesizeOptions::default(), &report)?;
    Ok(())
}

/// A picture that no other is like: a BMP of 24 bits a pixel, which needs no encoder.
fn noise_bmp(side: u32, seed: u64) -> Vec<u8> {
    const HEAD_BYTES: u32 = 54;
    let row_bytes = (side * 3).next_multiple_of(4);
    let data_bytes = row_bytes * side;
    let mut file = b"BM".to_vec();
    // File size, reserved, where the pixels begin; size of the second head, width, height, planes and bits a pixel.
    for number in [
        HEAD_BYTES + data_bytes,
        0,
        HEAD_BYTES,
        40,
        side,
        side,
        1 | (24 << 16),
    ] {
        file.extend(number.to_le_bytes());
    }
    // No compression, bytes of the pixels, pixels a metre both ways, and no palette.
    for number in [0, data_bytes, 2835, 2835, 0, 0] {
        file.extend(number.to_le_bytes());
    }
    for word in 0..data_bytes.div_ceil(8) {
        file.extend(mix(seed, u64::from(word)).to_le_bytes());
    }
    file.truncate((HEAD_BYTES + data_bytes) as usize);
    file
}

#[cfg(test)]
mod tests {
    use inkstone_model::clip::preprocess::{DecodeLimits, decode_picture};

    use super::*;

    #[test]
    fn noise_is_a_picture_and_differs_by_its_seed() {
        let limits = DecodeLimits {
            max_bytes: 1 << 20,
            max_pixels: 1 << 20,
        };
        let [a, b] = [1, 2].map(|seed| noise_bmp(PICTURE_SIDE, seed));
        let picture = decode_picture(&a, &limits).unwrap();
        assert_eq!(
            (picture.width(), picture.height()),
            (PICTURE_SIDE, PICTURE_SIDE)
        );
        assert_ne!(a, b);
        assert_eq!(a, noise_bmp(PICTURE_SIDE, 1));
    }
}
