use std::{path::Path, time::Duration};

use clap::{CommandFactory, error::ErrorKind};
use inkstone_cluster::{InProcessRegistry, NodeId};
use inkstone_coordinator::{Config, PlacementSettings};
use inkstone_proto::v1::ExportFormat;

use super::{compose::PictureCount, *};

/// What the command line means, or what is wrong with it.
fn parse(line: &str) -> Result<Command, clap::Error> {
    let typed = ["inkstone"].into_iter().chain(line.split_whitespace());
    Arguments::try_parse_from(typed).map(|arguments| arguments.command)
}

impl ComposeArguments {
    /// What stands after `inkstone compose`.
    pub(crate) fn typed(typed: &[&str]) -> Self {
        let typed = ["inkstone", "compose"].iter().chain(typed);
        match Arguments::try_parse_from(typed).map(|arguments| arguments.command) {
            Ok(Command::Compose(arguments)) => arguments,
            other => panic!("{other:?}"),
        }
    }
}

fn import(line: &str) -> LibraryImportArguments {
    match parse(&format!("library import {line}")) {
        Ok(Command::Library(LibraryArguments {
            command: LibraryCommand::Import(arguments),
        })) => arguments,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(line: &str, kind: ErrorKind, about: &str) {
    let error = parse(line).unwrap_err();
    assert_eq!(error.kind(), kind, "{line}: {error}");
    assert!(error.to_string().contains(about), "{line}: {error}");
}

#[test]
fn no_flag_is_there_twice() {
    Arguments::command().debug_assert();
}

#[test]
fn the_number_of_pictures_is_a_number_or_a_word() {
    for (typed, wanted) in [
        ("auto", None),
        ("none", Some(0)),
        ("0", Some(0)),
        ("6", Some(6)),
    ] {
        let arguments = ComposeArguments::typed(&["x", "--pictures", typed]);
        assert_eq!(arguments.pictures.wanted(), wanted);
    }
    assert_eq!(ComposeArguments::typed(&["x"]).pictures, PictureCount::Auto);
    for typed in ["many", "-1", "1.5"] {
        let line = format!("compose x --pictures={typed}");
        refused(
            &line,
            ErrorKind::ValueValidation,
            "wanted `auto`, `none` or a number",
        );
    }
}

#[test]
fn the_ending_of_a_file_says_how_it_is_written() {
    for (name, format) in [
        ("a/b.zip", ExportFormat::Zip),
        ("b.HTML", ExportFormat::Html),
        ("b.htm", ExportFormat::Html),
        ("b.md", ExportFormat::Markdown),
        ("b.tar.json", ExportFormat::Json),
    ] {
        let out = ComposeArguments::typed(&["x", "--out", name]).out.unwrap();
        assert_eq!((out.path(), out.format()), (Path::new(name), format));
    }
    refused(
        "compose x --out b.pdf",
        ErrorKind::ValueValidation,
        "wanted .html, .zip, .md or .json, found .pdf",
    );
    refused(
        "compose x --out article",
        ErrorKind::ValueValidation,
        "wanted a name that ends in",
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    for line in [
        "compose x --greedy --temperature 1",
        "compose x --with-meta --system y",
        "serve --library a --picture-provider http://b/",
        "chat x --greedy --temperature 1",
    ] {
        refused(line, ErrorKind::ArgumentConflict, "cannot be used with");
    }
    refused(
        "serve --allow-private-host a",
        ErrorKind::MissingRequiredArgument,
        "--picture-provider",
    );
    refused(
        "compose",
        ErrorKind::MissingRequiredArgument,
        "<INSTRUCTION>",
    );
    refused(
        "compose x --picture-source client",
        ErrorKind::InvalidValue,
        "uploads, search",
    );
    refused(
        "serve --picture-provider http://a/ --allow-private-host 10.0.0.0/99",
        ErrorKind::ValueValidation,
        "10.0.0.0/99",
    );
    refused("serve --article-ttl 0", ErrorKind::ValueValidation, "0");
    refused("serve --max-articles 0", ErrorKind::ValueValidation, "0");
    refused(
        "library search x",
        ErrorKind::MissingRequiredArgument,
        "--library",
    );
}

#[test]
fn greedy_is_temperature_0() {
    let temperature = |typed: &[&str]| ComposeArguments::typed(typed).sampling.temperature();
    assert_eq!(temperature(&["x", "--greedy"]), Some(0.0));
    assert_eq!(temperature(&["x", "--temperature", "0.5"]), Some(0.5));
    assert_eq!(temperature(&["x"]), None);
}

#[test]
fn servers_say_what_they_compose_with() {
    let line = "--picture-provider http://a/ --allow-private-host b --allow-private-host 10.0.0.0/8 \
                --article-ttl 60 --max-articles 16";
    let Ok(Command::Serve(serve)) = parse(&format!("serve {line}")) else {
        panic!("serve takes {line}");
    };
    let Ok(Command::Coordinator(coordinator)) =
        parse(&format!("coordinator --language a:1 --vision b:1 {line}"))
    else {
        panic!("coordinator takes {line}");
    };
    for front in [serve.front, coordinator.front] {
        let composition = front.composition;
        let allowed = ["b", "10.0.0.0/8"].map(|host| host.parse().unwrap());
        assert_eq!(composition.pictures.allow_private_host, allowed);
        assert!(composition.pictures.is_given());
        assert_eq!(composition.article_ttl(), Some(Duration::from_secs(60)));
        assert_eq!(composition.max_articles(), Some(16));
    }
}

#[test]
fn an_import_asks_a_model_unless_told_not_to() {
    let arguments = import("pictures --library l");
    assert!(!arguments.no_captions);
    assert_eq!(
        (arguments.dir.as_path(), arguments.concurrency),
        (Path::new("pictures"), 4)
    );
    let arguments =
        import("pictures --library s3://b/p --no-captions --license MIT --author A --source S");
    assert!(arguments.no_captions);
    assert_eq!(arguments.location.library, "s3://b/p");
    assert_eq!(arguments.licence.as_deref(), Some("MIT"));
}

// A configuration follows its registry from the start, so there must be a runtime to follow it in.
#[tokio::test]
async fn a_whole_cluster_in_a_process_takes_the_limits_of_a_coordinator() {
    let limits = "--max-requests 3 --max-queued 8 --max-queue-wait 5";
    let of = |line: String| match parse(&line) {
        Ok(Command::Serve(arguments)) => arguments.front.admission,
        Ok(Command::Coordinator(arguments)) => arguments.front.admission,
        other => panic!("{other:?}"),
    };
    for line in [
        format!("serve {limits}"),
        format!("coordinator --language a:1 --vision b:2 {limits}"),
    ] {
        let placement = PlacementSettings::new(NodeId::new("coordinator-0"));
        let mut config = Config::for_registry(InProcessRegistry::new(), placement);
        of(line).apply(&mut config);
        assert_eq!(config.limits.max_requests, 3);
        assert_eq!(config.limits.max_queued_requests, 8);
        assert_eq!(config.limits.max_queued_per_tenant, 2);
        assert_eq!(config.limits.max_requests_per_connection, 11);
        assert_eq!(config.timeouts.queued, Duration::from_secs(5));
    }
    refused("serve --max-requests 0", ErrorKind::ValueValidation, "0");
}
