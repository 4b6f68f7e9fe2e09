//! The flags that say how tokens are chosen, alike wherever something is written.

use clap::Args;

/// How tokens are chosen; what is not given is the server's default.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct SamplingArguments {
    /// 0: greedy.
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Always take the most likely token, as --temperature 0 does.
    #[arg(long, conflicts_with = "temperature")]
    greedy: bool,
    /// Keep the k most likely tokens; 0: all.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Keep the smallest set of tokens with this much probability.
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Makes tokens seen less likely; 1: off.
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f32>,
    /// The same seed draws the same again.
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
}

impl SamplingArguments {
    /// The temperature that was asked for, in either way.
    pub(crate) fn temperature(&self) -> Option<f32> {
        if self.greedy {
            Some(0.0)
        } else {
            self.temperature
        }
    }

    /// Whether nothing was said but perhaps a seed.
    pub(crate) fn is_default(&self) -> bool {
        let Self {
            temperature,
            greedy,
            top_k,
            top_p,
            repetition_penalty,
            seed: _,
        } = *self;
        temperature.is_none()
            && !greedy
            && top_k.is_none()
            && top_p.is_none()
            && repetition_penalty.is_none()
    }
}
