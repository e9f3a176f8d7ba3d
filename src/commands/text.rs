//! Owns text for people: names from elsewhere, durations, tables.

use std::fmt::Write;
use std::time::Duration;

/// A name or a message that somebody else wrote, without anything that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| {
        let is_format =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || is_format { c.escape_default().to_string() } else { c.to_string() }
    };
    text.chars().map(escape).collect()
}

/// A duration in its two largest units, such as `12.3s`, `4m 05s`, `3d 02h`.
pub(super) fn age(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{:.1}s", (seconds * 10.0).floor() / 10.0);
    }
    let whole = Duration::try_from_secs_f64(seconds.min(1e12)).unwrap_or_default().as_secs();
    match whole {
        0..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// A time that something took, in milliseconds.
pub(super) fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Whether its cells end at the same place, as figures do.
    pub(super) is_figure: bool,
}

/// The rows below the names of the columns, aligned.
pub(super) fn table(columns: &[Column], rows: &[Vec<String>]) -> Vec<String> {
    let names: Vec<String> = columns.iter().map(|column| column.name.to_owned()).collect();
    let rows = || std::iter::once(&names).chain(rows);
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| rows().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for ((cell, column), &width) in row.iter().zip(columns).zip(&widths) {
            let gap = if line.is_empty() { "" } else { "  " };
            // Writing into a String cannot fail.
            let _ = if column.is_figure {
                write!(line, "{gap}{cell:>width$}")
            } else {
                write!(line, "{gap}{cell:<width$}")
            };
        }
        line.trim_end().to_owned()
    };
    rows().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\n\u{202e}b \u{fc}"), "a\\u{1b}[2J\\n\\u{202e}b \u{fc}");
    }

    #[test]
    fn an_age_has_two_units_at_most() {
        let ages = [0.04, 59.94, 59.99, 60.0, 125.0, 3600.0, 7325.0, 86_400.0, 270_000.0].map(age);
        assert_eq!(
            ages,
            ["0.0s", "59.9s", "59.9s", "1m 00s", "2m 05s", "1h 00m", "2h 02m", "1d 00h", "3d 03h"]
        );
    }

    #[test]
    fn figures_end_at_the_same_place() {
        let columns = [("NAME", false), ("N", true)].map(|(name, is_figure)| Column { name, is_figure });
        let rows = [["b\u{fc}cher", "1"], ["a", "200"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&columns, &rows), ["NAME      N", "b\u{fc}cher    1", "a       200"]);
    }
}
