//! Any text in any language: counting its terms never panics, and the terms are those a query for it looks for.

#![no_main]

use agent_memory_core::scoring::index::text::{Analyzer, LANGUAGES};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

fuzz_target!(|text: &str| {
    static ANALYZERS: OnceLock<Vec<Analyzer>> = OnceLock::new();
    let analyzers = ANALYZERS.get_or_init(|| {
        let names = LANGUAGES.iter().map(|(name, _)| *name).chain(["none"]);
        names.map(|name| Analyzer::new(name).expect("known")).collect()
    });
    for analyzer in analyzers {
        let (counts, length) = analyzer.count(text);
        assert_eq!(counts.values().map(|&count| u32::from(count)).sum::<u32>(), length);
        assert!(analyzer.query_terms(text).iter().all(|term| counts.contains_key(term)));
    }
});
