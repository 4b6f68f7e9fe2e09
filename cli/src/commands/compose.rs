//! `inkstone compose`: an article on the terminal as it is written, its pictures as they are chosen, and the whole as a file.

mod article;
mod connection;
mod teller;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Read, Write},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use inkstone_proto::v1::{
    Article, ComposeRequest, CompositionSampling, ExportFormat, Picture, PictureSource, StepOrder,
    compose_event::Event, picture::Source,
};
use tokio::time::timeout;

use self::{
    article::{check_place, write_export},
    connection::{Connection, Events},
    teller::{Shown, Teller},
};
use super::client::{Reached, with_cluster};
use crate::{
    arguments::{ComposeArguments, CompositionArguments, PictureSourceChoice},
    commands::table::bytes,
    telemetry::Console,
};

/// How long a server may take to end a composition that was cancelled.
const CANCEL_LIMIT: std::time::Duration = std::time::Duration::from_secs(15);

pub(crate) fn run(arguments: ComposeArguments, console: &Console) -> anyhow::Result<()> {
    if let Some(out) = &arguments.out {
        check_place(out.path())?;
    }
    let request = request(&arguments, io::stdin().lock())?;
    let teller = Teller::new(&arguments.image);
    if arguments.cluster.server.is_some() && arguments.source.is_given() {
        console.line(
            "warning: --library and --picture-provider have no effect: the server looks where it was told to look",
        );
    }
    let composition = CompositionArguments::with_source(arguments.source.clone());
    with_cluster(
        &arguments.cluster,
        Some(composition),
        console,
        async |reached| {
            let screen = Screen::new(teller, console);
            compose(&arguments, request, screen, reached).await
        },
    )
}

/// How a composition ended.
enum End {
    Done(Article),
    /// There is no article, and why.
    Failed(String),
}

async fn compose(
    arguments: &ComposeArguments,
    request: ComposeRequest,
    mut screen: Screen<'_>,
    reached: Reached,
) -> anyhow::Result<()> {
    let connection = Connection::to(&reached.address).await?;
    let stop = reached.stop;
    // Nothing is kept of a composition that was never taken.
    let Some(events) = stop.run_until_cancelled(connection.compose(request)).await else {
        bail!("cancelled");
    };
    let mut events = events?;
    let mut is_cut = false;
    let end = tokio::select! {
        end = follow(&mut events, &mut screen, arguments.out.is_some()) => Some(end?),
        () = stop.cancelled() => None,
    };
    let end = match end {
        Some(Followed::End(end)) => end,
        Some(Followed::NobodyReads) => {
            events.cancel().await?;
            return Ok(());
        }
        None => {
            is_cut = true;
            screen.say("cancelling; a second Ctrl-C stops at once");
            end_early(&mut events, &mut screen).await?
        }
    };
    screen.finish();
    let article = match end {
        End::Done(article) => article,
        End::Failed(_) if is_cut => bail!("cancelled before anything was written"),
        End::Failed(reason) => bail!("{reason}"),
    };
    if let Some(out) = &arguments.out {
        let written = write_export(&connection, &article.id, out).await?;
        screen.say(&format!(
            "wrote {} ({})",
            out.path().display(),
            bytes(written)
        ));
        if out.format() == ExportFormat::Markdown && teller::num_pictures(&article) > 0 {
            screen.say("its pictures are not in it: a .zip has both");
        }
    }
    screen.say(&teller::summary(&article, events.kept_for()));
    ensure!(!is_cut, "cancelled: the article is what was there by then");
    Ok(())
}

/// What came of following the events.
enum Followed {
    End(End),
    /// Standard output was closed, and no file is wanted.
    NobodyReads,
}

async fn follow(
    events: &mut Events,
    screen: &mut Screen<'_>,
    is_file_wanted: bool,
) -> anyhow::Result<Followed> {
    loop {
        let event = events.next(|notice| screen.say(notice)).await?;
        if !screen.show(&event)? && !is_file_wanted {
            return Ok(Followed::NobodyReads);
        }
        match event {
            Event::Done(done) => {
                let article = done
                    .article
                    .context("the server sent no article at the end")?;
                return Ok(Followed::End(End::Done(article)));
            }
            Event::Error(failed) => return Ok(Followed::End(End::Failed(failed.text))),
            _ => {}
        }
    }
}

/// Cancels on the server and waits for its last word.
async fn end_early(events: &mut Events, screen: &mut Screen<'_>) -> anyhow::Result<End> {
    let end = timeout(CANCEL_LIMIT, async {
        events.cancel().await?;
        follow(events, screen, true).await
    });
    match end.await {
        Ok(Ok(Followed::End(end))) => Ok(end),
        Ok(Ok(Followed::NobodyReads)) => bail!("cancelled"),
        Ok(Err(error)) => Err(error.context("cancelled")),
        Err(_) => bail!(
            "cancelled, and the server did not say in {} s what is there",
            CANCEL_LIMIT.as_secs()
        ),
    }
}

/// Where events are shown: text on standard output, the rest beside it.
struct Screen<'a> {
    teller: Teller,
    console: &'a Console,
    bar: Option<indicatif::ProgressBar>,
    stage: i32,
    is_out_open: bool,
}

impl<'a> Screen<'a> {
    fn new(teller: Teller, console: &'a Console) -> Self {
        Self {
            teller,
            console,
            bar: None,
            stage: 0,
            is_out_open: true,
        }
    }

    /// False once nobody reads the text.
    fn show(&mut self, event: &Event) -> anyhow::Result<bool> {
        let Shown { text, lines } = self.teller.tell(event);
        self.write(&text)?;
        for line in lines {
            self.console.line(&line);
        }
        if let Event::Progress(progress) = event {
            self.progress(progress.stage, progress.done, progress.total);
        }
        Ok(self.is_out_open)
    }

    /// Says something that is no event.
    fn say(&mut self, text: &str) {
        if let Some(text) = self.teller.break_line() {
            // The line stands on a terminal only, where both come out.
            let _ = self.write(text);
        }
        self.console.line(text);
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() || !self.is_out_open {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_out_open = false;
                Ok(())
            }
            done => done,
        }
    }

    fn progress(&mut self, stage: i32, done: u32, total: u32) {
        let Some(name) = teller::counted_stage(stage) else {
            return;
        };
        if self.stage != stage {
            self.finish();
            self.stage = stage;
            self.bar = Some(self.console.counting_bar(name, u64::from(total)));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(u64::from(total));
            bar.set_position(u64::from(done));
        }
    }

    /// Takes the bar away.
    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn request(arguments: &ComposeArguments, mut stdin: impl Read) -> anyhow::Result<ComposeRequest> {
    let instruction = match arguments.instruction.as_str() {
        "-" => {
            let mut text = String::new();
            let read = stdin.read_to_string(&mut text);
            read.context("cannot read the instruction from standard input")?;
            text.trim_end().to_owned()
        }
        text => text.to_owned(),
    };
    let sampling = &arguments.sampling;
    let order = match arguments.at_once {
        true => StepOrder::AtOnce,
        false => StepOrder::InTurn,
    };
    let source = match arguments.picture_source {
        None => PictureSource::Unspecified,
        Some(PictureSourceChoice::Uploads) => PictureSource::Uploads,
        Some(PictureSourceChoice::Search) => PictureSource::Search,
    };
    let pictures = arguments.image.iter().map(|file| read_picture(file));
    Ok(ComposeRequest {
        instruction,
        pictures: pictures.collect::<Result<_, _>>()?,
        picture_count: arguments.pictures.wanted(),
        picture_source: source.into(),
        sampling: (!sampling.is_default()).then(|| CompositionSampling {
            temperature: sampling.temperature(),
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            repetition_penalty: sampling.repetition_penalty,
        }),
        seed: sampling.seed,
        num_beams: arguments.beams,
        max_tokens: arguments.max_tokens,
        with_meta: arguments.with_meta,
        system: arguments.system.clone().unwrap_or_default(),
        captions: order.into(),
        choices: order.into(),
        ..ComposeRequest::default()
    })
}

fn read_picture(file: &Path) -> anyhow::Result<Picture> {
    let data = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Picture {
        source: Some(Source::Data(data.into())),
    })
}
