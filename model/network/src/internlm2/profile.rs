//! What a step takes of a GPU's memory, found by taking the largest one: the rest can be cache.

use super::{
    LanguageModel,
    batch::{Batch, BatchSequence, Input, LogitsRows},
};
use crate::{
    collectives::SingleCollective, device::Device, internlm2::ForwardError, kv_cache::BLOCK_TOKENS,
};

impl LanguageModel {
    /// Bytes of a GPU that a step of `num_rows` rows takes beside weights and cache, when `num_logits` of them are asked for logits; none
    /// on the CPU, where memory is not handed out in advance. Runs such a step, on this rank alone: what the others would add changes
    /// its results, which nobody wants, and not its memory.
    ///
    /// # Errors
    /// When the step cannot run: most likely the GPU has too little memory for it.
    pub fn step_bytes_on_gpu(
        &self,
        num_rows: usize,
        num_logits: usize,
    ) -> Result<Option<usize>, ForwardError> {
        let Device::Cuda(device) = self.device() else {
            return Ok(None);
        };
        self.forget_recorded();
        device.memory()?;
        let before = device.held_bytes();
        // One long prompt, and sequences of a row for the other logits.
        let num_decoding = num_logits.min(num_rows).saturating_sub(1);
        let ids = vec![0; num_rows - num_decoding];
        let num_blocks = ids.len().div_ceil(BLOCK_TOKENS);
        let blocks: Vec<u32> = (0..).take(num_blocks + num_decoding).collect();
        let mut cache = self.new_kv_cache(blocks.len());
        let of_cache = device.held_bytes() - before;
        let prompt = (&ids[..], &blocks[..num_blocks]);
        let decoding = blocks[num_blocks..]
            .chunks(1)
            .map(|block| (&ids[..1], block));
        let sequences = std::iter::once(prompt)
            .chain(decoding)
            .map(|(ids, block_table)| BatchSequence {
                start: 0,
                inputs: vec![Input::Tokens(ids)],
                block_table,
                rope_length: ids.len(),
                logits: LogitsRows::Last,
            })
            .collect();
        let out = self.forward(&Batch { sequences }, &mut cache, &SingleCollective)?;
        out.logits.to_host_f32()?;
        // Nothing was given back to the driver meanwhile, so this is the most that was held.
        let most = device.held_bytes();
        Ok(Some(most.saturating_sub(before + of_cache)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internlm2::tests::tiny::Tiny;

    #[test]
    fn larger_steps_take_more_and_leave_nothing_behind() {
        let tiny = Tiny::write();
        let on_cpu = tiny.load(Device::cpu(1));
        assert_eq!(on_cpu.step_bytes_on_gpu(8, 1).unwrap(), None);
        for (name, device) in crate::ops::cuda::gpus() {
            let model = tiny.load(device);
            let bytes = |rows, logits| model.step_bytes_on_gpu(rows, logits).unwrap().unwrap();
            let (few, many, wordy) = (bytes(4, 1), bytes(48, 1), bytes(48, 32));
            assert!(
                0 < few && few < many && many < wordy,
                "{name}: {few} {many} {wordy}"
            );
            assert_eq!(bytes(48, 1), many, "{name}: a second look");
        }
    }
}
