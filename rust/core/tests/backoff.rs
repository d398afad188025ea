//! The delays: exact without jitter, in range and spread as promised with it, finite always.

#![expect(clippy::float_cmp, reason = "the formulas are exact")]

use agent_memory_core::guard::backoff::{Backoff, Jitter, Strategy as Growth, exponential_backoff};
use agent_memory_core::guard::random::Random;
use proptest::prelude::*;

const SAMPLES: usize = 40_000;

fn exponential(base_s: f64, max_s: f64, jitter: Jitter) -> Backoff {
    Backoff::new(base_s, max_s, Growth::Exponential { factor: 2.0 }, jitter).expect("a valid configuration")
}

fn samples(backoff: &Backoff, attempt: u64) -> Vec<f64> {
    let mut random = Random::new(20_261_122);
    (0..SAMPLES).map(|_| backoff.delay_s(attempt, None, &mut random)).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn share_below(values: &[f64], limit: f64) -> f64 {
    values.iter().filter(|value| **value < limit).count() as f64 / values.len() as f64
}

#[test]
fn the_formula_of_exponential_backoff() {
    let expected = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0];
    for (attempt, delay_s) in (0..).zip(expected) {
        assert_eq!(exponential_backoff(attempt, 0.5, 30.0), delay_s);
    }
    assert_eq!(exponential_backoff(-1, 0.5, 30.0), 0.25);
    // As Python's min: of two that are equal the first, which shows in the sign of a zero.
    assert!(exponential_backoff(0, 0.0, -0.0).is_sign_positive());
    assert!(exponential_backoff(0, -0.0, 0.0).is_sign_negative());
}

#[test]
fn no_attempt_overflows() {
    for attempt in [1_023, 1_024, 1_000_000, i64::MAX] {
        assert_eq!(exponential_backoff(attempt, 0.5, 30.0), 30.0);
        assert_eq!(exponential_backoff(attempt, 0.0, 30.0), 0.0);
    }
    assert_eq!(exponential_backoff(i64::MIN, 0.5, 30.0), 0.0);
    // The power alone is beyond every float, the product is not. The base, 2^-1070, is written in bits, since `powi` takes the
    // inverse of an infinite 2^1070 unless the compiler folds it.
    assert_eq!(exponential_backoff(1_100, f64::from_bits(1 << 4), f64::MAX), 2f64.powi(30));
    for growth in [Growth::Exponential { factor: 1e300 }, Growth::Linear, Growth::Constant, Growth::Fibonacci] {
        for jitter in [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
            let backoff = Backoff::new(0.0, 30.0, growth, jitter).expect("valid");
            assert_eq!(backoff.delay_s(u64::MAX, None, &mut Random::new(1)), 0.0, "{growth:?} {jitter:?}");
            let backoff = Backoff::new(0.5, 30.0, growth, jitter).expect("valid");
            let delay_s = backoff.delay_s(u64::MAX, None, &mut Random::new(1));
            assert!((0.0..=30.0).contains(&delay_s), "{growth:?} {jitter:?}: {delay_s}");
        }
    }
}

#[test]
fn the_strategies_without_jitter() {
    let delays = |growth| {
        let backoff = Backoff::new(0.5, 4.0, growth, Jitter::None).expect("valid");
        (0..8).map(|attempt| backoff.delay_s(attempt, None, &mut Random::new(0))).collect::<Vec<_>>()
    };
    assert_eq!(delays(Growth::Exponential { factor: 3.0 }), [0.5, 1.5, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]);
    assert_eq!(delays(Growth::Linear), [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]);
    assert_eq!(delays(Growth::Constant), [0.5; 8]);
    assert_eq!(delays(Growth::Fibonacci), [0.5, 0.5, 1.0, 1.5, 2.5, 4.0, 4.0, 4.0]);
}

#[test]
fn full_jitter_is_uniform_from_nothing_to_the_wait() {
    let delays = samples(&exponential(0.5, 30.0, Jitter::Full), 3);
    assert!(delays.iter().all(|delay_s| (0.0..4.0).contains(delay_s)));
    for quarter in [1.0, 2.0, 3.0] {
        assert!((share_below(&delays, quarter) - quarter / 4.0).abs() < 0.01);
    }
}

#[test]
fn equal_jitter_keeps_half_the_wait() {
    let delays = samples(&exponential(0.5, 30.0, Jitter::Equal), 3);
    assert!(delays.iter().all(|delay_s| (2.0..4.0).contains(delay_s)));
    assert!((mean(&delays) - 3.0).abs() < 0.02);
}

#[test]
fn late_delays_are_spread_because_the_cap_comes_before_jitter() {
    for jitter in [Jitter::Full, Jitter::Equal] {
        let delays = samples(&exponential(0.5, 30.0, jitter), 50);
        assert!(share_below(&delays, 29.99) > 0.99, "{jitter:?}: most late delays would be the cap");
    }
}

#[test]
fn a_walk_drawn_anew_has_the_distribution_of_a_remembered_one() {
    let backoff = exponential(0.5, 30.0, Jitter::Decorrelated);
    for attempt in [0u64, 1, 2, 5, 9] {
        let anew = samples(&backoff, attempt);
        let mut random = Random::new(7);
        let remembered: Vec<f64> = (0..SAMPLES)
            .map(|_| {
                (0..=attempt)
                    .fold(None, |previous_s, attempt| {
                        Some(backoff.delay_s(attempt, previous_s.or(Some(0.5)), &mut random))
                    })
                    .expect("at least one step")
            })
            .collect();
        assert!(anew.iter().all(|delay_s| (0.5..=30.0).contains(delay_s)));
        assert!((mean(&anew) / mean(&remembered) - 1.0).abs() < 0.03, "attempt {attempt}");
        for limit in [0.75, 1.0, 2.0, 5.0, 15.0] {
            let difference = share_below(&anew, limit) - share_below(&remembered, limit);
            assert!(difference.abs() < 0.015, "attempt {attempt}, below {limit}: {difference}");
        }
    }
}

#[test]
fn a_remembered_walk_goes_up_to_three_times_the_previous_delay() {
    let backoff = exponential(0.5, 30.0, Jitter::Decorrelated);
    let mut random = Random::new(3);
    let delays: Vec<f64> = (0..SAMPLES).map(|_| backoff.delay_s(0, Some(2.0), &mut random)).collect();
    assert!(delays.iter().all(|delay_s| (0.5..6.0).contains(delay_s)));
    assert!((mean(&delays) - 3.25).abs() < 0.03);
    assert_eq!(backoff.max_delay_s(), 30.0);
}

#[test]
fn a_seed_repeats_its_delays() {
    let backoff = exponential(0.5, 30.0, Jitter::Full);
    assert_eq!(samples(&backoff, 4), samples(&backoff, 4));
    let first = backoff.delay_s(4, None, &mut Random::new(1));
    assert_ne!(first, backoff.delay_s(4, None, &mut Random::new(2)));
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let refused = |base_s, max_s, factor| {
        let growth = Growth::Exponential { factor };
        Backoff::new(base_s, max_s, growth, Jitter::None).expect_err("refused").to_string()
    };
    assert_eq!(refused(-0.5, 1.0, 2.0), "base_delay must be finite and >= 0, got -0.5");
    assert_eq!(refused(f64::NAN, 1.0, 2.0), "base_delay must be finite and >= 0, got nan");
    assert_eq!(refused(0.5, f64::INFINITY, 2.0), "max_delay must be finite and >= 0, got inf");
    assert_eq!(refused(2.0, 1.0, 2.0), "max_delay must be >= base_delay (2.0), got 1.0");
    assert_eq!(refused(0.5, 1.0, 0.5), "backoff_factor must be finite and >= 1, got 0.5");
    assert_eq!(refused(0.5, 1.0, f64::NAN), "backoff_factor must be finite and >= 1, got nan");
}

proptest! {
    #[test]
    fn exponential_backoff_is_the_formula_wherever_the_formula_is_defined(
        attempt in 0i32..=1_023,
        base_s in prop_oneof![0.0..1e3f64, 0.0..1e-200f64],
        max_s in prop_oneof![0.0..1e4f64, Just(f64::INFINITY)],
    ) {
        let power = 2f64.powi(attempt);
        prop_assert_eq!(exponential_backoff(i64::from(attempt), base_s, max_s), (base_s * power).min(max_s));
    }

    #[test]
    fn a_delay_is_finite_and_between_nothing_and_the_cap(
        base_s in 0.0..100.0f64,
        extra_s in 0.0..1_000.0f64,
        factor in 1.0..1e6f64,
        attempt in any::<u64>(),
        previous_s in prop::option::of(0.0..1e6f64),
        kind in 0usize..16,
        seed in any::<u64>(),
    ) {
        let growth = [Growth::Exponential { factor }, Growth::Linear, Growth::Constant, Growth::Fibonacci][kind % 4];
        let jitter = [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Decorrelated][kind / 4];
        let backoff = Backoff::new(base_s, base_s + extra_s, growth, jitter).expect("valid");
        let delay_s = backoff.delay_s(attempt, previous_s, &mut Random::new(seed));
        prop_assert!((0.0..=base_s + extra_s).contains(&delay_s), "{}", delay_s);
        if jitter == Jitter::Decorrelated {
            prop_assert!(delay_s >= base_s);
        }
    }

    #[test]
    fn a_uniform_number_lies_in_its_range(seed in any::<u64>(), low in -1e9..1e9f64, width in 0.0..1e9f64) {
        let value = Random::new(seed).uniform(low, low + width);
        prop_assert!(value >= low && value <= low + width);
    }
}

#[test]
fn the_generator_is_splitmix64() {
    // The first numbers of the published reference implementation for this seed.
    let mut random = Random::new(1_234_567);
    let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
    assert_eq!(expected.map(|_| random.next_u64()), expected);
}
