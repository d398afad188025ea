//! Words of a text: Unicode word boundaries, lower case, a long stop list, Snowball stems.

use frostem::{Algorithm, Stemmer};
use std::collections::{HashMap, HashSet};
use unicode_segmentation::UnicodeSegmentation;

/// Version of the stop list and of the rules of this module; part of a snapshot.
pub const ANALYZER_VERSION: u32 = 1;

/// Longer words are cut off: nobody searches for them, and a text could be one long word.
const LONGEST_WORD_BYTES: usize = 64;

/// Function words, auxiliaries and question words. In short texts they are most of the matches and none of the meaning.
const STOP_WORDS: &str = "a about above after again against ain all also am an and any anyone anything are aren as at be \
because been before being below between both but by can cannot could couldn d did didn do does doesn doing don done down \
during each either else ever every everyone everything few for from further get gets getting go goes going gone got had \
hadn has hasn have haven having he her here hers herself hi him himself his how however i if in into is isn it its itself \
just let ll m ma many may maybe me might mightn more most much must mustn my myself need needn neither no nor not now o of \
off oh ok okay on once one only or other others our ours ourselves out over own per please quite rather re really s said \
same say says shall shan she should shouldn so some someone something still such t than that the their theirs them \
themselves then there these they thing things this those though through to too under until up upon us use used using ve \
very was wasn we well went were weren what whatever when where whether which while who whom whose why will with within \
without won would wouldn y yes yet you your yours yourself yourselves";

/// The languages that have a stemmer here, by name.
pub const LANGUAGES: [(&str, Algorithm); 12] = [
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
pub struct Analyzer {
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
    #[must_use]
    pub fn new(language: &str) -> Option<Self> {
        let stemmer = match LANGUAGES.iter().find(|(name, _)| *name == language) {
            Some((_, algorithm)) => Some(Stemmer::new(*algorithm)),
            None if language == "none" => None,
            None => return None,
        };
        let stop_words = if language == "english" { STOP_WORDS.split(' ').collect() } else { HashSet::default() };
        Some(Self { language: language.to_owned(), stemmer, stop_words })
    }

    /// The name of the language.
    #[must_use]
    pub fn language(&self) -> &str {
        &self.language
    }

    /// Calls `each` with every term of a text, in order.
    pub fn terms(&self, text: &str, mut each: impl FnMut(&str)) {
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
    #[must_use]
    pub fn count(&self, text: &str) -> (HashMap<String, u16>, u32) {
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
    #[must_use]
    pub fn query_terms(&self, text: &str) -> Vec<String> {
        let mut terms: Vec<String> = Vec::new();
        self.terms(text, |term| {
            if !terms.iter().any(|known| known == term) {
                terms.push(term.to_owned());
            }
        });
        terms
    }
}

/// `k1` and `b` of BM25. The defaults suit short texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bm25 {
    /// How soon repetition of a term stops to count; >= 0.
    pub k1: f64,
    /// How much long texts are held back; 0..=1.
    pub b: f64,
}

impl Default for Bm25 {
    fn default() -> Self {
        Self { k1: 0.9, b: 0.15 }
    }
}

impl Bm25 {
    /// `ln(1 + (N - df + 0.5) / (df + 0.5))`: never negative.
    #[must_use]
    pub fn inverse_document_frequency(documents: f64, with_term: f64) -> f64 {
        (1.0 + (documents - with_term + 0.5) / (with_term + 0.5)).ln()
    }

    /// The share of one term: `idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean_length))`.
    #[must_use]
    #[inline]
    pub fn share(self, idf: f64, frequency: f64, length: f64, mean_length: f64) -> f64 {
        let norm = self.k1 * (1.0 - self.b + self.b * length / mean_length);
        idf * frequency * (self.k1 + 1.0) / (frequency + norm)
    }
}

#[cfg(test)]
mod tests {
    use super::Analyzer;
    use proptest::prelude::*;

    #[test]
    fn words_are_lowered_stopped_and_stemmed() {
        let analyzer = Analyzer::new("english").unwrap();
        assert_eq!(
            analyzer.query_terms("What did Caroline's DOGS, and the running dog do in 2023?"),
            ["carolin", "dog", "run", "2023"]
        );
        assert!(Analyzer::new("klingon").is_none());
        assert_eq!(Analyzer::new("none").unwrap().query_terms("The dogs"), ["the", "dogs"]);
    }

    proptest! {
        #[test]
        fn any_text_gives_short_terms_in_every_language(text in any::<String>(), repeat in 1_usize..40) {
            for language in super::LANGUAGES.map(|(name, _)| name).into_iter().chain(["none"]) {
                let analyzer = Analyzer::new(language).unwrap();
                let (counts, length) = analyzer.count(&text.repeat(repeat));
                prop_assert_eq!(counts.values().map(|&c| u32::from(c)).sum::<u32>(), length);
                prop_assert!(counts.keys().all(|term| term.len() <= 2 * super::LONGEST_WORD_BYTES));
            }
        }
    }
}
