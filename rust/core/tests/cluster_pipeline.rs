//! The rounds of a pipeline against random servers: nothing is executed twice or out of order, and everything ends.

use std::collections::BTreeMap;

use agent_memory_core::cluster::Rules;
use agent_memory_core::cluster::pipeline::{Batch, Fate, Pipeline, Way};
use agent_memory_core::guard::random::Random;
use proptest::prelude::*;

const NODES: u64 = 3;
const SLOTS: u64 = 4;

/// What happened to the commands, in the order in which it happened.
#[derive(Default)]
struct Log {
    executed: Vec<usize>,
    /// Sent to a server whose connection broke: executed or not.
    unknown: Vec<usize>,
    /// Those of earlier rounds.
    unknown_before: Vec<usize>,
    violation: Option<String>,
}

impl Log {
    fn send(&mut self, position: usize, slots: &[Option<u16>]) {
        if self.executed.contains(&position) || self.unknown.contains(&position) {
            self.violation.get_or_insert(format!("command {position} was sent again"));
        }
        let later_in_slot =
            |other: &&usize| slots[position].is_some() && slots[**other] == slots[position] && **other < position;
        if let Some(unknown) = self.unknown_before.iter().find(later_in_slot) {
            self.violation.get_or_insert(format!("command {position} was sent behind {unknown}, which is unknown"));
        }
    }
}

/// One reply of a random server, in the order of a batch; what moves a slot or refuses a command is the same for all of a slot.
fn answer(
    pipeline: &mut Pipeline,
    batch: &Batch,
    log: &mut Log,
    slots: &[Option<u16>],
    random: &mut Random,
    is_calm: bool,
) {
    let is_refused = !is_calm && random.next_u64().is_multiple_of(6);
    let is_broken = !is_calm && random.next_u64().is_multiple_of(4);
    let breaks_at = if is_broken { usize::try_from(random.next_u64() % 6).unwrap_or(0) } else { usize::MAX };
    let mut refusals: BTreeMap<Option<u16>, Option<Way>> = BTreeMap::new();
    for (number, (position, _)) in batch.commands.iter().enumerate() {
        if is_refused {
            pipeline.again(*position, Way::Route, 1);
            continue;
        }
        log.send(*position, slots);
        if number >= breaks_at {
            log.unknown.push(*position);
            pipeline.lost(*position);
            continue;
        }
        let node = u16::try_from(random.next_u64() % NODES).unwrap_or(0);
        let draw = if is_calm { 9 } else { random.next_u64() % 10 };
        let way = *refusals.entry(slots[*position]).or_insert(match draw {
            0 => Some(Way::Node(node)),
            1 => Some(Way::Ask(node)),
            2 => Some(Way::Route),
            _ => None,
        });
        // Of a slot that is being moved, some keys are here, some are there, and some commands want both.
        let way = match way {
            Some(Way::Ask(_)) if random.next_u64().is_multiple_of(3) => Some(Way::Route),
            Some(Way::Ask(_)) if random.next_u64().is_multiple_of(3) => None,
            way => way,
        };
        if let Some(way) = way {
            pipeline.again(*position, way, 0);
        } else {
            log.executed.push(*position);
            pipeline.answered(*position);
        }
    }
}

fn run(seed: u64, count: usize, rules: Rules) -> Result<(), String> {
    let mut random = Random::new(seed);
    let slots: Vec<Option<u16>> = (0..count)
        .map(|_| u16::try_from(random.next_u64() % (SLOTS + 1)).ok().filter(|slot| u64::from(*slot) < SLOTS))
        .collect();
    let (mut pipeline, mut log) = (Pipeline::new(rules, slots.clone()), Log::default());
    for rounds in 0.. {
        let is_homeless = random.next_u64().is_multiple_of(8) && rounds < 20;
        let round = pipeline.next_round(|slot| (!is_homeless).then(|| slot.unwrap_or(0) % 3));
        if pipeline.is_over() {
            break;
        }
        if rounds > 60 {
            return Err("it does not end".into());
        }
        let sent: Vec<_> =
            round.batches.iter().flat_map(|batch| &batch.commands).map(|(position, _)| *position).collect();
        let mut nodes: BTreeMap<u16, u16> = BTreeMap::new();
        for batch in &round.batches {
            if !batch.commands.is_sorted() {
                return Err("a batch is out of order".into());
            }
            for slot in batch.commands.iter().filter_map(|(position, _)| slots[*position]) {
                if *nodes.entry(slot).or_insert(batch.node) != batch.node {
                    return Err(format!("slot {slot} is sent to two nodes at once"));
                }
            }
        }
        if sent.is_empty() && round.homeless.is_empty() {
            return Err("a round does nothing".into());
        }
        log.unknown_before.clone_from(&log.unknown);
        for batch in &round.batches {
            answer(&mut pipeline, batch, &mut log, &slots, &mut random, rounds > 20);
        }
        if let Some(violation) = log.violation.take() {
            return Err(violation);
        }
    }
    for (position, slot) in slots.iter().enumerate() {
        let was_executed = log.executed.contains(&position);
        match pipeline.fate(position) {
            Fate::Answered if was_executed => {}
            Fate::Unknown if log.unknown.contains(&position) => {}
            Fate::Barred if !was_executed && slot.is_some() => {}
            fate => return Err(format!("command {position} ended as {fate:?}, executed: {was_executed}")),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn nothing_is_executed_twice_or_behind_the_unknown(seed: u64, count in 0_usize..30) {
        prop_assert_eq!(run(seed, count, Rules::ALL), Ok(()));
    }
}

fn is_found(rules: Rules, sign: &str) {
    let found = (0..500).find_map(|seed| run(seed, 20, rules).err()).expect("some seed finds it");
    assert!(found.contains(sign), "another rule was broken: {found}");
}

#[test]
fn every_rule_is_found_missing() {
    is_found(Rules { unknown_is_final: false, ..Rules::ALL }, "was sent again");
    is_found(Rules { order_follows_unknown: false, ..Rules::ALL }, "which is unknown");
}

#[test]
fn a_run_in_one_slot_stops_where_its_nodes_part() {
    let mut pipeline = Pipeline::new(Rules::ALL, [Some(1), Some(1), Some(2), Some(1)]);
    let owner = |_| Some(0);
    assert_eq!(pipeline.next_round(owner).batches.len(), 1);
    pipeline.again(0, Way::Ask(1), 5);
    pipeline.again(1, Way::Route, 7);
    pipeline.answered(2);
    pipeline.again(3, Way::Ask(1), 0);
    let round = pipeline.next_round(owner);
    assert_eq!((round.pause_ns, round.batches), (7, vec![Batch { node: 1, commands: vec![(0, true)] }]));
    pipeline.answered(0);
    let round = pipeline.next_round(owner);
    assert_eq!((round.pause_ns, round.batches), (0, vec![Batch { node: 0, commands: vec![(1, false)] }]));
    // What has ended stays as it is.
    pipeline.again(0, Way::Route, 9);
    assert_eq!(pipeline.fate(0), Fate::Answered);
}
