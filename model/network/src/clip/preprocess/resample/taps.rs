//! Which source pixels make an output pixel along one axis, and with what weights.

use super::Filter;

/// Bits behind the point of a weight.
pub(super) const PRECISION: u32 = 22;

/// For every output position the first source position and the weights from there on, in units of 2^-22.
pub(super) struct Taps {
    firsts: Vec<usize>,
    /// Where each output's weights start in `weights`, and where the last one's end.
    bounds: Vec<usize>,
    weights: Vec<i32>,
}

impl Taps {
    /// The weights that take `source` positions to `target` ones.
    pub(super) fn new(source: u32, target: u32, filter: Filter) -> Self {
        let scale = f64::from(source) / f64::from(target);
        let widening = scale.max(1.0);
        let support = filter.support() * widening;
        let mut taps = Self {
            firsts: Vec::new(),
            bounds: vec![0],
            weights: Vec::new(),
        };
        let mut exact = Vec::new();
        for position in 0..target {
            let centre = (f64::from(position) + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as u32;
            let end = ((centre + support + 0.5) as u32).min(source);
            exact.clear();
            exact.extend(
                (first..end)
                    .map(|p| filter.weight((f64::from(p) - centre + 0.5) * (1.0 / widening))),
            );
            let sum: f64 = exact.iter().sum();
            taps.firsts.push(first as usize);
            taps.weights.extend(
                exact
                    .iter()
                    .map(|w| to_fixed(if sum == 0.0 { *w } else { w / sum })),
            );
            taps.bounds.push(taps.weights.len());
        }
        taps
    }

    /// Number of output positions.
    pub(super) fn len(&self) -> usize {
        self.firsts.len()
    }

    /// First source position and weights of one output position.
    pub(super) fn of(&self, position: usize) -> (usize, &[i32]) {
        (
            self.firsts[position],
            &self.weights[self.bounds[position]..self.bounds[position + 1]],
        )
    }
}

impl Filter {
    /// How far from its centre the kernel reaches, in source pixels when the picture is not shrunk.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        let t = distance.abs();
        match self {
            Self::Bilinear if t < 1.0 => 1.0 - t,
            Self::Bicubic if t < 1.0 => (1.5 * t - 2.5) * t * t + 1.0,
            Self::Bicubic if t < 2.0 => (((t - 5.0) * t + 8.0) * t - 4.0) * -0.5,
            Self::Bilinear | Self::Bicubic => 0.0,
        }
    }
}

/// Rounds half away from zero.
fn to_fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (scaled + 0.5_f64.copysign(scaled)) as i32
}
