//! The log of the journal: what is read of it after any damage, against the state that it was written from.

use std::collections::BTreeMap;

use agent_memory_core::journal::{
    Contents, FRAMES_AT, Frames, HEADER_BYTES, Header, MIN_REWRITTEN_BYTES, VERSION, header_of, is_worth_rewriting,
    scan,
};
use proptest::prelude::*;
use proptest::sample::Index;

type Rows = BTreeMap<i64, Vec<u8>>;

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>),
    Replace(Index, Vec<u8>),
    Remove(Vec<Index>),
    Send(Vec<Index>),
    Note(Vec<u8>),
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // A body of zeros cannot be distinguished from one that was never written.
    let body = || prop::collection::vec(1_u8.., 0..200);
    let chosen = || prop::collection::vec(any::<Index>(), 1..5);
    let step = prop_oneof![
        6 => body().prop_map(Step::Put),
        2 => (any::<Index>(), body()).prop_map(|(index, body)| Step::Replace(index, body)),
        3 => chosen().prop_map(Step::Remove),
        1 => chosen().prop_map(Step::Send),
        1 => body().prop_map(Step::Note),
        4 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..60)
}

/// A segment, and the state after each of its frames that ends one, by the length of the file then.
struct Written {
    bytes: Vec<u8>,
    /// The state after each commit and where that ended.
    states: Vec<(usize, Rows)>,
    /// The state after each request and where that ended: what a reader may find where a commit was torn.
    between: Vec<(usize, Rows)>,
    /// Every body that each row has had.
    had: BTreeMap<i64, Vec<Vec<u8>>>,
    announced: (Vec<i64>, Vec<u8>),
    note: Option<Vec<u8>>,
}

fn write(steps: &[Step]) -> Written {
    let header = Header { identity: b"client".to_vec(), salt: 0x1234_5678_9abc_def0, version: VERSION };
    let mut written = Written {
        bytes: header.encode(),
        states: vec![(FRAMES_AT, Rows::new())],
        between: vec![(FRAMES_AT, Rows::new())],
        had: BTreeMap::new(),
        announced: Default::default(),
        note: None,
    };
    let (mut frames, mut rows, mut next_row) = (Frames::new(header.salt), Rows::new(), 1);
    for step in steps.iter().chain([&Step::Commit]) {
        let choose = |indexes: &[Index]| -> Vec<i64> {
            let known: Vec<i64> = rows.keys().copied().collect();
            let mut chosen: Vec<i64> =
                if known.is_empty() { Vec::new() } else { indexes.iter().map(|index| *index.get(&known)).collect() };
            chosen.sort_unstable();
            chosen.dedup();
            chosen
        };
        match step {
            Step::Put(body) => {
                frames.put(next_row, body);
                rows.insert(next_row, body.clone());
                written.had.entry(next_row).or_default().push(body.clone());
                next_row += 1;
            }
            Step::Replace(index, body) => {
                for row in choose(&[*index]) {
                    frames.replace(row, body);
                    rows.insert(row, body.clone());
                    written.had.entry(row).or_default().push(body.clone());
                }
            }
            Step::Remove(indexes) => {
                let chosen = choose(indexes);
                frames.remove(&chosen);
                rows.retain(|row, _| !chosen.contains(row));
            }
            Step::Send(indexes) => {
                let chosen = choose(indexes);
                frames.send(&chosen, b"how");
                written.announced = (chosen, b"how".to_vec());
            }
            Step::Note(body) => {
                frames.note("note", body);
                written.note = Some(body.clone());
            }
            Step::Commit => {
                written.bytes.extend_from_slice(frames.bytes());
                frames.acknowledged();
                written.states.push((written.bytes.len(), rows.clone()));
            }
        }
        written.between.push((written.bytes.len() + frames.bytes().len(), rows.clone()));
    }
    written
}

fn read(bytes: &[u8]) -> Contents {
    let (header, is_whole) = header_of(bytes).expect("a header");
    scan(bytes, &header, is_whole)
}

fn found(bytes: &[u8], contents: &Contents) -> Rows {
    contents.records.iter().map(|record| (record.row, bytes[record.body.clone()].to_vec())).collect()
}

/// What holds after any damage but a cut: no removed record comes back as certain, every body is one that the record
/// had, and missing records are reported.
fn check_damage(damaged: &[u8], written: &Written) -> Result<Contents, TestCaseError> {
    let truth = &written.states.last().expect("one").1;
    let contents = read(damaged);
    if !contents.loss.is_damaged && contents.loss.torn_bytes > 0 {
        // It looks like a log that was cut off, and is read as one.
        let rows = found(damaged, &contents);
        prop_assert!(written.between.iter().any(|(_, state)| *state == rows), "a state that never was");
        return Ok(contents);
    }
    let mut intact = 0;
    for record in &contents.records {
        let body = &damaged[record.body.clone()];
        prop_assert!(written.had[&record.row].iter().any(|had| had == body), "a body that was never written");
        if record.is_certain && !record.is_stale {
            prop_assert_eq!(Some(body), truth.get(&record.row).map(Vec::as_slice), "row {}", record.row);
            intact += 1;
        }
    }
    if intact < truth.len() {
        prop_assert!(contents.loss.is_damaged, "{} of {} are there", intact, truth.len());
    }
    Ok(contents)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn what_was_written_is_read(steps in steps()) {
        let written = write(&steps);
        let contents = read(&written.bytes);
        prop_assert_eq!(found(&written.bytes, &contents), written.states.last().expect("one").1.clone());
        prop_assert!(contents.records.iter().all(|record| record.is_certain));
        prop_assert_eq!(contents.loss, agent_memory_core::journal::Loss::default());
        prop_assert_eq!(contents.end, written.bytes.len());
        let sent: Vec<i64> =
            contents.records.iter().filter(|record| record.sent.is_some()).map(|record| record.row).collect();
        let expected: Vec<i64> = found(&written.bytes, &contents).into_keys().filter(|row| written.announced.0.contains(row)).collect();
        prop_assert_eq!(sent, expected);
        prop_assert!(contents.announced.0.iter().all(|row| contents.next_row > *row));
        let note = contents.notes.first().map(|(_, place)| written.bytes[place.clone()].to_vec());
        prop_assert_eq!(note, written.note.clone());
    }

    /// Going on behind what was read is as if there had been no break.
    #[test]
    fn a_log_is_gone_on_with(first in steps(), body in prop::collection::vec(any::<u8>(), 0..50)) {
        let written = write(&first);
        let mut contents = read(&written.bytes);
        let mut bytes = written.bytes.clone();
        let row = contents.next_row;
        contents.frames.put(row, &body);
        bytes.extend_from_slice(contents.frames.bytes());
        let again = read(&bytes);
        let mut expected = written.states.last().expect("one").1.clone();
        prop_assert!(expected.insert(row, body).is_none(), "a number is given once");
        prop_assert_eq!(found(&bytes, &again), expected);
        prop_assert!(!again.loss.is_damaged);
    }

    /// One wrong bit, anywhere, costs at most the record it is in, and is reported.
    #[test]
    fn one_wrong_bit_costs_one_record_at_most(steps in steps(), place in any::<Index>(), bit in 0..8) {
        let written = write(&steps);
        let mut damaged = written.bytes.clone();
        let at = place.index(damaged.len());
        damaged[at] ^= 1_u8 << bit;
        let contents = check_damage(&damaged, &written)?;
        let truth = &written.states.last().expect("one").1;
        let told = contents.loss.is_damaged || contents.loss.torn_bytes > 0;
        prop_assert!(told, "byte {at}");
        prop_assert!(contents.records.iter().all(|record| record.is_certain), "byte {at}");
        let intact = contents.records.iter().filter(|record| !record.is_stale).count();
        prop_assert!(intact + 1 >= truth.len(), "{} of {} are there", intact, truth.len());
        prop_assert!(contents.loss.records <= 1, "told that {} are lost", contents.loss.records);
    }

    /// Cut off anywhere: what was there at that moment, and never more than that.
    #[test]
    fn a_cut_log_is_a_prefix(steps in steps(), place in any::<Index>()) {
        let written = write(&steps);
        let cut = FRAMES_AT + place.index(written.bytes.len() - FRAMES_AT + 1);
        let contents = read(&written.bytes[..cut]);
        let (end, state) = written.between.iter().rev().find(|(end, _)| *end <= cut).expect("the empty one");
        let rows = found(&written.bytes, &contents);
        if *end == cut {
            prop_assert_eq!(&rows, state);
        } else {
            prop_assert!(contents.loss.torn_bytes > 0 || contents.end == cut, "the rest of a frame is told");
            // The request that was cut may have been taken from its first frame on.
            let next = written.between.iter().find(|(end, _)| *end > cut).map(|(_, state)| state);
            prop_assert!(rows == *state || Some(&rows) == next);
        }
        prop_assert!(!contents.loss.is_damaged, "a crash leaves such a tail");
        prop_assert!(contents.records.iter().all(|record| record.is_certain));
    }

    /// A piece of the log that is there twice, inserted or in the place of another.
    #[test]
    fn a_block_that_is_there_twice(steps in steps(), from in any::<Index>(), to in any::<Index>(), length in 1..600_usize, inserted in any::<bool>()) {
        let written = write(&steps);
        let mut damaged = written.bytes.clone();
        let from = FRAMES_AT + from.index(damaged.len() - FRAMES_AT + 1);
        let block = damaged[from..(from + length).min(damaged.len())].to_vec();
        let to = FRAMES_AT + to.index(damaged.len() - FRAMES_AT + 1);
        let end = if inserted { to } else { (to + block.len()).min(damaged.len()) };
        damaged.splice(to..end, block);
        if damaged != written.bytes {
            let contents = read(&damaged);
            prop_assert!(contents.loss.is_damaged || contents.loss.torn_bytes > 0, "told");
            // In the place of all that came later it makes a log that ends there.
            if contents.frames.sequence() == read(&written.bytes).frames.sequence() {
                check_damage(&damaged, &written)?;
            }
        }
    }

    /// Whole requests that are there twice: nothing is lost, nothing that was removed comes back.
    #[test]
    fn requests_that_are_there_twice(steps in steps(), from in any::<Index>(), to in any::<Index>(), count in 1..5_usize) {
        let written = write(&steps);
        let mut damaged = written.bytes.clone();
        let ends: Vec<usize> = written.between.iter().map(|(end, _)| *end).collect();
        let from = from.index(ends.len());
        let block = damaged[ends[from]..ends[(from + count).min(ends.len() - 1)]].to_vec();
        let to = *to.get(&ends);
        damaged.splice(to..to, block.iter().copied());
        let contents = check_damage(&damaged, &written)?;
        prop_assert_eq!(contents.loss.is_damaged, !block.is_empty());
        prop_assert_eq!(found(&damaged, &contents), written.states.last().expect("one").1.clone());
    }

    /// Overwritten, or missing, in any number of places.
    #[test]
    fn any_damage(
        steps in steps(),
        places in prop::collection::vec((any::<Index>(), prop::collection::vec(any::<u8>(), 0..300), 0..300_usize), 1..6),
    ) {
        let written = write(&steps);
        let mut damaged = written.bytes.clone();
        for (place, bytes, length) in places {
            let at = FRAMES_AT + place.index(damaged.len() - FRAMES_AT + 1);
            let end = (at + length).min(damaged.len());
            damaged.splice(at..end, bytes);
        }
        let contents = read(&damaged);
        if contents.frames.sequence() == read(&written.bytes).frames.sequence() {
            check_damage(&damaged, &written)?;
        }
        for record in &contents.records {
            let body = &damaged[record.body.clone()];
            prop_assert!(written.had[&record.row].iter().any(|had| had == body), "a body that was never written");
        }
    }

    /// Whatever stands in the file, reading it ends, and finds nothing that the salt does not vouch for.
    #[test]
    fn bytes_that_are_no_frames(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let header = Header { identity: b"client".to_vec(), salt: 7, version: VERSION };
        let mut segment = header.encode();
        segment.extend_from_slice(&bytes);
        prop_assert_eq!(read(&segment).records, vec![]);
    }
}

/// A record whose body looks like frames of another segment, or of this one under another salt, is one record.
#[test]
fn frames_within_a_body_are_no_frames() {
    let salt = 41;
    let mut forged = Frames::new(salt + 1);
    forged.put(77, b"planted");
    let header = Header { identity: b"client".to_vec(), salt, version: VERSION };
    let mut frames = Frames::new(salt);
    frames.put(1, forged.bytes());
    frames.put(2, b"after");
    let mut bytes = header.encode();
    bytes.extend_from_slice(frames.bytes());
    // Two bits of the header: it cannot be put right, so the reader looks into the body.
    bytes[FRAMES_AT + 9] ^= 3;
    let contents = read(&bytes);
    assert_eq!(contents.records.iter().map(|record| record.row).collect::<Vec<_>>(), [2]);
    assert_eq!((contents.loss.records, contents.loss.is_damaged), (1, true));
}

#[test]
fn what_a_loss_of_power_leaves_is_a_torn_tail() {
    let header = Header { identity: b"client".to_vec(), salt: 5, version: VERSION };
    let mut bytes = header.encode();
    let mut frames = Frames::new(5);
    frames.put(1, b"acknowledged");
    bytes.extend_from_slice(frames.bytes());
    frames.acknowledged();
    let end = bytes.len();
    let place = frames.put(2, &[b'x'; 2_000]);
    frames.put(3, b"third");
    bytes.extend_from_slice(frames.bytes());
    // The middle of the commit that was under way has not reached the disk, its end has.
    bytes[end + place.1 - 1_000..end + place.1].fill(0);
    let contents = read(&bytes);
    assert_eq!(contents.records.iter().map(|record| record.row).collect::<Vec<_>>(), [1, 3]);
    assert!(!contents.loss.is_damaged);
    assert!(contents.loss.torn_bytes > 0);
    bytes.truncate(end + place.1);
    let contents = read(&bytes);
    assert_eq!((contents.records.len(), contents.loss.is_damaged, contents.end), (1, false, end));
}

#[test]
fn a_lost_removal_makes_earlier_records_uncertain() {
    let header = Header { identity: b"client".to_vec(), salt: 5, version: VERSION };
    let mut frames = Frames::new(5);
    let mut bytes = header.encode();
    frames.put(1, b"one");
    frames.put(2, b"two");
    let from = bytes.len() + frames.bytes().len();
    frames.remove(&[1]);
    let to = bytes.len() + frames.bytes().len();
    frames.put(3, b"three");
    bytes.extend_from_slice(frames.bytes());
    frames.acknowledged();
    frames.put(4, b"four");
    bytes.extend_from_slice(frames.bytes());
    let certain = |bytes: &[u8]| -> Vec<(i64, bool)> {
        read(bytes).records.iter().map(|record| (record.row, record.is_certain)).collect()
    };
    let mut half = bytes.clone();
    half[from..from + 60].fill(0xff);
    assert_eq!(certain(&half), [(2, true), (3, true), (4, true)], "a removal is there twice");
    bytes[from..to].fill(0xff);
    assert_eq!(certain(&bytes), [(1, false), (2, false), (3, true), (4, true)]);
}

#[test]
fn a_header_is_there_twice() {
    let header = Header { identity: b"client".to_vec(), salt: 5, version: VERSION };
    let mut bytes = header.encode();
    bytes[3] ^= 1;
    assert_eq!(header_of(&bytes), Some((header.clone(), false)));
    bytes[HEADER_BYTES + 3] ^= 1;
    assert_eq!(header_of(&bytes), None);
    assert_eq!(header_of(&header.encode()), Some((header.clone(), true)));
    assert_eq!(header_of(&header.encode()[..HEADER_BYTES]), Some((header, false)));
    assert_eq!(header_of(b"short"), None);
}

#[test]
fn a_log_is_rewritten_when_half_of_it_is_of_no_use() {
    assert!(!is_worth_rewriting(MIN_REWRITTEN_BYTES - 1, 0));
    assert!(is_worth_rewriting(MIN_REWRITTEN_BYTES, MIN_REWRITTEN_BYTES / 2));
    assert!(!is_worth_rewriting(MIN_REWRITTEN_BYTES, MIN_REWRITTEN_BYTES / 2 + 1));
}

/// `PROPTEST_CASES` searches longer.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500)
}
