//! What can be typed after `inkstone compose`.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Args, ValueEnum};
use inkstone_proto::v1::ExportFormat;

use super::{ClusterArguments, PictureSourceArguments, SamplingArguments};

#[derive(Args, Debug)]
pub(crate) struct ComposeArguments {
    /// What to write: a title, an outline, a detailed request or material; `-`: read it from standard input.
    pub(crate) instruction: String,
    /// Pictures that the model sees when it writes, and that the article gets; at most 10.
    #[arg(long, value_name = "FILE", num_args = 1)]
    pub(crate) image: Vec<PathBuf>,
    /// How many pictures the article gets: a number up to 15, `none`, or `auto`, where the model decides.
    #[arg(long, value_name = "N|auto|none", default_value_t = PictureCount::Auto)]
    pub(crate) pictures: PictureCount,
    /// Where they come from; not given: from --image where there are any, else from the server's search.
    #[arg(long, value_enum)]
    pub(crate) picture_source: Option<PictureSourceChoice>,
    /// Write the article to this file; its ending says how: .html (one page with the pictures in it), .zip (Markdown, JSON and
    /// the pictures), .md or .json.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<ExportFile>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArguments,
    /// Search the most likely article with so many beams (1 to 6) instead of drawing one; it comes in one piece then.
    #[arg(long, value_name = "N")]
    pub(crate) beams: Option<u32>,
    /// Most tokens of the article's text.
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Put the release's own system text before every step.
    #[arg(long, conflicts_with = "system")]
    pub(crate) with_meta: bool,
    /// System text; not given: none.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Ask for all captions, and then choose all pictures, side by side: quicker, but none knows of the others.
    #[arg(long)]
    pub(crate) at_once: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    /// Where a cluster in this process looks for pictures.
    #[command(flatten)]
    pub(crate) source: PictureSourceArguments,
}

/// How many pictures are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PictureCount {
    Auto,
    Exactly(u32),
}

impl FromStr for PictureCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::Exactly(0)),
            number => match number.parse() {
                Ok(count) => Ok(Self::Exactly(count)),
                Err(_) => Err("wanted `auto`, `none` or a number".to_owned()),
            },
        }
    }
}

impl fmt::Display for PictureCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(0) => f.write_str("none"),
            Self::Exactly(count) => count.fmt(f),
        }
    }
}

impl PictureCount {
    /// As the request says it.
    pub(crate) fn wanted(self) -> Option<u32> {
        match self {
            Self::Auto => None,
            Self::Exactly(count) => Some(count),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PictureSourceChoice {
    /// The pictures of --image, each at most once.
    Uploads,
    /// The server's own: a library, or a provider.
    Search,
}

/// A file to write an article to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportFile {
    path: PathBuf,
    format: ExportFormat,
}

impl ExportFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What its ending stands for.
    pub(crate) fn format(&self) -> ExportFormat {
        self.format
    }
}

impl FromStr for ExportFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        let format = match ending.as_deref().and_then(|ending| ending.to_str()) {
            Some("zip") => ExportFormat::Zip,
            Some("html" | "htm") => ExportFormat::Html,
            Some("md" | "markdown") => ExportFormat::Markdown,
            Some("json") => ExportFormat::Json,
            Some(other) => return Err(format!("wanted .html, .zip, .md or .json, found .{other}")),
            None => return Err("wanted a name that ends in .html, .zip, .md or .json".to_owned()),
        };
        Ok(Self { path, format })
    }
}
