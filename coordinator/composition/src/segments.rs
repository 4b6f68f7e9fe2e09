//! From the text of an article to its segments, while it is still being written (spec section 2): white space around the
//! text goes, a run of newlines with the white space after it ends a segment, and the first so many segments are kept.

/// White space as the reference strips it.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The segments of a whole text.
pub fn segments_of(text: &str, max_segments: usize) -> Vec<String> {
    let mut reader = SegmentReader::new(max_segments);
    let mut segments = reader.push(text).closed;
    segments.extend(reader.finish());
    segments
}

/// What a stretch of text brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Read {
    /// Segments that are complete, in order.
    pub closed: Vec<String>,
    /// Bytes of the stretch that belong to the article; less than all when a segment too many begins in it.
    pub num_bytes: usize,
}

/// Takes text stretch by stretch. A segment closes when the first character of the next one is there.
#[derive(Debug, Clone)]
pub struct SegmentReader {
    max_segments: usize,
    num_closed: usize,
    /// Of the open segment, from its first visible character on.
    open: String,
    /// White space that belongs to the open segment if it goes on.
    gap: String,
    /// A newline came after the open segment.
    is_ended: bool,
    is_full: bool,
}

impl SegmentReader {
    pub fn new(max_segments: usize) -> Self {
        Self {
            max_segments,
            num_closed: 0,
            open: String::new(),
            gap: String::new(),
            is_ended: false,
            is_full: max_segments == 0,
        }
    }

    /// Whether a segment too many has begun: what follows is of no use.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    pub fn push(&mut self, text: &str) -> Read {
        let mut read = Read::default();
        if self.is_full {
            return read;
        }
        for (at, c) in text.char_indices() {
            if is_space(c) {
                self.push_space(c);
                continue;
            }
            if self.is_ended {
                self.is_ended = false;
                read.closed.push(std::mem::take(&mut self.open));
                self.num_closed += 1;
                if self.num_closed >= self.max_segments {
                    self.is_full = true;
                    read.num_bytes = at;
                    return read;
                }
            }
            self.open.push_str(&self.gap);
            self.gap.clear();
            self.open.push(c);
        }
        read.num_bytes = text.len();
        read
    }

    fn push_space(&mut self, c: char) {
        if self.open.is_empty() || self.is_ended {
            return;
        }
        if c == '\n' {
            self.is_ended = true;
            self.open.push_str(&self.gap);
            self.gap.clear();
        } else {
            self.gap.push(c);
        }
    }

    /// The last segment: the text is over.
    pub fn finish(self) -> Option<String> {
        let last = self.open.trim_end_matches(is_space);
        (!last.is_empty()).then(|| last.to_owned())
    }
}
