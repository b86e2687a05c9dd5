//! Names of classes, sets and files as displayed. They are untrusted.

use std::borrow::Cow;

use maud::{Markup, html};

/// The maximum number of characters of a name in running text and tables.
pub(super) const MAX_NAME: usize = 60;
/// The maximum number of characters of a name that is shown in full next to a shortened one.
pub(super) const MAX_IN_FULL: usize = 10_000;

/// The name with escapes for characters that would be invisible or move others: control characters,
/// direction marks, zero-width spaces, tags. The joiners of emoji and scripts stay.
pub(super) fn visible(name: &str) -> Cow<'_, str> {
    let is_odd = |c: char| {
        c.is_control()
            || matches!(c,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}')
    };
    if !name.contains(is_odd) {
        return Cow::Borrowed(name);
    }
    let mut text = String::new();
    for c in name.chars() {
        if is_odd(c) { text.extend(c.escape_default()) } else { text.push(c) }
    }
    Cow::Owned(text)
}

/// The text, shortened to `most` characters with an ellipsis in the middle.
pub(super) fn elided(text: &str, most: usize) -> String {
    let text = visible(text);
    let count = text.chars().count();
    if count <= most {
        return text.into_owned();
    }
    let (start, end) = (most * 2 / 3, most - most * 2 / 3 - 1);
    let head: String = text.chars().take(start).collect();
    let tail: String = text.chars().skip(count - end).collect();
    format!("{head}…{tail}")
}

/// A text that does not change the direction of its surroundings, for SVG and plain text, which have no
/// `bdi`.
pub(super) fn isolated(text: &str) -> String {
    // The scripts before Hebrew are written from left to right.
    let is_plain = text.chars().all(|c| c < '\u{590}' || c == '…');
    if is_plain { text.to_owned() } else { format!("\u{2068}{text}\u{2069}") }
}

/// A name within a page: visible, shortened, and isolated from the direction of its surroundings. If it is
/// shortened, its title is the full name.
pub(super) fn name(text: &str) -> Markup {
    let shown = elided(text, MAX_NAME);
    let is_shortened = shown.chars().count() < visible(text).chars().count();
    html! {
        @if is_shortened {
            bdi title=(elided(text, MAX_IN_FULL)) { (shown) }
        } @else {
            bdi { (shown) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_visible_and_short() {
        assert_eq!(name("<script>\"'&").into_string(), "<bdi>&lt;script&gt;&quot;'&amp;</bdi>");
        assert_eq!(visible("a\nb\t\u{202e}c\u{0}\u{7f}\u{85}"), "a\\nb\\t\\u{202e}c\\u{0}\\u{7f}\\u{85}");
        assert_eq!(visible("häschen 兔 🐇 שלום"), "häschen 兔 🐇 שלום");
        let long = "é".repeat(10_000);
        assert_eq!(elided(&long, 60).chars().count(), 60);
        let shown = name(&long).into_string();
        assert!(shown.starts_with(&format!("<bdi title=\"{long}\">éé")) && shown.contains('…'), "{shown}");
        assert_eq!(isolated("plain, häschen…"), "plain, häschen…");
        assert_eq!(isolated("שלום"), "\u{2068}שלום\u{2069}");
    }
}
