//! The retry budget against a model in whole micro-tokens.

#![expect(clippy::float_cmp, reason = "whole tokens are exact")]

use agent_memory_core::guard::budget::{Budget, BudgetConfig};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

#[test]
fn the_default_allows_a_burst_of_35_and_one_retry_a_second_after_it() {
    let mut budget = Budget::new(BudgetConfig::default(), SECOND);
    assert_eq!((budget.capacity(), budget.level(SECOND)), (500.0, 500.0));
    assert_eq!((0..1_000).filter(|_| budget.pay(SECOND)).count(), 35);
    // 10 tokens are left of the 500; a retry costs 14, and 14 come back each second.
    let paid = (1..=1_000).filter(|tenth| budget.pay(SECOND + tenth * SECOND / 10)).count();
    assert_eq!(paid, 100);
}

#[test]
fn successes_earn_one_retry_in_fourteen() {
    let config = BudgetConfig::new(500.0, 14.0, 1.0, 0.0).expect("valid");
    let mut budget = Budget::new(config, 0);
    assert_eq!((0..1_000).filter(|_| budget.pay(0)).count(), 35);
    let mut paid = 0;
    for _ in 0..1_400 {
        budget.refund();
        paid += i32::from(budget.pay(0));
    }
    assert_eq!(paid, 100);
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let refused = |capacity, cost, refund, refill| {
        BudgetConfig::new(capacity, cost, refund, refill).expect_err("refused").to_string()
    };
    assert_eq!(refused(f64::NAN, 1.0, 1.0, 1.0), "capacity must be finite and >= 0, got nan");
    assert_eq!(refused(10.0, -1.0, 1.0, 1.0), "retry_cost must be finite and >= 0, got -1.0");
    assert_eq!(refused(10.0, 1.0, f64::INFINITY, 1.0), "success_refund must be finite and >= 0, got inf");
    assert_eq!(refused(10.0, 1.0, 1.0, -0.5), "refill_per_s must be finite and >= 0, got -0.5");
    assert_eq!(refused(10.0, 14.0, 1.0, 1.0), "capacity must be >= retry_cost (14.0), got 10.0");
}

proptest! {
    #[test]
    fn it_pays_when_the_model_pays(
        capacity in 1u64..50,
        cost in 0u64..20,
        refund in 0u64..5,
        refill_per_s in 0u64..8,
        steps in prop::collection::vec((0u64..8, any::<bool>()), 1..300),
    ) {
        let cost = cost.min(capacity);
        let config = BudgetConfig::new(capacity as f64, cost as f64, refund as f64, refill_per_s as f64);
        let mut budget = Budget::new(config.expect("valid"), 0);
        // Quarters of a second make every amount a multiple of a quarter token: exact in both.
        let (mut now_ns, mut quarters) = (0, capacity * 4);
        for (step, pays) in steps {
            now_ns += step * SECOND / 4;
            quarters = (quarters + step * refill_per_s).min(capacity * 4);
            if pays {
                let enough = quarters >= cost * 4;
                prop_assert_eq!(budget.pay(now_ns), enough);
                quarters -= if enough { cost * 4 } else { 0 };
            } else {
                budget.level(now_ns);
                budget.refund();
                quarters = (quarters + refund * 4).min(capacity * 4);
            }
            prop_assert_eq!(budget.level(now_ns), quarters as f64 / 4.0);
        }
    }
}

#[test]
fn a_time_that_runs_backwards_gives_nothing_back_twice() {
    let config = BudgetConfig::new(10.0, 10.0, 0.0, 1.0).expect("valid");
    let mut budget = Budget::new(config, 10 * SECOND);
    assert!(budget.pay(10 * SECOND));
    assert_eq!(budget.level(5 * SECOND), 0.0);
    assert_eq!(budget.level(11 * SECOND), 1.0);
}
