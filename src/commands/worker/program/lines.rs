//! Owns the splitting of a stream into lines of bounded length.

/// Collects bytes until a line is whole.
#[derive(Debug)]
pub(in crate::commands::worker) struct LineSplitter {
    line: Vec<u8>,
    limit: usize,
    is_cut: bool,
}

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::commands::worker) struct Line<'a> {
    /// The first bytes of it, up to the limit.
    pub(in crate::commands::worker) bytes: &'a [u8],
    /// Whether it was longer than the limit.
    pub(in crate::commands::worker) is_cut: bool,
}

impl LineSplitter {
    /// Keeps at most `limit` bytes of each line.
    pub(in crate::commands::worker) fn new(limit: usize) -> Self {
        Self { line: Vec::new(), limit, is_cut: false }
    }

    /// Takes bytes from the stream up to the end of a line. Returns how many, and the line if it is whole; it has to be taken
    /// with [`LineSplitter::take`] before the next call.
    pub(in crate::commands::worker) fn push(&mut self, bytes: &[u8]) -> (usize, bool) {
        let end = bytes.iter().position(|&b| b == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let room = self.limit - self.line.len();
        self.is_cut |= part.len() > room;
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        (part.len() + usize::from(end.is_some()), end.is_some())
    }

    /// Hands the collected line to `see`, and forgets it.
    pub(in crate::commands::worker) fn take<R>(&mut self, see: impl FnOnce(&Line<'_>) -> R) -> R {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        let seen = see(&Line { bytes: line, is_cut: self.is_cut });
        self.line.clear();
        self.is_cut = false;
        seen
    }

    /// Whether the stream has ended in the middle of a line.
    pub(in crate::commands::worker) fn has_rest(&self) -> bool {
        !self.line.is_empty() || self.is_cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(limit: usize, pieces: &[&str]) -> Vec<(String, bool)> {
        let (mut splitter, mut lines) = (LineSplitter::new(limit), Vec::new());
        let mut keep = |line: &Line<'_>| {
            lines.push((String::from_utf8(line.bytes.to_vec()).unwrap(), line.is_cut));
        };
        for piece in pieces {
            let mut bytes = piece.as_bytes();
            while !bytes.is_empty() {
                let (taken, is_whole) = splitter.push(bytes);
                bytes = &bytes[taken..];
                if is_whole {
                    splitter.take(&mut keep);
                }
            }
        }
        if splitter.has_rest() {
            splitter.take(&mut keep);
        }
        lines
    }

    #[test]
    fn lines_are_whole_however_their_bytes_arrive_and_no_longer_than_the_limit() {
        let line = |text: &str, is_cut| (text.to_owned(), is_cut);
        let expected = [line("one", false), line("", false), line("three", false), line("re", false)];
        assert_eq!(split(5, &["one\n\nthree\r\nre"])[..2], expected[..2]);
        assert_eq!(split(6, &["o", "ne\n", "\nthr", "ee\r\n", "re"]), expected);
        assert_eq!(
            split(3, &["abc\nabcd\nabc", "d"]),
            [line("abc", false), line("abc", true), line("abc", true)]
        );
        assert_eq!(split(3, &[&"x".repeat(1 << 16), "\ny"]), [line("xxx", true), line("y", false)]);
    }
}
