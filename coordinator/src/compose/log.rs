//! The events of a composition, kept whole so that they can be told again from any number on. Most are short stretches of text, which
//! take sixteen bytes each beside the text itself.

use inkstone_composition::procedure::{Event, Numbered};

/// Events in order, from number 0.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    /// All stretches of text, one after the other.
    text: String,
    events: Vec<Kept>,
    is_ended: bool,
}

#[derive(Debug)]
enum Kept {
    /// Where the stretch stands in the text.
    Text {
        start: u32,
        end: u32,
    },
    Other(Box<Event>),
}

impl EventLog {
    /// How many there are, which is the number of the next one.
    pub(super) fn len(&self) -> u64 {
        self.events.len() as u64
    }

    /// Whether the last one is there.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Adds the next event. After the last one nothing is added.
    pub(super) fn push(&mut self, event: Numbered) {
        let Numbered { sequence, event } = event;
        assert_eq!(sequence, self.len(), "events are numbered without gaps");
        if self.is_ended {
            return;
        }
        self.is_ended = event.is_last();
        let kept = match event {
            Event::TextDelta { text } => self.keep_text(text),
            event => Kept::Other(Box::new(event)),
        };
        self.events.push(kept);
    }

    /// The event of this number, if it is there.
    pub(super) fn get(&self, sequence: u64) -> Option<Numbered> {
        let kept = self.events.get(usize::try_from(sequence).ok()?)?;
        let event = match kept {
            Kept::Text { start, end } => Event::TextDelta {
                text: self.text[*start as usize..*end as usize].to_owned(),
            },
            Kept::Other(event) => (**event).clone(),
        };
        Some(Numbered { sequence, event })
    }

    /// How it ended, if it did.
    pub(super) fn last(&self) -> Option<&Event> {
        match self.events.last() {
            Some(Kept::Other(event)) if self.is_ended => Some(event),
            _ => None,
        }
    }

    fn keep_text(&mut self, text: String) -> Kept {
        let start = self.text.len();
        let end = start + text.len();
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => {
                self.text.push_str(&text);
                Kept::Text { start, end }
            }
            // No article is that long; one that is is still told right.
            _ => Kept::Other(Box::new(Event::TextDelta { text })),
        }
    }
}

#[cfg(test)]
mod tests {
    use inkstone_composition::procedure::{ComposeError, Stage};
    use proptest::prelude::*;

    use super::*;

    fn numbered(events: Vec<Event>) -> Vec<Numbered> {
        let events = (0..).zip(events);
        events
            .map(|(sequence, event)| Numbered { sequence, event })
            .collect()
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => "[a文é\n]{0,5}".prop_map(|text| Event::TextDelta { text }),
            1 => (0usize..9, "[a文]{0,5}")
                .prop_map(|(index, text)| Event::SegmentClosed { index, text }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_told_again_from_anywhere(
            events in prop::collection::vec(event(), 0..40),
            from in 0u64..50,
        ) {
            let events = numbered(events);
            let mut log = EventLog::default();
            for event in &events {
                log.push(event.clone());
            }
            let told: Vec<_> = (from..).map_while(|number| log.get(number)).collect();
            let wanted = events.get(from as usize..).unwrap_or_default();
            prop_assert_eq!(told, wanted);
        }
    }

    #[test]
    fn nothing_follows_the_last_event() {
        let last = Event::Error {
            stage: Stage::Article,
            error: ComposeError::Empty,
        };
        let mut log = EventLog::default();
        assert!(!log.is_ended());
        for event in numbered(vec![last.clone(), last.clone()]) {
            log.push(event);
        }
        assert!(log.is_ended());
        assert_eq!(log.len(), 1);
        assert_eq!(log.last(), Some(&last));
    }

    #[test]
    fn a_stretch_of_text_takes_little() {
        assert!(size_of::<Kept>() <= 16);
    }
}
