//! Which writing system a character belongs to, as far as it decides how words are made of characters.

/// How the words of a writing system are found, and whose stemmer suits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Latin letters: the stemmer of the analyzer's language.
    Latin,
    /// Greek letters.
    Greek,
    /// Cyrillic letters.
    Cyrillic,
    /// Armenian letters.
    Armenian,
    /// Hebrew letters: articles and prepositions are written as prefixes.
    Hebrew,
    /// Arabic letters: articles and prepositions are written as prefixes, vowels as marks.
    Arabic,
    /// Devanagari.
    Devanagari,
    /// Tamil.
    Tamil,
    /// Chinese characters, kana, Hangul: words are not apart, or carry their particles.
    Cjk,
    /// Thai, Lao, Khmer, Burmese: words are not apart.
    Unspaced,
    /// Everything else, digits included.
    Other,
}

impl Script {
    /// The script of a character.
    pub(super) fn of(character: char) -> Self {
        match u32::from(character) {
            0x41..=0x5A | 0x61..=0x7A | 0xAA | 0xBA | 0xC0..=0x24F | 0x250..=0x2AF | 0x1E00..=0x1EFF => Self::Latin,
            0x370..=0x3FF | 0x1F00..=0x1FFF => Self::Greek,
            0x400..=0x52F | 0x1C80..=0x1C8F | 0x2DE0..=0x2DFF | 0xA640..=0xA69F => Self::Cyrillic,
            0x530..=0x58F => Self::Armenian,
            0x590..=0x5FF => Self::Hebrew,
            0x600..=0x6FF | 0x750..=0x77F | 0x870..=0x8FF => Self::Arabic,
            0x900..=0x97F => Self::Devanagari,
            0xB80..=0xBFF => Self::Tamil,
            0xE00..=0xEFF | 0x1000..=0x109F | 0x1780..=0x17FF => Self::Unspaced,
            0x1100..=0x11FF
            | 0x3005..=0x3007
            | 0x3021..=0x3029
            | 0x3040..=0x30FF
            | 0x3130..=0x318F
            | 0x31F0..=0x31FF
            | 0x3400..=0x4DBF
            | 0x4E00..=0x9FFF
            | 0xA960..=0xA97F
            | 0xAC00..=0xD7FF
            | 0xF900..=0xFAFF
            | 0x20000..=0x3FFFF => Self::Cjk,
            _ => Self::Other,
        }
    }
}

/// Whether a character is a picture that is a word of its own. Digits, `#` and `*`, which Unicode counts among the
/// emoji, are not.
pub(super) fn is_emoji(character: char) -> bool {
    matches!(u32::from(character),
        0xA9 | 0xAE | 0x203C | 0x2049 | 0x2122 | 0x2139 | 0x2194..=0x21AA | 0x231A..=0x23FF | 0x24C2 | 0x25AA..=0x25FE
        | 0x2600..=0x27BF | 0x2934..=0x2935 | 0x2B05..=0x2B55 | 0x3030 | 0x303D | 0x3297 | 0x3299
        | 0x1F000..=0x1FAFF)
}

/// Whether a character only changes how an emoji looks: presentation selectors and skin tones.
pub(super) fn is_emoji_modifier(character: char) -> bool {
    matches!(u32::from(character), 0xFE0E | 0xFE0F | 0x1F3FB..=0x1F3FF)
}
