//! Clients of a cluster against servers that fail, stall, are cut off, move slots and answer from old knowledge.
//!
//! Time, faults and delays come from a seed. `CLUSTER_SEEDS=N cargo test --release -p agent-memory-core --test cluster_simulation`
//! runs N seeds of each scenario instead of the few of `make test`; `CLUSTER_SEED=K` runs one and prints what happens.
//! Every rule of the core is switched off in turn, and has to be found missing.

mod client;
mod run;
mod servers;

use agent_memory_core::cluster::Rules;
use run::{Scenario, run};

pub(crate) type Time = u64;
pub(crate) const MS: Time = 1_000_000;
pub(crate) const S: Time = 1_000 * MS;

fn seeds(few: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("CLUSTER_SEED"), number("CLUSTER_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(few),
    }
}

fn holds(scenario: Scenario) {
    for seed in seeds(25) {
        if let Err(violation) = run(scenario, seed, Rules::ALL) {
            panic!("{scenario:?}, seed {seed}: {violation}");
        }
    }
}

fn is_found(scenario: Scenario, rules: Rules, sign: &str) {
    let found = (0..60).find_map(|seed| run(scenario, seed, rules).err());
    let violation = found.unwrap_or_else(|| panic!("{scenario:?}: no seed finds what is missing"));
    assert!(violation.contains(sign), "another rule was broken: {violation}");
}

#[test]
fn failovers_cost_time_and_no_errors_but_for_writes_under_way() {
    holds(Scenario::Failovers);
}

#[test]
fn a_failover_is_noticed_without_new_calls() {
    holds(Scenario::Lull);
}

#[test]
fn moving_slots_cost_neither_errors_nor_time() {
    holds(Scenario::Moves);
}

#[test]
fn a_node_that_only_this_client_cannot_reach_is_rejected_in_time() {
    holds(Scenario::CutOff);
}

#[test]
fn what_an_island_believes_replaces_nothing_newer() {
    holds(Scenario::Islands);
}

#[test]
fn a_cluster_that_was_made_anew_is_recognised() {
    holds(Scenario::Remade);
}

#[test]
fn servers_that_name_each_other_are_left_alone() {
    holds(Scenario::Loop);
}

#[test]
fn a_slot_without_an_owner_costs_time_and_then_an_error() {
    holds(Scenario::Unassigned);
}

#[test]
fn all_of_it_at_once() {
    holds(Scenario::Everything);
}

#[test]
fn a_run_repeats_itself() {
    let calls = |seed| run(Scenario::Everything, seed, Rules::ALL).expect("holds");
    assert_eq!(calls(3), calls(3));
    assert_ne!(calls(3), calls(4));
}

#[test]
fn every_rule_is_found_missing() {
    let all = Rules::ALL;
    is_found(Scenario::Moves, Rules { facts_have_stamps: false, ..all }, "an older fact replaced");
    is_found(Scenario::Islands, Rules { larger_epoch_wins: false, ..all }, "epoch went back");
    is_found(Scenario::Remade, Rules { majority_resets_epoch: false, ..all }, "is not recognised");
    is_found(Scenario::Failovers, Rules { questions_are_limited: false, ..all }, "questions within a second");
    is_found(Scenario::Failovers, Rules { suspects_are_asked_last: false, ..all }, "a suspect node was asked");
    is_found(Scenario::Moves, Rules { ask_patches_nothing: false, ..all }, "ASK changed the owner");
    is_found(Scenario::Loop, Rules { redirects_are_bounded: false, ..all }, "redirects of one call");
    is_found(Scenario::Lull, Rules { waiting_keeps_asking: false, ..all }, "longer than a failover");
    is_found(Scenario::Failovers, Rules { calls_wait_for_failover: false, ..all }, "failed");
    is_found(Scenario::CutOff, Rules { waiting_ends: false, ..all }, "was not rejected in time");
    is_found(Scenario::Unassigned, Rules { calls_wait_for_owner: false, ..all }, "had an owner again soon");
    is_found(Scenario::Unassigned, Rules { owner_wait_ends: false, ..all }, "ms for an owner");
    is_found(Scenario::Failovers, Rules { waiting_is_bounded: false, ..all }, "calls wait for one node");
}
