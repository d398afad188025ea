//! Exactly once against a model: a server that executes prefixes of streams, and one counter.

use agent_memory_core::fence::{
    Abilities, ClientLine, FenceStep, Level, NextStep, Verdict, choose_level, fence_step, next_step, verdict_of_marker,
    verdict_of_offset,
};
use agent_memory_core::guard::retry::Category;
use proptest::prelude::*;

const WRITE_BYTES: u64 = 23;

/// One connection: what was sent on it, what of it was executed, whether it may still execute.
#[derive(Debug, Default)]
struct Stream {
    sent: Vec<usize>,
    executed: usize,
    killed: bool,
    blocked: bool,
}

/// A server with a counter per write and the markers of its streams.
#[derive(Debug, Default)]
struct Server {
    streams: Vec<Stream>,
    applied: Vec<u32>,
    bits: Vec<bool>,
    marker_lost: bool,
}

impl Server {
    fn run(&mut self, stream: usize, commands: usize) {
        let stream = &mut self.streams[stream];
        for _ in 0..commands {
            if stream.killed || stream.blocked || stream.executed == stream.sent.len() {
                return;
            }
            let write = stream.sent[stream.executed];
            self.applied[write] += 1;
            self.bits[write] = true;
            stream.executed += 1;
        }
    }

    /// The line of CLIENT LIST, with `torn` bytes of an unfinished command behind what was executed.
    fn line(&self, stream: usize, torn: u64) -> ClientLine {
        let stream = &self.streams[stream];
        let unparsed =
            if stream.blocked { 0 } else { (stream.sent.len() - stream.executed) as u64 * WRITE_BYTES + torn };
        let received = stream.sent.len() as u64 * WRITE_BYTES + torn;
        let flags = if stream.blocked { "bN" } else { "N" };
        let text = format!("id=7 addr=1.2.3.4:5 flags={flags} qbuf={unparsed} qbuf-free=9 tot-net-in={received}");
        ClientLine::parse(&text).expect("a line")
    }
}

proptest! {
    /// Writes are sent on one connection after the other; each connection fails with some of its writes executed and goes
    /// on executing until it is killed. Whatever happens, no write is applied twice, and what was said holds.
    #[test]
    fn no_write_is_applied_twice_and_verdicts_are_true(
        by_offset: bool,
        faults in prop::collection::vec((1_usize..8, 0_usize..8, 0_usize..8, any::<bool>(), any::<bool>(), 0_u64..WRITE_BYTES), 1..12),
    ) {
        let mut server = Server::default();
        let mut waiting: Vec<usize> = Vec::new();
        for (fresh, before, late, blocked, lost, torn) in faults {
            for _ in 0..fresh {
                waiting.push(server.applied.len());
                server.applied.push(0);
                server.bits.push(false);
            }
            let number = server.streams.len();
            server.streams.push(Stream { sent: waiting.clone(), ..Stream::default() });
            server.run(number, before);
            server.streams[number].blocked = blocked;
            server.marker_lost = lost;
            // The zombie works on until the fence, which a new connection puts up.
            server.run(number, late);
            prop_assert_eq!(fence_step(true, Level::Marker, Level::Marker, 7), FenceStep::Kill);
            let executed = server.line(number, torn).executed_bytes();
            server.streams[number].killed = true;
            server.run(number, usize::from(u8::MAX));
            let mut again = Vec::new();
            for (position, &write) in waiting.iter().enumerate() {
                let verdict = if by_offset {
                    verdict_of_offset(executed, (position as u64 + 1) * WRITE_BYTES)
                } else {
                    verdict_of_marker(!server.marker_lost, server.bits[write])
                };
                match next_step(Category::RelativeWrite, true, Some(verdict)) {
                    NextStep::Resend => {
                        prop_assert_eq!(server.applied[write], 0);
                        again.push(write);
                    }
                    NextStep::Done => prop_assert_eq!(server.applied[write], 1),
                    NextStep::DeadLetter => prop_assert_eq!(true, by_offset && blocked || !by_offset && lost),
                    NextStep::Wait => prop_assert!(false, "it was fenced"),
                }
            }
            waiting = again;
        }
        prop_assert!(server.applied.iter().all(|&times| times <= 1));
    }
}

#[test]
fn the_level_is_the_one_asked_for_where_it_is_offered_else_the_best() {
    let all = Abilities { kill: true, marker: true, offset: true, gate: true };
    assert_eq!(choose_level(None, all), Level::Marker);
    assert_eq!(choose_level(Some(Level::Offset), all), Level::Offset);
    assert_eq!(choose_level(Some(Level::Gate), all), Level::Gate);
    assert_eq!(choose_level(Some(Level::Offset), Abilities { offset: false, ..all }), Level::Marker);
    assert_eq!(choose_level(None, Abilities { marker: false, ..all }), Level::Offset);
    assert_eq!(choose_level(None, Abilities { marker: false, offset: false, ..all }), Level::Fence);
    assert_eq!(choose_level(None, Abilities { kill: false, ..all }), Level::Gate);
    assert_eq!(choose_level(None, Abilities { kill: false, marker: false, ..all }), Level::Nothing);
    assert_eq!(choose_level(Some(Level::Nothing), all), Level::Nothing);
}

#[test]
fn an_old_connection_is_fenced_as_the_level_says() {
    for level in [Level::Nothing, Level::Fence, Level::Offset, Level::Gate, Level::Marker] {
        assert_eq!(fence_step(false, level, level, 7), FenceStep::Away);
    }
    assert_eq!(fence_step(true, Level::Marker, Level::Fence, 7), FenceStep::Kill);
    assert_eq!(fence_step(true, Level::Marker, Level::Offset, 7), FenceStep::Kill);
    assert_eq!(fence_step(true, Level::Gate, Level::Gate, 7), FenceStep::WaitForClock);
    // What was written without a latest time may run at any time.
    assert_eq!(fence_step(true, Level::Marker, Level::Gate, 7), FenceStep::Impossible);
    assert_eq!(fence_step(true, Level::Marker, Level::Nothing, 7), FenceStep::Impossible);
    // Its number is unknown, and 0 would match every connection.
    assert_eq!(fence_step(true, Level::Nothing, Level::Marker, 0), FenceStep::Impossible);
}

#[test]
fn what_becomes_of_a_lost_answer() {
    assert_eq!(next_step(Category::Read, false, None), NextStep::Resend);
    assert_eq!(next_step(Category::AbsoluteWrite, false, Some(Verdict::NotApplied)), NextStep::Wait);
    assert_eq!(next_step(Category::AbsoluteWrite, true, Some(Verdict::Unresolvable)), NextStep::Resend);
    assert_eq!(next_step(Category::RelativeWrite, true, None), NextStep::Wait);
    assert_eq!(next_step(Category::RelativeWrite, false, Some(Verdict::Applied)), NextStep::Wait);
    assert_eq!(next_step(Category::RelativeWrite, true, Some(Verdict::Unresolvable)), NextStep::DeadLetter);
}

#[test]
fn lines_of_other_servers_are_read_as_far_as_they_go() {
    let old = "id=3 addr=/tmp/s:0 laddr=/tmp/s:0 fd=7 name= flags=U db=0 qbuf=2 qbuf-free=0 argv-mem=4\n";
    let line = ClientLine::parse(old).expect("a line");
    assert_eq!((line.id, line.address.as_str(), line.received_bytes), (3, "/tmp/s:0", None));
    assert_eq!(line.executed_bytes(), None);
    assert_eq!(ClientLine::parse(""), None);
    assert_eq!(ClientLine::parse("id=x addr=a qbuf=0"), None);
    let odd = ClientLine::parse("id=3 addr=a flags=N qbuf=9 tot-net-in=8").expect("a line");
    assert_eq!(odd.executed_bytes(), None);
}

#[test]
fn numbers_outside_an_enumeration_are_refused() {
    assert_eq!(Level::try_from(4), Ok(Level::Marker));
    assert_eq!(Level::try_from(5), Err(()));
    assert_eq!(Verdict::try_from(3), Err(()));
}
