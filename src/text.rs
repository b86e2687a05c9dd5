//! Names, paths and numbers as parts of a text.

use std::path::Path;

/// A path as text. Bytes that are not UTF-8 become `\xNN`, so different paths stay different.
#[must_use]
pub fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// A name as a part of a line: characters that end or reorder it, such as a newline, and other control
/// characters are escaped.
#[must_use]
pub fn on_one_line(name: &str) -> String {
    let mut line = String::with_capacity(name.len());
    for letter in name.chars() {
        let reorders = matches!(
            letter,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        if letter.is_control() || reorders { line.extend(letter.escape_debug()) } else { line.push(letter) }
    }
    line
}

/// A path as a part of a line: [`path_text`], [`on_one_line`].
#[must_use]
pub fn shown(path: &Path) -> String {
    on_one_line(&path_text(path))
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn listed(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The note on images that cannot be read, if there are any.
#[must_use]
pub fn not_counted(skipped: usize) -> Option<String> {
    match skipped {
        0 => None,
        1 => Some("1 image cannot be read and is not counted".to_owned()),
        _ => Some(format!("{skipped} images cannot be read and are not counted")),
    }
}

/// A name whose letters have one form, Unicode's NFC: other systems write their marks apart.
pub(crate) fn composed(name: &str) -> String {
    #[cfg(feature = "files")]
    let composed = unicode_normalization::UnicodeNormalization::nfc(name).collect();
    #[cfg(not(feature = "files"))]
    let composed = name.to_owned();
    composed
}

/// The first few names, and how many more there are.
pub(crate) fn few<'a>(names: impl Iterator<Item = &'a str>) -> String {
    /// The maximum number of characters of a name.
    const LENGTH: usize = 100;
    let quoted = names.map(|name| match name.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("`{}...`", on_one_line(&name[..end])),
        None => format!("`{}`", on_one_line(name)),
    });
    let few = first_few(quoted);
    if few.is_empty() { "nothing".to_owned() } else { few }
}

/// The first few texts of a list, and how many more there are; empty without any.
#[must_use]
pub fn first_few(mut texts: impl Iterator<Item = String>) -> String {
    const FEW: usize = 8;
    let first: Vec<String> = texts.by_ref().take(FEW).collect();
    match texts.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// A share in per cent, without the spurious digits of a multiplication by 100.
#[must_use]
pub fn per_cent(share: f64) -> f64 {
    (share * 1e10).round() / 1e8
}

/// Splits a text such as `cuda:1` into the name and the device number; `None` if the number is invalid.
pub(crate) fn numbered(text: &str) -> Option<(&str, Option<u32>)> {
    let Some((name, number)) = text.split_once(':') else { return Some((text, None)) };
    // Runtimes take the number as a signed integer.
    let number = number.parse().ok().filter(|&number| i32::try_from(number).is_ok())?;
    Some((name, Some(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_control_characters_are_escaped() {
        assert_eq!(on_one_line("Anna's \"h\u{e4}t\"\u{a0}\\\n\u{7}"), "Anna's \"h\u{e4}t\"\u{a0}\\\\n\\u{7}");
        assert_eq!(on_one_line("a\u{202e}b\u{2066}"), "a\\u{202e}b\\u{2066}");
        assert_eq!(few(["it's"].into_iter()), "`it's`");
    }

    #[test]
    fn percentages_have_no_spurious_digits() {
        let shares = [0.947, 0.55, 0.95, 0.999, 0.29, 1.0 / 3.0];
        assert_eq!(
            shares.map(|share| per_cent(share).to_string()).join(" "),
            "94.7 55 95 99.9 29 33.33333333"
        );
    }
}
