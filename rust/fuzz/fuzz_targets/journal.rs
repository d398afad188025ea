//! The log of the recovery journal: any changes to the bytes of a whole segment, and any bytes behind its header.
//!
//! The input is a list of changes (three bytes of place, one of how, one of value); what is read afterwards must be records that
//! were written, in a state that they had, and what is said to be certain must be what was there.

#![no_main]

use agent_memory_core::journal::{FRAMES_AT, Frames, Header, VERSION, header_of, scan};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

const SALT: u64 = 0x5eed;

struct Written {
    bytes: Vec<u8>,
    /// Every body that each row has had; the last one if it is there at the end.
    had: BTreeMap<i64, Vec<Vec<u8>>>,
    there: BTreeMap<i64, Vec<u8>>,
    last: u64,
}

/// Records that are put, replaced, removed and announced, in several commits.
fn written() -> Written {
    let header = Header { identity: b"fuzz".to_vec(), salt: SALT, version: VERSION };
    let mut written =
        Written { bytes: header.encode(), had: BTreeMap::new(), there: BTreeMap::new(), last: 0 };
    let mut frames = Frames::new(SALT);
    for round in 1..=20_i64 {
        for row in 3 * round - 2..=3 * round {
            let body = vec![u8::try_from(row).expect("small") | 0x80; 7 * usize::try_from(row).expect("positive")];
            frames.put(row, &body);
            written.had.entry(row).or_default().push(body.clone());
            written.there.insert(row, body);
        }
        let body = format!("replaced in round {round}").into_bytes();
        frames.replace(3 * round, &body);
        written.had.entry(3 * round).or_default().push(body.clone());
        written.there.insert(3 * round, body);
        frames.send(&[3 * round - 1], b"how");
        frames.remove(&[3 * round - 2]);
        written.there.remove(&(3 * round - 2));
        frames.note("note", format!("round {round}").as_bytes());
        written.bytes.extend_from_slice(frames.bytes());
        frames.acknowledged();
    }
    written.last = frames.sequence();
    written
}

fn change(bytes: &mut Vec<u8>, change: &[u8]) {
    let at = usize::from(change[0]) << 16 | usize::from(change[1]) << 8 | usize::from(change[2]);
    let at = FRAMES_AT + at % (bytes.len() - FRAMES_AT + 1);
    let length = (usize::from(change[4]) * 5).min(bytes.len() - at);
    match change[3] % 5 {
        0 if at < bytes.len() => bytes[at] ^= change[4] | 1,
        1 => bytes[at..at + length].fill(change[4]),
        2 => drop(bytes.drain(at..at + length)),
        3 => {
            let block = bytes[at..at + length].to_vec();
            bytes.splice(at..at, block);
        }
        _ => bytes.insert(at, change[4]),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut written = written();
    // Any bytes in the place of frames.
    let mut junk = written.bytes[..FRAMES_AT].to_vec();
    junk.extend_from_slice(data);
    let (header, is_whole) = header_of(&junk).expect("a header");
    assert!(scan(&junk, &header, is_whole).records.is_empty(), "nothing that the salt does not vouch for");
    let _ = header_of(data);

    for five in data.chunks_exact(5).take(12) {
        change(&mut written.bytes, five);
    }
    let bytes = &written.bytes;
    let contents = scan(bytes, &header, true);
    for record in &contents.records {
        let body = &bytes[record.body.clone()];
        assert!(written.had[&record.row].iter().any(|had| had == body), "a body that was never written");
        let is_there = written.there.get(&record.row).is_some_and(|there| there == body);
        let is_reported = !record.is_certain || record.is_stale;
        // A log that ends early looks like one that ended there.
        assert!(is_there || is_reported || contents.frames.sequence() != written.last, "row {}", record.row);
    }
    assert!(contents.next_row > contents.records.last().map_or(0, |record| record.row));
});
