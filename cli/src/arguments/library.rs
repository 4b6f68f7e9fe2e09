//! What can be typed after `inkstone library`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClusterArguments;

#[derive(Args, Debug)]
pub(crate) struct LibraryArguments {
    #[command(subcommand)]
    pub(crate) command: LibraryCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LibraryCommand {
    /// Put a folder's pictures into a library; what is there already is passed over, so an import that was broken off goes on.
    Import(LibraryImportArguments),
    /// Look for pictures by what they should show.
    Search(LibrarySearchArguments),
    /// Say what a library holds.
    Show(LibraryShowArguments),
}

/// Which library is meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct LocationArguments {
    /// The library: a folder, or s3://BUCKET/PREFIX.
    #[arg(long, env = "INKSTONE_LIBRARY", value_name = "LOCATION")]
    pub(crate) library: String,
}

#[derive(Args, Debug)]
pub(crate) struct LibraryImportArguments {
    /// The folder; folders in it are looked into as well. Captions, tags, authors and licences are read from files beside the
    /// pictures: metadata.jsonl, NAME.json or NAME.txt.
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) location: LocationArguments,
    /// Leave pictures without a caption as they are: no model is asked, and only tags find them.
    #[arg(long)]
    pub(crate) no_captions: bool,
    /// Captions that the model is asked for side by side.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) concurrency: u32,
    /// Where the pictures come from, where nothing beside them says it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) source: Option<String>,
    /// Under which licence they are, where nothing beside them says it.
    #[arg(long, value_name = "TEXT", visible_alias = "license")]
    pub(crate) licence: Option<String>,
    /// Who made them, where nothing beside them says it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) author: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
}

#[derive(Args, Debug)]
pub(crate) struct LibrarySearchArguments {
    /// What the pictures should show, in English or Chinese.
    pub(crate) caption: String,
    #[command(flatten)]
    pub(crate) location: LocationArguments,
    /// Most pictures.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) count: u32,
}

#[derive(Args, Debug)]
pub(crate) struct LibraryShowArguments {
    #[command(flatten)]
    pub(crate) location: LocationArguments,
}
