//! Version 1 of the rules: Unicode's words, lower case, a stop list, stems. Snapshots of that time hold its terms, and a
//! question of such an index must have the same.

use super::stop::STOP_WORDS;
use frostem::{Algorithm, Stemmer};
use std::collections::{HashMap, HashSet};

use unicode_segmentation::UnicodeSegmentation;

/// Longer words are cut off: no query has them, and a text could be one long word.
const LONGEST_WORD_BYTES: usize = 64;

/// The languages that have a stemmer here, by name.
const LANGUAGES: [(&str, Algorithm); 12] = [
    ("danish", Algorithm::Danish),
    ("dutch", Algorithm::Dutch),
    ("english", Algorithm::English),
    ("finnish", Algorithm::Finnish),
    ("french", Algorithm::French),
    ("german", Algorithm::German),
    ("italian", Algorithm::Italian),
    ("norwegian", Algorithm::Norwegian),
    ("portuguese", Algorithm::Portuguese),
    ("russian", Algorithm::Russian),
    ("spanish", Algorithm::Spanish),
    ("swedish", Algorithm::Swedish),
];

/// Turns texts into terms.
pub(super) struct Analyzer {
    language: String,
    stemmer: Option<Stemmer>,
    stop_words: HashSet<&'static str>,
}

impl std::fmt::Debug for Analyzer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Analyzer").field("language", &self.language).finish_non_exhaustive()
    }
}

impl Analyzer {
    /// For a language of [`LANGUAGES`], or `"none"` for words as they are. The stop list is English and is used for
    /// English only.
    pub(super) fn new(language: &str) -> Option<Self> {
        let stemmer = match LANGUAGES.iter().find(|(name, _)| *name == language) {
            Some((_, algorithm)) => Some(Stemmer::new(*algorithm)),
            None if language == "none" => None,
            None => return None,
        };
        let stop_words = if language == "english" { STOP_WORDS.split(' ').collect() } else { HashSet::default() };
        Some(Self { language: language.to_owned(), stemmer, stop_words })
    }

    /// Calls `each` with every term of a text, in order.
    fn terms(&self, text: &str, mut each: impl FnMut(&str)) {
        let lowered = text.to_lowercase();
        for word in lowered.unicode_words() {
            if self.stop_words.contains(word) {
                continue;
            }
            let mut end = word.len().min(LONGEST_WORD_BYTES);
            while !word.is_char_boundary(end) {
                end -= 1;
            }
            match &self.stemmer {
                Some(stemmer) => each(&stemmer.stem(&word[..end])),
                None => each(&word[..end]),
            }
        }
    }

    /// The terms of a text with how often each occurs, and their number.
    pub(super) fn count(&self, text: &str) -> (HashMap<String, u16>, u32) {
        let mut counts: HashMap<String, u16> = HashMap::new();
        let mut length = 0_u32;
        self.terms(text, |term| {
            length = length.saturating_add(1);
            if let Some(count) = counts.get_mut(term) {
                *count = count.saturating_add(1);
            } else {
                counts.insert(term.to_owned(), 1);
            }
        });
        (counts, length)
    }

    /// The distinct terms of a query, in order of first use.
    pub(super) fn query_terms(&self, text: &str) -> Vec<String> {
        let mut terms: Vec<String> = Vec::new();
        self.terms(text, |term| {
            if !terms.iter().any(|known| known == term) {
                terms.push(term.to_owned());
            }
        });
        terms
    }
}
