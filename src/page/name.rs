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

/// Names of a legend or of the rows of a plot, shortened to `most` characters. If one is longer, what all begin
/// and end with is left out: it tells none of them from the others. Those that are equal then are treated so among
/// themselves and, as a last resort, numbered.
pub(super) fn told_apart<'a>(names: impl IntoIterator<Item = &'a str>, most: usize) -> Vec<String> {
    let names: Vec<String> = names.into_iter().map(|name| visible(name).into_owned()).collect();
    let is_long = names.iter().any(|name| name.chars().count() > most);
    let whole: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut shown = if is_long { without_common_parts(&whole) } else { names.clone() };
    shown.iter_mut().for_each(|name| *name = elided(name, most));
    let alike = |shown: &[String], name: &str| -> Vec<usize> {
        (0..shown.len()).filter(|&index| shown[index] == name).collect()
    };
    for first in 0..names.len() {
        let group = alike(&shown, &shown[first]);
        if group.iter().all(|&index| names[index] == names[first]) {
            continue;
        }
        let rest = without_common_parts(&group.iter().map(|&index| whole[index]).collect::<Vec<_>>());
        for (&index, rest) in group.iter().zip(rest) {
            shown[index] = elided(&rest, most);
        }
        let still = alike(&shown, &shown[first]);
        if still.iter().any(|&index| names[index] != names[first]) {
            for (number, index) in (1..).zip(still) {
                shown[index] = format!("{} {number}", elided(&shown[index], most.saturating_sub(4)));
            }
        }
    }
    shown.iter().map(|name| isolated(name)).collect()
}

/// The names without the whole words that all begin and end with; at least a character of each stays.
fn without_common_parts(names: &[&str]) -> Vec<String> {
    let names: Vec<Vec<char>> = names.iter().map(|name| name.chars().collect()).collect();
    let shortest = names.iter().map(Vec::len).min().unwrap_or_default();
    let are_equal = |at: &dyn Fn(&[char]) -> char| names.windows(2).all(|pair| at(&pair[0]) == at(&pair[1]));
    let is_border = |c: char| !c.is_alphanumeric();
    let (mut start, mut end) = (0, 0);
    if names.len() > 1 {
        let common = (1..shortest).take_while(|&count| are_equal(&|name: &[char]| name[count - 1]));
        start = common.filter(|&count| is_border(names[0][count - 1])).last().unwrap_or(0);
        let common =
            (1..shortest - start).take_while(|&count| are_equal(&|name: &[char]| name[name.len() - count]));
        end = common.filter(|&count| is_border(names[0][names[0].len() - count])).last().unwrap_or(0);
    }
    let [before, after] = [start, end].map(|cut| if cut > 0 { "…" } else { "" });
    let middle = |name: &Vec<char>| name[start..name.len() - end].iter().collect::<String>();
    names.iter().map(|name| format!("{before}{}{after}", middle(name))).collect()
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

    #[test]
    fn long_names_of_a_legend_differ() {
        assert_eq!(told_apart(["clothes", "textures"], 12), ["clothes", "textures"]);
        let fogs = ["cifar10-c-fog-1", "cifar10-c-frost-1"];
        assert_eq!(told_apart(fogs, 12), ["…fog…", "…frost…"]);
        assert_eq!(told_apart(fogs, 20), fogs);
        let scores = ["model.onnx, energy:5", "model.onnx, energy"];
        assert_eq!(told_apart(scores, 12), ["…energy:5", "…energy"]);
        assert_eq!(told_apart(["the same long name"; 2], 12), ["…name", "…name"]);
        let noises = ["cifar10-c-gaussian_noise-5", "cifar10-c-shot_noise-5", "textures"];
        assert_eq!(told_apart(noises, 12), ["…gaussian…", "…shot…", "textures"]);
        let alike = [1, 2].map(|k| format!("{}{k}{}", "a".repeat(30), "b".repeat(30)));
        assert_eq!(told_apart(alike.iter().map(String::as_str), 12), ["aaaaa…bb 1", "aaaaa…bb 2"]);
        assert_eq!(told_apart(["a rather long name"], 12), [elided("a rather long name", 12)]);
        assert_eq!(told_apart([], 12), [""; 0]);
    }
}
