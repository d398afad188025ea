//! The journal: its content after a kill and after damage, and the ownership of its parts.
//!
//! A kill -9 leaves the files as they are at that moment. So the tests copy the directory of a journal that is still open,
//! and open the copy: the locks are not copied, so the copy's owner counts as dead.

#![allow(missing_docs)]

use agent_memory_storage::journal::{Fsync, Journal, JournalError, MAX_KEPT_DAMAGED, Options, RecordId, Recovered};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NEVER: Fsync = Fsync::Never; // what a kill leaves does not depend on fdatasync, and tests are faster without

fn open_as(directory: &Path, identity: &str, fsync: Fsync) -> Journal {
    let options = Options { directory: directory.to_owned(), identity: identity.to_owned(), fsync };
    Journal::open(&options).expect("opened")
}

fn open(directory: &Path) -> Journal {
    open_as(directory, "client", NEVER)
}

fn finish(journal: &Journal, ticket: u64) -> Option<JournalError> {
    assert!(journal.wait(ticket, Some(Instant::now() + Duration::from_secs(60))), "written in time");
    journal.failure(ticket)
}

fn append(journal: &Journal, body: &[u8]) -> RecordId {
    let (id, ticket) = journal.append(body.into()).expect("accepted");
    assert_eq!(finish(journal, ticket), None);
    id
}

fn remove(journal: &Journal, ids: &[RecordId]) {
    let removed = journal.remove(ids).expect("accepted");
    assert_eq!(finish(journal, removed), None);
}

fn bodies(recovered: &[Recovered]) -> Vec<&[u8]> {
    recovered.iter().map(|record| &*record.body).collect()
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for path in files(from) {
        fs::copy(&path, to.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    to
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("listed").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.collect();
    files.sort();
    files
}

fn file(directory: &Path, ending: &str) -> PathBuf {
    files(directory).into_iter().find(|path| path.to_string_lossy().ends_with(ending)).expect("there")
}

#[test]
fn what_was_written_is_found_after_a_kill() {
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(1)), Fsync::Never] {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = open_as(directory.path(), "client", fsync);
        let first = append(&journal, b"first");
        let second = append(&journal, b"second");
        append(&journal, b"third");
        let replaced = journal.replace(second, b"2nd".as_slice().into()).expect("accepted");
        assert_eq!(finish(&journal, replaced), None);
        remove(&journal, &[first]);
        let killed = copy(directory.path());
        let successor = open(killed.path());
        let recovered = successor.take_recovered();
        assert_eq!(bodies(&recovered), [b"2nd".as_slice(), b"third"]);
        assert_eq!(successor.take_recovered(), []);
        assert_eq!(successor.stats().records, 2);
        // New records do not get the numbers of those that are there.
        append(&successor, b"fourth");
        successor.close();
        assert_eq!(bodies(&open(killed.path()).take_recovered()), [b"2nd".as_slice(), b"third", b"fourth"]);
    }
}

#[test]
fn what_was_being_sent_is_told_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    let ids: Vec<_> = [b"a", b"b", b"c"].iter().map(|body| append(&journal, *body)).collect();
    for range in [0..2, 1..2] {
        let marked = journal.mark_sent(&ids[range], b"how").expect("accepted");
        assert_eq!(finish(&journal, marked), None);
    }
    let ticket = journal.note("connection", b"7".as_slice().into()).expect("accepted");
    assert_eq!(finish(&journal, ticket), None);
    let killed = copy(directory.path());
    let successor = open(killed.path());
    let recovered = successor.take_recovered();
    assert!(recovered.iter().all(|record| record.sent.as_deref().is_none_or(|how| how == b"how")));
    let sent: Vec<bool> = recovered.iter().map(|record| record.sent.is_some()).collect();
    assert_eq!(sent, [false, true, false]);
    let notes: Vec<_> = successor.recovered_notes().iter().map(|note| (&*note.name, &*note.body)).collect();
    assert_eq!(notes, [("connection", b"7".as_slice())]);
}

#[test]
fn segments_have_one_owner_and_dead_ones_are_adopted() {
    let directory = tempfile::tempdir().expect("a directory");
    let (first, second) = (open(directory.path()), open(directory.path()));
    append(&first, b"first's");
    append(&second, b"second's");
    assert_eq!(open(directory.path()).take_recovered(), [], "both are alive");
    let stranger = open_as(directory.path(), "another", NEVER);
    append(&stranger, b"another's");
    for journal in [first, second, stranger] {
        journal.close();
    }
    let successor = open(directory.path());
    let recovered = successor.take_recovered();
    assert_eq!(bodies(&recovered), [b"first's".as_slice(), b"second's"]);
    assert_eq!((successor.stats().segments, successor.stats().foreign_segments), (2, 1));
    let ids: Vec<_> = recovered.iter().map(|record| record.id).collect();
    remove(&successor, &ids);
    successor.close();
    assert_eq!(bodies(&open_as(directory.path(), "another", NEVER).take_recovered()), [b"another's"]);
}

#[test]
fn many_processes_at_once_adopt_each_segment_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let parents: Vec<_> = (0..8).map(|_| open(directory.path())).collect();
    for (number, journal) in parents.iter().enumerate() {
        append(journal, &[u8::try_from(number).expect("small")]);
    }
    parents.iter().for_each(Journal::close);
    let successors: Vec<Journal> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(directory.path()))).collect();
        threads.into_iter().map(|thread| thread.join().expect("opened")).collect()
    });
    let mut adopted: Vec<u8> =
        successors.iter().flat_map(Journal::take_recovered).map(|record| record.body[0]).collect();
    adopted.sort_unstable();
    assert_eq!(adopted, (0..8).collect::<Vec<u8>>());
}

#[test]
fn an_empty_journal_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("made/on/the/way");
    let journal = open(&path);
    let id = append(&journal, b"body");
    remove(&journal, &[id]);
    journal.close();
    journal.close();
    assert_eq!(journal.append(b"late".as_slice().into()), Err(JournalError::Closed));
    assert_eq!(files(&path), Vec::<PathBuf>::new());
}

#[test]
fn files_are_the_owners_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let journal = open(&path);
    append(&journal, b"body");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
    assert_eq!(files(&path).len(), 1);
    for file in files(&path) {
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn a_waiting_caller_is_woken_by_a_batch() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let signal = journal.add_signal(fs::File::from(std::os::fd::OwnedFd::from(writer)));
    let (_, ticket) = journal.append(b"body".as_slice().into()).expect("accepted");
    journal.wake(); // an append alone leaves a writer that sleeps asleep
    let mut counted = [0; 8];
    reader.read_exact(&mut counted).expect("signalled");
    assert!(journal.done() >= ticket);
    journal.remove_signal(signal);
    assert_eq!(reader.read(&mut counted).expect("closed"), 0);
    assert!(!journal.wait(ticket + 1, Some(Instant::now())), "nobody has asked for that");
    let bodies: Vec<Box<[u8]>> = (0..5_000u32).map(|number| number.to_le_bytes().into()).collect();
    let last = bodies.into_iter().map(|body| journal.append(body).expect("accepted").1).last().expect("many");
    assert_eq!(finish(&journal, last), None);
    assert!(journal.stats().commits < 2_500, "requests share commits, had {}", journal.stats().commits);
}

#[test]
fn a_stream_of_requests_is_written_while_the_writer_waits_for_company() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open_as(directory.path(), "client", Fsync::Always);
    let mut last = 0;
    for number in 0..2_000_u32 {
        last = journal.append(number.to_le_bytes().as_slice().into()).expect("accepted").1;
        journal.wake();
        if number % 500 == 0 {
            assert_eq!(finish(&journal, last), None, "a thread that is blocked ends the pause");
        }
    }
    let limit = Instant::now() + Duration::from_secs(60);
    while journal.done() < last {
        assert!(Instant::now() < limit, "nobody comes any more, so the pause is over");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (_, ticket) = journal.append(b"the last".as_slice().into()).expect("accepted");
    journal.wake();
    journal.close();
    assert!(journal.done() >= ticket, "what was asked for before the end is written");
    assert_eq!(bodies(&open(directory.path()).take_recovered()).len(), 2_001);
}

#[test]
fn a_file_that_is_no_segment_is_kept_aside() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    append(&journal, b"body");
    journal.close();
    fs::write(file(directory.path(), ".journal"), vec![b'x'; 8_192]).expect("overwritten");
    let successor = open(directory.path());
    assert_eq!(successor.take_recovered(), []);
    assert_eq!(successor.stats().damage.segments, 1);
    assert_eq!(fs::read(file(directory.path(), ".damaged")).expect("kept"), vec![b'x'; 8_192]);
    append(&successor, b"goes on");
}

/// `count` records in a log, as a kill would leave them.
fn journal_with(count: usize, length: usize) -> (tempfile::TempDir, Vec<Vec<u8>>) {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    let body = |number: usize| format!("{number:08}").repeat(length / 8).into_bytes();
    let written: Vec<Vec<u8>> = (0..count).map(body).collect();
    let tickets = written.iter().map(|body| journal.append(body.as_slice().into()).expect("accepted").1);
    let last = tickets.last().expect("some");
    assert_eq!(finish(&journal, last), None);
    (copy(directory.path()), written)
}

fn is_subsequence(part: &[&[u8]], whole: &[Vec<u8>]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|body| rest.any(|candidate| candidate == body))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    /// Bytes flipped anywhere: the records that come back are as written and in order, and missing ones are reported.
    #[test]
    fn damage_never_changes_what_is_handed_out(
        places in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..20),
    ) {
        let (killed, written) = journal_with(200, 120);
        let path = file(killed.path(), ".journal");
        let mut bytes = fs::read(&path).expect("read");
        for (place, mask) in places {
            // One copy of the header is left alone.
            let place = 4_096 + place.index(bytes.len() - 4_096);
            bytes[place] ^= mask;
        }
        fs::write(&path, &bytes).expect("written");
        let successor = open(killed.path());
        let recovered = successor.take_recovered();
        prop_assert!(is_subsequence(&bodies(&recovered), &written));
        let damage = successor.stats().damage;
        prop_assert!(damage.segments == 1 && damage.bytes > 0, "damage is reported");
        prop_assert!(damage.records + recovered.len() as u64 >= written.len() as u64, "as is what is lost");
        prop_assert!(recovered.len() + 20 >= written.len(), "what is intact is there");
        prop_assert_eq!(&damage.files, std::slice::from_ref(&path));
        prop_assert_eq!(fs::read(file(killed.path(), ".damaged")).expect("kept"), bytes);
        // What was saved stays, and can be gone on with.
        append(&successor, b"goes on");
        let again = copy(killed.path());
        let successor = open(again.path());
        let found = successor.take_recovered();
        let expected: Vec<&[u8]> = bodies(&recovered).into_iter().chain([b"goes on".as_slice()]).collect();
        prop_assert_eq!(bodies(&found), expected);
        prop_assert_eq!(successor.stats().damage.segments, 0, "it is told once");
        let certain = |found: &[Recovered]| found.iter().filter(|record| !record.is_certain).count();
        prop_assert_eq!(certain(&found), certain(&recovered), "what is uncertain stays so");
    }

    /// The log cut off anywhere: the oldest records are there, and the cut is reported.
    #[test]
    fn a_torn_log_is_a_prefix(cut in any::<prop::sample::Index>()) {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = open(directory.path());
        let written: Vec<Vec<u8>> = (0..40).map(|number| format!("record {number}").into_bytes()).collect();
        for body in &written {
            append(&journal, body);
        }
        let killed = copy(directory.path());
        let path = file(killed.path(), ".journal");
        let bytes = fs::read(&path).expect("read");
        let cut = 8_192 + cut.index(bytes.len() - 8_192);
        fs::write(&path, &bytes[..cut]).expect("cut");
        let successor = open(killed.path());
        let recovered = successor.take_recovered();
        let expected: Vec<&[u8]> = written.iter().take(recovered.len()).map(Vec::as_slice).collect();
        prop_assert_eq!(bodies(&recovered), expected);
        let (damage, length) = (successor.stats().damage, fs::metadata(&path).expect("there").len());
        prop_assert_eq!((damage.segments, damage.torn_bytes), (0, cut as u64 - length), "a crash leaves such a tail");
        append(&successor, b"goes on");
        prop_assert_eq!(open(copy(killed.path()).path()).take_recovered().len(), recovered.len() + 1);
    }

    /// Against a map: killed after any request, exactly its effects and those before it are there.
    #[test]
    fn it_is_a_map_that_survives(
        steps in prop::collection::vec((0u8..4, any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 1..60),
    ) {
        let mut directory = tempfile::tempdir().expect("a directory");
        let mut journal = open(directory.path());
        let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (step, choice, body) in steps {
            let chosen = model.keys().nth(usize::from(choice) % model.len().max(1)).copied();
            match (step, chosen) {
                (1, Some(id)) => {
                    let ticket = journal.replace(RecordId(id), body.as_slice().into()).expect("accepted");
                    prop_assert_eq!(finish(&journal, ticket), None);
                    model.insert(id, body);
                }
                (2, Some(id)) => {
                    remove(&journal, &[RecordId(id)]);
                    model.remove(&id);
                }
                (3, _) => {
                    let killed = copy(directory.path());
                    journal = open(killed.path());
                    directory = killed;
                    let found = journal.take_recovered().into_iter().map(|record| (record.id.0, record.body.to_vec()));
                    prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), model.clone());
                }
                _ => {
                    let id = append(&journal, &body);
                    prop_assert!(model.insert(id.0, body).is_none(), "a number is given once");
                }
            }
            prop_assert_eq!(journal.stats().records, model.len() as u64);
        }
    }
}

#[test]
fn a_number_that_is_announced_is_not_given_to_another_record() {
    let directory = tempfile::tempdir().expect("a directory");
    {
        let journal = open(directory.path());
        let (first, _) = journal.append(b"first".as_slice().into()).expect("accepted");
        let (second, _) = journal.append(b"second".as_slice().into()).expect("accepted");
        journal.mark_sent(&[second], b"how").expect("accepted");
        let ticket = journal.remove(&[second]).expect("accepted");
        assert!(journal.wait(ticket, None));
        assert_ne!(first, second);
    }
    {
        let successor = open(directory.path());
        assert_eq!(successor.take_recovered().len(), 1);
        let (_, ticket) = successor.append(b"third".as_slice().into()).expect("accepted");
        assert!(successor.wait(ticket, None));
    }
    let recovered = open(directory.path()).take_recovered();
    assert_eq!(bodies(&recovered), [b"first".as_slice(), b"third"]);
    assert!(recovered.iter().all(|record| record.sent.is_none()));
}

#[test]
fn a_log_of_which_most_is_of_no_use_is_written_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    let kept = append(&journal, b"kept");
    let noted = journal.note("note", b"noted".as_slice().into()).expect("accepted");
    assert_eq!(finish(&journal, noted), None);
    let body = vec![b'x'; 100_000];
    for _ in 0..200 {
        let id = append(&journal, &body);
        remove(&journal, &[id]);
    }
    let sent = journal.mark_sent(&[kept], b"how").expect("accepted");
    assert_eq!(finish(&journal, sent), None);
    assert!(journal.stats().disk_bytes < 5 << 20, "20 MB were written, {} are there", journal.stats().disk_bytes);
    assert_eq!(files(directory.path()).len(), 1);
    let path = file(directory.path(), ".journal");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(open(directory.path()).take_recovered(), [], "the new file is locked as well");
    let successor = open(copy(directory.path()).path());
    let recovered = successor.take_recovered();
    assert_eq!((bodies(&recovered), recovered[0].id), (vec![b"kept".as_slice()], kept));
    assert_eq!(recovered[0].sent.as_deref(), Some(b"how".as_slice()));
    assert_eq!(successor.recovered_notes()[0].body.as_ref(), b"noted");
    assert_eq!(successor.stats().damage, agent_memory_storage::journal::Damage::default());
}

#[test]
fn a_record_of_which_an_older_state_is_left_stays_unknown_until_it_is_written_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    let id = append(&journal, b"older");
    append(&journal, b"another");
    let newer = journal.replace(id, b"newer".as_slice().into()).expect("accepted");
    assert_eq!(finish(&journal, newer), None);
    append(&journal, b"last");
    let killed = copy(directory.path());
    let path = file(killed.path(), ".journal");
    let mut bytes = fs::read(&path).expect("read");
    let at = bytes.windows(5).position(|body| body == b"newer").expect("there");
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    let mut killed = killed;
    for _ in 0..2 {
        let successor = open(killed.path());
        let sent: Vec<_> =
            successor.take_recovered().into_iter().map(|record| (record.body.to_vec(), record.sent)).collect();
        let announced = Some(Box::default());
        assert_eq!(sent, [(b"older".to_vec(), announced), (b"another".to_vec(), None), (b"last".to_vec(), None)]);
        killed = copy(killed.path());
    }
    let successor = open(killed.path());
    let written = successor.replace(id, b"looked at".as_slice().into()).expect("accepted");
    assert_eq!(finish(&successor, written), None);
    assert!(open(copy(killed.path()).path()).take_recovered().iter().all(|record| record.sent.is_none()));
}

/// While a log is written anew again and again, copies of the directory are taken, as kills at those moments would leave it.
#[test]
fn a_kill_while_a_log_is_written_anew_loses_nothing_and_brings_nothing_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    let kept: Vec<Vec<u8>> = (0..50).map(|number| format!("kept {number}").into_bytes()).collect();
    for body in &kept {
        append(&journal, body);
    }
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let copies = scope.spawn(|| {
            let mut taken = Vec::new();
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let to = tempfile::tempdir().expect("a directory");
                for path in files(directory.path()) {
                    // It may have got another name meanwhile; what it was is under that then.
                    let _ = fs::copy(&path, to.path().join(path.file_name().expect("a name")));
                }
                taken.push(to);
            }
            taken
        });
        for round in 0..300_u32 {
            let gone = append(&journal, &vec![b'x'; 20_000]);
            remove(&journal, &[gone]);
            if round % 3 == 0 {
                let rewritten = journal.rewrite().expect("accepted");
                assert_eq!(finish(&journal, rewritten), None);
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        let copies = copies.join().expect("copied");
        assert!(copies.len() > 5);
        for killed in copies.iter().filter(|killed| {
            files(killed.path()).iter().any(|path| path.extension().is_some_and(|ending| ending == "journal"))
        }) {
            let successor = open(killed.path());
            let recovered = successor.take_recovered();
            let found: Vec<&[u8]> = bodies(&recovered).into_iter().filter(|body| body.starts_with(b"kept")).collect();
            assert_eq!(found, kept, "{:?}", successor.stats());
            assert!(recovered.len() <= kept.len() + 1, "what was removed came back");
            assert_eq!(successor.stats().damage.segments, 0, "{:?}", successor.stats().damage);
        }
    });
}

#[test]
fn what_was_removed_is_in_no_file_once_it_is_written_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    append(&journal, b"kept");
    let secret = append(&journal, b"the secret");
    let replaced = append(&journal, b"the secret, too");
    let newer = journal.replace(replaced, b"newer".as_slice().into()).expect("accepted");
    assert_eq!(finish(&journal, newer), None);
    fs::write(directory.path().join("0-0-0.damaged"), b"the secret").expect("written");
    remove(&journal, &[secret]);
    let holds = || {
        files(directory.path())
            .iter()
            .any(|path| fs::read(path).expect("read").windows(10).any(|bytes| bytes == b"the secret"))
    };
    assert!(holds());
    let rewritten = journal.rewrite().expect("accepted");
    assert_eq!(finish(&journal, rewritten), None);
    assert!(!holds());
    assert_eq!(open(directory.path()).take_recovered(), [], "it is locked still");
    assert_eq!(bodies(&open(copy(directory.path()).path()).take_recovered()), [b"kept".as_slice(), b"newer"]);
}

#[test]
fn copies_of_damaged_files_are_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    for round in 0..MAX_KEPT_DAMAGED as u64 + 2 {
        let journal = open(directory.path());
        append(&journal, &round.to_le_bytes());
        append(&journal, b"another");
        journal.close();
        let path = file(directory.path(), ".journal");
        let mut bytes = fs::read(&path).expect("read");
        bytes[8_192 + 54] ^= 1;
        fs::write(&path, bytes).expect("written");
        let successor = open(directory.path());
        let damage = successor.stats().damage;
        assert_eq!((damage.segments, damage.records, damage.uncertain), (1, 1, 0));
        assert_eq!(damage.removed_files, u64::from(round >= MAX_KEPT_DAMAGED as u64), "round {round}");
        let ids: Vec<_> = successor.take_recovered().iter().map(|record| record.id).collect();
        remove(&successor, &ids);
    }
    let kept = files(directory.path()).into_iter().filter(|path| path.to_string_lossy().ends_with(".damaged"));
    assert_eq!(kept.count(), MAX_KEPT_DAMAGED);
}

fn refusal(directory: &Path) -> String {
    let options = Options { directory: directory.to_owned(), identity: "client".to_owned(), fsync: NEVER };
    match Journal::open(&options) {
        Err(JournalError::Refused(reason)) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
}

#[test]
fn what_another_user_may_write_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    append(&journal, b"body");
    journal.close();
    let path = file(directory.path(), ".journal");
    for (changed, mode, good) in [
        (directory.path(), 0o777, 0o700),
        (directory.path(), 0o770, 0o700),
        (&path, 0o666, 0o600),
        (&path, 0o660, 0o600),
    ] {
        set_mode(changed, mode);
        let reason = refusal(directory.path());
        assert!(
            reason.contains(&format!("mode {mode:04o}")) && reason.contains(&changed.display().to_string()),
            "{reason}"
        );
        set_mode(changed, good);
    }
    assert_eq!(bodies(&open(directory.path()).take_recovered()), [b"body"]);
}

#[test]
fn what_is_no_regular_file_of_one_name_is_refused_before_it_is_opened() {
    for ending in ["journal", "new", "lock", "db"] {
        let directory = tempfile::tempdir().expect("a directory");
        let elsewhere = tempfile::tempdir().expect("a directory");
        let (place, other) = (directory.path().join(format!("0-0-0.{ending}")), elsewhere.path().join("other"));
        fs::write(&other, b"x").expect("written");
        set_mode(&other, 0o600);
        std::os::unix::fs::symlink(&other, &place).expect("linked");
        assert!(refusal(directory.path()).contains("is not a regular file"));
        fs::remove_file(&place).expect("removed");
        fs::hard_link(&other, &place).expect("linked");
        assert!(refusal(directory.path()).contains("has 2 names (hard links)"));
        fs::remove_file(&place).expect("removed");
        // Opening a FIFO would wait for a writer.
        rustix::fs::mknodat(rustix::fs::CWD, &place, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("made");
        assert!(refusal(directory.path()).contains("is not a regular file"));
        fs::remove_file(&place).expect("removed");
        fs::create_dir(&place).expect("made");
        assert!(refusal(directory.path()).contains("is not a regular file"));
    }
    let parent = tempfile::tempdir().expect("a directory");
    let (real, link) = (parent.path().join("real"), parent.path().join("link"));
    fs::create_dir(&real).expect("made");
    std::os::unix::fs::symlink(&real, &link).expect("linked");
    append(&open(&link), b"a link of one's own is followed");
}

#[test]
fn what_belongs_to_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can give a file away
    }
    let directory = tempfile::tempdir().expect("a directory");
    let journal = open(directory.path());
    append(&journal, b"planted");
    journal.close();
    let path = file(directory.path(), ".journal");
    for given in [path.as_path(), directory.path()] {
        std::os::unix::fs::chown(given, Some(65_534), None).expect("given away");
        assert!(refusal(directory.path()).contains("belongs to user 65534, and this process runs as user 0"));
        std::os::unix::fs::chown(given, Some(0), None).expect("taken back");
    }
}

/// A copy of a journal that the build before the log format wrote (`tests/fixtures/README.md`), for the client "client".
fn earlier(name: &str) -> tempfile::TempDir {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/journal_sqlite").join(name);
    let copied = copy(&fixture);
    for path in files(copied.path()) {
        set_mode(&path, 0o600);
    }
    fs::write(file(copied.path(), ".lock"), b"client").expect("written");
    copied
}

#[test]
fn a_journal_of_the_version_before_opens_and_keeps_everything() {
    for name in ["killed", "closed"] {
        for loses_lock in [false, true] {
            let directory = earlier(name);
            if loses_lock {
                fs::remove_file(file(directory.path(), ".lock")).expect("removed");
            }
            let successor = open(directory.path());
            let recovered = successor.take_recovered();
            assert_eq!(recovered.len(), 18, "{name}");
            assert!(recovered.iter().all(|record| record.is_certain));
            let sent: Vec<_> = recovered.iter().filter(|record| record.sent.is_some()).collect();
            assert_eq!(sent.len(), 1);
            assert!(sent[0].body.windows(5).any(|words| words == b"doubt"));
            assert!(!bodies(&recovered).iter().any(|body| body.windows(7).any(|words| words == b"removed")));
            assert_eq!(successor.recovered_notes()[0].body.as_ref(), b"body");
            assert_eq!(successor.stats().damage, agent_memory_storage::journal::Damage::default());
            append(&successor, b"goes on");
            assert_eq!(open(copy(directory.path()).path()).take_recovered().len(), 19);
            successor.close();
            let left: Vec<_> = files(directory.path());
            assert!(left.len() == 1 && left[0].to_string_lossy().ends_with(".journal"), "{left:?}");
        }
    }
}

#[test]
fn a_database_without_its_lock_file_is_left_alone_where_others_use_the_directory() {
    let directory = earlier("closed");
    fs::remove_file(file(directory.path(), ".lock")).expect("removed");
    let another = open_as(directory.path(), "another", NEVER);
    assert_eq!(another.take_recovered().len(), 18, "it is alone there");
    append(&another, b"one more");
    another.close();
    for path in files(earlier("closed").path()) {
        if path.to_string_lossy().ends_with(".db") {
            let name = directory.path().join("1-1-1.db");
            fs::copy(&path, &name).expect("copied");
            set_mode(&name, 0o600);
        }
    }
    let journal = open(directory.path());
    assert_eq!((journal.take_recovered().len(), journal.stats().foreign_segments), (0, 2));
}

#[test]
fn damage_to_a_journal_of_the_version_before_is_reported_and_later_records_are_there() {
    let directory = earlier("killed");
    let log = file(directory.path(), "-wal");
    let before = fs::read(&log).expect("read");
    for place in (40..before.len()).step_by(977) {
        let copied = copy(directory.path());
        let mut bytes = before.clone();
        bytes[place] ^= 4;
        fs::write(file(copied.path(), "-wal"), bytes).expect("written");
        let successor = open(copied.path());
        let (found, damage) = (successor.take_recovered().len(), successor.stats().damage);
        assert!(
            found == 18 || damage.segments == 1 || place + 4_200 > before.len(),
            "byte {place}: {found} in silence"
        );
    }
}
