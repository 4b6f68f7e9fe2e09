//! A place on its way to a picture: how far it has come.

use super::Work;
use crate::{Picture, article::Illustration};

/// A place on its way to a picture.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) place: usize,
    /// As soon as it is known; later captions are told it, whatever becomes of the place.
    pub(super) caption: Option<String>,
    pub(super) progress: Progress,
}

#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// Has no caption yet, or needs none.
    Waiting,
    Captioning,
    /// Its search waits for its turn.
    Captioned,
    Searching,
    /// Its choice waits for its turn.
    Found(Vec<Picture>),
    Choosing(Vec<Picture>),
    /// With a picture, or dropped.
    Settled(Option<Illustration>),
}

impl Slot {
    pub(super) fn new(place: usize) -> Self {
        Self {
            place,
            caption: None,
            progress: Progress::Waiting,
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self.progress, Progress::Settled(_))
    }

    pub(super) fn illustration(&self) -> Option<&Illustration> {
        match &self.progress {
            Progress::Settled(illustration) => illustration.as_ref(),
            Progress::Waiting
            | Progress::Captioning
            | Progress::Captioned
            | Progress::Searching
            | Progress::Found(_)
            | Progress::Choosing(_) => None,
        }
    }

    /// Whether its caption was made or given up.
    pub(super) fn is_past_caption(&self) -> bool {
        !matches!(self.progress, Progress::Waiting | Progress::Captioning)
    }

    /// Whether its search is over or will not be.
    pub(super) fn is_past_search(&self) -> bool {
        match self.progress {
            Progress::Waiting
            | Progress::Captioning
            | Progress::Captioned
            | Progress::Searching => false,
            Progress::Found(_) | Progress::Choosing(_) | Progress::Settled(_) => true,
        }
    }

    /// What runs for it.
    pub(super) fn work(&self) -> Option<Work> {
        let place = self.place;
        match self.progress {
            Progress::Captioning => Some(Work::Caption { place }),
            Progress::Searching => Some(Work::Search { place }),
            Progress::Choosing(_) => Some(Work::Choice { place }),
            Progress::Waiting | Progress::Captioned | Progress::Found(_) | Progress::Settled(_) => {
                None
            }
        }
    }
}
