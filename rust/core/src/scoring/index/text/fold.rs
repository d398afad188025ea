//! Characters that are written in several ways, brought to one: accents, vowel marks, forms of a letter, digits.

use super::script::Script;
use unicode_normalization::char::decompose_canonical;

/// Appends `word` to `out` without accents and vowel marks.
///
/// Marks are dropped from Latin, Greek and Cyrillic letters, vowel marks from Arabic and Hebrew ones. Elsewhere a mark is
/// a letter: か is not が, and Devanagari writes its vowels so.
pub(super) fn fold_into(word: &str, out: &mut String) {
    for character in word.chars() {
        if character.is_ascii() {
            out.push(character);
            continue;
        }
        match Script::of(character) {
            Script::Latin | Script::Greek | Script::Cyrillic => fold_letter(character, out),
            Script::Arabic => fold_arabic(character, out),
            Script::Hebrew if matches!(u32::from(character), 0x591..=0x5C7) => {}
            _ if is_dropped(character) => {}
            _ => out.push(fold_digit(character)),
        }
    }
}

fn fold_letter(character: char, out: &mut String) {
    let whole = match character {
        'ß' => "ss",
        'æ' => "ae",
        'œ' => "oe",
        'ø' => "o",
        'ł' => "l",
        'đ' | 'ð' => "d",
        'þ' => "th",
        'ħ' => "h",
        'ı' => "i",
        'ς' => "σ",
        _ => "",
    };
    if !whole.is_empty() {
        out.push_str(whole);
        return;
    }
    decompose_canonical(character, |part| {
        if !is_dropped(part) {
            out.push(part);
        }
    });
}

/// The forms that Arabic and Persian keyboards tell apart and writers do not.
fn fold_arabic(character: char, out: &mut String) {
    match character {
        '\u{610}'..='\u{61A}' | '\u{640}' | '\u{64B}'..='\u{65F}' | '\u{670}' | '\u{6D6}'..='\u{6ED}' => {}
        'آ' | 'أ' | 'إ' | 'ٱ' => out.push('ا'),
        'ى' | 'ی' => out.push('ي'),
        'ک' => out.push('ك'),
        'ة' => out.push('ه'),
        _ => out.push(fold_digit(character)),
    }
}

/// Combining accents, and characters that join or separate without being seen.
fn is_dropped(character: char) -> bool {
    matches!(u32::from(character), 0x300..=0x36F | 0x1AB0..=0x1AFF | 0x1DC0..=0x1DFF | 0x483..=0x487 | 0xAD | 0x93C
        | 0x200B..=0x200F | 0x2060 | 0xFE00..=0xFE0F | 0xFEFF)
}

fn fold_digit(character: char) -> char {
    let zero = match u32::from(character) {
        0x660..=0x669 => 0x660,
        0x6F0..=0x6F9 => 0x6F0,
        0x966..=0x96F => 0x966,
        0x9E6..=0x9EF => 0x9E6,
        0xE50..=0xE59 => 0xE50,
        _ => return character,
    };
    char::from_digit(u32::from(character) - zero, 10).unwrap_or(character)
}

#[cfg(test)]
mod tests {
    fn fold(word: &str) -> String {
        let mut out = String::new();
        super::fold_into(word, &mut out);
        out
    }

    #[test]
    fn accents_go_where_they_are_not_letters() {
        for (word, folded) in [
            ("besançon", "besancon"),
            ("münchen", "munchen"),
            ("straße", "strasse"),
            ("ёлка", "елка"),
            ("αθήνα", "αθηνα"),
            ("مُحَمَّد", "محمد"),
            ("شَالוֹם", "شالום"),
            ("が", "が"),
            ("किताब", "किताब"),
            ("٢٠٢٣", "2023"),
            ("việt", "viet"),
        ] {
            assert_eq!(fold(word), folded);
        }
    }
}
