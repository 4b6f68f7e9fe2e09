//! From bytes to the values that CLIP was trained on (spec section 5.1): `(byte / 255 - mean) / deviation` by channel.

use std::sync::LazyLock;

const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// The value of every byte, by channel. The steps are those of the reference, each rounded to single precision.
pub(super) static NORMALISED: LazyLock<[[f32; 256]; 3]> = LazyLock::new(|| {
    std::array::from_fn(|channel| {
        std::array::from_fn(|byte| (byte as f32 / 255.0 - MEAN[channel]) / DEVIATION[channel])
    })
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_and_white_map_to_the_values_of_the_spec() {
        let ends = |byte: usize| [0, 1, 2].map(|channel| NORMALISED[channel][byte]);
        let close = |found: [f32; 3], wanted: [f32; 3]| {
            found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 1e-6)
        };
        assert!(close(ends(0), [-1.792_263, -1.752_097, -1.480_22]));
        assert!(close(ends(255), [1.930_336, 2.074_884, 2.145_897]));
    }
}
