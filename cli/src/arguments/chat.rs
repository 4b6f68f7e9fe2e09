//! What can be typed after `inkstone chat`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ClusterArguments, SamplingArguments};

#[derive(Args, Debug)]
pub(crate) struct ChatArguments {
    /// The question; not given: questions are read from the terminal, turn by turn.
    pub(crate) question: Option<String>,
    /// Pictures of the first question, in order.
    #[arg(long, value_name = "FILE", num_args = 1)]
    pub(crate) image: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(flatten)]
    pub(crate) sampling: SamplingArguments,
    /// System text; not given: the variant's own.
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Leave out tokens less likely than this share of the most likely one; 0: off.
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Makes tokens that were generated less likely, once; 0: off.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Makes tokens that were generated less likely, for each time; 0: off.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// The model does not end its turn before so many tokens.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) min_tokens: u32,
    /// Draw several answers. The conversation goes on with the first.
    #[arg(long, value_name = "N", conflicts_with = "beams")]
    pub(crate) n: Option<u32>,
    /// Draw so many answers and show the most likely ones.
    #[arg(long, value_name = "N", conflicts_with = "beams")]
    pub(crate) best_of: Option<u32>,
    /// Search the most likely answer with so many beams instead of drawing one.
    #[arg(long, value_name = "N")]
    pub(crate) beams: Option<u32>,
    /// Above 0: beams favour long answers.
    #[arg(
        long,
        value_name = "X",
        requires = "beams",
        allow_negative_numbers = true
    )]
    pub(crate) length_penalty: Option<f32>,
    /// Allow only this answer; given several times: one of these.
    #[arg(long, value_name = "TEXT", group = "form")]
    pub(crate) choice: Vec<String>,
    /// Allow only JSON that satisfies the JSON schema in this file.
    #[arg(long, value_name = "FILE", group = "form")]
    pub(crate) json_schema: Option<PathBuf>,
    /// Allow only text that matches this regular expression as a whole.
    #[arg(long, value_name = "REGEX", group = "form")]
    pub(crate) regex: Option<String>,
    /// Who goes first when not all requests fit.
    #[arg(long, value_enum, default_value = "interactive")]
    pub(crate) priority: PriorityChoice,
    /// Tile budget of the HD variants.
    #[arg(long, value_name = "N")]
    pub(crate) hd_num: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PriorityChoice {
    /// Somebody waits for the answer.
    Interactive,
    /// Gives way, though not for ever.
    Batch,
}
