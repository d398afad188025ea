//! What a server sends: any bytes, cut anywhere, leave the parser with the same replies, in which there is nothing left to take out.

#![no_main]

use agent_memory_core::protocol::replies::{Scanner, Violation};
use libfuzzer_sys::fuzz_target;

/// What the parser is given of a stream that comes in pieces of these lengths, again and again, and how the stream stands then.
fn given(stream: &[u8], cuts: &[u8]) -> (Vec<u8>, bool, Option<Violation>) {
    let (mut scanner, mut kept, mut at) = (Scanner::new(), Vec::new(), 0);
    let mut cuts = cuts.iter().cycle();
    while at < stream.len() {
        let length = cuts.next().map_or(stream.len(), |&cut| usize::from(cut) + 1).min(stream.len() - at);
        let piece = &stream[at..at + length];
        let mut parts = Vec::new();
        let is_all = scanner.scan(piece, |part| parts.extend_from_slice(&piece[part]));
        assert!(!(is_all && scanner.violation().is_some()), "a piece with a violation is not given whole");
        kept.extend_from_slice(if is_all { piece } else { &parts });
        at += length;
    }
    (kept, scanner.is_between_replies(), scanner.violation())
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut_count, rest)) = data.split_first() else { return };
    let (cuts, stream) = rest.split_at(usize::from(cut_count % 8).min(rest.len()));
    let whole = given(stream, &[]);
    for cut in [given(stream, cuts), given(stream, &[0])] {
        assert_eq!((cut.1, cut.2), (whole.1, whole.2), "cut or whole, it is judged alike");
        // Of the reply that a violation ended, more or less of its beginning may have been given.
        let is_longer = cut.0.len() > whole.0.len() && whole.2.is_some();
        let (short, long) = if is_longer { (&whole.0, &cut.0) } else { (&cut.0, &whole.0) };
        assert!(long.starts_with(short) && (whole.2.is_some() || long.len() == short.len()), "the same is given");
    }

    let (kept, stands, violation) = whole;
    let (again, stands_again, violation_again) = given(&kept, &[]);
    assert_eq!(again, kept, "what was given holds nothing to take out");
    assert_eq!(violation_again, None, "nor what ends a stream");
    if violation.is_none() && stands {
        assert!(stands_again, "between two replies, the parser has whole ones");
    }
});
