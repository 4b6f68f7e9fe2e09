//! The article as a file.

use std::path::Path;

use anyhow::{Context, ensure};

use super::connection::Connection;
use crate::arguments::ExportFile;

/// Says before anything is written what would keep the article from its file.
pub(super) fn check_place(path: &Path) -> anyhow::Result<()> {
    ensure!(!path.is_dir(), "{} is a folder", path.display());
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    ensure!(
        folder.is_dir(),
        "there is no folder {} to write {} to",
        folder.display(),
        path.display()
    );
    Ok(())
}

/// Writes the export, and says how long it is.
pub(super) async fn write_export(
    connection: &Connection,
    article_id: &str,
    out: &ExportFile,
) -> anyhow::Result<u64> {
    let data = connection.export(article_id, out.format()).await;
    let data = data.with_context(|| {
        format!("article {article_id} was composed, but could not be fetched as a file")
    })?;
    let path = out.path();
    std::fs::write(path, &data).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(data.len() as u64)
}
