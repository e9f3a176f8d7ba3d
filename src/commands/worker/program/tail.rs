//! Owns the last lines of a stream, as far as they fit.

use std::collections::VecDeque;

/// How many bytes of the last lines are kept.
const MAX_TAIL: usize = 4096;

/// The last lines, each with its end.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    pub(super) fn push(&mut self, line: String) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > MAX_TAIL {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.len() + 1;
        }
    }

    pub(super) fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line, "\n"]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut tail = Tail::default();
        for number in 0..100_000 {
            tail.push(format!("line {number}"));
        }
        let text = tail.text();
        assert!(text.ends_with("line 99998\nline 99999\n") && text.len() <= MAX_TAIL, "{text}");
    }
}
