//! The guard: which failures are tried again, what is counted, and threads that share one.

use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_memory_core::guard::backoff::{Backoff, Jitter, Strategy as Growth};
use agent_memory_core::guard::breaker::{BreakerConfig, BreakerOptions, Change, State};
use agent_memory_core::guard::budget::BudgetConfig;
use agent_memory_core::guard::retry::{Category, FailureKind, HealthSignal, Outcome, RetryConfig, may_repeat};
use agent_memory_core::guard::{FailedAttempt, Guard, MAX_OPERATIONS, Wait};

const SECOND: u64 = 1_000_000_000;
const CATEGORIES: [Category; 5] =
    [Category::Read, Category::AbsoluteWrite, Category::RelativeWrite, Category::Blocking, Category::ConnectionState];
const OUTCOMES: [Outcome; 4] = [Outcome::NotSent, Outcome::Rejected, Outcome::Applied, Outcome::Unknown];

fn plain(base_s: f64) -> RetryConfig {
    let backoff = Backoff::new(base_s, 30.0, Growth::Exponential { factor: 2.0 }, Jitter::None).expect("valid");
    RetryConfig::new(3, backoff, None).expect("valid")
}

fn guard(threshold: i64, budget: Option<BudgetConfig>) -> Guard {
    let options = BreakerOptions { failure_threshold: Some(threshold), ..BreakerOptions::default() };
    let overrides = HashMap::from([("get".to_owned(), plain(0.25))]);
    Guard::new(BreakerConfig::new(&options).expect("valid"), plain(1.0), overrides, budget, 1, 0)
}

fn failed(attempt: u64) -> FailedAttempt {
    FailedAttempt {
        kind: FailureKind::Reset,
        outcome: Outcome::NotSent,
        category: Category::AbsoluteWrite,
        attempt,
        call_started_ns: SECOND,
        deadline_ns: 0,
    }
}

#[test]
fn only_what_is_safe_and_may_pass_is_repeated() {
    for category in CATEGORIES {
        for kind in FailureKind::ALL {
            for outcome in OUTCOMES {
                let safe = match outcome {
                    Outcome::NotSent | Outcome::Rejected => true,
                    Outcome::Applied => false,
                    Outcome::Unknown => category == Category::Read,
                };
                let may_pass = kind != FailureKind::Client && kind != FailureKind::Other;
                assert_eq!(may_repeat(category, kind, outcome), safe && may_pass, "{category:?} {kind:?} {outcome:?}");
            }
        }
    }
}

#[test]
fn a_server_that_answers_is_no_failure_and_a_fault_of_ours_is_nothing() {
    let signals = FailureKind::ALL.map(FailureKind::health_signal);
    let (failure, success, neutral) = (HealthSignal::Failure, HealthSignal::Success, HealthSignal::Neutral);
    assert_eq!(signals, [failure, failure, failure, failure, success, neutral, failure]);
}

#[test]
fn numbers_and_names_of_the_kinds_agree_with_their_order() {
    for (number, kind) in (0u8..).zip(FailureKind::ALL) {
        assert_eq!(FailureKind::try_from(number), Ok(kind));
        assert_eq!(kind as u8, number);
    }
    let names = ["refused", "timeout", "reset", "unavailable_reply", "rejected_reply", "client", "other"];
    assert_eq!(FailureKind::ALL.map(FailureKind::name), names);
    assert!(FailureKind::try_from(7).is_err() && Outcome::try_from(4).is_err() && Category::try_from(5).is_err());
}

#[test]
fn a_policy_answers_until_attempts_deadline_or_budget_are_used_up() {
    let guard = guard(1_000, None);
    let (get, set) = (guard.operation("get"), guard.operation("set"));
    let delay = |operation, failed: &FailedAttempt| guard.retry_delay_s(operation, failed, Wait::ByPolicy, SECOND);
    assert_eq!([0, 1, 2, 3].map(|attempt| delay(set, &failed(attempt))), [Some(1.0), Some(2.0), Some(4.0), None]);
    assert_eq!(delay(get, &failed(0)), Some(0.25));
    assert_eq!(
        delay(set, &FailedAttempt { deadline_ns: 2 * SECOND, ..failed(0) }),
        None,
        "it would end on the deadline"
    );
    assert_eq!(delay(set, &FailedAttempt { deadline_ns: 2 * SECOND + 1, ..failed(0) }), Some(1.0));
}

#[test]
fn the_users_own_logic_is_bounded_by_safety_deadline_and_budget() {
    let budget = BudgetConfig::new(14.0, 14.0, 1.0, 0.0).expect("valid");
    let guard = guard(1_000, Some(budget));
    let set = guard.operation("set");
    let late = FailedAttempt { deadline_ns: 2 * SECOND, ..failed(0) };
    let unsafe_to_repeat = FailedAttempt { outcome: Outcome::Unknown, ..failed(0) };
    assert_eq!(guard.retry_delay_s(set, &late, Wait::Decided(5.0), SECOND), None);
    assert_eq!(guard.retry_delay_s(set, &unsafe_to_repeat, Wait::Decided(0.0), SECOND), None);
    assert_eq!(guard.retry_delay_s(set, &failed(99), Wait::Strategy(0.5), SECOND), None, "attempts are the policy's");
    assert_eq!(guard.retry_delay_s(set, &failed(99), Wait::Decided(0.5), SECOND), Some(0.5));
    assert_eq!(guard.retry_delay_s(set, &failed(0), Wait::Strategy(99.0), SECOND), None, "the budget is empty");
    assert_eq!(guard.operation_metrics(set).1.retries_refused, 1, "what was refused for other reasons costs nothing");
}

#[test]
fn a_strategy_of_the_users_is_capped() {
    let guard = guard(1_000, None);
    let set = guard.operation("set");
    assert_eq!(guard.retry_delay_s(set, &failed(0), Wait::Strategy(99.0), SECOND), Some(30.0));
}

#[test]
fn operations_are_bounded_in_number() {
    let guard = guard(3, None);
    let indices: Vec<usize> = (0..2 * MAX_OPERATIONS).map(|number| guard.operation(&number.to_string())).collect();
    assert_eq!(guard.operation_count(), MAX_OPERATIONS);
    assert_eq!(guard.operation("0"), indices[0]);
    assert_eq!(indices[MAX_OPERATIONS], indices[MAX_OPERATIONS + 1]);
    assert_eq!(guard.operation_metrics(indices[MAX_OPERATIONS]).0, "other");
}

#[test]
fn threads_count_exactly() {
    const THREADS: u64 = 8;
    const CALLS: u64 = 20_000;
    let guard = guard(i64::from(u32::MAX), None);
    let operation = guard.operation("get");
    let clock = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for call in 0..CALLS {
                    let now_ns = clock.fetch_add(1, Ordering::Relaxed);
                    let permit = guard.admit(operation, now_ns).0.expect("closed");
                    match call % 4 {
                        0 => {
                            guard.success(operation, permit, now_ns + 5);
                        }
                        1 => {
                            guard.failure(operation, permit, FailureKind::Timeout, now_ns + 5);
                        }
                        2 => {
                            guard.answered_error(operation, permit, now_ns + 5);
                        }
                        _ => guard.abandon(operation, permit),
                    }
                }
            });
        }
    });
    let (_, metrics) = guard.operation_metrics(operation);
    let quarter = THREADS * CALLS / 4;
    assert_eq!(metrics.calls(), THREADS * CALLS);
    assert_eq!([metrics.successes, metrics.command_errors, metrics.cancellations], [quarter; 3]);
    assert_eq!(metrics.failures[FailureKind::Timeout as usize], quarter);
    assert_eq!(metrics.latency.total(), 2 * quarter);
}

#[test]
fn fifty_threads_at_half_open_admit_one() {
    for round in 0..50 {
        let guard = guard(1, None);
        let operation = guard.operation("get");
        let permit = guard.admit(operation, 1).0.expect("closed");
        guard.failure(operation, permit, FailureKind::Refused, 1);
        let start = Barrier::new(50);
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    start.wait();
                    if guard.admit(operation, 400 * SECOND).0.is_ok() {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 1, "round {round}");
        assert_eq!(guard.operation_metrics(operation).1.rejections, 49);
        assert_eq!(guard.snapshot(400 * SECOND).0.state, State::HalfOpen);
    }
}

#[test]
fn the_gate_opens_with_the_circuit() {
    let guard = guard(1, None);
    let operation = guard.operation("get");
    let call = |now_ns| guard.admit(operation, now_ns).0;
    guard.failure(operation, call(7).expect("closed"), FailureKind::Reset, 7);
    assert!(call(7).is_err());
    guard.server_answered(7);
    guard.success(operation, call(7).expect("a probe"), 7);
    // Were this permit as old as the closing, its failure would be ignored.
    guard.failure(operation, call(7).expect("closed again"), FailureKind::Reset, 7);
    assert!(call(7).is_err());
    guard.reset(7);
    guard.reset(7);
    guard.failure(operation, call(7).expect("closed by the reset"), FailureKind::Reset, 7);
    assert!(call(7).is_err());
    assert_eq!(guard.snapshot(7).0.times_opened, 3);
}

#[test]
fn an_operation_knows_whether_its_policy_is_its_own() {
    let guard = guard(3, None);
    assert!(guard.has_override("get"));
    assert!(!guard.has_override("set"));
}

#[test]
fn another_attempt_is_considered_while_it_is_safe_and_attempts_are_left() {
    let guard = guard(1_000, None);
    let set = guard.operation("set");
    let unsafe_to_repeat = FailedAttempt { outcome: Outcome::Unknown, ..failed(0) };
    assert_eq!([0, 2, 3, 9].map(|attempt| guard.may_retry(set, &failed(attempt))), [true, true, false, false]);
    assert!(!guard.may_retry(set, &unsafe_to_repeat));
}

#[test]
fn retries_are_counted_and_paid_for_within_a_call_and_outside_of_one() {
    let budget = BudgetConfig::new(42.0, 14.0, 0.0, 0.0).expect("valid");
    let guard = guard(1_000, Some(budget));
    let set = guard.operation("set");
    assert_eq!(guard.retry_delay_s(set, &failed(0), Wait::ByPolicy, SECOND), Some(1.0));
    assert_eq!(guard.retry_delay_s(set, &failed(1), Wait::ByPolicy, SECOND), Some(2.0));
    assert!(guard.pay_retry(SECOND));
    assert!(!guard.pay_retry(SECOND), "the budget is empty");
    assert_eq!(guard.snapshot(SECOND).0.budget_level, Some(0.0));
    for refused in 1..=2 {
        assert_eq!(guard.retry_delay_s(set, &failed(0), Wait::ByPolicy, SECOND), None);
        assert_eq!(guard.operation_metrics(set).1.retries_refused, refused);
    }
    assert_eq!(guard.operation_metrics(set).1.retries, 2);
}

#[test]
fn guards_of_a_cluster_pay_from_one_bucket() {
    let config = BudgetConfig::new(28.0, 14.0, 7.0, 0.0).expect("valid");
    let (holder, one, other) = (guard(1_000, Some(config)), guard(1_000, Some(config)), guard(1_000, Some(config)));
    one.share_budget_of(&holder);
    other.share_budget_of(&holder);
    assert!(one.pay_retry(SECOND) && other.pay_retry(SECOND));
    assert!(
        !one.pay_retry(SECOND) && !other.pay_retry(SECOND) && !holder.pay_retry(SECOND),
        "two retries for all three"
    );
    let get = other.operation("GET");
    let (permit, _) = other.admit(get, SECOND);
    other.success(get, permit.expect("closed"), SECOND);
    for guard in [&holder, &one, &other] {
        assert_eq!(guard.snapshot(SECOND).0.budget_level, Some(7.0), "a success of one refunds all");
    }
    let unlimited = guard(1_000, None);
    one.share_budget_of(&unlimited);
    assert_eq!(one.snapshot(SECOND).0.budget_level, None);
    one.share_budget_of(&one);
    assert!(one.pay_retry(SECOND));
}

#[test]
fn without_a_budget_every_retry_is_paid_for() {
    let guard = guard(1_000, None);
    assert!((0..1_000).all(|_| guard.pay_retry(SECOND)));
    assert_eq!(guard.snapshot(SECOND).0.budget_level, None);
}

#[test]
fn an_error_that_says_nothing_of_the_server_is_counted_and_gives_its_probe_back() {
    let guard = guard(1, None);
    let get = guard.operation("get");
    let permit = guard.admit(get, 1).0.expect("closed");
    guard.failure(get, permit, FailureKind::Reset, 1);
    guard.server_answered(2);
    for errors in 1..=3 {
        let probe = guard.admit(get, 3).0.expect("the one place is free");
        assert!(guard.admit(get, 3).0.is_err());
        guard.unrelated_error(get, probe);
        assert_eq!(guard.operation_metrics(get).1.command_errors, errors);
        assert_eq!(guard.snapshot(3).0.state, State::HalfOpen);
    }
}

#[test]
fn changes_of_state_are_reported_and_counted_and_openings_apart() {
    let guard = guard(1, None);
    let get = guard.operation("get");
    let change = |old, new| Some(Change { old, new });
    let (closed, open, half_open) = (State::Closed, State::Open, State::HalfOpen);
    assert_eq!(guard.force_open(1), change(closed, open));
    assert_eq!(guard.force_open(1), None);
    assert!(guard.admit(get, 1).0.is_err());
    assert_eq!(guard.reset(2), change(open, closed));
    let permit = guard.admit(get, 3).0.expect("closed");
    assert_eq!(guard.failure(get, permit, FailureKind::Reset, 3), change(closed, open));
    assert_eq!(guard.server_answered(4), change(open, half_open));
    let probe = guard.admit(get, 5).0.expect("a probe");
    assert_eq!(guard.success(get, probe, 5), change(half_open, closed));
    let (snapshot, _) = guard.snapshot(5);
    assert_eq!((snapshot.state, snapshot.state_changes, snapshot.times_opened), (closed, 5, 2));
}

#[test]
fn callers_are_asked_to_wait_for_an_announced_probe() {
    let guard = guard(1, None);
    let get = guard.operation("get");
    let permit = guard.admit(get, 1).0.expect("closed");
    guard.failure(get, permit, FailureKind::Reset, 1);
    assert_eq!(guard.snapshot(1).0.retry_after_ns, Some(300 * SECOND));
    guard.announce_probe(SECOND);
    assert_eq!(guard.snapshot(1).0.retry_after_ns, Some(SECOND - 1));
    guard.expect_probes(7, SECOND / 2);
    assert_eq!(guard.snapshot(2 * SECOND).0.retry_after_ns, Some(SECOND / 2));
    guard.expect_no_probes(7);
    assert_eq!(guard.snapshot(2 * SECOND).0.retry_after_ns, Some(298 * SECOND + 1));
}

#[test]
fn a_snapshot_says_the_state_and_the_wait_of_one_moment() {
    let guard = guard(1, None);
    let get = guard.operation("get");
    let permit = guard.admit(get, 1).0.expect("closed");
    guard.failure(get, permit, FailureKind::Reset, 1);
    let (last, change) = guard.snapshot(300 * SECOND);
    assert_eq!((last.state, last.retry_after_ns, change), (State::Open, Some(1), None));
    let (due, change) = guard.snapshot(300 * SECOND + 1);
    assert_eq!((due.state, due.retry_after_ns), (State::HalfOpen, Some(0)));
    assert_eq!(change, Some(Change { old: State::Open, new: State::HalfOpen }));
}
