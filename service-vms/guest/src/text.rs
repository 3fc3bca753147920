//! Words for people.

/// Whether a character has no place in a string that goes to terminals and logs: control characters, line and paragraph
/// separators, and the invisible ones that reorder or hide text.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `text` with every unprintable character escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unprintable(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// `text` in backquotes, short and without control characters.
pub(crate) fn code(text: &str) -> String {
    if text.is_empty() {
        return "`\"\"`".to_owned();
    }
    let shown: String = text.chars().take(60).collect();
    let more = if shown.len() < text.len() { "..." } else { "" };
    format!("`{}{more}`", printable(&shown))
}

/// "`a`, `b` or `c`".
pub(crate) fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(code).collect();
    match words.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The word that `text` was probably meant to be.
pub(crate) fn closest<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = text.chars().count();
    if length > 64 {
        return None;
    }
    words
        .into_iter()
        .map(|word| (strsim::osa_distance(text, word), word))
        .filter(|(distance, word)| *distance <= (length.max(word.chars().count()) + 1) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// "did you mean `x`?", or all the words there are.
pub(crate) fn suggest<'a>(text: &str, words: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match closest(text, words.clone()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("write {}", any_of(words)),
    }
}
