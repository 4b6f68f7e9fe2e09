//! Aligned columns, bars, and colours for those who can see them.

/// Whether colours are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Coloured,
}

/// What a text is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Normal,
    /// Titles.
    Bold,
    /// What matters less.
    Faint,
    Good,
    /// It is on its way.
    Busy,
    Bad,
}

/// A text in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    is_number: bool,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::toned(text, Tone::Normal)
    }

    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            // What comes from the cluster does not steer the terminal.
            text: text.into().replace(char::is_control, " "),
            tone,
            is_number: false,
        }
    }

    /// Stands at the right of its column.
    pub(crate) fn number(text: impl Into<String>) -> Self {
        Self {
            is_number: true,
            ..Self::new(text)
        }
    }

    /// Nothing to be said.
    pub(crate) fn none() -> Self {
        Self::toned("–", Tone::Faint)
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl Style {
    pub(crate) fn paint(self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Normal => return text.to_owned(),
            Tone::Bold => 1,
            Tone::Faint => 2,
            Tone::Bad => 31,
            Tone::Good => 32,
            Tone::Busy => 33,
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// The rows under their titles, aligned.
pub(crate) fn table(style: Style, titles: &[&str], rows: &[Vec<Cell>]) -> String {
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(Cell::width).max().unwrap_or(0);
            widest.max(title.chars().count())
        })
        .collect();
    let numbers = |column: usize| {
        let mut cells = rows.iter().filter_map(|row| row.get(column));
        cells.any(|cell| cell.is_number)
    };
    let titles: Vec<Cell> = titles
        .iter()
        .enumerate()
        .map(|(column, title)| Cell {
            is_number: numbers(column),
            ..Cell::toned(*title, Tone::Bold)
        })
        .collect();
    let lines = std::iter::once(&titles).chain(rows);
    lines.map(|row| line(style, row, &widths)).collect()
}

fn line(style: Style, row: &[Cell], widths: &[usize]) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        let padding = " ".repeat(width - cell.width());
        let text = style.paint(&cell.text, cell.tone);
        let is_last = column + 1 == row.len();
        line += &match (cell.is_number, is_last) {
            (true, true) => format!("{padding}{text}"),
            (true, false) => format!("{padding}{text}  "),
            // Nothing after the last word of a line.
            (false, true) => text,
            (false, false) => format!("{text}{padding}  "),
        };
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// A bar of `width` places: so much of it full, and so much half full after that.
pub(crate) fn bar(full: f64, half: f64, width: usize) -> String {
    let places = |share: f64| (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    let num_full = places(full);
    let num_half = places(full + half).saturating_sub(num_full);
    let num_empty = width.saturating_sub(num_full + num_half);
    "█".repeat(num_full) + &"▒".repeat(num_half) + &"░".repeat(num_empty)
}

/// `12.3 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    // What would be shown as 1024 is one of the next unit.
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if size >= 100.0 => format!("{size:.0} {}", UNITS[unit]),
        _ => format!("{size:.1} {}", UNITS[unit]),
    }
}

/// `812`, `5.2k`, `1.3M`.
pub(crate) fn count(number: f64) -> String {
    let (number, unit) = match number {
        number if number >= 999_950_000.0 => (number / 1e9, "G"),
        number if number >= 999_950.0 => (number / 1e6, "M"),
        number if number >= 999.5 => (number / 1e3, "k"),
        number => return format!("{number:.0}"),
    };
    match number >= 99.95 {
        true => format!("{number:.0}{unit}"),
        false => format!("{number:.1}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let rows = [
            vec![Cell::new("a"), Cell::number("5"), Cell::new("xx")],
            vec![Cell::new("long"), Cell::number("1234"), Cell::none()],
        ];
        let text = table(Style::Plain, &["NAME", "SIZE", "LAST"], &rows);
        assert_eq!(text, "NAME  SIZE  LAST\na        5  xx\nlong  1234  –\n");
    }

    #[test]
    fn colours_do_not_count_as_width_and_names_do_not_steer_the_terminal() {
        let rows = [vec![Cell::toned("\x1b[31ma", Tone::Bad), Cell::new("b")]];
        let text = table(Style::Coloured, &["X", "Y"], &rows);
        assert_eq!(
            text,
            "\x1b[1mX\x1b[0m       \x1b[1mY\x1b[0m\n\x1b[31m [31ma\x1b[0m  b\n"
        );
    }

    #[test]
    fn bars_show_shares() {
        assert_eq!(bar(0.5, 0.25, 8), "████▒▒░░");
        assert_eq!(bar(0.0, 0.0, 4), "░░░░");
        assert_eq!(bar(1.0, 1.0, 4), "████");
        assert_eq!(bar(f64::NAN, 0.0, 4), "░░░░");
    }

    #[test]
    fn sizes_are_for_people() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (15_000_000_000, "14.0 GiB"),
            (200 << 30, "200 GiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
        for (number, text) in [
            (0.4, "0"),
            (999.0, "999"),
            (999.6, "1.0k"),
            (5230.0, "5.2k"),
            (123_456.0, "123k"),
            (1_300_000.0, "1.3M"),
        ] {
            assert_eq!(count(number), text);
        }
    }
}
