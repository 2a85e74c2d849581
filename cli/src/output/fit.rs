//! Text that fits a terminal: lines are cut or folded at its width. Escapes have no width.

/// Cuts a line that is longer than the terminal is wide; what is cut shows as `…`.
pub(crate) fn cut(line: &str, columns: usize) -> String {
    let (mut text, mut width, mut in_escape) = (String::new(), 0, false);
    let whole = visible(line);
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
            if width == columns && whole > columns {
                text.push('…');
                if line.contains('\u{1b}') {
                    text.push_str("\u{1b}[0m");
                }
                break;
            }
        }
        text.push(c);
    }
    text
}

/// Cuts each line of a text, if there is a terminal to fit.
pub(crate) fn cut_lines(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    text.lines().map(|line| cut(line, columns) + "\n").collect()
}

/// Folds a line at blanks so that it fits; lines after the first begin with `indent` blanks. A word that is longer than a
/// line stays whole: half a command or address helps nobody.
pub(crate) fn fold(line: &str, columns: Option<usize>, indent: usize) -> String {
    let Some(columns) = columns.filter(|columns| visible(line) > *columns) else { return line.to_owned() };
    // Where hardly anything fits behind the indent, none is better.
    let indent = if columns < indent + FOLD_MIN { 2 } else { indent };
    let (mut text, mut width) = (String::new(), 0);
    // Blanks at the beginning are part of the line.
    let lead = line.len() - line.trim_start_matches(' ').len();
    for (at, word) in line[lead..].split(' ').enumerate() {
        let length = visible(word);
        if at == 0 {
            text.push_str(&line[..lead]);
            width = lead;
        } else if width + 1 + length > columns {
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
            width = indent;
        } else {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += length;
    }
    text
}

/// So much of a line is kept for folded text.
const FOLD_MIN: usize = 24;

/// How many columns a line takes.
pub(crate) fn visible(line: &str) -> usize {
    let mut in_escape = false;
    let shown = line.chars().filter(|c| match c {
        '\u{1b}' => {
            in_escape = true;
            false
        }
        'm' if in_escape => {
            in_escape = false;
            false
        }
        _ => !in_escape,
    });
    shown.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_have_no_width() {
        assert_eq!(cut("\u{1b}[31mfailed\u{1b}[0m now", 6), "\u{1b}[31mfaile…\u{1b}[0m");
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("longer", 5), "long…");
        assert_eq!(visible("\u{1b}[31mfailed\u{1b}[0m"), 6);
    }

    #[test]
    fn sentences_are_folded_at_blanks_and_words_stay_whole() {
        assert_eq!(fold("a sentence that is long", None, 0), "a sentence that is long");
        let folded =
            fold("Reason   pool `source-db` is full (2 of 2 slots), held by run-40/load", Some(40), 9);
        assert_eq!(folded, "Reason   pool `source-db` is full (2 of\n         2 slots), held by run-40/load");
        assert_eq!(
            fold("  one-word-that-is-far-too-long-for-it x", Some(12), 4),
            "  one-word-that-is-far-too-long-for-it\n  x"
        );
    }
}
