//! Numbers from one floating-point type to another, rounded to the nearest value and to the even one of two that are
//! as near. Sources are bytes of a mapped file, aligned to nothing.

use half::{f16, slice::HalfFloatSliceExt};

use crate::tensor::DType;

/// Numbers converted at a time through a buffer that stays in the first-level cache.
const BLOCK: usize = 512;

/// Converts `source` (numbers of type `from`) into `target` (as many numbers of type `to`).
pub(crate) fn convert(source: &[u8], from: DType, target: &mut [u8], to: DType) {
    if from == to {
        target.copy_from_slice(source);
        return;
    }
    let mut block = [0f32; BLOCK];
    let sources = source.chunks(BLOCK * from.num_bytes());
    for (source, target) in sources.zip(target.chunks_mut(BLOCK * to.num_bytes())) {
        let block = &mut block[..source.len() / from.num_bytes()];
        decode(source, from, block);
        encode(block, to, target);
    }
}

/// Little-endian numbers of type `from` as f32, which holds every value of the other two types.
pub(crate) fn decode(source: &[u8], from: DType, block: &mut [f32]) {
    match from {
        DType::F32 => {
            for (number, bytes) in block.iter_mut().zip(source.chunks_exact(4)) {
                *number = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        DType::BF16 => {
            for (number, bytes) in block.iter_mut().zip(source.chunks_exact(2)) {
                *number = f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16);
            }
        }
        DType::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            for (block, source) in block.chunks_mut(BLOCK).zip(source.chunks(2 * BLOCK)) {
                let halves = &mut halves[..block.len()];
                for (half, bytes) in halves.iter_mut().zip(source.chunks_exact(2)) {
                    *half = f16::from_bits(u16::from_le_bytes([bytes[0], bytes[1]]));
                }
                halves.convert_to_f32_slice(block);
            }
        }
    }
}

/// `block` as little-endian numbers of type `to`.
pub(crate) fn encode(block: &[f32], to: DType, target: &mut [u8]) {
    match to {
        DType::F32 => {
            for (number, bytes) in block.iter().zip(target.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&number.to_le_bytes());
            }
        }
        DType::BF16 => {
            for (&number, bytes) in block.iter().zip(target.chunks_exact_mut(2)) {
                bytes.copy_from_slice(&round_to_bf16(number).to_le_bytes());
            }
        }
        DType::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            for (block, target) in block.chunks(BLOCK).zip(target.chunks_mut(2 * BLOCK)) {
                let halves = &mut halves[..block.len()];
                halves.convert_from_f32_slice(block);
                for (half, bytes) in halves.iter().zip(target.chunks_exact_mut(2)) {
                    bytes.copy_from_slice(&half.to_bits().to_le_bytes());
                }
            }
        }
    }
}

/// The bits of the nearest bfloat16. Written without a branch, so that the loop over it becomes vector code.
fn round_to_bf16(number: f32) -> u16 {
    let bits = number.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    // Rounding could carry a NaN into infinity: keep its upper half and make it quiet.
    let quiet_nan = (bits >> 16) as u16 | 0x40;
    if number.is_nan() { quiet_nan } else { rounded }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn through(numbers: &[f32], to: DType) -> Vec<f32> {
        let source: Vec<u8> = numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        let mut target = vec![0; numbers.len() * to.num_bytes()];
        convert(&source, DType::F32, &mut target, to);
        let mut back = vec![0f32; numbers.len()];
        decode(&target, to, &mut back);
        back
    }

    #[test]
    fn bf16_rounds_like_the_half_crate_on_every_kind_of_number() {
        // Every upper half with the lower halves around the tie.
        for upper in 0..=u16::MAX {
            for lower in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let number = f32::from_bits(u32::from(upper) << 16 | lower);
                assert_eq!(
                    round_to_bf16(number),
                    bf16::from_f32(number).to_bits(),
                    "{number:e}"
                );
            }
        }
    }

    #[test]
    fn f16_rounds_to_nearest_even() {
        let tie_down = 1.0 + 2f32.powi(-11);
        let tie_up = 1.0 + 3.0 * 2f32.powi(-11);
        let wanted = [1.0, 1.0 + 2.0 * 2f32.powi(-10), f32::INFINITY, -0.0];
        assert_eq!(through(&[tie_down, tie_up, 1e6, -0.0], DType::F16), wanted);
    }

    #[test]
    fn long_inputs_are_converted_whole() {
        let numbers: Vec<f32> = (0..2 * BLOCK + 7).map(|index| index as f32 / 8.0).collect();
        assert_eq!(through(&numbers, DType::F16), numbers);
        assert_eq!(
            through(&numbers[..300], DType::BF16),
            numbers[..300]
                .iter()
                .map(|n| bf16::from_f32(*n).to_f32())
                .collect::<Vec<_>>()
        );
    }
}
