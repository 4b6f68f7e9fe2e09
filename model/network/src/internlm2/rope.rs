//! Which rotary frequencies a sequence has (spec section 2). The reference changes the base while a sequence grows beyond the
//! longest position, though keys in its cache keep the old one; here the base follows from the prompt's length and stays.

use inkstone_interface::config::{ModelConfig, RopeScaling, RopeScalingKind};

use crate::ops::rotary::RotarySpan;

/// Which rotary base a sequence has.
#[derive(Clone, Debug)]
pub struct RopeRule {
    theta: f64,
    scaling: Option<RopeScaling>,
    max_positions: f64,
    head_dim: f64,
    fixed_up_to: Option<usize>,
}

impl RopeRule {
    pub fn new(config: &ModelConfig) -> Self {
        Self {
            theta: config.rope_theta,
            scaling: config.rope_scaling,
            max_positions: config.max_position_embeddings as f64,
            head_dim: config.head_dim() as f64,
            fixed_up_to: config.rope_base_fixed_up_to(),
        }
    }

    /// Longest prompt that has the base of all shorter ones; `None`: all prompts have one base. Each longer prompt length has a base of
    /// its own, for the sequence's whole life. Cached keys of two sequences are the same only if their bases are.
    pub fn fixed_up_to(&self) -> Option<usize> {
        self.fixed_up_to
    }

    /// The rows of a sequence whose base is that of a prompt of `rope_length`.
    pub(super) fn span(&self, start: usize, num_rows: usize, rope_length: usize) -> RotarySpan {
        let (base, divisor) = match self.scaling {
            Some(RopeScaling {
                kind: RopeScalingKind::Dynamic,
                factor,
            }) => (self.dynamic_base(factor, rope_length as f64), 1.0),
            Some(RopeScaling {
                kind: RopeScalingKind::Linear,
                factor,
            }) => (self.theta, factor as f32),
            None => (self.theta, 1.0),
        };
        RotarySpan {
            num_rows,
            start,
            base,
            divisor,
        }
    }

    fn dynamic_base(&self, factor: f64, length: f64) -> f64 {
        if length <= self.max_positions {
            return self.theta;
        }
        let stretch = factor * length / self.max_positions - (factor - 1.0);
        self.theta * stretch.powf(self.head_dim / (self.head_dim - 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(factor: f64, max_positions: f64, length: usize) -> f64 {
        let rule = RopeRule {
            theta: 1e6,
            scaling: Some(RopeScaling {
                kind: RopeScalingKind::Dynamic,
                factor,
            }),
            max_positions,
            head_dim: 128.0,
            fixed_up_to: Some(max_positions as usize),
        };
        rule.span(0, 1, length).base
    }

    #[test]
    fn dynamic_base_grows_beyond_the_longest_position_only() {
        assert_eq!(base(2.0, 24_576.0, 24_576), 1e6);
        assert!((base(2.0, 24_576.0, 32_768) / 1.680e6 - 1.0).abs() < 1e-3);
        assert!((base(2.0, 24_576.0, 98_304) / 7.220e6 - 1.0).abs() < 1e-3);
        assert_eq!(base(1.0, 32_768.0, 32_768), 1e6);
    }
}
