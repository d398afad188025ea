//! Bytes of a snapshot, changed: reading them is an error or gives an index that can be searched and written.
//!
//! The input is a list of changes (two bytes of place, one of value) to a whole snapshot, whose checksums are put right
//! afterwards: damage that a checksum finds is found by chance alone, what lies behind is what can go wrong.

#![no_main]

use agent_memory_core::scoring::index::codes::Rotation;
use agent_memory_core::scoring::index::search::{Filter, Fusion, Query, Searcher};
use agent_memory_core::scoring::index::segment::NewRow;
use agent_memory_core::scoring::index::snapshot::{SharedBytes, read_snapshot, write_snapshot};
use agent_memory_core::scoring::index::text::{Analyzer, Bm25};
use agent_memory_core::scoring::index::{Index, Settings};
use agent_memory_core::scoring::kernels::Kernels;
use agent_memory_core::scoring::parts::{Decay, Metric, Weights};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, OnceLock};

fn original() -> &'static [u8] {
    static ORIGINAL: OnceLock<Vec<u8>> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let analyzer = Analyzer::new("english").expect("known");
        let row = |n: u8| NewRow {
            id: format!("m{n}"),
            text: n.is_multiple_of(2).then(|| analyzer.count("Rivers and stones")),
            timestamp_s: f64::NAN,
            attributes: vec!["kind".to_owned()],
            sequence: n.is_multiple_of(3).then_some((0, i64::from(n))),
            ..NewRow::default()
        };
        let (bare, rows) = ((0..3).map(row).collect(), (3..9).map(row).collect());
        let vectors = (3..9_u8).flat_map(|n| [f32::from(n), 1.0, -2.0]).collect();
        let index = Index::new(Settings {
            dimensions: 3,
            metric: Metric::Cosine,
            analyzer,
            bm25: Bm25::default(),
            context: true,
            model: "m".to_owned(),
            rotation: Rotation::new(3),
        });
        let names = ["s".to_owned()];
        index.upsert(bare, Vec::new(), &names).expect("room");
        index.upsert(rows, vectors, &names).expect("room");
        let mut bytes = Vec::new();
        write_snapshot(&index, &mut bytes).expect("memory takes everything");
        bytes
    })
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let eight = bytes.get(at..at.checked_add(8)?)?;
    usize::try_from(u64::from_le_bytes(eight.try_into().ok()?)).ok()
}

/// Puts every checksum right that can be found.
fn mend(bytes: &mut [u8]) -> Option<()> {
    let end = bytes.len();
    let (at, len) = (number(bytes, end.checked_sub(32)?)?, number(bytes, end - 24)?);
    let stop = at.checked_add(len).filter(|&stop| stop <= end - 32)?;
    // Two blocks for the one segment, 20 bytes each, at the end of the footer.
    for entry in [stop.checked_sub(40)?, stop - 20] {
        let (place, size) = (number(bytes, entry)?, number(bytes, entry + 8)?);
        let crc = crc32fast::hash(bytes.get(place..place.checked_add(size)?)?);
        bytes[entry + 16..entry + 20].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32fast::hash(bytes.get(at..stop)?);
    bytes[end - 16..end - 12].copy_from_slice(&crc.to_le_bytes());
    Some(())
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = original().to_vec();
    for change in data.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
        bytes[place] = change[2];
    }
    let _ = mend(&mut bytes);
    for is_mapped in [false, true] {
        let shared: SharedBytes = Arc::new(bytes.clone());
        let Ok(index) = read_snapshot(&shared, is_mapped, 2) else { continue };
        let settings = index.settings();
        let vector = vec![1.0; settings.dimensions];
        let terms = ["river".to_owned(), "stone".to_owned()];
        let query = Query {
            vector: Some(&vector),
            terms: Some(&terms),
            k: 3,
            weights: Weights { similarity: 1.0, lexical: 1.0, recency: 0.1, importance: 0.1, access: 0.1 },
            fusion: Fusion::MinMax,
            decay: Decay::HalfLife { half_life_s: 1.0 },
            now_s: 0.0,
            filter: &Filter::default(),
            diversity: None,
        };
        let state = index.state();
        let searcher = Searcher { settings, state: &state, kernels: Kernels::detect() };
        assert!(searcher.search(&query).hits.len() <= 3);
        write_snapshot(&index, &mut Vec::new()).expect("memory takes everything");
    }
});
