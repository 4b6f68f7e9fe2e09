//! What is said about a composition's events: the article's text as it is, everything else in a line each.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use inkstone_proto::v1::{
    Article, ArticleDone, ArticleFinishReason, ComposeAccepted, ComposeStage, ImageSelected,
    Locations, PictureInfo, PictureSource, compose_event::Event,
};

/// What is to be shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Of the article, for standard output.
    pub(super) text: String,
    /// About it, for people.
    pub(super) lines: Vec<String>,
}

/// Turns events into words.
#[derive(Debug)]
pub(super) struct Teller {
    /// What the user calls the pictures that were sent along.
    names: Vec<String>,
    /// The same by digest.
    names_by_id: BTreeMap<String, String>,
    /// Pictures that each place was offered.
    num_candidates: BTreeMap<u32, usize>,
    /// The last line of the text has not ended yet.
    is_line_open: bool,
    /// Text and lines meet on one terminal.
    shares_terminal: bool,
    /// Said while a line of text was open: said after it.
    held: Vec<String>,
}

impl Teller {
    /// Of a composition with pictures from these files.
    pub(super) fn new(files: &[PathBuf]) -> Self {
        let name = |file: &PathBuf| {
            let name = file.file_name().unwrap_or(file.as_os_str());
            plain(&name.to_string_lossy())
        };
        Self {
            names: files.iter().map(name).collect(),
            names_by_id: BTreeMap::new(),
            num_candidates: BTreeMap::new(),
            is_line_open: false,
            shares_terminal: io::stdout().is_terminal() && io::stderr().is_terminal(),
            held: vec![],
        }
    }

    /// What an event comes to.
    pub(super) fn tell(&mut self, event: &Event) -> Shown {
        let mut shown = Shown::default();
        match event {
            Event::Accepted(accepted) => {
                let names = accepted.pictures.iter().cloned().zip(self.names.drain(..));
                self.names_by_id = names.collect();
                shown.lines.push(told_accepted(accepted));
            }
            Event::TextDelta(delta) => {
                shown.text.clone_from(&delta.text);
                if let Some(last) = delta.text.chars().last() {
                    self.is_line_open = last != '\n';
                }
            }
            Event::ArticleDone(done) => {
                self.end_text(&mut shown);
                shown.lines.push(told_done(done));
            }
            Event::Locations(locations) => shown.lines.push(told_locations(locations)),
            Event::Caption(caption) => {
                let (place, text) = (caption.location, plain(&caption.text));
                shown.lines.push(format!(
                    "segment {place}: wanted is a picture of \"{text}\""
                ));
            }
            Event::Candidates(candidates) => {
                let count = candidates.pictures.len();
                self.num_candidates.insert(candidates.location, count);
            }
            Event::ImageSelected(selected) => shown.lines.push(self.told_selected(selected)),
            Event::LocationDropped(dropped) => {
                let text = plain(&dropped.text);
                shown
                    .lines
                    .push(format!("segment {}: no picture: {text}", dropped.location));
            }
            Event::Warning(warning) => {
                shown
                    .lines
                    .push(format!("warning: {}", plain(&warning.text)));
            }
            Event::Done(_) | Event::Error(_) => self.end_text(&mut shown),
            Event::SegmentClosed(_) | Event::CandidatesRequest(_) | Event::Progress(_) => {}
        }
        if self.is_line_open {
            self.held.append(&mut shown.lines);
        }
        shown
    }

    /// What must be written before a line that cannot wait, if anything: the text goes on below it then.
    pub(super) fn break_line(&self) -> Option<&'static str> {
        let breaks = self.is_line_open && self.shares_terminal;
        breaks.then_some("\n")
    }

    fn end_text(&mut self, shown: &mut Shown) {
        if self.is_line_open {
            shown.text.push('\n');
            self.is_line_open = false;
        }
        shown.lines.append(&mut self.held);
    }

    fn told_selected(&self, selected: &ImageSelected) -> String {
        let ImageSelected {
            location,
            candidate,
            picture,
            raw,
            by_default,
        } = selected;
        let picture = picture.as_ref();
        let upload = picture.and_then(|picture| self.names_by_id.get(&picture.id));
        let count = self.num_candidates.get(location).copied();
        let mut text = format!("segment {location}: ");
        text += &match (upload, count) {
            (Some(name), _) => name.clone(),
            (None, Some(1)) => "the one picture that was found".to_owned(),
            (None, Some(count)) => format!("picture {} of {count} that were found", candidate + 1),
            (None, None) => format!("picture {}", candidate + 1),
        };
        if *by_default {
            text += &match plain(raw).as_str() {
                "" => "; the first one, as the model could not be asked".to_owned(),
                raw => format!("; the first one, as the model's answer \"{raw}\" names none"),
            };
        }
        let origin = picture.map(origin).unwrap_or_default();
        if !origin.is_empty() {
            text += &format!(" ({origin})");
        }
        text
    }
}

fn told_accepted(accepted: &ComposeAccepted) -> String {
    let source = PictureSource::try_from(accepted.picture_source).unwrap_or_default();
    let sent = accepted.pictures.len();
    let pictures = match (accepted.picture_count, source) {
        (Some(0), _) => "text only".to_owned(),
        (Some(count), PictureSource::Uploads) => format!("{count} of {sent} pictures sent along"),
        (None, PictureSource::Uploads) => format!("{} sent along", counted(sent, "picture")),
        (Some(count), _) => counted(count as usize, "picture"),
        (None, _) => "pictures where the model sees fit".to_owned(),
    };
    format!("composing with seed {}, {pictures}", accepted.seed)
}

fn told_done(done: &ArticleDone) -> String {
    let mut text = format!(
        "written: {}",
        counted(done.num_segments as usize, "segment")
    );
    if let Some(tokens) = done.completion_tokens {
        text += &format!(", {}", counted(tokens as usize, "token"));
    }
    match ArticleFinishReason::try_from(done.finish_reason).unwrap_or_default() {
        ArticleFinishReason::Length => text += ", ended at a limit of tokens or segments",
        ArticleFinishReason::Cancelled => text += ", cancelled",
        ArticleFinishReason::Stop | ArticleFinishReason::Unspecified => {}
    }
    text
}

fn told_locations(locations: &Locations) -> String {
    let places: Vec<String> = locations.locations.iter().map(u32::to_string).collect();
    let places = match places.as_slice() {
        [] => return "places for pictures: none".to_owned(),
        [only] => format!("after segment {only}"),
        [first @ .., last] => format!("after segments {} and {last}", first.join(", ")),
    };
    match locations.by_default {
        true => format!(
            "places for pictures: {places}; spread evenly, as the model named none that there is"
        ),
        false => format!("places for pictures: {places}"),
    }
}

/// Where a picture is from.
fn origin(picture: &PictureInfo) -> String {
    let told = [&picture.author, &picture.licence, &picture.source];
    let told = told.into_iter().map(|text| plain(text));
    let told: Vec<String> = told.filter(|text| !text.is_empty()).collect();
    told.join(", ")
}

/// A stage whose progress is counted; the text shows its own.
pub(super) fn counted_stage(stage: i32) -> Option<&'static str> {
    match ComposeStage::try_from(stage).unwrap_or_default() {
        ComposeStage::Captions => Some("captions"),
        ComposeStage::Pictures => Some("pictures"),
        ComposeStage::Unspecified | ComposeStage::Article | ComposeStage::Locations => None,
    }
}

/// What the article has come to.
pub(super) fn summary(article: &Article, kept_for: Duration) -> String {
    let mut text = format!(
        "article {}: {}, {}",
        plain(&article.id),
        counted(article.segments.len(), "segment"),
        counted(num_pictures(article), "picture"),
    );
    let seconds = kept_for.as_secs();
    text += &match (seconds / 60, seconds) {
        (_, 0) => String::new(),
        (0 | 1, seconds) => format!("; kept for {seconds} s"),
        (minutes, _) => format!("; kept for {minutes} minutes"),
    };
    text
}

/// Segments that have a picture.
pub(super) fn num_pictures(article: &Article) -> usize {
    let segments = article.segments.iter();
    segments.filter(|s| s.illustration.is_some()).count()
}

fn counted(count: usize, name: &str) -> String {
    match count {
        1 => format!("1 {name}"),
        _ => format!("{count} {name}s"),
    }
}

/// What comes from a model or a stranger's picture does not steer the terminal.
fn plain(text: &str) -> String {
    text.trim().replace(char::is_control, " ")
}
