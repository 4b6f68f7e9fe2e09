//! PyTorch's bicubic interpolation of float values: a = -0.75, half-pixel centres, no antialiasing, indices clamped at
//! the border (spec section 4.1). The global view and the position table are made with it; pictures themselves are
//! resized with Pillow's rules instead.

/// The four source positions and weights of one output position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CubicTap {
    pub(super) sources: [usize; 4],
    pub(super) weights: [f32; 4],
}

/// The taps that take an axis of `source` values to one of `target`, in the single precision that the reference uses.
pub(super) fn cubic_taps(source: usize, target: usize) -> Vec<CubicTap> {
    let scale = source as f32 / target as f32;
    let tap = |position: usize| {
        let centre = scale * (position as f32 + 0.5) - 0.5;
        let floor = centre.floor();
        let source_at =
            |offset: isize| (floor as isize + offset).clamp(0, source as isize - 1) as usize;
        CubicTap {
            sources: [-1, 0, 1, 2].map(source_at),
            weights: cubic_weights(centre - floor),
        }
    };
    (0..target).map(tap).collect()
}

/// Weights at distances `t + 1`, `t`, `1 - t` and `2 - t` of the kernel.
fn cubic_weights(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_takes_each_value_as_it_is() {
        for (position, tap) in cubic_taps(5, 5).iter().enumerate() {
            assert_eq!(
                (tap.sources[1], tap.weights),
                (position, [0.0, 1.0, 0.0, 0.0])
            );
        }
    }

    #[test]
    fn weights_add_up_to_one_and_sources_stay_inside() {
        for tap in cubic_taps(24, 35) {
            assert!((tap.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(tap.sources.iter().all(|s| *s < 24));
        }
    }
}
