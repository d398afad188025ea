//! Every interleaving of a few threads at the two places that are more than a mutex: the gate of the guard, and the sequence
//! lock of the clock. Empty unless built for loom; `src/sync.rs` says how.
#![cfg(loom)]

use std::collections::HashMap;

use agent_memory_core::guard::Guard;
use agent_memory_core::guard::breaker::{BreakerConfig, BreakerOptions, State};
use agent_memory_core::guard::retry::{FailureKind, RetryConfig};
use agent_memory_core::ticks::{LEARN_NS, SPAN_NS, TickScale};
use loom::sync::Arc;
use loom::thread;

const SECOND: u64 = 1_000_000_000;

fn guard() -> (Arc<Guard>, usize) {
    let options = BreakerOptions { failure_threshold: Some(1), reset_timeout_s: 1.0, ..BreakerOptions::default() };
    let config = BreakerConfig::new(&options).expect("valid");
    let guard = Guard::new(config, RetryConfig::default(), HashMap::new(), None, 0, 0);
    let operation = guard.operation("get");
    (Arc::new(guard), operation)
}

#[test]
fn half_open_admits_one_of_three() {
    loom::model(|| {
        let (guard, operation) = guard();
        let permit = guard.admit(operation, 1).0.expect("closed");
        guard.failure(operation, permit, FailureKind::Reset, 1);
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let guard = Arc::clone(&guard);
                thread::spawn(move || guard.admit(operation, 2 * SECOND).0.is_ok())
            })
            .collect();
        let mut admitted = usize::from(guard.admit(operation, 2 * SECOND).0.is_ok());
        admitted += callers.into_iter().map(|caller| usize::from(caller.join().expect("no panic"))).sum::<usize>();
        assert_eq!(admitted, 1);
    });
}

#[test]
fn a_call_that_slips_through_as_the_gate_shuts_changes_nothing() {
    loom::model(|| {
        let (guard, operation) = guard();
        let failing = guard.admit(operation, 1).0.expect("closed");
        let other = {
            let guard = Arc::clone(&guard);
            thread::spawn(move || {
                // Reads the clock, then the gate: it may still see it open.
                if let Ok(permit) = guard.admit(operation, 2).0 {
                    guard.success(operation, permit, 3);
                }
            })
        };
        guard.failure(operation, failing, FailureKind::Reset, 2);
        other.join().expect("no panic");
        assert_eq!(guard.state(4).0, State::Open);
        assert!(guard.admit(operation, 4).0.is_err());
    });
}

#[test]
fn a_permit_of_before_the_opening_is_old_after_the_closing() {
    loom::model(|| {
        let (guard, operation) = guard();
        let failing = guard.admit(operation, 1).0.expect("closed");
        let slow = {
            let guard = Arc::clone(&guard);
            thread::spawn(move || guard.admit(operation, 2).0)
        };
        guard.failure(operation, failing, FailureKind::Reset, 2);
        guard.server_answered(3);
        // The probe's place may already be taken by the other thread.
        let probe = guard.admit(operation, 4).0;
        let slow = slow.join().expect("no panic");
        if let Ok(permit) = probe {
            guard.success(operation, permit, 5);
            assert_eq!(guard.state(6).0, State::Closed);
            if let Ok(permit) = slow {
                guard.failure(operation, permit, FailureKind::Reset, 6);
                assert_eq!(guard.state(7).0, State::Closed, "an old failure opened the circuit");
            }
        }
    });
}

#[test]
fn a_reader_sees_one_anchor_or_none_but_never_half_of_two() {
    loom::model(|| {
        let scale = Arc::new(TickScale::new());
        let base = 1_000_000 + LEARN_NS;
        scale.anchor(1_000_000, 0);
        scale.anchor(base, LEARN_NS);
        let ticks = base + SPAN_NS - 10;
        let before = scale.convert(ticks).expect("known");
        // The second anchor lies a microsecond off the line of the first: half of each gives a time of neither.
        let writer = {
            let scale = Arc::clone(&scale);
            thread::spawn(move || scale.anchor(base + SPAN_NS, LEARN_NS + SPAN_NS + 1_000))
        };
        let told = scale.convert(ticks);
        writer.join().expect("no panic");
        let after = scale.convert(ticks);
        assert!(after.is_some_and(|after| after != before), "the second anchor was not set");
        assert!(told.is_none() || told == Some(before) || told == after, "{told:?} of {before:?} and {after:?}");
    });
}
