//! Terms of a text: what of it is indexed and looked for.
//!
//! A text is brought to one Unicode form (NFKC) and cut into pieces at Unicode's word borders. Of each piece come terms:
//!
//! - a word: lower case, stemmed by Snowball, without accents. English stop words are left out, unless they are written as
//!   names (`May`, `US`) or a question has no other words;
//! - a compound (`parse_user_input`, `getUserName`, `e-mail`): its parts, and the whole without what joins them;
//! - an amount or a version: its digits;
//! - a word of Arabic or Hebrew, where articles are prefixes: its n-grams, so that the bare word is found;
//! - a run of Chinese, Japanese, Korean: its pairs of characters; of Thai and its neighbours: n-grams;
//! - an emoji: itself.
//!
//! The length of a text is its number of pieces: further terms of one piece add none, or compounds would be long texts.

mod bm25;
mod first;
mod fold;
mod parts;
mod script;
mod stop;
mod words;

pub use bm25::Bm25;
use frostem::{Algorithm, Stemmer};
use script::Script;
use std::borrow::Cow;
use std::collections::HashMap;
use stop::StopWords;
use unicode_normalization::UnicodeNormalization;
use words::{Kind, Piece, pieces};

/// Version of the stop list and of the rules of this module; part of a snapshot.
pub const ANALYZER_VERSION: u32 = 2;

/// The oldest version that snapshots are read of: an index keeps the rules that its terms were made by.
pub const OLDEST_ANALYZER_VERSION: u32 = 1;

/// Longer words are cut off: nothing is looked for by them, and a text could be one long word.
const LONGEST_WORD_BYTES: usize = 64;

/// Characters of an n-gram of a script whose words are not apart or carry prefixes.
const NGRAM: usize = 4;

/// Characters of an n-gram of Chinese, Japanese and Korean.
const CJK_NGRAM: usize = 2;

/// The languages that have a stemmer here, by name.
pub const LANGUAGES: [(&str, Algorithm); 32] = [
    ("arabic", Algorithm::Arabic),
    ("armenian", Algorithm::Armenian),
    ("basque", Algorithm::Basque),
    ("catalan", Algorithm::Catalan),
    ("czech", Algorithm::Czech),
    ("danish", Algorithm::Danish),
    ("dutch", Algorithm::Dutch),
    ("english", Algorithm::English),
    ("estonian", Algorithm::Estonian),
    ("finnish", Algorithm::Finnish),
    ("french", Algorithm::French),
    ("german", Algorithm::German),
    ("greek", Algorithm::Greek),
    ("hindi", Algorithm::Hindi),
    ("hungarian", Algorithm::Hungarian),
    ("indonesian", Algorithm::Indonesian),
    ("irish", Algorithm::Irish),
    ("italian", Algorithm::Italian),
    ("lithuanian", Algorithm::Lithuanian),
    ("nepali", Algorithm::Nepali),
    ("norwegian", Algorithm::Norwegian),
    ("persian", Algorithm::Persian),
    ("polish", Algorithm::Polish),
    ("portuguese", Algorithm::Portuguese),
    ("romanian", Algorithm::Romanian),
    ("russian", Algorithm::Russian),
    ("serbian", Algorithm::Serbian),
    ("spanish", Algorithm::Spanish),
    ("swedish", Algorithm::Swedish),
    ("tamil", Algorithm::Tamil),
    ("turkish", Algorithm::Turkish),
    ("yiddish", Algorithm::Yiddish),
];

/// The names that [`Analyzer::new`] takes beside those of [`LANGUAGES`].
pub const OTHER_LANGUAGES: [&str; 2] = ["auto", "none"];

/// Turns texts into terms.
#[derive(Debug)]
pub struct Analyzer {
    language: String,
    rules: Rules,
}

#[derive(Debug)]
enum Rules {
    /// Those of version 1, for snapshots of that time.
    First(first::Analyzer),
    Present(Box<Present>),
}

impl Analyzer {
    /// For a language of [`LANGUAGES`]; `"auto"` goes by the script of each word, Latin letters being English; `"none"`
    /// neither stems nor leaves stop words out. The stop list is English and is used for English only.
    #[must_use]
    pub fn new(language: &str) -> Option<Self> {
        let rules = Rules::Present(Box::new(Present::new(language)?));
        Some(Self { language: language.to_owned(), rules })
    }

    /// With the rules of an older version; `None` where version or language is unknown.
    #[must_use]
    pub fn of_version(version: u32, language: &str) -> Option<Self> {
        match version {
            1 => {
                let rules = Rules::First(first::Analyzer::new(language)?);
                Some(Self { language: language.to_owned(), rules })
            }
            ANALYZER_VERSION => Self::new(language),
            _ => None,
        }
    }

    /// The name of the language.
    #[must_use]
    pub fn language(&self) -> &str {
        &self.language
    }

    /// The version of the rules.
    #[must_use]
    pub fn version(&self) -> u32 {
        match &self.rules {
            Rules::First(_) => 1,
            Rules::Present(_) => ANALYZER_VERSION,
        }
    }

    /// The terms of a text with how often each occurs, and the number of its words.
    #[must_use]
    pub fn count(&self, text: &str) -> (HashMap<String, u16>, u32) {
        let rules = match &self.rules {
            Rules::First(first) => return first.count(text),
            Rules::Present(rules) => rules,
        };
        let mut counts: HashMap<String, u16> = HashMap::new();
        let mut length = 0_u32;
        rules.terms(text, Role::Text, |term, counts_as_word| {
            length = length.saturating_add(u32::from(counts_as_word));
            if let Some(count) = counts.get_mut(term) {
                *count = count.saturating_add(1);
            } else {
                counts.insert(term.to_owned(), 1);
            }
        });
        (counts, length)
    }

    /// The distinct terms of a query, in order of first use. One of nothing but stop words is looked for by those.
    #[must_use]
    pub fn query_terms(&self, text: &str) -> Vec<String> {
        let rules = match &self.rules {
            Rules::First(first) => return first.query_terms(text),
            Rules::Present(rules) => rules,
        };
        let mut terms: Vec<String> = Vec::new();
        for role in [Role::Query, Role::StopWords] {
            rules.terms(text, role, |term, _| {
                if !terms.iter().any(|known| known == term) {
                    terms.push(term.to_owned());
                }
            });
            if !terms.is_empty() {
                break;
            }
        }
        terms
    }
}

/// How a text is read.
#[derive(Clone, Copy)]
struct Reading {
    role: Role,
    /// Whether all of it is in capitals, which then say nothing.
    is_shouted: bool,
    /// Whether it is Vietnamese.
    has_tones: bool,
}

/// What the terms are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Text,
    Query,
    /// A query that has stop words only.
    StopWords,
}

struct Present {
    /// Of words in Latin letters.
    latin: Option<Stemmer>,
    /// Of the other scripts that have one.
    others: Vec<(Script, Stemmer)>,
    stop_words: StopWords,
    /// Whether what stands before an apostrophe is an article: `l'homme`.
    has_elisions: bool,
    /// Whether words are found by their n-grams, for languages that join words or pile up endings.
    has_ngrams: bool,
}

impl std::fmt::Debug for Present {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Present").finish_non_exhaustive()
    }
}

/// The script of a language, where it is not Latin.
fn script_of(language: &str) -> Script {
    match language {
        "arabic" | "persian" => Script::Arabic,
        "armenian" => Script::Armenian,
        "greek" => Script::Greek,
        "hindi" | "nepali" => Script::Devanagari,
        "russian" | "serbian" => Script::Cyrillic,
        "tamil" => Script::Tamil,
        "yiddish" => Script::Hebrew,
        _ => Script::Latin,
    }
}

/// The stemmer of a script where the language says nothing else.
const BY_SCRIPT: [(Script, Algorithm); 5] = [
    (Script::Armenian, Algorithm::Armenian),
    (Script::Cyrillic, Algorithm::Russian),
    (Script::Devanagari, Algorithm::Hindi),
    (Script::Greek, Algorithm::Greek),
    (Script::Tamil, Algorithm::Tamil),
];

impl Present {
    fn new(language: &str) -> Option<Self> {
        let name = if language == "auto" { "english" } else { language };
        let algorithm = LANGUAGES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm);
        if algorithm.is_none() && name != "none" {
            return None;
        }
        let own = script_of(name);
        let mut others = Vec::new();
        let mut latin = None;
        if let Some(algorithm) = algorithm {
            if own != Script::Latin {
                others.push((own, Stemmer::new(algorithm)));
            }
            if own == Script::Latin || name == "serbian" {
                latin = Some(Stemmer::new(algorithm));
            }
            let rest = BY_SCRIPT.iter().filter(|(script, _)| *script != own);
            others.extend(rest.map(|(script, algorithm)| (*script, Stemmer::new(*algorithm))));
        }
        let stop_words = if name == "english" { StopWords::english() } else { StopWords::default() };
        let has_elisions = matches!(name, "french" | "italian" | "catalan");
        let has_ngrams = matches!(name, "german" | "turkish");
        Some(Self { latin, others, stop_words, has_elisions, has_ngrams })
    }

    /// Calls `each(term, counts_as_word)` with every term of a text, in order.
    fn terms(&self, text: &str, role: Role, mut each: impl FnMut(&str, bool)) {
        let text: Cow<'_, str> = if text.is_ascii() { text.into() } else { text.nfkc().collect::<String>().into() };
        let reading = Reading {
            role,
            is_shouted: !text.chars().any(char::is_lowercase),
            has_tones: !text.is_ascii() && text.chars().any(|c| matches!(c, '\u{1EA0}'..='\u{1EF9}')),
        };
        let mut buffers = Buffers::default();
        pieces(&text, |piece| match piece.kind {
            Kind::Word(script) => self.word(piece, script, reading, &mut buffers, &mut each),
            Kind::Run(script) => {
                buffers.before.clear();
                buffers.folded.clear();
                fold::fold_into(piece.text, &mut buffers.folded);
                let size = if script == Script::Cjk { CJK_NGRAM } else { NGRAM };
                ngrams(&buffers.folded, size, role, &mut each);
            }
            Kind::Emoji => {
                buffers.before.clear();
                let plain: String = piece.text.chars().filter(|c| !script::is_emoji_modifier(*c)).collect();
                each(cut(&plain), true);
            }
        });
    }

    fn word(
        &self,
        piece: Piece<'_>,
        script: Script,
        reading: Reading,
        buffers: &mut Buffers,
        each: &mut impl FnMut(&str, bool),
    ) {
        if let Some((number, other)) = parts::number(piece.text) {
            buffers.before.clear();
            each(cut(&number), true);
            if let Some(other) = other {
                each(cut(&other), false);
            }
            return;
        }
        let hyphenated = std::mem::take(&mut buffers.before);
        if parts::is_compound(piece.text) {
            self.compound(piece, script, reading, buffers, each);
        } else {
            self.part(piece, script, reading, true, buffers, each);
            buffers.before.push_str(&buffers.lowered);
        }
        if piece.is_hyphenated && !hyphenated.is_empty() {
            // `e-mail` is looked for as `email`, too; `well-to-do` by all that joins up.
            let whole = hyphenated + &buffers.before;
            self.term(&whole, script, reading, false, buffers, each);
            buffers.before = whole;
        }
    }

    /// The parts of a compound, and the whole without what joins them.
    fn compound(
        &self,
        piece: Piece<'_>,
        script: Script,
        reading: Reading,
        buffers: &mut Buffers,
        each: &mut impl FnMut(&str, bool),
    ) {
        let mut pieces: Vec<&str> = Vec::new();
        parts::parts(piece.text, |part| pieces.push(part));
        let mut has_article = false;
        if piece.text.contains(['\'', '’', '‘']) && pieces.len() == 2 {
            if self.stop_words.is_clitic(&pieces[1].to_lowercase()) {
                pieces.pop();
            } else if self.has_elisions && pieces[0].chars().count() <= 2 {
                has_article = true;
                pieces.remove(0);
            }
        }
        let mut whole = String::new();
        let is_one = pieces.len() == 1;
        for (position, part) in pieces.into_iter().enumerate() {
            let opens = piece.opens && position == 0 && !has_article;
            self.part(Piece { text: part, opens, ..piece }, script, reading, position == 0, buffers, each);
            whole.push_str(&buffers.lowered);
        }
        if !is_one {
            self.term(&whole, script, reading, false, buffers, each);
        }
        buffers.before = whole;
    }

    /// One word, or a part of one, unless it is a stop word; leaves its small letters in `buffers.lowered`.
    fn part(
        &self,
        piece: Piece<'_>,
        script: Script,
        reading: Reading,
        counts_as_word: bool,
        buffers: &mut Buffers,
        each: &mut impl FnMut(&str, bool),
    ) {
        lower_into(piece.text, &mut buffers.lowered);
        if reading.role != Role::StopWords && self.stop_words.has(&buffers.lowered) {
            // A question may begin with any of them in capitals, so there a name has to be an acronym.
            let names = reading.role == Role::Text;
            if reading.is_shouted || !self.stop_words.is_name(piece.text, &buffers.lowered, piece.opens, names) {
                return;
            }
        }
        let lowered = std::mem::take(&mut buffers.lowered);
        self.term(&lowered, script, reading, counts_as_word, buffers, each);
        buffers.lowered = lowered;
    }

    /// The terms of a word in small letters.
    fn term(
        &self,
        lowered: &str,
        script: Script,
        reading: Reading,
        counts_as_word: bool,
        buffers: &mut Buffers,
        each: &mut impl FnMut(&str, bool),
    ) {
        let lowered = cut(lowered);
        let stemmer = match script {
            Script::Latin => self.latin.as_ref(),
            _ => self.others.iter().find(|(of, _)| *of == script).map(|(_, stemmer)| stemmer),
        };
        let stem = stemmer.map_or(Cow::Borrowed(lowered), |stemmer| stemmer.stem(lowered));
        buffers.folded.clear();
        let by_ngrams =
            matches!(script, Script::Arabic | Script::Hebrew) || (self.has_ngrams && script == Script::Latin);
        fold::fold_into(if by_ngrams { lowered } else { &stem }, &mut buffers.folded);
        if by_ngrams {
            let mut is_first = counts_as_word;
            ngrams(&buffers.folded, NGRAM, Role::Query, &mut |term: &str, _| {
                each(term, is_first);
                is_first = false;
            });
            return;
        }
        if reading.has_tones && buffers.folded != *stem {
            // Tones tell words apart: a question that writes them asks for just that word.
            each(&stem, counts_as_word);
            if reading.role == Role::Text {
                each(&buffers.folded, false);
            }
        } else if !buffers.folded.is_empty() {
            each(&buffers.folded, counts_as_word);
        }
    }
}

#[derive(Default)]
struct Buffers {
    lowered: String,
    folded: String,
    /// The word before, in small letters, in case a hyphen follows.
    before: String,
}

fn lower_into(word: &str, out: &mut String) {
    out.clear();
    if word.is_ascii() {
        out.push_str(word);
        out.make_ascii_lowercase();
    } else {
        out.push_str(&word.to_lowercase());
    }
}

fn cut(word: &str) -> &str {
    let mut end = word.len().min(LONGEST_WORD_BYTES);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    &word[..end]
}

/// The n-grams of a run; a shorter run is one term. A text has single characters as well, or one that is asked for alone
/// would not be found.
fn ngrams(run: &str, size: usize, role: Role, each: &mut impl FnMut(&str, bool)) {
    let borders: Vec<usize> = run.char_indices().map(|(at, _)| at).chain([run.len()]).collect();
    let characters = borders.len() - 1;
    if characters == 0 {
        return;
    }
    if characters <= size {
        each(run, true);
    } else {
        for window in borders.windows(size + 1) {
            each(&run[window[0]..window[size]], true);
        }
    }
    if size == CJK_NGRAM && role == Role::Text && characters > 1 {
        for window in borders.windows(2) {
            each(&run[window[0]..window[1]], false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ANALYZER_VERSION, Analyzer, LANGUAGES, LONGEST_WORD_BYTES, OTHER_LANGUAGES};
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

    #[test]
    fn a_compound_has_its_parts_and_the_whole_and_is_one_word_long() {
        let analyzer = Analyzer::new("english").unwrap();
        let (counts, length) = analyzer.count("getUserName e-mail");
        let mut terms: Vec<&str> = counts.keys().map(String::as_str).collect();
        terms.sort_unstable();
        assert_eq!(terms, ["e", "email", "getusernam", "mail", "name", "user"]);
        assert_eq!(length, 2); // `get` is a stop word
    }

    #[test]
    fn an_older_version_keeps_its_rules() {
        let older = Analyzer::of_version(1, "english").unwrap();
        assert_eq!(
            (older.version(), older.query_terms("Besançon").as_slice()),
            (1, ["besançon".to_owned()].as_slice())
        );
        let present = Analyzer::of_version(ANALYZER_VERSION, "english").unwrap();
        assert_eq!(present.query_terms("Besançon"), ["besancon"]);
        assert!(Analyzer::of_version(1, "turkish").is_none());
        assert!(Analyzer::of_version(ANALYZER_VERSION + 1, "english").is_none());
    }

    proptest! {
        #[test]
        fn any_text_gives_short_terms_in_every_language(text in any::<String>(), repeat in 1_usize..40) {
            for language in LANGUAGES.map(|(name, _)| name).into_iter().chain(OTHER_LANGUAGES) {
                let analyzer = Analyzer::new(language).unwrap();
                let (counts, length) = analyzer.count(&text.repeat(repeat));
                prop_assert!(length as usize <= counts.values().map(|&count| usize::from(count)).sum::<usize>());
                prop_assert!(counts.keys().all(|term| term.len() <= 4 * LONGEST_WORD_BYTES && !term.is_empty()));
            }
        }

        #[test]
        fn a_word_is_found_by_itself(word in "[a-zA-Z\u{c0}-\u{24f}\u{370}-\u{3ff}\u{400}-\u{4ff}\u{5d0}-\u{5ea}\u{620}-\u{64a}]{1,30}") {
            for language in ["auto", "german", "greek", "none"] {
                let analyzer = Analyzer::new(language).unwrap();
                // Behind a stop word, so that it opens no sentence: a stop word in small letters may be left out.
                let (counts, _) = analyzer.count(&format!("of {word}"));
                let asked = analyzer.query_terms(&format!("of {word}"));
                prop_assert!(counts.is_empty() || asked.iter().any(|term| counts.contains_key(term)), "{asked:?} {counts:?}");
            }
        }
    }
}
