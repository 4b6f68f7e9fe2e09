//! `inkstone library`: pictures that articles are illustrated with: brought in, looked for, counted.

mod captioner;
mod importing;

use anyhow::ensure;
use inkstone_pictures::{
    Search,
    library::{Hit, Summary},
};

use super::{
    client::write_out,
    composition::open_library,
    run_until_stopped,
    table::{Cell, Style, bytes, table},
};
use crate::{
    arguments::{LibraryCommand, LibrarySearchArguments},
    telemetry::Console,
};

/// Of a picture's digest: enough to tell it from the others, and to find it by.
const SHORT_DIGEST: usize = 12;

pub(crate) fn run(command: LibraryCommand, console: &Console) -> anyhow::Result<()> {
    match command {
        LibraryCommand::Import(arguments) => importing::run(arguments, console),
        LibraryCommand::Search(arguments) => until_stopped(async || search(&arguments).await),
        LibraryCommand::Show(arguments) => until_stopped(async || {
            let library = open_library(&arguments.location.library, false).await?;
            Ok(write_out(&shown(&library.summary().await?))?)
        }),
    }
}

fn until_stopped(work: impl AsyncFnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    run_until_stopped(async |stop| {
        let done = stop.run_until_cancelled(work()).await;
        done.unwrap_or(Ok(()))
    })
}

async fn search(arguments: &LibrarySearchArguments) -> anyhow::Result<()> {
    ensure!(
        !arguments.caption.trim().is_empty(),
        "a caption to look for is wanted, found nothing"
    );
    let library = open_library(&arguments.location.library, false).await?;
    let search = Search {
        caption: arguments.caption.clone(),
        exclude: vec![],
        max_pictures: arguments.count as usize,
    };
    let hits = library.find(&search).await?;
    Ok(write_out(&found(&hits))?)
}

/// What was found, best first.
fn found(hits: &[Hit]) -> String {
    if hits.is_empty() {
        return "nothing found\n".to_owned();
    }
    let or_none = |text: &Option<String>| match text.as_deref() {
        None | Some("") => Cell::none(),
        Some(text) => Cell::new(text),
    };
    let row = |hit: &Hit| {
        let (record, details) = (&hit.record, &hit.record.details);
        let tags = match details.tags.as_slice() {
            [] => String::new(),
            tags => format!("  [{}]", tags.join(", ")),
        };
        vec![
            Cell::number(format!("{:.2}", hit.score)),
            Cell::new(record.index.get(..SHORT_DIGEST).unwrap_or(&record.index)),
            Cell::number(format!("{}×{}", record.width, record.height)),
            or_none(&details.author),
            or_none(&details.licence),
            Cell::new(format!("{}{tags}", details.caption).trim()),
        ]
    };
    let rows: Vec<_> = hits.iter().map(row).collect();
    let titles = ["SCORE", "PICTURE", "SIZE", "AUTHOR", "LICENCE", "CAPTION"];
    table(Style::Plain, &titles, &rows)
}

/// What a library holds.
fn shown(summary: &Summary) -> String {
    let mut rows = vec![
        ("library", summary.location.clone()),
        ("pictures", summary.pictures.to_string()),
        ("size", bytes(summary.bytes)),
    ];
    let kinds = summary.by_media_type.iter();
    let kinds: Vec<String> = kinds
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    if !kinds.is_empty() {
        rows.push(("kinds", kinds.join(", ")));
    }
    rows.push((
        "no caption",
        match summary.without_caption {
            0 => "0".to_owned(),
            count => format!("{count} (an import of their folder with a model makes captions)"),
        },
    ));
    rows.push((
        "index",
        match &summary.index_folder {
            Some(folder) => folder.display().to_string(),
            None => "in memory".to_owned(),
        },
    ));
    for object in &summary.damaged {
        rows.push((
            "damaged",
            format!("{object} (an import of its pictures mends it)"),
        ));
    }
    let lines = rows.iter();
    let lines = lines.map(|(name, value)| format!("{name:<12}{value}\n"));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use inkstone_pictures::library::{Details, Record};

    use super::*;

    fn hit(caption: &str) -> Hit {
        Hit {
            record: Record {
                index: "0123456789abcdef".repeat(4),
                media_type: "image/png".to_owned(),
                bytes: 10,
                width: 640,
                height: 480,
                details: Details {
                    caption: caption.to_owned(),
                    tags: vec!["boat".to_owned(), "船".to_owned()],
                    licence: Some("CC BY 4.0".to_owned()),
                    ..Details::default()
                },
            },
            score: 3.136,
        }
    }

    #[test]
    fn what_was_found_is_a_table() {
        let table = found(&[hit("a boat"), hit("a \u{1b}boat")]);
        let wanted = "\
SCORE  PICTURE          SIZE  AUTHOR  LICENCE    CAPTION
 3.14  0123456789ab  640×480  –       CC BY 4.0  a boat  [boat, 船]
 3.14  0123456789ab  640×480  –       CC BY 4.0  a  boat  [boat, 船]
";
        assert_eq!(table, wanted);
        assert_eq!(found(&[]), "nothing found\n");
    }

    #[test]
    fn a_library_is_shown_with_what_it_lacks() {
        let summary = Summary {
            location: "/l".to_owned(),
            index_folder: None,
            pictures: 3,
            bytes: 2048,
            without_caption: 1,
            by_media_type: [("image/jpeg".to_owned(), 1), ("image/png".to_owned(), 2)].into(),
            damaged: vec!["records/0a".to_owned()],
        };
        let wanted = "\
library     /l
pictures    3
size        2.0 KiB
kinds       image/jpeg 1, image/png 2
no caption  1 (an import of their folder with a model makes captions)
index       in memory
damaged     records/0a (an import of its pictures mends it)
";
        assert_eq!(shown(&summary), wanted);
    }
}
