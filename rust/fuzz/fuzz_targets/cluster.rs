//! What servers say of a cluster: any reply and any error text is read or refused, and leaves slots that only known nodes own.

#![no_main]

use agent_memory_core::cluster::Rules;
use agent_memory_core::cluster::address::Address;
use agent_memory_core::cluster::redirect::{Progress, Refusal};
use agent_memory_core::cluster::reply::Reply;
use agent_memory_core::cluster::slot::SLOTS;
use agent_memory_core::cluster::state::{Cluster, Reason, Settings};
use agent_memory_core::cluster::view::{Info, Reading, View};
use libfuzzer_sys::fuzz_target;

const SECOND_NS: u64 = 1_000_000_000;
const WORDS: [&str; 12] =
    ["slots", "nodes", "id", "ip", "port", "endpoint", "hostname", "role", "master", "replica", "health", "10.0.0.1"];

/// A reply drawn from bytes, no deeper than `depth`.
fn reply(bytes: &mut impl Iterator<Item = u8>, depth: u8) -> Reply {
    let Some(kind) = bytes.next() else { return Reply::Nil };
    let count = usize::from(kind >> 4);
    match kind % 8 {
        0 => Reply::Nil,
        1 => Reply::Int(i64::from(bytes.next().unwrap_or(0)) * 65),
        2 => Reply::Int(i64::from(bytes.next().unwrap_or(0)) - 3),
        3 => Reply::Text(WORDS[count % WORDS.len()].into()),
        4 => Reply::Text(String::from_utf8_lossy(&bytes.take(count).collect::<Vec<_>>()).into_owned()),
        5 if depth > 0 => Reply::Map((0..count).map(|_| (reply(bytes, 0), reply(bytes, depth - 1))).collect()),
        6 | 7 if depth > 0 => Reply::Array((0..count).map(|_| reply(bytes, depth - 1)).collect()),
        _ => Reply::Other,
    }
}

fuzz_target!(|data: &[u8]| {
    let settings = Settings { rules: Rules::ALL, failover_wait_ns: SECOND_NS, max_waiting: 4, period_ns: SECOND_NS };
    let seed = Address::new("10.0.0.1", 7_000).expect("valid");
    let mut cluster = Cluster::new(&[seed], settings, 1, 1);
    cluster.want(Reason::Asked, 1);
    let mut now_ns = SECOND_NS;
    for part in data.chunks(256) {
        let _ = cluster.next_questions(&[0], now_ns);
        let reading = Reading { asked_host: "10.0.0.1", is_tls: part.len() % 2 == 0 };
        let view = View::read(&reply(&mut part.iter().copied(), 5), reading).ok();
        let text = String::from_utf8_lossy(part);
        let info = Info::parse(&text);
        if view.is_some() || info.is_some() {
            cluster.answer(1, 0, now_ns - 1, view.as_ref(), info, now_ns);
        }
        if let Some(refusal) = Refusal::parse(&text, "10.0.0.1") {
            let mut progress = Progress::default();
            cluster.redirect(&refusal, 0, &mut progress, now_ns - 1, now_ns, now_ns + SECOND_NS);
        }
        for node in cluster.retirable() {
            cluster.retire(node);
        }
        for slot in (0..SLOTS).step_by(31) {
            if let Some(owner) = cluster.topology().owner(slot) {
                assert!(cluster.node(owner).is_some(), "slot {slot} belongs to an unknown node");
            }
        }
        now_ns += SECOND_NS / 3;
    }
});
