//! Owns the terminal while it shows a table: its second screen, without a cursor, and the way back.

use std::io::Write;

use rustix::termios::tcgetwinsize;

/// A terminal that does not say its size is taken for one of this size.
const USUAL: Size = Size { rows: 24, columns: 80 };

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The second screen of the terminal at stdout. Dropping it shows the first one again, as it was.
pub(super) struct Screen;

impl Screen {
    pub(super) fn open() -> Self {
        write("\x1b[?1049h\x1b[?25l");
        Self
    }

    /// Draws lines that fit the terminal over those of before, without clearing it first, which would flicker.
    #[expect(clippy::unused_self, reason = "only an open screen can be drawn on")]
    pub(super) fn draw(&self, lines: impl FnOnce(Size) -> Vec<String>) {
        let size = tcgetwinsize(std::io::stdout()).ok();
        let size = size.map(|size| Size { rows: size.ws_row.into(), columns: size.ws_col.into() });
        let size = size.filter(|size| size.rows > 0 && size.columns > 0).unwrap_or(USUAL);
        let lines = lines(size);
        let cut = |line: &String| line.chars().take(size.columns).collect::<String>();
        let lines: Vec<_> = lines.iter().take(size.rows).map(|line| cut(line) + "\x1b[K").collect();
        write(&format!("\x1b[H{}\x1b[J", lines.join("\r\n")));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write("\x1b[?25h\x1b[?1049l");
    }
}

/// An error is ignored: the terminal may be gone.
fn write(text: &str) {
    let mut output = std::io::stdout();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
