//! A picture on a terminal that is drawn again and again in its place.

use std::fmt::Write as _;

use crate::context::Context;
use crate::fault::Fault;

/// Rows that are taken where the terminal does not tell its size.
const ROWS_DEFAULT: u16 = 24;

/// Draws pictures over each other.
pub(crate) struct Live<'a> {
    context: &'a Context,
    drawn: usize,
}

impl<'a> Live<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, drawn: 0 }
    }

    /// Whether there is a terminal to draw on; if not, lines are written one below the other.
    pub(crate) fn redraws(&self) -> bool {
        self.context.screen().out
    }

    /// Replaces the picture. What does not fit the terminal is left out at the end, and it says so.
    pub(crate) fn draw(&mut self, picture: &str) -> Result<(), Fault> {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let rows = size.map(|size| size.ws_row).filter(|rows| *rows > 0).unwrap_or(ROWS_DEFAULT);
        let columns = size.map(|size| size.ws_col).filter(|columns| *columns > 0);
        let (lines, text) = fit(picture, usize::from(rows) - 1, columns.map(usize::from));
        // Up to the first line of the former picture, and clear from there on.
        let up = if self.drawn > 0 { format!("\u{1b}[{}A", self.drawn) } else { String::new() };
        self.context.print(&format!("{up}\u{1b}[J{text}"))?;
        self.drawn = lines;
        Ok(())
    }
}

/// The first `rows` lines, each cut to `columns`, and how many there are. Escapes have no width.
fn fit(picture: &str, rows: usize, columns: Option<usize>) -> (usize, String) {
    let all: Vec<&str> = picture.lines().collect();
    let shown = if all.len() > rows { rows.saturating_sub(1) } else { all.len() };
    let mut text = String::new();
    for line in &all[..shown] {
        text.push_str(&columns.map_or_else(|| (*line).to_owned(), |columns| cut(line, columns)));
        text.push('\n');
    }
    if shown < all.len() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "… {} more lines", all.len() - shown);
        return (shown + 1, text);
    }
    (shown, text)
}

fn cut(line: &str, columns: usize) -> String {
    let (mut text, mut width, mut in_escape) = (String::new(), 0, false);
    for c in line.chars() {
        match c {
            '\u{1b}' => in_escape = true,
            'm' if in_escape => {
                in_escape = false;
                text.push(c);
                continue;
            }
            _ => {}
        }
        if !in_escape {
            width += 1;
            if width > columns {
                text.push_str("\u{1b}[0m");
                break;
            }
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_never_scrolls_its_terminal() {
        assert_eq!(fit("a\nb\nc\n", 3, None), (3, "a\nb\nc\n".into()));
        assert_eq!(fit("a\nb\nc\nd\n", 3, None), (3, "a\nb\n… 2 more lines\n".into()));
    }

    #[test]
    fn colours_have_no_width() {
        assert_eq!(cut("\u{1b}[31mfailed\u{1b}[0m now", 6), "\u{1b}[31mfailed\u{1b}[0m\u{1b}[0m");
        assert_eq!(cut("short", 6), "short");
    }
}
