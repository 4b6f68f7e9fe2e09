//! A row's logits are the same to the bit whatever runs beside it, however its prompt is cut into chunks, and whoever computed the
//! blocks that it finds: with drawn tokens, a difference of a hundred-thousandth is another answer now and then.

use super::*;
use crate::{
    internlm2::Input,
    synthesize::{Preset, SynthesizeOptions},
};

const BLOCKS_EACH: usize = 8;

/// One rank of a small random model, and a prompt: text, a picture, text.
struct Rank<'a> {
    model: LanguageModel,
    prompt: PicturePrompt,
    collective: &'a dyn Collective,
}

/// How the prompt is computed.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    chunk: usize,
    /// Sequences beside it in each step.
    others: usize,
    /// Blocks that another sequence computed before.
    blocks_found: usize,
}

const ALONE: Schedule = Schedule {
    chunk: usize::MAX,
    others: 0,
    blocks_found: 0,
};

impl<'a> Rank<'a> {
    fn new(dir: &std::path::Path, shard: Shard, collective: &'a dyn Collective) -> Self {
        let model = load(dir.to_owned(), shard, None);
        let width = model.config.hidden_size;
        let values: Vec<f32> = (0..37 * width)
            .map(|at| (at as f32 * 0.37).sin() * 0.1)
            .collect();
        let picture = Tensor::from_f32(&model.device, &[37, width], &values).unwrap();
        let prompt = PicturePrompt {
            texts: vec![numbers(1, 23), numbers(2, 34)],
            picture,
        };
        Self {
            model,
            prompt,
            collective,
        }
    }

    /// The bits of this rank's logits for all rows that are computed.
    fn bits(&self, schedule: Schedule) -> Vec<Vec<u32>> {
        let mut cache = self.model.new_kv_cache((schedule.others + 2) * BLOCKS_EACH);
        let blocks = |first: usize| -> Vec<u32> {
            (first..first + BLOCKS_EACH)
                .rev()
                .map(|b| b as u32)
                .collect()
        };
        let mut others: Vec<_> = (0..schedule.others)
            .map(|other| {
                let ids = numbers(10 + other, 60 + other % 30);
                let mut sequence = Sequence::new(&ids, 0, 1);
                sequence.blocks = blocks((other + 2) * BLOCKS_EACH);
                sequence
            })
            .collect();
        let mut table = blocks(0);
        if schedule.blocks_found > 0 {
            self.compute(&mut cache, &table, 0, schedule, &mut others);
            let own = blocks(BLOCKS_EACH);
            table[schedule.blocks_found..].copy_from_slice(&own[schedule.blocks_found..]);
        }
        let start = schedule.blocks_found * 16;
        self.compute(&mut cache, &table, start, schedule, &mut others)
    }

    /// Computes the prompt from position `start` on, beside the others.
    fn compute(
        &self,
        cache: &mut KvCache,
        table: &[u32],
        start: usize,
        schedule: Schedule,
        others: &mut [Sequence],
    ) -> Vec<Vec<u32>> {
        let whole = self.prompt.chunks(usize::MAX).remove(0);
        let num_rows: usize = whole.iter().map(Input::num_rows).sum();
        let (mut position, mut bits) = (start, Vec::new());
        let chunks = self.prompt.chunks(1);
        while position < num_rows {
            let end = position.saturating_add(schedule.chunk).min(num_rows);
            let own = BatchSequence {
                start: position,
                inputs: chunks[position..end].concat(),
                block_table: table,
                rope_length: num_rows,
                logits: LogitsRows::All,
            };
            // Before it and behind it, one row each or some.
            let rows_of = |other: usize| {
                if other.is_multiple_of(3) {
                    1 + position % 11
                } else {
                    1
                }
            };
            let before = position % (others.len() + 1);
            let beside = others.iter().enumerate();
            let mut sequences: Vec<_> = beside
                .map(|(index, other)| other.chunk(rows_of(index), LogitsRows::Last))
                .collect();
            let taken: Vec<usize> = sequences.iter().map(BatchSequence::num_rows).collect();
            sequences.insert(before, own);
            let out = forward(&self.model, cache, sequences, self.collective);
            let width = out.logits.cols();
            let logits = out.logits.as_f32().unwrap().chunks(width);
            let own = logits.skip(before).take(end - position);
            bits.extend(own.map(|row| row.iter().map(|value| value.to_bits()).collect::<Vec<_>>()));
            for (other, taken) in others.iter_mut().zip(taken) {
                other.num_computed += taken;
                if other.num_computed == other.ids.len() {
                    // From the beginning again.
                    other.num_computed = 0;
                }
            }
            position = end;
        }
        bits
    }
}

fn numbers(seed: usize, count: usize) -> Vec<u32> {
    let number = |at: usize| ((seed * 131 + at * 7919) % 900) as u32 + 3;
    (0..count).map(number).collect()
}

/// In chunks, in company, and after what another computed: all the same.
fn check(dtype: DType, world_size: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny");
    let options = SynthesizeOptions {
        dtype,
        ..SynthesizeOptions::default()
    };
    crate::synthesize::synthesize(Preset::Tiny, 5, &path, options, &|_| {}).unwrap();
    on_ranks(world_size, false, |shard, collective| {
        let rank = Rank::new(&path, shard, collective);
        let wanted = rank.bits(ALONE);
        assert_eq!(wanted.len(), 23 + 37 + 34);
        for chunk in [1, 3, 16, 33, usize::MAX] {
            for others in [0, 1, 7, 63] {
                for blocks_found in [0, 3] {
                    let schedule = Schedule {
                        chunk,
                        others,
                        blocks_found,
                    };
                    let found = rank.bits(schedule);
                    for (row, (wanted, found)) in
                        wanted[blocks_found * 16..].iter().zip(&found).enumerate()
                    {
                        assert!(
                            wanted == found,
                            "{dtype:?} on {world_size} ranks, {schedule:?}: row {row} differs"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn a_row_s_logits_do_not_depend_on_company_or_chunks() {
    check(DType::BF16, 1);
    check(DType::F32, 1);
}

#[test]
fn a_row_s_logits_do_not_depend_on_company_or_chunks_on_two_ranks() {
    check(DType::BF16, 2);
    check(DType::F32, 2);
}
