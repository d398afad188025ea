//! English words without a meaning of their own, and what of them is a name.

use std::collections::HashSet;

/// Function words, auxiliaries and question words. In short texts they are most of the matches and none of the meaning.
pub(super) const STOP_WORDS: &str = "a about above after again against ain all also am an and any anyone anything are \
aren as at be because been before being below between both but by can cannot could couldn d did didn do does doesn doing \
don done down during each either else ever every everyone everything few for from further get gets getting go goes going \
gone got had hadn has hasn have haven having he her here hers herself hi him himself his how however i if in into is isn \
it its itself just let ll m ma many may maybe me might mightn more most much must mustn my myself need needn neither no \
nor not now o of off oh ok okay on once one only or other others our ours ourselves out over own per please quite rather \
re really s said same say says shall shan she should shouldn so some someone something still such t than that the their \
theirs them themselves then there these they thing things this those though through to too under until up upon us use \
used using ve very was wasn we well went were weren what whatever when where whether which while who whom whose why will \
with within without won would wouldn y yes yet you your yours yourself yourselves";

/// Stop words that are names, too: kept where they begin a sentence.
const NAMES: &str = "don may per will";

/// What an apostrophe leaves of an English word's end: `Ann's`, `don't`, `we'll`.
const CLITICS: &str = "d ll m re s t ve";

/// The stop list of English; empty for the other languages.
#[derive(Debug, Default)]
pub(super) struct StopWords {
    words: HashSet<&'static str>,
    names: HashSet<&'static str>,
    clitics: HashSet<&'static str>,
}

impl StopWords {
    pub(super) fn english() -> Self {
        let set = |list: &'static str| list.split(' ').collect();
        Self { words: set(STOP_WORDS), names: set(NAMES), clitics: set(CLITICS) }
    }

    pub(super) fn has(&self, lowered: &str) -> bool {
        self.words.contains(lowered)
    }

    pub(super) fn is_clitic(&self, lowered: &str) -> bool {
        self.clitics.contains(lowered)
    }

    /// Whether a stop word is written as a name: `May`, `US`, plan `D`. Where it `opens` a sentence every word has a
    /// capital: there it is an acronym or, if `names_may_open`, one of the list.
    pub(super) fn is_name(&self, word: &str, lowered: &str, opens: bool, names_may_open: bool) -> bool {
        let mut letters = word.chars();
        if lowered == "i" || !letters.next().is_some_and(char::is_uppercase) {
            return false;
        }
        let is_acronym = word.len() > 1 && letters.all(char::is_uppercase);
        is_acronym || !opens || (names_may_open && self.names.contains(lowered))
    }
}
