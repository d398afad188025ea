//! Views of any shape are read or refused, and facts in any order leave what the newest of them say.

use std::collections::BTreeMap;

use agent_memory_core::cluster::Rules;
use agent_memory_core::cluster::address::Address;
use agent_memory_core::cluster::nodes::Nodes;
use agent_memory_core::cluster::reply::Reply;
use agent_memory_core::cluster::topology::{Acceptance, Topology};
use agent_memory_core::cluster::view::{Info, Reading, View, ViewNode, ViewRange};
use proptest::prelude::*;

fn replies() -> impl Strategy<Value = Reply> {
    let words = [
        "nodes", "slots", "id", "ip", "endpoint", "port", "tls-port", "role", "master", "health", "online", "?", "",
        "a",
    ];
    let leaf = prop_oneof![
        Just(Reply::Nil),
        Just(Reply::Other),
        (-3_i64..20_000).prop_map(Reply::Int),
        proptest::sample::select(words.to_vec()).prop_map(|word| Reply::Text(word.into())),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Reply::Array),
            prop::collection::vec((inner.clone(), inner), 0..6).prop_map(Reply::Map),
        ]
    })
}

fn view(owners: &[u16]) -> View {
    let node = |port: &u16| ViewNode {
        address: Address::new("host", i64::from(*port)).expect("valid"),
        id: None,
        hostname: None,
        zone: None,
    };
    let range =
        |(slot, place): (u16, usize)| ViewRange { first: slot, last: slot, primary: Some(place), replicas: Vec::new() };
    View {
        nodes: owners.iter().map(node).collect(),
        ranges: (0..).zip(0..owners.len()).map(range).collect(),
        slotless: Vec::new(),
    }
}

#[derive(Debug, Clone)]
enum Fact {
    View { owners: [u16; 3], epoch: u64, asked_ns: u64 },
    Moved { slot: u16, owner: u16, sent_ns: u64 },
}

fn facts() -> impl Strategy<Value = Fact> {
    prop_oneof![
        ([1_u16..9, 10_u16..19, 20_u16..29], 1_u64..4, 0_u64..50).prop_map(|(owners, epoch, asked_ns)| Fact::View {
            owners,
            epoch,
            asked_ns
        }),
        (0_u16..3, 1_u16..40, 0_u64..50).prop_map(|(slot, owner, sent_ns)| Fact::Moved { slot, owner, sent_ns }),
    ]
}

proptest! {
    #[test]
    fn any_reply_is_read_or_refused(reply in replies()) {
        let reading = Reading { asked_host: "asked", is_tls: false };
        if let Ok(mut view) = View::read(&reply, reading) {
            prop_assert!(view.ranges.windows(2).all(|pair| pair[0].last < pair[1].first));
            prop_assert!(view.ranges.iter().all(|range| range.first <= range.last && range.last < 16_384));
            // All addresses become one.
            view.remap(|_| Address::new("nat", 1));
            prop_assert!(view.nodes.len() <= 1);
            let (mut topology, mut nodes) = (Topology::new(Rules::ALL), Nodes::default());
            topology.accept(&view, None, 1, 0, &mut nodes, 1);
            prop_assert!(topology.ranges().iter().all(|(_, _, owner)| nodes.get(*owner).is_some()));
        }
    }

    #[test]
    fn any_text_is_no_info_or_one(text in "(cluster_[a-z_]{0,12}:[a-z0-9]{0,22}\r\n|.){0,8}") {
        let _ = Info::parse(&text);
    }

    #[test]
    fn facts_in_any_order_leave_the_newest(facts in prop::collection::vec(facts(), 0..40)) {
        let (mut topology, mut nodes) = (Topology::new(Rules::ALL), Nodes::default());
        // By the rules: the owners of the view that holds, the owner and stamp of slots that a MOVED named since, and the epoch
        // and stamp of the view.
        let mut base = BTreeMap::new();
        let mut patches: BTreeMap<u16, (u16, u64)> = BTreeMap::new();
        let mut present: Option<(u64, u64)> = None;
        for fact in facts {
            match fact {
                Fact::View { owners, epoch, asked_ns } => {
                    let held = topology.accept(&view(&owners), Some(epoch), asked_ns, 0, &mut nodes, 1) != Acceptance::Stale;
                    let holds = present.is_none_or(|(known, at_ns)| epoch > known || (epoch == known && asked_ns >= at_ns));
                    prop_assert_eq!(held, holds);
                    if holds {
                        present = Some((epoch, asked_ns));
                        patches.retain(|_, (_, stamp_ns)| *stamp_ns >= asked_ns);
                        base = (0..).zip(owners).collect();
                    }
                }
                Fact::Moved { slot, owner, sent_ns } => {
                    let number = nodes.ensure(&Address::new("host", i64::from(owner)).expect("valid")).expect("room");
                    let known_ns = patches.get(&slot).map(|(_, stamp_ns)| *stamp_ns).max(present.map(|(_, at_ns)| at_ns));
                    let holds = known_ns.is_none_or(|known_ns| sent_ns >= known_ns);
                    prop_assert_eq!(topology.moved(slot, number, sent_ns), holds);
                    if holds {
                        patches.insert(slot, (owner, sent_ns));
                    }
                }
            }
            for slot in 0..3 {
                let owner = topology.owner(slot).and_then(|number| nodes.get(number)).map(|node| node.address.port);
                prop_assert_eq!(owner, patches.get(&slot).map(|(owner, _)| *owner).or(base.get(&slot).copied()));
            }
        }
    }
}
