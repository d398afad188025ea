//! Any text in any language: its terms are found without a panic, none is empty, and a text is no longer than its terms.

#![no_main]

use agent_memory_core::scoring::index::text::{Analyzer, LANGUAGES, OTHER_LANGUAGES};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

fuzz_target!(|text: &str| {
    static ANALYZERS: OnceLock<Vec<Analyzer>> = OnceLock::new();
    let analyzers = ANALYZERS.get_or_init(|| {
        let names = LANGUAGES.iter().map(|(name, _)| *name).chain(OTHER_LANGUAGES);
        names.map(|name| Analyzer::new(name).expect("known")).collect()
    });
    for analyzer in analyzers {
        let (counts, length) = analyzer.count(text);
        assert!(u64::from(length) <= counts.values().map(|&count| u64::from(count)).sum::<u64>());
        assert!(counts.keys().all(|term| !term.is_empty()));
        assert!(analyzer.query_terms(text).iter().all(|term| !term.is_empty()));
    }
});
