//! The network that random weights make stays in the range that a trained one works in, and pictures matter to it.

use std::path::Path;

use crate::checkpoint::{Checkpoint, Shard};
use crate::clip::VisionModel;
use crate::clip::preprocess::{RgbPicture, prepare};
use crate::collectives::SingleCollective;
use crate::device::Device;
use crate::internlm2::{Batch, BatchSequence, Input, LanguageModel, LogitsRows};
use crate::load_options::LoadOptions;
use crate::synthesize::{Preset, SynthesizeOptions, synthesize};
use crate::tensor::Tensor;

struct Network {
    vision: VisionModel,
    language: LanguageModel,
}

/// What one forward looked like.
struct Run {
    /// Deviation of the embeddings, after each layer and after the last norm.
    hidden: Vec<f32>,
    /// Of the last row.
    logits: Vec<f32>,
}

impl Network {
    fn load(dir: &Path) -> Self {
        let checkpoint = Checkpoint::open(dir).unwrap();
        let options = LoadOptions {
            device: Device::cpu(2),
            dtype: None,
        };
        Self {
            vision: VisionModel::load(&checkpoint, &options, &|_| {}).unwrap(),
            language: LanguageModel::load(&checkpoint, Shard::SINGLE, &options, &|_| {}).unwrap(),
        }
    }

    /// A picture of stripes, then eight tokens.
    fn run(&self, stripe: u32) -> Run {
        let pixels: Vec<u8> = (0..200 * 200)
            .flat_map(|index| {
                [if (index / stripe).is_multiple_of(2) {
                    30
                } else {
                    220
                }; 3]
            })
            .collect();
        let picture = prepare(
            &RgbPicture::new(200, 200, pixels),
            self.vision.geometry(),
            1,
        )
        .unwrap();
        let features = self.vision.encode(&[&picture]).unwrap().remove(0);
        let projected = self.language.project(&features).unwrap();
        let tokens: Vec<u32> = (300..308).collect();
        let num_rows = projected.rows() + tokens.len();
        let blocks: Vec<u32> = (0..num_rows.div_ceil(16) as u32).collect();
        let sequence = BatchSequence {
            start: 0,
            inputs: vec![
                Input::Picture {
                    projected: &projected,
                    rows: 0..projected.rows(),
                },
                Input::Tokens(&tokens),
            ],
            block_table: &blocks,
            rope_length: num_rows,
            logits: LogitsRows::Last,
        };
        let mut cache = self.language.new_kv_cache(blocks.len());
        let mut hidden = Vec::new();
        let mut observer = |_: usize, rows: &Tensor| hidden.push(deviation(rows.as_f32().unwrap()));
        let batch = Batch {
            sequences: vec![sequence],
        };
        let output = self
            .language
            .forward_with(&batch, &mut cache, &SingleCollective, &mut observer)
            .unwrap();
        Run {
            hidden,
            logits: output.logits.to_f32_vec().unwrap(),
        }
    }
}

fn deviation(values: &[f32]) -> f32 {
    (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt()
}

#[test]
fn activations_stay_near_one_and_pictures_change_the_answer() {
    let temp = tempfile::tempdir().unwrap();
    for preset in [Preset::Tiny, Preset::TinyFourKhd] {
        let dir = temp.path().join(preset.name());
        synthesize(preset, 1, &dir, SynthesizeOptions::default(), &|_| {}).unwrap();
        let network = Network::load(&dir);
        let [narrow, wide] = [3, 40].map(|stripe| network.run(stripe));
        for (stage, &deviation) in narrow.hidden.iter().enumerate() {
            assert!(
                (0.5..3.0).contains(&deviation),
                "{preset}: {deviation} at stage {stage}"
            );
        }
        let spread = deviation(&narrow.logits);
        assert!((1.5..6.0).contains(&spread), "{preset}: logits of {spread}");
        let change: Vec<f32> = narrow
            .logits
            .iter()
            .zip(&wide.logits)
            .map(|(a, b)| a - b)
            .collect();
        let change = deviation(&change) / spread;
        assert!(
            change > 0.05,
            "{preset}: another picture changes the logits by {change}"
        );
    }
}
