//! Decode steps recorded once for each number of rows, on devices that gain by it, and replayed. All of a step up to the last layer is in
//! the recording; the head follows as in any other step, on the rows that are real.

use super::{Batch, BatchSequence, ForwardError, Input, LanguageModel, Step, StepRows};
use crate::{
    collectives::Collective,
    kv_cache::{CacheId, KvCache},
    ops::decode_graphs::{DecodeGraphs, DecodeRows},
    partial_lora::PictureRows,
    tensor::Tensor,
};

/// Recorded steps. They name the memory of weights and cache: the model has them, and replays them with that cache only.
pub(super) struct Recorded {
    cache: CacheId,
    graphs: DecodeGraphs,
    all_reduces: usize,
}

impl LanguageModel {
    /// Records decode steps of up to `most_rows` sequences with this cache, in place of any that were recorded before; steps of other
    /// kinds, sizes and caches are computed as ever. `progress` is told how many of how many are there. Gives how many there are: none
    /// where the device does not record, or the ranks' sums cannot be recorded. All ranks of a group make the same call.
    pub fn record_decode(
        &self,
        cache: &mut KvCache,
        collective: &dyn Collective,
        most_rows: usize,
        progress: &dyn Fn(usize, usize),
    ) -> Result<usize, ForwardError> {
        self.forget_recorded();
        let Some(layer) = self.layers.first().filter(|_| collective.can_be_recorded()) else {
            return Ok(0);
        };
        let sizes = sizes(most_rows);
        let Some(&largest) = sizes.last() else {
            return Ok(0);
        };
        let graphs = DecodeGraphs::on(&self.device, layer.layout(), cache.num_blocks(), largest)?;
        let Some(mut graphs) = graphs else {
            return Ok(0);
        };
        let pictures = PictureRows::default();
        let mut all_reduces = 0;
        // The largest first: the others find room in its memory.
        for (done, num_rows) in sizes.iter().rev().enumerate() {
            progress(done, sizes.len());
            graphs.record(*num_rows, &mut |inputs| {
                let step = Step::new(inputs.plan(), inputs.angles()?, &pictures, collective);
                let mut hidden = inputs.embed(&self.tok_embeddings)?;
                self.through_layers(&mut hidden, &step, cache, &mut |_, _| {})?;
                all_reduces = step.all_reduces();
                Ok::<_, ForwardError>(hidden)
            })?;
        }
        progress(sizes.len(), sizes.len());
        *self.recorded() = Some(Recorded {
            cache: cache.id(),
            graphs,
            all_reduces,
        });
        Ok(sizes.len())
    }

    /// Gives up what was recorded, and its memory.
    pub(super) fn forget_recorded(&self) {
        *self.recorded() = None;
    }

    /// The hidden states after all layers, and how many sums over ranks they took, where there is a recorded step for these rows.
    pub(super) fn replay(
        &self,
        batch: &Batch<'_>,
        rows: &StepRows,
        cache: &KvCache,
        collective: &dyn Collective,
    ) -> Result<Option<(Tensor, usize)>, ForwardError> {
        let recorded = self.recorded();
        let recorded = recorded
            .as_ref()
            .filter(|recorded| recorded.cache == cache.id() && collective.can_be_recorded());
        let Some(recorded) = recorded else {
            return Ok(None);
        };
        let Some(ids) = single_tokens(batch) else {
            return Ok(None);
        };
        let rows = DecodeRows {
            ids: &ids,
            spans: &rows.spans,
            plan: &rows.plan,
        };
        let hidden = recorded.graphs.replay(&rows)?;
        Ok(hidden.map(|hidden| (hidden, recorded.all_reduces)))
    }

    fn recorded(&self) -> std::sync::MutexGuard<'_, Option<Recorded>> {
        self.recorded.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The token of each sequence, if each has one row and no picture is among them.
fn single_tokens(batch: &Batch<'_>) -> Option<Vec<u32>> {
    let single = |sequence: &BatchSequence<'_>| match sequence.inputs[..] {
        [Input::Tokens(&[id])] => Some(id),
        _ => None,
    };
    batch.sequences.iter().map(single).collect()
}

/// Numbers of rows that are recorded, rising: every few while a row more or less is felt, then at distances that waste a quarter
/// at most.
fn sizes(most_rows: usize) -> Vec<usize> {
    /// Beyond it a step keeps a GPU busy for longer than it takes to ask for it.
    const LARGEST: usize = 256;
    let most_rows = most_rows.min(LARGEST);
    let mut sizes = Vec::new();
    let mut size = 1;
    while size < most_rows {
        sizes.push(size);
        size += match size {
            ..4 => 1,
            4..8 => 4,
            8..64 => 8,
            64..128 => 16,
            _ => 32,
        };
    }
    sizes.extend((most_rows > 0).then_some(most_rows));
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collectives::SingleCollective,
        device::Device,
        internlm2::{ForwardOutput, LogitsRows, tests::tiny::Tiny},
    };

    const BLOCKS: [&[u32]; 3] = [&[0, 3], &[5, 1], &[4, 2]];

    /// New tokens of the first sequences, which are all at `start`.
    fn step(
        model: &LanguageModel,
        cache: &mut KvCache,
        start: usize,
        ids: &[&[u32]],
    ) -> ForwardOutput {
        let sequences = ids
            .iter()
            .zip(BLOCKS)
            .map(|(ids, block_table)| BatchSequence {
                start,
                inputs: vec![Input::Tokens(ids)],
                block_table,
                rope_length: 3,
                logits: LogitsRows::Last,
            });
        let batch = Batch {
            sequences: sequences.collect(),
        };
        model.forward(&batch, cache, &SingleCollective).unwrap()
    }

    #[test]
    fn recorded_steps_give_what_steps_give() {
        let tiny = Tiny::write();
        for (name, device) in crate::ops::cuda::gpus() {
            let model = tiny.load(device);
            let (mut recorded, mut other) = (model.new_kv_cache(6), model.new_kv_cache(6));
            let told = std::cell::RefCell::new(Vec::new());
            let progress = |done, of| told.borrow_mut().push((done, of));
            let num_sizes = model
                .record_decode(&mut recorded, &SingleCollective, 3, &progress)
                .unwrap();
            assert_eq!(
                (num_sizes, told.borrow().last()),
                (3, Some(&(3, 3))),
                "{name}"
            );
            let prompts: [&[u32]; 3] = [&[1, 2, 3], &[4, 5, 6], &[7, 8, 9]];
            for cache in [&mut recorded, &mut other] {
                assert!(
                    !step(&model, cache, 0, &prompts).stats.is_replayed,
                    "{name}: a prompt"
                );
            }
            // With fewer sequences and with more.
            for (at, num_sequences) in (3..8).zip([3, 2, 3, 1, 3]) {
                let tokens: Vec<[u32; 1]> = (0..3).map(|i| [at as u32 * 3 + i]).collect();
                let tokens: Vec<&[u32]> = tokens.iter().map(|ids| &ids[..]).collect();
                let found = step(&model, &mut recorded, at, &tokens[..num_sequences]);
                let wanted = step(&model, &mut other, at, &tokens[..num_sequences]);
                assert!(
                    found.stats.is_replayed && !wanted.stats.is_replayed,
                    "{name}"
                );
                assert_eq!(found.stats.all_reduces, wanted.stats.all_reduces);
                let (found, wanted) = (found.logits.to_f32_vec(), wanted.logits.to_f32_vec());
                assert_eq!(found.unwrap(), wanted.unwrap(), "{name}: position {at}");
            }
            // What is recorded is gone with its cache's turn.
            assert_eq!(
                model
                    .record_decode(&mut other, &SingleCollective, 0, &|_, _| ())
                    .unwrap(),
                0
            );
            assert!(
                !step(&model, &mut recorded, 8, &[&[1]]).stats.is_replayed,
                "{name}"
            );
        }
    }

    #[test]
    fn nothing_is_recorded_where_that_gains_nothing() {
        let tiny = Tiny::write();
        let model = tiny.load(Device::cpu(1));
        let mut cache = model.new_kv_cache(6);
        let recorded = model.record_decode(&mut cache, &SingleCollective, 8, &|_, _| ());
        assert_eq!(recorded.unwrap(), 0);
        assert!(!step(&model, &mut cache, 0, &[&[1]]).stats.is_replayed);
    }

    #[test]
    fn sizes_reach_the_largest_and_waste_little() {
        assert!(sizes(0).is_empty());
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(6), [1, 2, 3, 4, 6]);
        for most in [7, 100, 256, 5000] {
            let sizes = sizes(most);
            assert_eq!(sizes.last(), Some(&most.min(256)));
            assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
            let wasted = sizes.windows(2).map(|pair| pair[1] - pair[0] - 1);
            let allowed = sizes.windows(2).map(|pair| 7.max(pair[1] / 4));
            assert!(
                wasted
                    .zip(allowed)
                    .all(|(wasted, allowed)| wasted <= allowed)
            );
        }
    }
}
