//! Folders that somebody else filled.

use super::super::batch;
use super::super::import::SkipReason;
use super::*;

fn reasons(report: &ImportReport) -> Vec<String> {
    let skipped = report
        .skipped
        .iter()
        .map(|(path, reason)| format!("{}: {reason}", path.display()));
    skipped.collect()
}

#[tokio::test]
async fn names_that_lead_elsewhere() {
    let outer = tempfile::tempdir().expect("a folder");
    let folder = outer.path().join("folder");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(outer.path().join("secret.png"), picture(1)).expect("written");
    std::fs::write(outer.path().join("secret.txt"), "a secret").expect("written");
    std::fs::write(folder.join("mine.png"), picture(2)).expect("written");
    let listing = [
        r#"{"file_name": "../secret.png", "caption": "x"}"#.to_owned(),
        format!(
            r#"{{"file_name": "{}", "caption": "x"}}"#,
            outer.path().join("secret.png").display()
        ),
        r#"{"file_name": "folder/../../secret.png", "caption": "x"}"#.to_owned(),
        r#"{"file_name": "", "caption": "x"}"#.to_owned(),
        r#"{"file_name": "mine.png/../mine.png", "caption": "x"}"#.to_owned(),
        r#"{"file_name": "mine.png\u0000", "caption": "x"}"#.to_owned(),
        r#"{"file_name": ["mine.png"], "caption": "x"}"#.to_owned(),
        r#"{"caption": "of nothing"}"#.to_owned(),
        r#"{"file_name": "mine.png", "caption": "the right one"}"#.to_owned(),
    ];
    std::fs::write(folder.join("metadata.jsonl"), listing.join("\n")).expect("written");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outer.path().join("secret.png"), folder.join("link.png"))
            .expect("a link");
        std::os::unix::fs::symlink(outer.path(), folder.join("loop")).expect("a link");
    }
    let library = library(Vec::new()).await;
    let report = import(&library, &folder).await;
    assert_eq!(report.imported, 1, "{report:?}");
    assert_eq!(captions(&library, "right one").await, ["the right one"]);
    let reasons = reasons(&report);
    assert_eq!(
        reasons
            .iter()
            .filter(|reason| reason.contains("leads out of the folder"))
            .count(),
        4,
        "{reasons:?}"
    );
    assert_eq!(reasons.len(), 7, "{reasons:?}");
}

#[tokio::test]
async fn listings_without_sense() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.png"), picture(1)).expect("written");
    let mut listing = Vec::new();
    listing.extend_from_slice(b"not json\n");
    listing.extend_from_slice(b"{\"file_name\": \"a.png\", \"caption\": \"\xff\xfe\"}\n");
    listing.extend_from_slice(
        format!(
            "{{\"file_name\": \"a.png\", \"caption\": \"{}\"}}\n",
            "x".repeat(3 << 20)
        )
        .as_bytes(),
    );
    listing.extend_from_slice(b"{\"file_name\": \"a.png\", \"caption\": {\"text\": \"x\"}}\n");
    listing.extend_from_slice(b"{\"file_name\": \"a.png\", \"tags\": [\"x\", 7]}\n");
    listing.extend_from_slice(format!("{}{}\n", "[".repeat(5000), "]".repeat(5000)).as_bytes());
    listing.extend_from_slice(b"{\"file_name\": \"a.png\", \"author\": \"Ada\"}");
    std::fs::write(folder.path().join("metadata.jsonl"), listing).expect("written");
    let library = library(Vec::new()).await;
    let report = import(&library, folder.path()).await;
    let reasons = reasons(&report);
    assert_eq!((report.imported, reasons.len()), (1, 6), "{reasons:?}");
    for (line, reason) in (1..).zip(&reasons) {
        assert!(
            reason.contains(&format!("metadata.jsonl: cannot be read: line {line}: ")),
            "{reason}"
        );
    }
    assert!(
        reasons[2].contains("longer than 1048576 bytes"),
        "{reasons:?}"
    );
    let record = contents(&library)
        .await
        .into_values()
        .next()
        .expect("a record");
    assert_eq!(
        (
            record.details.caption.as_str(),
            record.details.author.as_deref()
        ),
        ("", Some("Ada")),
        "the last line counts"
    );
}

#[tokio::test]
async fn sidecars_without_end_or_sense() {
    let folder = tempfile::tempdir().expect("a folder");
    for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        std::fs::write(
            folder.path().join(format!("{name}.png")),
            picture(u32::try_from(number).expect("small")),
        )
        .expect("written");
    }
    std::fs::write(folder.path().join("a.txt"), vec![b'a'; 2 << 20]).expect("written");
    std::fs::write(folder.path().join("b.txt"), b"caf\xe9").expect("written");
    std::fs::write(folder.path().join("c.json"), b"[1, 2]").expect("written");
    std::fs::write(folder.path().join("d.txt"), "长".repeat(5000)).expect("written");
    let library = library(Vec::new()).await;
    let report = import(&library, folder.path()).await;
    assert_eq!(
        (report.imported, report.skipped_in_all),
        (4, 3),
        "{report:?}"
    );
    assert!(
        report
            .skipped
            .iter()
            .all(|(_, reason)| matches!(reason, SkipReason::Unreadable { .. }))
    );
    let longest = contents(&library)
        .await
        .into_values()
        .map(|record| record.details.caption.chars().count())
        .max();
    assert_eq!(longest, Some(2000), "a caption is a line");
}

#[tokio::test]
async fn thousands_of_bad_lines_are_counted_and_some_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("metadata.jsonl"),
        "nonsense\n".repeat(5000),
    )
    .expect("written");
    let report = import(&library(Vec::new()).await, folder.path()).await;
    assert_eq!(report.skipped.len(), 101);
    assert!(
        reasons(&report)[100].contains("4900 more"),
        "{:?}",
        report.skipped.last()
    );
}

#[cfg(unix)]
#[tokio::test]
async fn file_names_that_are_no_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join(OsStr::from_bytes(b"caf\xe9.png")),
        picture(1),
    )
    .expect("written");
    std::fs::write(
        folder.path().join(OsStr::from_bytes(b"caf\xe9.txt")),
        "a café",
    )
    .expect("written");
    std::fs::write(folder.path().join("line\nbreak\u{1b}.png"), picture(2)).expect("written");
    let library = library(Vec::new()).await;
    assert_eq!(import(&library, folder.path()).await.imported, 2);
    assert_eq!(captions(&library, "cafe").await, ["a café"]);
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_no_file_is_not_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.png"), picture(1)).expect("written");
    let _socket =
        std::os::unix::net::UnixListener::bind(folder.path().join("socket.png")).expect("a socket");
    assert_eq!(
        import(&library(Vec::new()).await, folder.path())
            .await
            .imported,
        1
    );
}

#[tokio::test]
async fn records_with_names_that_lead_elsewhere_are_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = at(folder.path()).await;
    let good = library
        .add(vec![entry(1, "a red apple")])
        .await
        .expect("added")
        .remove(0);
    let outside = Record {
        index: "../../../../etc/passwd".to_owned(),
        ..good.clone()
    };
    let (name, data) = batch::encode(u64::MAX, &[outside]).expect("encoded");
    assert!(name.as_str().len() > 10);
    std::fs::write(folder.path().join("records").join(name.as_str()), data).expect("written");
    let outside = Record {
        index: format!("..{}", &good.index[2..]),
        ..good
    };
    let (name, data) = batch::encode(7, &[outside]).expect("encoded");
    std::fs::write(folder.path().join("records").join(name.as_str()), data).expect("written");
    assert_eq!(library.refresh().await.expect("a count"), 1);
    assert_eq!(
        library
            .picture("../../../../etc/passwd")
            .await
            .expect("an answer"),
        None
    );
    assert_eq!(library.picture("é").await.expect("an answer"), None);
}
