//! States as words, symbols and colours. The word is always there; the rest only helps the eye.

use anstyle::{AnsiColor, Style};

use super::Look;

/// A state's word, its symbol, and its colour.
const STATES: [(&str, &str, Option<AnsiColor>); 25] = [
    ("waiting", "·", Some(AnsiColor::BrightBlack)),
    ("queued", "·", Some(AnsiColor::BrightBlack)),
    ("running", "●", Some(AnsiColor::Cyan)),
    ("stopping", "◼", Some(AnsiColor::Yellow)),
    ("retrying", "↻", Some(AnsiColor::Yellow)),
    ("success", "✔", Some(AnsiColor::Green)),
    ("failed", "✘", Some(AnsiColor::Red)),
    ("upstream_failed", "✘", Some(AnsiColor::BrightBlack)),
    ("skipped", "○", Some(AnsiColor::BrightBlack)),
    ("cancelled", "◼", Some(AnsiColor::Magenta)),
    ("lost", "?", Some(AnsiColor::Red)),
    ("paused", "‖", Some(AnsiColor::Yellow)),
    ("active", "●", Some(AnsiColor::Green)),
    ("disabled", "○", Some(AnsiColor::BrightBlack)),
    ("quarantined", "!", Some(AnsiColor::Red)),
    ("ready", "●", Some(AnsiColor::Green)),
    ("cordoned", "!", Some(AnsiColor::Yellow)),
    ("draining", "‖", Some(AnsiColor::Yellow)),
    ("gone", "✘", Some(AnsiColor::Red)),
    ("created", "+", Some(AnsiColor::Green)),
    ("changed", "~", Some(AnsiColor::Yellow)),
    ("unchanged", " ", Some(AnsiColor::BrightBlack)),
    ("deleted", "-", Some(AnsiColor::Red)),
    ("leaving", "‖", Some(AnsiColor::Yellow)),
    ("unreachable", "✘", Some(AnsiColor::Red)),
];

/// The colour and symbol of a state.
fn signs(word: &str) -> (&'static str, Option<AnsiColor>) {
    let found = STATES.iter().find(|(state, _, _)| *state == word);
    found.map_or((" ", None), |(_, symbol, colour)| (*symbol, *colour))
}

/// The colour of a state, for tables.
pub(super) fn colour(word: &str) -> Option<AnsiColor> {
    signs(word).1
}

/// The symbol of a state, for trees and live views.
pub(super) fn symbol(word: &str) -> &'static str {
    signs(word).0
}

/// A state's word in its colour.
pub(super) fn state_word(word: &str, look: &Look) -> String {
    match colour(word) {
        Some(colour) => paint(word, Style::new().fg_color(Some(colour.into())), look),
        None => word.to_owned(),
    }
}

/// Text in a style, where colours are wanted.
pub(crate) fn paint(text: &str, style: Style, look: &Look) -> String {
    if look.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use matins_proto::v1::{attempt, backfill, executor, run, task};

    use super::*;

    #[test]
    fn every_state_of_the_api_has_signs() {
        let words = (1..=10).filter_map(|n| task::State::try_from(n).ok()).map(|it| it.as_str_name());
        let words =
            words.chain((1..=6).filter_map(|n| run::State::try_from(n).ok()).map(|it| it.as_str_name()));
        let words =
            words.chain((1..=6).filter_map(|n| backfill::State::try_from(n).ok()).map(|it| it.as_str_name()));
        let words =
            words.chain((1..=6).filter_map(|n| attempt::State::try_from(n).ok()).map(|it| it.as_str_name()));
        let words =
            words.chain((1..=5).filter_map(|n| executor::State::try_from(n).ok()).map(|it| it.as_str_name()));
        let missing: Vec<_> = words.filter(|word| colour(word).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn colours_are_left_out_where_nobody_wants_them() {
        assert_eq!(state_word("failed", &Look::PLAIN), "failed");
        assert!(state_word("failed", &Look { colour: true, ..Look::PLAIN }).contains("\u{1b}["));
    }
}
