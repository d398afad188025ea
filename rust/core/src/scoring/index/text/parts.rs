//! What a word consists of: the parts of identifiers and addresses, the digits of amounts and versions.

/// A number as it is looked for, if a word is one.
///
/// `1,200` and `1'200` are `1200`, `3,5` is `3.5`, `v2.3.1` is `2.3.1`. The second is another reading: `1.200` may be 1200.
pub(super) fn number(word: &str) -> Option<(String, Option<String>)> {
    let digits = match word.strip_prefix(['v', 'V']) {
        Some(rest) if rest.contains('.') => rest,
        _ => word,
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || !digits.chars().all(|c| c.is_ascii_digit() || is_mark(c)) {
        return None;
    }
    let plain = || digits.chars().filter(char::is_ascii_digit).collect::<String>();
    if !is_grouped(digits) {
        return Some((digits.replace(is_mark, "."), None));
    }
    Some(if digits.contains('.') { (digits.to_owned(), Some(plain())) } else { (plain(), None) })
}

fn is_mark(character: char) -> bool {
    matches!(character, '.' | ',' | '\'' | '’')
}

/// Whether the digits stand in groups of three, as those of an amount do.
fn is_grouped(digits: &str) -> bool {
    let mut groups = digits.split(is_mark);
    let first = groups.next().map_or(0, str::len);
    let mut count = 0;
    let are_three = groups.all(|group| {
        count += 1;
        group.len() == 3
    });
    are_three && count > 0 && (1..=3).contains(&first)
}

/// Calls `each` with the parts of a word: `parse_user_input`, `getUserName`, `HTMLParser`, `example.com`, `O'Brien`.
pub(super) fn parts<'w>(word: &'w str, mut each: impl FnMut(&'w str)) {
    for piece in word.split(is_joiner).filter(|piece| !piece.is_empty()) {
        let mut start = 0;
        let mut before: Option<(char, char)> = None;
        for (at, character) in piece.char_indices() {
            let cut = match before {
                // getUser: a capital after a small letter
                Some((_, last)) if last.is_lowercase() && character.is_uppercase() => Some(at),
                // HTMLParser: the last of the capitals begins the next part
                Some((first, last)) if first.is_uppercase() && last.is_uppercase() && character.is_lowercase() => {
                    Some(at - last.len_utf8())
                }
                _ => None,
            };
            if let Some(cut) = cut
                && cut > start
            {
                each(&piece[start..cut]);
                start = cut;
            }
            before = Some((before.map_or(character, |(_, last)| last), character));
        }
        each(&piece[start..]);
    }
}

/// The characters that Unicode lets stand within a word and that separate its parts.
pub(super) fn is_joiner(character: char) -> bool {
    matches!(character, '_' | '\'' | '’' | '‘' | '.' | ',' | ':' | ';' | '·' | '\u{203F}' | '\u{2027}')
}

/// Whether a word has parts at all; most have none.
pub(super) fn is_compound(word: &str) -> bool {
    let mut rest = word.chars();
    let Some(mut last) = rest.next() else { return false };
    let mut capitals = usize::from(last.is_uppercase());
    for character in rest {
        if is_joiner(character) || (character.is_uppercase() && last.is_lowercase()) {
            return true;
        }
        if character.is_lowercase() && last.is_uppercase() && capitals > 1 {
            return true;
        }
        capitals += usize::from(character.is_uppercase());
        last = character;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{is_compound, number, parts};

    fn split(word: &str) -> Vec<&str> {
        let mut found = Vec::new();
        parts(word, |part| found.push(part));
        assert_eq!(is_compound(word), found != [word], "{word}");
        found
    }

    #[test]
    fn identifiers_have_parts() {
        assert_eq!(split("parse_user_input"), ["parse", "user", "input"]);
        assert_eq!(split("getUserName"), ["get", "User", "Name"]);
        assert_eq!(split("HTMLParser"), ["HTML", "Parser"]);
        assert_eq!(split("NASA"), ["NASA"]);
        assert_eq!(split("Oslo"), ["Oslo"]);
        assert_eq!(split("example.com"), ["example", "com"]);
        assert_eq!(split("iPhone"), ["i", "Phone"]);
    }

    #[test]
    fn numbers_have_one_form() {
        assert_eq!(number("1,200"), Some(("1200".into(), None)));
        assert_eq!(number("1.200"), Some(("1.200".into(), Some("1200".into()))));
        assert_eq!(number("v2.3.1"), Some(("2.3.1".into(), None)));
        assert_eq!(number("3,5"), Some(("3.5".into(), None)));
        assert_eq!(number("2023"), Some(("2023".into(), None)));
        assert_eq!(number("v2"), None);
        assert_eq!(number("4th"), None);
        assert_eq!(number("victory"), None);
    }
}
