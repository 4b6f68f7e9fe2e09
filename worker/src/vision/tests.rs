//! Pictures are encoded when their features are asked for, once however many ask.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use inkstone_model::{
    checkpoint::Checkpoint,
    clip::{PictureFeatures, preprocess::PreparedPicture},
    synthesize::{Preset, SynthesizeOptions, synthesize},
};

use super::*;

/// Counts what it encodes.
struct Counting(Arc<AtomicUsize>);

impl Encode for Counting {
    fn encode(&mut self, pictures: &[&PreparedPicture]) -> Result<Vec<PictureFeatures>, String> {
        self.0.fetch_add(pictures.len(), Ordering::SeqCst);
        let features = |picture: &&PreparedPicture| {
            let num_tokens = picture.layout().num_tokens;
            PictureFeatures::new(num_tokens, 1, vec![0.5; num_tokens])
        };
        Ok(pictures.iter().map(features).collect())
    }
}

fn worker() -> (Arc<VisionWorker>, Arc<AtomicUsize>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny");
    let options = SynthesizeOptions {
        hollow: true,
        ..SynthesizeOptions::default()
    };
    synthesize(Preset::Tiny, 1, &path, options, &|_| {}).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let encoded = Arc::new(AtomicUsize::new(0));
    let encoder = Encoder::start(Box::new(Counting(Arc::clone(&encoded))), 4).unwrap();
    let worker = VisionWorker::new(
        Arc::new(checkpoint.description().clone()),
        DecodeLimits::default(),
        encoder,
        FeatureCache::new(1 << 20),
        4,
    );
    (Arc::new(worker), encoded)
}

/// A one-colour picture of 2 by 2 pixels, in the plainest format there is.
fn bitmap(colour: u8) -> Bytes {
    let mut file = b"BM".to_vec();
    let header: [u32; 13] = [70, 0, 54, 40, 2, 2, 24 << 16 | 1, 0, 16, 2835, 2835, 0, 0];
    file.extend(header.iter().flat_map(|number| number.to_le_bytes()));
    for _ in 0..2 {
        file.extend([colour; 6]);
        file.extend([0; 2]);
    }
    Bytes::from(file)
}

#[tokio::test]
async fn a_picture_is_encoded_when_its_features_are_asked_for_and_once() {
    let (worker, encoded) = worker();
    let accepted = worker.put(bitmap(9), None).await.unwrap();
    assert_eq!((accepted.width, accepted.height), (2, 2));
    assert_eq!(worker.put(bitmap(9), None).await.unwrap(), accepted);
    assert_eq!(encoded.load(Ordering::SeqCst), 0);
    let ask = || worker.features(accepted.digest);
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    for features in [one, two, three] {
        let features = PictureFeatures::from_bytes(&features.unwrap().unwrap()).unwrap();
        assert_eq!(features.num_tokens(), accepted.num_tokens);
    }
    assert_eq!(encoded.load(Ordering::SeqCst), 1);
}

/// Waits until so many pictures went through the encoder.
async fn until_encoded(encoded: &AtomicUsize, count: usize) {
    let patience = std::time::Duration::from_secs(20);
    let is_encoded = async {
        while encoded.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(patience, is_encoded).await.unwrap();
}

#[tokio::test]
async fn a_picture_that_is_expected_is_encoded_before_anybody_asks_and_once() {
    let (worker, encoded) = worker();
    let picture = worker.put_expected(bitmap(7), None).await.unwrap();
    let again = worker.put_expected(bitmap(7), None).await.unwrap();
    assert_eq!(again, picture);
    until_encoded(&encoded, 1).await;
    assert!(worker.features(picture.digest).await.unwrap().is_ok());
    // One that was put without a word is encoded when it is expected after all.
    let late = worker.put(bitmap(8), None).await.unwrap();
    assert_eq!(encoded.load(Ordering::SeqCst), 1);
    let again = worker.put_expected(bitmap(8), None).await.unwrap();
    assert_eq!(again, late);
    until_encoded(&encoded, 2).await;
    let error = worker.put_expected(Bytes::from_static(b"none"), None).await;
    assert!(matches!(error, Err(VisionError::Picture(_))), "{error:?}");
}

#[tokio::test]
async fn a_picture_that_is_expected_is_decoded_once() {
    let (worker, _) = worker();
    let picture = worker.put_expected(bitmap(7), None).await.unwrap();
    // Nothing is decoded any more from here on.
    worker.decodes.close();
    let features = worker.features(picture.digest).await.unwrap();
    assert!(features.is_ok(), "{features:?}");
}

#[tokio::test]
async fn more_pictures_than_the_encoder_has_room_for_are_encoded_all() {
    let (worker, encoded) = worker();
    // All places are taken while they are put.
    let places: Vec<_> = std::iter::from_fn(|| worker.encoder.free_place()).collect();
    assert!(!places.is_empty());
    let one = worker.put_expected(bitmap(1), None).await.unwrap();
    drop(places);
    until_encoded(&encoded, 1).await;
    assert!(worker.features(one.digest).await.unwrap().is_ok());
    assert_eq!(encoded.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_first_asker_that_goes_away_does_not_stop_the_others() {
    let (worker, encoded) = worker();
    let accepted = worker.put(bitmap(9), None).await.unwrap();
    let first = tokio::time::timeout(std::time::Duration::ZERO, worker.features(accepted.digest));
    let _ = first.await;
    assert!(worker.features(accepted.digest).await.unwrap().is_ok());
    assert_eq!(encoded.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn pictures_that_differ_have_other_digests_and_bad_ones_none() {
    let (worker, _) = worker();
    let one = worker.put(bitmap(9), None).await.unwrap();
    let two = worker.put(bitmap(10), None).await.unwrap();
    assert_ne!(one.digest, two.digest);
    let error = worker.put(Bytes::from_static(b"no picture"), None).await;
    assert!(matches!(error, Err(VisionError::Picture(_))), "{error:?}");
    assert!(worker.features(PictureDigest([0; 32])).await.is_none());
}
