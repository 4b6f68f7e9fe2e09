//! The language model against the reference's numbers, and against itself: split over ranks, over chunks and over batches.
//! Needs the golden checkpoints; without them these tests pass and say so.

mod company;
mod on_gpus;
pub(super) mod tiny;

use std::{net::TcpListener, path::PathBuf, thread, time::Duration};

use super::*;
use crate::{
    collectives::{LocalCollective, SingleCollective, TcpCollective, TcpMember},
    goldens::{Goldens, largest_difference},
    sampling::{RowSampling, SamplingParams, sample},
};

const DEADLINE: Duration = Duration::from_secs(60);

fn load(dir: PathBuf, shard: Shard, dtype: Option<DType>) -> LanguageModel {
    let options = LoadOptions {
        device: Device::cpu(2 / shard.world_size.min(2)),
        dtype,
    };
    LanguageModel::load(&Checkpoint::open(&dir).unwrap(), shard, &options, &|_| {}).unwrap()
}

fn single(dir: PathBuf) -> LanguageModel {
    load(dir, Shard::SINGLE, None)
}

/// A sequence of tokens with blocks of its own, as a scheduler would keep it.
struct Sequence {
    ids: Vec<u32>,
    num_computed: usize,
    blocks: Vec<u32>,
    rope_length: usize,
}

impl Sequence {
    /// Takes every `step`-th block of the cache from `first` on.
    fn new(ids: &[u32], first: u32, step: u32) -> Self {
        let num_blocks = (ids.len() + 64).div_ceil(16) as u32;
        Self {
            ids: ids.to_vec(),
            num_computed: 0,
            blocks: (0..num_blocks).map(|i| first + i * step).collect(),
            rope_length: ids.len(),
        }
    }

    /// The next `num_rows` tokens that are not computed yet.
    fn chunk(&self, num_rows: usize, logits: LogitsRows) -> BatchSequence<'_> {
        let end = self
            .num_computed
            .saturating_add(num_rows)
            .min(self.ids.len());
        BatchSequence {
            start: self.num_computed,
            inputs: vec![Input::Tokens(&self.ids[self.num_computed..end])],
            block_table: &self.blocks,
            rope_length: self.rope_length,
            logits,
        }
    }
}

fn forward(
    model: &LanguageModel,
    cache: &mut KvCache,
    sequences: Vec<BatchSequence<'_>>,
    collective: &dyn Collective,
) -> ForwardOutput {
    model
        .forward(&Batch { sequences }, cache, collective)
        .unwrap()
}

/// All logits of a prompt in one pass.
fn logits_of(model: &LanguageModel, ids: &[u32]) -> Vec<f32> {
    let sequence = Sequence::new(ids, 0, 1);
    let mut cache = model.new_kv_cache(sequence.blocks.len());
    let chunk = sequence.chunk(usize::MAX, LogitsRows::All);
    let out = forward(model, &mut cache, vec![chunk], &SingleCollective);
    out.logits.to_f32_vec().unwrap()
}

/// Greedy tokens after a prompt, the first with a prefill in chunks, and the logits of each step on this rank. Every rank gets the tokens.
fn generate(
    model: &LanguageModel,
    prompt: &[u32],
    count: usize,
    chunk_len: usize,
    penalty: f32,
    collective: &dyn Collective,
) -> (Vec<u32>, Vec<f32>) {
    let mut sequence = Sequence::new(prompt, 1, 2);
    let mut cache = model.new_kv_cache(2 * sequence.blocks.len());
    let mut logits = Vec::new();
    while sequence.ids.len() < prompt.len() + count {
        let chunk = sequence.chunk(chunk_len, LogitsRows::Last);
        let num_rows = chunk.num_rows();
        let out = forward(model, &mut cache, vec![chunk], collective);
        sequence.num_computed += num_rows;
        if sequence.num_computed < sequence.ids.len() {
            continue;
        }
        let row = RowSampling {
            params: SamplingParams {
                repetition_penalty: penalty,
                ..SamplingParams::default()
            },
            seen: &sequence.ids,
            ..RowSampling::default()
        };
        let logits_here = out.logits.to_host_f32().unwrap();
        let slice = logits_here.as_f32().unwrap();
        let tokens = sample(&out.logits, model.first_vocab_id(), &[row], collective).unwrap();
        let token = tokens.map(|tokens| tokens[0].as_ref().unwrap().tokens()[0].id as f32);
        let token = collective
            .all_gather(&token.map_or(vec![], |id| vec![id]))
            .unwrap()[0][0] as u32;
        logits.extend_from_slice(slice);
        sequence.ids.push(token);
    }
    (sequence.ids.split_off(prompt.len()), logits)
}

#[test]
fn hidden_states_and_logits_are_the_reference_s() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let model = single(goldens.folder.join("checkpoint"));
    let ids = goldens.ids("text40.ids");
    let sequence = Sequence::new(&ids, 0, 1);
    let mut cache = model.new_kv_cache(sequence.blocks.len());
    let batch = Batch {
        sequences: vec![sequence.chunk(usize::MAX, LogitsRows::All)],
    };
    let mut hidden = Vec::new();
    let mut observer = |index: usize, states: &Tensor| {
        assert_eq!(index * ids.len() * model.config.hidden_size, hidden.len());
        hidden.extend(states.to_f32_vec().unwrap());
    };
    let out = model
        .forward_with(&batch, &mut cache, &SingleCollective, &mut observer)
        .unwrap();
    goldens.assert_close("text40.hidden", &hidden);
    goldens.assert_close("text40.logits", out.logits.as_f32().unwrap());
    let wanted = ForwardStats {
        num_rows: 40,
        partial_lora_rows: 0,
        all_reduces: 2 * model.layers.len(),
        is_replayed: false,
    };
    assert_eq!(out.stats, wanted);
}

#[test]
fn greedy_tokens_are_the_reference_s() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let model = single(goldens.folder.join("checkpoint"));
    for (prompt, case, penalty) in [
        ("text_chat", "gen.text_chat", 1.0),
        ("short", "gen.short", 1.0),
        ("text_chat", "gen.text_chat.rp1.005", 1.005),
        ("text_chat", "gen.text_chat.rp1.2", 1.2),
    ] {
        let wanted = goldens.ids(&format!("{case}.tokens"));
        let prompt = goldens.ids(&format!("{prompt}.ids"));
        for chunk_len in [usize::MAX, 7] {
            let (tokens, logits) = generate(
                &model,
                &prompt,
                wanted.len(),
                chunk_len,
                penalty,
                &SingleCollective,
            );
            assert_eq!(tokens, wanted, "{case}");
            if case == "gen.text_chat" {
                goldens.assert_close("gen.text_chat.logits", &logits);
            }
        }
    }
}

/// The rope goldens: one set of weights under several configs.
#[test]
fn rotary_scaling_is_the_reference_s_in_prefill() {
    let Some(goldens) = Goldens::open("xc2-rope-tiny") else {
        return;
    };
    for variant in ["none", "dynamic1", "dynamic2", "linear4"] {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(goldens.folder.join("checkpoint")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let config = goldens.folder.join(format!("config.{variant}.json"));
        std::fs::copy(config, dir.path().join("config.json")).unwrap();
        let model = single(dir.path().to_owned());
        for length in [100, 300] {
            let logits = logits_of(&model, &goldens.ids("ids")[..length]);
            let vocab_size = model.config.vocab_size;
            let kept = goldens.ids(&format!("{variant}.{length}.keep"));
            let rows = kept
                .iter()
                .flat_map(|&row| &logits[row as usize * vocab_size..][..vocab_size]);
            let rows: Vec<f32> = rows.copied().collect();
            goldens.assert_close(&format!("{variant}.{length}.logits"), &rows);
        }
        let case = &goldens.manifest["cases"][format!("{variant}.decode")];
        if case["quirk"].as_bool() != Some(true) {
            let prompt = &goldens.ids("ids")[..120];
            let (tokens, logits) = generate(&model, prompt, 24, usize::MAX, 1.0, &SingleCollective);
            assert_eq!(tokens, goldens.ids(&format!("{variant}.decode.tokens")));
            goldens.assert_close(&format!("{variant}.decode.logits"), &logits);
        }
    }
}

/// A picture prompt of the goldens, with the projected rows that the reference gave.
struct PicturePrompt {
    /// Runs of tokens; a picture stands between each two.
    texts: Vec<Vec<u32>>,
    picture: Tensor,
}

impl PicturePrompt {
    fn one(goldens: &Goldens, device: &Device) -> Self {
        let (shape, values) = goldens.f32("vision.0.proj");
        let ids = goldens.i32("one.ids");
        let texts = ids.split(|&id| id < 0).filter(|text| !text.is_empty());
        Self {
            texts: texts
                .map(|text| text.iter().map(|&id| id as u32).collect())
                .collect(),
            picture: Tensor::from_f32(device, &shape, &values).unwrap(),
        }
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let picture = Input::Picture {
            projected: &self.picture,
            rows: 0..self.picture.rows(),
        };
        vec![
            Input::Tokens(&self.texts[0]),
            picture,
            Input::Tokens(&self.texts[1]),
        ]
    }

    /// The inputs cut into chunks of at most `len` rows.
    fn chunks(&self, len: usize) -> Vec<Vec<Input<'_>>> {
        let mut chunks = vec![Vec::new()];
        let mut room = len;
        for input in self.inputs() {
            let mut done = 0;
            while done < input.num_rows() {
                let count = room.min(input.num_rows() - done);
                let part = match &input {
                    Input::Tokens(ids) => Input::Tokens(&ids[done..done + count]),
                    Input::Picture { projected, .. } => Input::Picture {
                        projected,
                        rows: done..done + count,
                    },
                };
                chunks.last_mut().unwrap().push(part);
                done += count;
                room -= count;
                if room == 0 {
                    chunks.push(Vec::new());
                    room = len;
                }
            }
        }
        chunks.retain(|chunk| !chunk.is_empty());
        chunks
    }
}

/// All logits of a picture prompt, with what each forward did.
fn picture_logits(
    model: &LanguageModel,
    prompt: &PicturePrompt,
    chunk_len: usize,
    collective: &dyn Collective,
) -> (Vec<f32>, Vec<ForwardStats>) {
    let num_rows: usize = prompt.inputs().iter().map(Input::num_rows).sum();
    let blocks: Vec<u32> = (0..num_rows.div_ceil(16) as u32).rev().collect();
    let mut cache = model.new_kv_cache(blocks.len());
    let (mut start, mut logits, mut stats) = (0, Vec::new(), Vec::new());
    for inputs in prompt.chunks(chunk_len) {
        let sequence = BatchSequence {
            start,
            inputs,
            block_table: &blocks,
            rope_length: num_rows,
            logits: LogitsRows::All,
        };
        start += sequence.num_rows();
        let out = forward(model, &mut cache, vec![sequence], collective);
        logits.extend(out.logits.to_f32_vec().unwrap());
        stats.push(out.stats);
    }
    (logits, stats)
}

#[test]
fn picture_rows_take_partial_lora_as_in_the_reference() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let model = single(goldens.folder.join("checkpoint"));
    let prompt = PicturePrompt::one(&goldens, &model.device);
    let (logits, stats) = picture_logits(&model, &prompt, usize::MAX, &SingleCollective);
    let vocab_size = model.config.vocab_size;
    let kept = goldens.ids("one.keep");
    let rows = kept
        .iter()
        .flat_map(|&row| &logits[row as usize * vocab_size..][..vocab_size]);
    goldens.assert_close("one.logits", &rows.copied().collect::<Vec<_>>());
    assert_eq!(stats[0].partial_lora_rows, prompt.picture.rows());

    let (chunked, stats) = picture_logits(&model, &prompt, 20, &SingleCollective);
    assert!(largest_difference(&chunked, &logits) < 1e-4);
    let rows: usize = stats.iter().map(|stats| stats.partial_lora_rows).sum();
    assert_eq!(rows, prompt.picture.rows());
    // Pictures or not, each layer sums twice over the ranks.
    assert!(stats.iter().any(|stats| stats.partial_lora_rows == 0));
    assert!(
        stats
            .iter()
            .all(|stats| stats.all_reduces == 2 * model.layers.len())
    );
}

#[test]
fn features_are_projected_as_in_the_reference() {
    for folder in ["xc2-vl-tiny", "xc2-4khd-tiny", "xc2d5-tiny"] {
        let Some(goldens) = Goldens::open(folder) else {
            continue;
        };
        let model = single(goldens.folder.join("checkpoint"));
        for stem in goldens.stems(".proj") {
            if !goldens.stems(".vit").contains(&stem) {
                continue;
            }
            let (shape, values) = goldens.f32(&format!("{stem}.vit"));
            let features = PictureFeatures::new(shape[0], shape[1], values);
            let rows = model.project(&features).unwrap();
            goldens.assert_close(&format!("{stem}.proj"), rows.as_f32().unwrap());
        }
    }
}

#[test]
fn sequences_in_a_batch_get_what_they_get_alone() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let model = single(goldens.folder.join("checkpoint"));
    let prompts = ["text_chat", "short", "text40"].map(|name| goldens.ids(&format!("{name}.ids")));
    let alone = prompts
        .each_ref()
        .map(|ids| generate(&model, ids, 12, usize::MAX, 1.0, &SingleCollective).0);

    let mut sequences: Vec<_> = (0..3)
        .map(|i| Sequence::new(&prompts[i], i as u32, 3))
        .collect();
    let mut cache = model.new_kv_cache(64);
    // Prefills of unequal length, so that chunks and decodes meet in one batch.
    while sequences
        .iter()
        .zip(&prompts)
        .any(|(s, prompt)| s.ids.len() < prompt.len() + 12)
    {
        let chunks: Vec<_> = sequences
            .iter()
            .map(|s| s.chunk(30, LogitsRows::Last))
            .collect();
        let num_rows: Vec<_> = chunks.iter().map(BatchSequence::num_rows).collect();
        let out = forward(&model, &mut cache, chunks, &SingleCollective);
        let logits = out.logits.as_f32().unwrap().chunks(model.config.vocab_size);
        for ((sequence, logits), num_rows) in sequences.iter_mut().zip(logits).zip(num_rows) {
            sequence.num_computed += num_rows;
            if sequence.num_computed == sequence.ids.len() {
                let best = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
                let token = (0..logits.len()).reduce(best).unwrap();
                sequence.ids.push(token as u32);
            }
        }
    }
    for ((sequence, prompt), alone) in sequences.iter().zip(&prompts).zip(&alone) {
        assert_eq!(&sequence.ids[prompt.len()..][..12], alone);
    }
}

/// Runs `task` on each rank of a group of `world_size`, joined by threads or by sockets, and returns the results by rank.
fn on_ranks<T: Send>(
    world_size: usize,
    by_tcp: bool,
    task: impl Fn(Shard, &dyn Collective) -> T + Sync,
) -> Vec<T> {
    let mut local = LocalCollective::group(world_size, DEADLINE).into_iter();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let leader = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let (task, listener) = (&task, &listener);
        let rank = |rank: usize| {
            let (shard, end) = (Shard { rank, world_size }, local.next().unwrap());
            scope.spawn(move || {
                if !by_tcp {
                    return task(shard, &end);
                }
                let member = TcpMember {
                    group: "test".into(),
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
                task(shard, &end.unwrap())
            })
        };
        let ranks: Vec<_> = (0..world_size).map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn ranks_together_give_what_one_gives() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let dir = goldens.folder.join("checkpoint");
    let ids = goldens.ids("text_chat.ids");
    let wanted = goldens.ids("gen.text_chat.tokens");
    let model = single(dir.clone());
    let prompt = PicturePrompt::one(&goldens, &model.device);
    let (alone, _) = picture_logits(&model, &prompt, 500, &SingleCollective);
    let vocab_size = model.config.vocab_size;

    for (world_size, by_tcp) in [(2, false), (4, false), (2, true), (4, true)] {
        let ranks = on_ranks(world_size, by_tcp, |shard, collective| {
            let model = load(dir.clone(), shard, None);
            let (tokens, _) = generate(&model, &ids, wanted.len(), 20, 1.0, collective);
            let prompt = PicturePrompt::one(&goldens, &model.device);
            let (logits, stats) = picture_logits(&model, &prompt, 500, collective);
            (tokens, logits, stats)
        });
        let width = vocab_size / world_size;
        for (rank, (tokens, logits, stats)) in ranks.iter().enumerate() {
            assert_eq!(*tokens, wanted, "{world_size} ranks");
            let slices = alone
                .chunks(vocab_size)
                .flat_map(|row| &row[rank * width..][..width]);
            let slices: Vec<f32> = slices.copied().collect();
            assert!(
                largest_difference(logits, &slices) < 1e-3,
                "{world_size} ranks"
            );
            let all_reduces = stats.iter().map(|stats| stats.all_reduces);
            assert!(all_reduces.eq(stats.iter().map(|_| 2 * model.layers.len())));
        }
    }
}

#[test]
fn half_precision_weights_are_computed_with_in_f32() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    for folder in ["checkpoint-bf16-sharded", "checkpoint-bin-sharded"] {
        let name = format!("{}.text40.logits", folder.replace('-', "_"));
        let ids = goldens.ids("text40.ids");
        let widened = load(goldens.folder.join(folder), Shard::SINGLE, Some(DType::F32));
        goldens.assert_close(&name, &logits_of(&widened, &ids));
        // The cache is bf16 too, as the weights are; that alone is not exact.
        let as_stored = single(goldens.folder.join(folder));
        assert_eq!(as_stored.kv_dtype(), DType::BF16);
        let (_, wanted) = goldens.f32(&name);
        let worst = largest_difference(&logits_of(&as_stored, &ids), &wanted);
        assert!(worst < 0.3, "{worst}");
    }
}

#[test]
fn batches_that_make_no_sense_are_refused() {
    let Some(goldens) = Goldens::open("xc2-vl-tiny") else {
        return;
    };
    let model = single(goldens.folder.join("checkpoint"));
    let mut cache = model.new_kv_cache(4);
    let mut refused = |inputs: Vec<Input<'_>>| {
        let sequence = BatchSequence {
            start: 0,
            inputs,
            block_table: &[0, 1],
            rope_length: 1,
            logits: LogitsRows::Last,
        };
        let batch = Batch {
            sequences: vec![sequence],
        };
        match model.forward(&batch, &mut cache, &SingleCollective) {
            Err(ForwardError::Batch(error)) => error,
            other => panic!("wanted a refusal, found {other:?}"),
        }
    };
    assert_eq!(
        refused(vec![Input::Tokens(&[])]),
        BatchError::Empty { sequence: 0 }
    );
    let picture = Tensor::zeros(&model.device, DType::F32, &[3, model.config.hidden_size]);
    let beyond = Input::Picture {
        projected: &picture,
        rows: 2..4,
    };
    assert!(matches!(
        refused(vec![beyond]),
        BatchError::Picture {
            start: 2,
            end: 4,
            ..
        }
    ));
    assert!(matches!(
        refused(vec![Input::Tokens(&[1, 512])]),
        BatchError::Token {
            id: 512,
            vocab_size: 512,
            ..
        }
    ));
    assert!(matches!(
        refused(vec![Input::Tokens(&[1; 33])]),
        BatchError::Blocks(_)
    ));
}
