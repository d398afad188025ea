//! Whether the keys of a command lie in one slot, and how the command is split where not.
//!
//! Only commands whose replies can be added up are split without being asked to: DEL, UNLINK, EXISTS and TOUCH. Others whose
//! keys lie apart are refused, as the servers would refuse them (CROSSSLOT): nothing is split silently.

/// Commands that are split by slot, because the reply counts keys.
const SPLIT: [&str; 4] = ["DEL", "UNLINK", "EXISTS", "TOUCH"];

/// The keys of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The slot.
    pub slot: u16,
    /// Where its keys stand among the keys of the command, ascending.
    pub positions: Vec<usize>,
}

/// How a command is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It names no key: the caller's policy decides where it goes.
    Keyless,
    /// As it is, to the owner of the slot.
    One(u16),
    /// One command per slot, whose replies are added.
    Split(Vec<Part>),
    /// Its keys lie apart, and it must not be split.
    CrossSlot,
}

/// The plan of the command `name` (upper case), whose keys have these slots.
#[must_use]
pub fn plan(name: &str, slots: &[u16]) -> Plan {
    let Some(first) = slots.first() else { return Plan::Keyless };
    if slots.iter().all(|slot| slot == first) {
        return Plan::One(*first);
    }
    if SPLIT.contains(&name) { Plan::Split(split(slots)) } else { Plan::CrossSlot }
}

/// The keys by slot, in the order of each slot's first key.
#[must_use]
pub fn split(slots: &[u16]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut places = std::collections::BTreeMap::new();
    for (position, slot) in slots.iter().enumerate() {
        let place = *places.entry(*slot).or_insert_with(|| {
            parts.push(Part { slot: *slot, positions: Vec::new() });
            parts.len() - 1
        });
        parts[place].positions.push(position);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plans() {
        assert_eq!(plan("GET", &[]), Plan::Keyless);
        assert_eq!(plan("MSET", &[5, 5, 5]), Plan::One(5));
        assert_eq!(plan("MSET", &[5, 6]), Plan::CrossSlot);
        assert_eq!(plan("DEL", &[5, 5]), Plan::One(5));
        let parts = vec![Part { slot: 9, positions: vec![0, 2] }, Part { slot: 3, positions: vec![1] }];
        assert_eq!(plan("DEL", &[9, 3, 9]), Plan::Split(parts));
    }

    proptest! {
        #[test]
        fn a_split_holds_every_position_once(slots in prop::collection::vec(0_u16..20, 0..100)) {
            let parts = split(&slots);
            let mut positions: Vec<_> = parts.iter().flat_map(|part| part.positions.clone()).collect();
            for part in &parts {
                prop_assert!(part.positions.is_sorted());
                prop_assert!(part.positions.iter().all(|position| slots[*position] == part.slot));
            }
            positions.sort_unstable();
            prop_assert_eq!(positions, (0..slots.len()).collect::<Vec<_>>());
            let distinct: std::collections::BTreeSet<_> = slots.iter().collect();
            prop_assert_eq!(parts.len(), distinct.len());
        }
    }
}
