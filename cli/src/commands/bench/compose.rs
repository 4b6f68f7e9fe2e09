//! `inkstone bench compose`: how long an article with pictures takes, beside the same article in the order of work of the demo that
//! the procedure comes from.
//!
//! The demo asks one question after the other and keeps nothing between them: no cache of prompts, and every picture is encoded again
//! for every choice that it stands in. A client does the same here by single calls, each as a tenant of its own and with pictures whose
//! bytes no call had before. What the model is asked, and how its answers are drawn and bounded, is the same both ways, so that the
//! articles can be compared too. Finding pictures is left out of both: they are there at once.
//!
//! The cluster does keep what it encoded, so its own ways are measured twice: with pictures that it never saw, and with such that an
//! earlier article of somebody else was offered, as those of a library mostly were. Of prompts nothing is left from earlier articles
//! either way: each is another tenant's.
//!
//! Coordinator, language group and vision worker are processes of their own.

mod one_by_one;
mod pictures;
mod pipeline;
mod report;
mod timeline;

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use inkstone_cluster::NodeAddress;
use inkstone_proto::v1::{self as wire, composition_service_client::CompositionServiceClient};
use inkstone_world::draw_illustrations;
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use self::{
    pictures::{Acquaintance, Novelty},
    pipeline::StepsRun,
    report::{Report, Timings},
    timeline::Timeline,
};
use super::process_cluster::{Executor, ProcessCluster, Settings};
use crate::{
    arguments::BenchComposeArguments,
    commands::{client::write_out, default_model::ModelDir, run_until_stopped},
    telemetry::Console,
};

/// Requests carry their pictures.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// For any one call: a machine that takes longer is not worth measuring.
const CALL_LIMIT: Duration = Duration::from_secs(3600);
/// Which pictures are drawn.
const PICTURE_SEED: u64 = 1;
const TENANT: &str = "inkstone-tenant";

/// What the small model that is built in writes most about.
const INSTRUCTION: &str = "Write 5 paragraphs about the park that mention a red circle, a blue star, a green ring, a yellow square, \
                           a purple cross, a black triangle, a white circle and an orange star.";
const NUM_PICTURES: u32 = 6;
/// The same of the user's own pictures: of more it writes nothing.
const INSTRUCTION_WITH_UPLOADS: &str = "Write an article about the pictures with 5 paragraphs.";
const NUM_UPLOADS: u32 = 4;

type Client = CompositionServiceClient<Channel>;

/// What is composed, in every way alike.
struct Task {
    instruction: String,
    num_pictures: u32,
    num_candidates: usize,
    /// The pictures are sent along, and each is used once.
    has_uploads: bool,
    max_tokens: u32,
    seed: u64,
    /// What candidates are taken from.
    pool: Vec<Vec<u8>>,
}

/// An article, as far as the ways to write it can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    segments: Vec<String>,
    places: Vec<u32>,
    captions: Vec<String>,
    /// Which candidate each place got; of uploads, which one.
    chosen: Vec<u32>,
}

/// One article, how long its stages took, and how many pictures were sent for it.
struct Run {
    written: Written,
    timings: Timings,
    num_uploads: usize,
    /// What happened when, where the cluster tells it.
    timeline: Timeline,
}

/// How an article comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As the reference asks, side by side where nothing has to wait.
    Pipeline(Acquaintance),
    /// No caption and no choice waits for another.
    AtOnce(Acquaintance),
    /// As the demo does it.
    OneByOne,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::Pipeline(Acquaintance::NeverSeen),
        Self::AtOnce(Acquaintance::NeverSeen),
        Self::Pipeline(Acquaintance::SeenBefore),
        Self::AtOnce(Acquaintance::SeenBefore),
        Self::OneByOne,
    ];
}

pub(crate) fn run(arguments: BenchComposeArguments, console: &Console) -> anyhow::Result<()> {
    let server = arguments.server.as_deref().map(str::parse::<NodeAddress>);
    let server = server.transpose()?;
    run_until_stopped(async |shutdown| {
        let measured = async {
            match &server {
                Some(server) => measure(&arguments, server.as_uri(), console).await,
                None => measure_processes(&arguments, console).await,
            }
        };
        let report = tokio::select! {
            report = measured => report?,
            () = shutdown.cancelled() => return Ok(()),
        };
        if arguments.json {
            Ok(write_out(&(serde_json::to_string(&report)? + "\n"))?)
        } else {
            let timeline = match arguments.timeline {
                true => report.timeline(),
                false => String::new(),
            };
            Ok(write_out(&(timeline + &report.to_string()))?)
        }
    })
}

async fn measure_processes(
    arguments: &BenchComposeArguments,
    console: &Console,
) -> anyhow::Result<Report> {
    let model = ModelDir::given_or_default(arguments.model.as_deref(), console)?;
    let settings = Settings {
        groups: 1,
        ..Settings::default()
    };
    let cluster = ProcessCluster::start(&model.path(), Executor::Device, &settings).await?;
    measure(arguments, &cluster.address, console).await
}

async fn measure(
    arguments: &BenchComposeArguments,
    address: &str,
    console: &Console,
) -> anyhow::Result<Report> {
    let channel = Channel::from_shared(address.to_owned())?;
    let channel = channel.connect().await;
    let channel = channel.with_context(|| format!("no coordinator at {address}"))?;
    let client = CompositionServiceClient::new(channel)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (instruction, num_pictures) = match arguments.uploads {
        true => (INSTRUCTION_WITH_UPLOADS, NUM_UPLOADS),
        false => (INSTRUCTION, NUM_PICTURES),
    };
    let given = arguments.instruction.as_deref();
    let task = Task {
        instruction: given.unwrap_or(instruction).to_owned(),
        num_pictures: arguments.pictures.unwrap_or(num_pictures),
        num_candidates: arguments.candidates as usize,
        has_uploads: arguments.uploads,
        max_tokens: arguments.max_tokens,
        seed: arguments.seed,
        pool: draw_illustrations(PICTURE_SEED)
            .map(|drawn| drawn.picture)
            .collect(),
    };
    let novelty = Novelty::new();
    let num_runs = arguments.runs as usize;
    let bar = console.counting_bar("articles", (1 + Way::ALL.len() * num_runs) as u64);
    // The first one pays for memory that is touched for the first time. From then on its pictures were seen before.
    let first = Way::Pipeline(Acquaintance::SeenBefore);
    write(client.clone(), &task, first, &novelty).await?;
    bar.inc(1);
    let mut runs: Vec<(Way, Run)> = vec![];
    for round in 0..num_runs {
        let mut ways = Way::ALL;
        // What a machine does beside is shared evenly: each way is the first one in its turn.
        ways.rotate_left(round % Way::ALL.len());
        for way in ways {
            let run = write(client.clone(), &task, way, &novelty).await;
            runs.push((way, run.with_context(|| format!("an article by {way:?}"))?));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Report::of(&task, &runs)
}

async fn write(client: Client, task: &Task, way: Way, novelty: &Novelty) -> anyhow::Result<Run> {
    match way {
        Way::Pipeline(pictures) => {
            let pictures = novelty.pictures(pictures);
            pipeline::write(client, task, StepsRun::InTurn, &pictures).await
        }
        Way::AtOnce(pictures) => {
            let pictures = novelty.pictures(pictures);
            pipeline::write(client, task, StepsRun::AtOnce, &pictures).await
        }
        Way::OneByOne => one_by_one::write(client, task, novelty).await,
    }
}

impl Task {
    /// The request for the article, without what the ways differ in.
    fn request(&self) -> wire::ComposeRequest {
        wire::ComposeRequest {
            instruction: self.instruction.clone(),
            picture_count: Some(0),
            step_sampling: Some(greedy()),
            seed: Some(self.seed),
            max_tokens: Some(self.max_tokens),
            ..Default::default()
        }
    }

    /// The user's pictures, each in the bytes that `file` makes of it.
    fn uploads(&self, file: impl Fn(&[u8]) -> Vec<u8>) -> Vec<wire::Picture> {
        let uploads = (0..self.num_pictures as usize).filter(|_| self.has_uploads);
        uploads
            .map(|index| picture(file(self.upload(index))))
            .collect()
    }

    /// One of the user's pictures: drawings of different things.
    fn upload(&self, index: usize) -> &[u8] {
        &self.pool[index * self.pool.len() / self.num_pictures as usize]
    }

    /// What is found for a place, counted from 0: other pictures for each.
    fn candidates(&self, place: usize) -> impl Iterator<Item = &[u8]> {
        let first = place * self.num_candidates;
        (first..first + self.num_candidates).map(|at| &self.pool[at % self.pool.len()][..])
    }
}

/// The steps are greedy, so that the same questions get the same answers.
fn greedy() -> wire::CompositionSampling {
    wire::CompositionSampling {
        temperature: Some(0.0),
        ..Default::default()
    }
}

/// A call of this tenant.
fn call<T>(message: T, tenant: &str) -> anyhow::Result<Request<T>> {
    let mut call = Request::new(message);
    call.metadata_mut()
        .insert(TENANT, MetadataValue::try_from(tenant)?);
    call.set_timeout(CALL_LIMIT);
    Ok(call)
}

fn picture(data: Vec<u8>) -> wire::Picture {
    wire::Picture {
        source: Some(wire::picture::Source::Data(Bytes::from(data))),
    }
}
