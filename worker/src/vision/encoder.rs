//! The encoder's thread: takes the pictures that wait, encodes them together, hands the features to whoever waits.

use std::{io, thread, time::Instant};

use bytes::Bytes;
use inkstone_model::{
    clip::{PictureFeatures, preprocess::PreparedPicture},
    tensor::DType,
};
use tokio::sync::mpsc;

use super::feature_cache::FeatureSlot;

/// Tiles that are encoded together: enough to fill the GEMMs, few enough that one picture does not wait for many.
const MAX_BATCH_TILES: usize = 16;

/// What encodes: the tower, or a stand-in in tests.
pub trait Encode: Send {
    /// Features of each picture, in order.
    fn encode(&mut self, pictures: &[&PreparedPicture]) -> Result<Vec<PictureFeatures>, String>;
}

/// The way to the encoder's thread, which ends when this is gone.
pub struct Encoder {
    jobs: mpsc::Sender<Job>,
}

/// A place in the encoder's queue.
pub(super) struct Place<'a>(mpsc::Permit<'a, Job>);

struct Job {
    picture: PreparedPicture,
    slot: FeatureSlot,
}

impl Encoder {
    /// Starts the thread. At most `max_queue` pictures wait.
    pub fn start(encode: Box<dyn Encode>, max_queue: usize) -> io::Result<Self> {
        let (jobs, receiver) = mpsc::channel(max_queue.max(1));
        thread::Builder::new()
            .name("encoder".to_owned())
            .spawn(move || run(encode, receiver))?;
        Ok(Self { jobs })
    }

    /// A place in the queue, where there is one now.
    pub(super) fn free_place(&self) -> Option<Place<'_>> {
        self.jobs.try_reserve().ok().map(Place)
    }

    /// Waits for a place in the queue. `None`: the thread has ended.
    pub(super) async fn place(&self) -> Option<Place<'_>> {
        self.jobs.reserve().await.ok().map(Place)
    }
}

impl Place<'_> {
    /// Queues a picture whose features go to `slot`.
    pub(super) fn take(self, picture: PreparedPicture, slot: FeatureSlot) {
        self.0.send(Job { picture, slot });
    }
}

fn run(mut encode: Box<dyn Encode>, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.blocking_recv() {
        let batch = collect_batch(first, &mut jobs);
        let started = Instant::now();
        let pictures: Vec<&PreparedPicture> = batch.iter().map(|job| &job.picture).collect();
        let result = encode.encode(&pictures);
        metrics::histogram!("inkstone_vision_encode_seconds")
            .record(started.elapsed().as_secs_f64());
        metrics::counter!("inkstone_pictures_encoded_total").increment(batch.len() as u64);
        match result {
            Ok(features) => {
                for (job, features) in batch.into_iter().zip(features) {
                    job.slot.ready(Bytes::from(features.to_bytes(DType::F32)));
                }
            }
            Err(reason) => {
                tracing::error!(%reason, "pictures could not be encoded");
                batch
                    .into_iter()
                    .for_each(|job| job.slot.failed(reason.clone()));
            }
        }
    }
}

fn collect_batch(first: Job, jobs: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut tiles = first.picture.num_squares();
    let mut batch = vec![first];
    while tiles < MAX_BATCH_TILES
        && let Ok(job) = jobs.try_recv()
    {
        tiles += job.picture.num_squares();
        batch.push(job);
    }
    batch
}
