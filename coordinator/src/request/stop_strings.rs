//! Finds stop strings in a text that comes piece by piece, and holds back only what may still become one.

/// Looks for stop strings while the text grows. The first one to be complete wins; of several that end at the same
/// character, the longest. So what is let through never contains a stop string, however the text is cut into pieces.
#[derive(Debug, Clone)]
pub(crate) struct StopStrings {
    /// None is empty.
    stops: Vec<String>,
    /// The end of the text so far that is the beginning of a stop string.
    held: String,
}

/// What became of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// This much is not part of a stop string, and goes on.
    Pass(String),
    /// This much came before the stop string.
    Stop { before: String, stop_string: String },
}

impl StopStrings {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        assert!(
            stops.iter().all(|stop| !stop.is_empty()),
            "stop strings are checked on receipt"
        );
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Whether there is nothing to look for.
    pub(crate) fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// Takes the next piece of the text.
    pub(crate) fn push(&mut self, piece: &str) -> Scan {
        if self.stops.is_empty() {
            return Scan::Pass(piece.to_owned());
        }
        for character in piece.chars() {
            self.held.push(character);
            let complete = self.stops.iter().filter(|stop| self.held.ends_with(*stop));
            if let Some(stop_string) = complete.max_by_key(|stop| stop.len()).cloned() {
                let mut before = std::mem::take(&mut self.held);
                before.truncate(before.len() - stop_string.len());
                return Scan::Stop {
                    before,
                    stop_string,
                };
            }
        }
        let open = self.open_suffix();
        let held = self.held.split_off(open);
        Scan::Pass(std::mem::replace(&mut self.held, held))
    }

    /// The text that is held back; nothing follows that could complete a stop string.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the longest suffix starts that is the beginning of a stop string.
    fn open_suffix(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = (self.held.len() + 1).saturating_sub(longest);
        let mut starts = self.held.char_indices().map(|(start, _)| start);
        starts
            .find(|&start| {
                let suffix = &self.held[start..];
                start >= earliest && self.stops.iter().any(|stop| stop.starts_with(suffix))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule, on the whole text: the shortest beginning that ends with a stop string.
    fn search_whole(text: &str, stops: &[String]) -> (String, Option<String>) {
        let ends = text.char_indices().map(|(start, c)| start + c.len_utf8());
        for end in ends {
            let complete = stops.iter().filter(|stop| text[..end].ends_with(*stop));
            if let Some(stop) = complete.max_by_key(|stop| stop.len()) {
                return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    fn search_pieces(pieces: &[String], stops: &[String]) -> (String, Option<String>) {
        let mut matcher = StopStrings::new(stops.to_vec());
        let mut passed = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Scan::Pass(text) => passed += &text,
                Scan::Stop {
                    before,
                    stop_string,
                } => return (passed + &before, Some(stop_string)),
            }
        }
        (passed + &matcher.finish(), None)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn pieces_give_what_a_search_in_the_whole_text_gives(
            pieces in prop::collection::vec("[abé。]{0,4}", 0..12),
            stops in prop::collection::vec("[abé。]{1,4}", 0..4),
        ) {
            let whole = pieces.concat();
            prop_assert_eq!(search_pieces(&pieces, &stops), search_whole(&whole, &stops));
        }

        #[test]
        fn what_is_held_back_could_still_become_a_stop_string(
            pieces in prop::collection::vec("[ab]{0,3}", 0..8),
            stops in prop::collection::vec("[ab]{1,4}", 1..4),
        ) {
            let mut matcher = StopStrings::new(stops.clone());
            for piece in &pieces {
                if let Scan::Stop { .. } = matcher.push(piece) {
                    break;
                }
                let held = &matcher.held;
                let open = stops.iter().any(|stop| stop.starts_with(held.as_str()));
                prop_assert!(open, "{held:?} is held back for {stops:?}");
            }
        }
    }

    #[test]
    fn nothing_is_held_back_without_stop_strings() {
        let mut matcher = StopStrings::new(vec![]);
        assert_eq!(matcher.push("any text"), Scan::Pass("any text".into()));
        assert_eq!(matcher.finish(), "");
    }
}
