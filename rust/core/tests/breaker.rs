//! The breaker against a model that numbers generations and keeps every result, and its rules one by one.

use agent_memory_core::guard::breaker::{Breaker, BreakerConfig, BreakerOptions, Rejection, State};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn breaker(change: impl FnOnce(&mut BreakerOptions)) -> Breaker {
    let mut options = BreakerOptions { reset_timeout_s: 10.0, ..BreakerOptions::default() };
    change(&mut options);
    Breaker::new(BreakerConfig::new(&options).expect("a valid configuration"))
}

fn admit(breaker: &mut Breaker, now_ns: u64) -> u64 {
    breaker.admit(now_ns).0.expect("admitted")
}

fn fail(breaker: &mut Breaker, now_ns: u64) {
    let permit = admit(breaker, now_ns);
    breaker.failure(permit, now_ns);
}

fn succeed(breaker: &mut Breaker, now_ns: u64) {
    let permit = admit(breaker, now_ns);
    breaker.success(permit, now_ns);
}

#[test]
fn states_are_named_as_users_know_them() {
    assert_eq!([State::Closed, State::Open, State::HalfOpen].map(State::name), ["closed", "open", "half_open"]);
}

#[test]
fn what_only_rates_need_is_refused_without_a_rate() {
    let refused = |change: fn(&mut BreakerOptions)| {
        let mut options = BreakerOptions::default();
        change(&mut options);
        BreakerConfig::new(&options).expect_err("refused").parameter
    };
    assert_eq!(refused(|options| options.minimum_calls = Some(5)), "minimum_calls");
    assert_eq!(refused(|options| options.window_calls = Some(5)), "failure_rate or slow_call_rate");
    assert_eq!(refused(|options| options.window_s = Some(5.0)), "failure_rate or slow_call_rate");
}

#[test]
fn a_result_from_before_a_change_at_the_same_instant_counts_for_nothing() {
    let mut breaker = breaker(|options| options.failure_threshold = Some(2));
    let early = admit(&mut breaker, 5);
    breaker.force_open(early);
    breaker.reset(early);
    fail(&mut breaker, 6);
    breaker.success(early, 6);
    fail(&mut breaker, 6);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn forcing_it_open_is_a_change_once() {
    let mut breaker = breaker(|_| ());
    let change = breaker.force_open(1).expect("a change");
    assert_eq!((change.old, change.new), (State::Closed, State::Open));
    assert_eq!(breaker.force_open(2), None);
}

#[test]
fn callers_are_asked_to_wait_for_an_announced_probe() {
    let mut breaker = breaker(|options| options.failure_threshold = Some(1));
    fail(&mut breaker, 1);
    assert_eq!(breaker.retry_after_ns(1), Some(10 * SECOND));
    breaker.announce_probe(SECOND);
    assert_eq!(breaker.retry_after_ns(1), Some(SECOND - 1));
    breaker.announce_probe(100 * SECOND);
    assert_eq!(breaker.retry_after_ns(1), Some(10 * SECOND));
}

#[test]
fn a_prober_is_announced_from_the_first_error_on_and_never_as_no_wait() {
    let mut breaker = breaker(|options| options.failure_threshold = Some(1));
    breaker.expect_probes(1, SECOND);
    breaker.expect_probes(2, 3 * SECOND);
    breaker.expect_probes(1, 2 * SECOND);
    fail(&mut breaker, 1);
    assert_eq!(breaker.retry_after_ns(1), Some(2 * SECOND));
    assert_eq!(breaker.admit(1).0, Err(Rejection { state: State::Open, retry_after_ns: Some(2 * SECOND) }));
    breaker.announce_probe(SECOND);
    assert_eq!(breaker.retry_after_ns(1), Some(SECOND - 1));
    // Its time has come, so it is under way or late.
    for now_ns in [SECOND, SECOND + 1, 7 * SECOND] {
        assert_eq!(breaker.retry_after_ns(now_ns), Some(2 * SECOND));
    }
    assert_eq!(breaker.retry_after_ns(9 * SECOND), Some(SECOND + 1));
    breaker.expect_no_probes(1);
    breaker.expect_no_probes(1);
    assert_eq!(breaker.retry_after_ns(SECOND), Some(3 * SECOND));
    breaker.expect_no_probes(2);
    assert_eq!(breaker.retry_after_ns(SECOND), Some(9 * SECOND + 1));
}

#[test]
fn the_wait_of_a_forced_open_circuit_is_unknown_with_any_prober() {
    let mut breaker = breaker(|_| ());
    breaker.expect_probes(1, SECOND);
    breaker.force_open(1);
    assert_eq!(breaker.retry_after_ns(1), None);
}

#[test]
fn half_open_behind_a_probe_tells_of_the_interval() {
    let mut breaker = breaker(|options| options.failure_threshold = Some(1));
    breaker.expect_probes(1, SECOND);
    fail(&mut breaker, 1);
    breaker.server_answered(2);
    admit(&mut breaker, 3);
    assert_eq!(breaker.retry_after_ns(4), Some(SECOND));
    assert_eq!(breaker.admit(4).0, Err(Rejection { state: State::HalfOpen, retry_after_ns: Some(SECOND) }));
}

#[test]
fn half_open_tells_when_a_place_is_free() {
    let mut breaker = breaker(|options| {
        options.failure_threshold = Some(1);
        options.half_open_max_calls = 3;
        options.probe_timeout_s = 2.0;
    });
    fail(&mut breaker, 0);
    let now_ns = 20 * SECOND;
    let first = admit(&mut breaker, now_ns);
    assert_eq!(breaker.state(), State::HalfOpen);
    breaker.success(first, now_ns);
    admit(&mut breaker, now_ns + 1);
    assert_eq!(breaker.retry_after_ns(now_ns + 1), Some(0));
    admit(&mut breaker, now_ns + 2);
    assert_eq!(breaker.retry_after_ns(now_ns + 2), Some(2 * SECOND - 1));
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let mut breaker = breaker(|options| options.failure_threshold = Some(3));
    for _ in 0..10 {
        fail(&mut breaker, 1);
        fail(&mut breaker, 1);
        succeed(&mut breaker, 1);
    }
    assert_eq!(breaker.state(), State::Closed);
    (0..3).for_each(|_| fail(&mut breaker, 1));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn two_failures_and_a_success_repeated_trip_the_rate() {
    let mut breaker = breaker(|options| {
        options.failure_threshold = None;
        options.failure_rate = Some(0.5);
        options.minimum_calls = Some(10);
    });
    for call in 0..9 {
        let permit = admit(&mut breaker, 1);
        if call % 3 == 2 {
            breaker.success(permit, 1)
        } else {
            breaker.failure(permit, 1)
        };
        assert_eq!(breaker.state(), State::Closed, "below minimum_calls after call {call}");
    }
    fail(&mut breaker, 1);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_rate_is_reached_exactly_at_its_share() {
    // 0.1 * 30 is more than 3 in floats; the share of 3 in 30 must count as 0.1 all the same.
    let mut breaker = breaker(|options| {
        options.failure_threshold = None;
        options.failure_rate = Some(0.1);
        options.minimum_calls = Some(30);
    });
    (0..27).for_each(|_| succeed(&mut breaker, 1));
    (0..2).for_each(|_| fail(&mut breaker, 1));
    assert_eq!(breaker.state(), State::Closed);
    fail(&mut breaker, 1);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn slow_calls_trip_their_rate_whether_they_succeed_or_not() {
    let mut breaker = breaker(|options| {
        options.slow_call_rate = Some(1.0);
        options.slow_call_duration_s = Some(1.0);
        options.window_s = Some(60.0);
        options.minimum_calls = Some(4);
    });
    for call in 0..4 {
        assert_eq!(breaker.state(), State::Closed);
        let permit = admit(&mut breaker, call * 2 * SECOND);
        let end_ns = permit + SECOND + 1;
        if call == 1 {
            breaker.failure(permit, end_ns)
        } else {
            breaker.success(permit, end_ns)
        };
    }
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_call_of_exactly_the_slow_duration_is_not_slow() {
    let mut breaker = breaker(|options| {
        options.slow_call_rate = Some(0.01);
        options.slow_call_duration_s = Some(1.0);
        options.minimum_calls = Some(1);
    });
    let permit = admit(&mut breaker, 5);
    breaker.success(permit, permit + SECOND);
    assert_eq!(breaker.state(), State::Closed);
    let permit = admit(&mut breaker, 6);
    breaker.success(permit, permit + SECOND + 1);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_slow_probe_counts_as_a_failure() {
    let mut breaker = breaker(|options| {
        options.slow_call_rate = Some(0.5);
        options.slow_call_duration_s = Some(1.0);
        options.failure_threshold = Some(1);
    });
    fail(&mut breaker, 1);
    let probe = admit(&mut breaker, 20 * SECOND);
    breaker.success(probe, probe + 2 * SECOND);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn an_open_circuit_says_how_long_and_becomes_half_open_on_time() {
    let mut breaker = breaker(|options| options.failure_threshold = Some(1));
    fail(&mut breaker, SECOND);
    let (result, change) = breaker.admit(4 * SECOND);
    assert_eq!(result, Err(Rejection { state: State::Open, retry_after_ns: Some(7 * SECOND) }));
    assert_eq!(change, None);
    assert_eq!(breaker.poll(11 * SECOND - 1), None);
    let (result, change) = breaker.admit(11 * SECOND);
    assert!(result.is_ok());
    assert_eq!(change.map(|change| (change.old, change.new)), Some((State::Open, State::HalfOpen)));
    assert_eq!(
        breaker.admit(12 * SECOND).0,
        Err(Rejection { state: State::HalfOpen, retry_after_ns: Some(29 * SECOND) }),
        "the probe may take 30 seconds, one is over"
    );
}

#[test]
fn a_probe_that_does_not_come_back_loses_its_place_and_its_say() {
    let mut breaker = breaker(|options| {
        options.failure_threshold = Some(1);
        options.probe_timeout_s = 5.0;
    });
    fail(&mut breaker, 1);
    let lost = admit(&mut breaker, 20 * SECOND);
    assert!(breaker.admit(25 * SECOND - 1).0.is_err());
    let second = admit(&mut breaker, 25 * SECOND);
    breaker.failure(lost, lost + 6 * SECOND);
    assert_eq!(breaker.state(), State::HalfOpen, "the expired probe counts no more");
    breaker.success(second, lost + 7 * SECOND);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn as_many_probes_as_configured_must_succeed() {
    let mut breaker = breaker(|options| {
        options.failure_threshold = Some(1);
        options.half_open_max_calls = 3;
    });
    fail(&mut breaker, 1);
    let probes: Vec<u64> = (0..3).map(|_| admit(&mut breaker, 20 * SECOND)).collect();
    assert!(breaker.admit(20 * SECOND).0.is_err());
    assert!(probes[0] < probes[1] && probes[1] < probes[2], "permits of probes differ though the clock stands still");
    breaker.success(probes[0], 20 * SECOND);
    assert!(breaker.admit(20 * SECOND).0.is_err(), "a success does not make room for a fourth probe");
    breaker.abandon(probes[1]);
    let replacement = admit(&mut breaker, 20 * SECOND);
    breaker.success(probes[2], 20 * SECOND);
    assert_eq!(breaker.state(), State::HalfOpen);
    breaker.success(replacement, 20 * SECOND);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn the_open_time_doubles_up_to_its_bound_and_falls_back_when_closed() {
    let mut breaker = breaker(|options| {
        options.failure_threshold = Some(1);
        options.max_reset_timeout_s = Some(35.0);
    });
    let mut now_ns = 1;
    fail(&mut breaker, now_ns);
    for expected_s in [10, 20, 35, 35] {
        let wait_ns = breaker.retry_after_ns(now_ns).expect("not forced");
        assert_eq!(wait_ns, expected_s * SECOND);
        now_ns += wait_ns;
        fail(&mut breaker, now_ns);
    }
    now_ns += 35 * SECOND;
    succeed(&mut breaker, now_ns);
    fail(&mut breaker, now_ns);
    assert_eq!(breaker.retry_after_ns(now_ns), Some(10 * SECOND));
}

#[test]
fn results_of_older_generations_are_ignored_even_when_the_clock_stands_still() {
    let mut breaker = breaker(|options| options.failure_threshold = Some(1));
    let (late_success, late_failure) = (admit(&mut breaker, 7), admit(&mut breaker, 7));
    fail(&mut breaker, 7);
    breaker.success(late_success, 7);
    assert_eq!(breaker.state(), State::Open);
    breaker.server_answered(7);
    breaker.success(late_success, 7);
    assert_eq!(breaker.state(), State::HalfOpen);
    succeed(&mut breaker, 7);
    breaker.failure(late_failure, 7);
    assert_eq!(breaker.state(), State::Closed);
    fail(&mut breaker, 7);
    assert_eq!(breaker.state(), State::Open, "a failure of the present generation does count");
}

#[test]
fn a_reset_begins_a_generation_of_its_own() {
    let mut breaker = breaker(|options| options.failure_threshold = Some(2));
    let old = admit(&mut breaker, 7);
    fail(&mut breaker, 7);
    assert_eq!(breaker.reset(7), None, "a closed circuit stays closed");
    breaker.failure(old, 7);
    fail(&mut breaker, 7);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn forced_open_has_no_end() {
    let mut breaker = breaker(|_| ());
    breaker.force_open(1);
    assert_eq!(breaker.admit(u64::MAX / 2).0, Err(Rejection { state: State::Open, retry_after_ns: None }));
    assert_eq!(breaker.server_answered(2), None);
    assert!(breaker.reset(3).is_some());
    assert_eq!(breaker.state(), State::Closed);
}

type Change = fn(&mut BreakerOptions);

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let refused = |change: Change| {
        let mut options = BreakerOptions::default();
        change(&mut options);
        BreakerConfig::new(&options).expect_err("refused").to_string()
    };
    let cases: [(Change, &str); 16] = [
        (|o| o.failure_threshold = Some(0), "failure_threshold must be >= 1, got 0"),
        (|o| o.reset_timeout_s = 0.0, "reset_timeout_s must be > 0 seconds, got 0.0"),
        (|o| o.reset_timeout_s = f64::NAN, "reset_timeout_s must be > 0 seconds, got nan"),
        (|o| o.reset_timeout_s = f64::INFINITY, "reset_timeout_s must be <= 3155760000 seconds, got inf"),
        (|o| o.max_reset_timeout_s = Some(2.0), "max_reset_timeout_s must be >= reset_timeout_s (300.0), got 2.0"),
        (|o| o.failure_rate = Some(1.5), "failure_rate must be > 0 and <= 1, got 1.5"),
        (|o| o.slow_call_rate = Some(0.0), "slow_call_rate must be > 0 and <= 1, got 0.0"),
        (|o| o.slow_call_rate = Some(0.5), "slow_call_duration_s must be given with slow_call_rate, got None"),
        (|o| o.slow_call_duration_s = Some(0.5), "slow_call_rate must be given with slow_call_duration_s, got None"),
        (|o| o.window_calls = Some(5), "failure_rate or slow_call_rate must be given with window_calls, got None"),
        (
            |o| (o.failure_rate, o.window_calls) = (Some(0.5), Some(2_000_000)),
            "window_calls must be <= 1000000, got 2000000",
        ),
        (
            |o| (o.failure_rate, o.window_calls, o.window_s) = (Some(0.5), Some(5), Some(1.5)),
            "window_s must be None when window_calls is given, got 1.5",
        ),
        (
            |o| (o.failure_rate, o.window_calls, o.minimum_calls) = (Some(0.5), Some(5), Some(6)),
            "minimum_calls must be <= 5, got 6",
        ),
        (|o| o.half_open_max_calls = 0, "half_open_max_calls must be >= 1, got 0"),
        (|o| o.probe_timeout_s = -1.0, "probe_timeout_s must be > 0 seconds, got -1.0"),
        (
            |o| o.failure_threshold = None,
            "failure_threshold must be given when neither failure_rate nor slow_call_rate is, got None",
        ),
    ];
    for (change, message) in cases {
        assert_eq!(refused(change), message);
    }
}

/// The rules of the module's text, without any of its shortcuts.
struct Model {
    threshold: Option<usize>,
    rate: Option<f64>,
    window: usize,
    minimum: usize,
    max_probes: usize,
    probe_timeout_ns: u64,
    reset_ns: u64,
    max_reset_ns: u64,
    state: State,
    generation: u64,
    history: Vec<bool>,
    until_ns: Option<u64>,
    open_ns: u64,
    /// The calls that hold the places of probes, with the time they took them.
    probes: Vec<(usize, u64)>,
    probe_successes: usize,
}

impl Model {
    fn enter(&mut self, state: State, now_ns: u64) {
        self.state = state;
        self.generation += 1;
        self.history.clear();
        self.probes.clear();
        self.probe_successes = 0;
        if state == State::Closed {
            self.open_ns = self.reset_ns;
        }
        self.until_ns = (state == State::Open).then(|| now_ns + self.open_ns);
    }

    fn admit(&mut self, call: usize, now_ns: u64) -> bool {
        if self.state == State::Open && self.until_ns.is_some_and(|until_ns| now_ns >= until_ns) {
            self.enter(State::HalfOpen, now_ns);
        }
        match self.state {
            State::Closed => true,
            State::Open => false,
            State::HalfOpen => {
                self.probes.retain(|(_, since_ns)| now_ns < since_ns + self.probe_timeout_ns);
                let free = self.probes.len() + self.probe_successes < self.max_probes;
                if free {
                    self.probes.push((call, now_ns));
                }
                free
            }
        }
    }

    fn finish(&mut self, call: usize, generation: u64, failed: Option<bool>, now_ns: u64) {
        if generation != self.generation {
            return;
        }
        match self.state {
            State::Closed => {
                let Some(failed) = failed else { return };
                self.history.push(failed);
                let in_a_row = self.history.iter().rev().take_while(|failed| **failed).count();
                let recent: Vec<&bool> = self.history.iter().rev().take(self.window).collect();
                let failures = recent.iter().filter(|failed| ***failed).count();
                let by_rate = self.rate.is_some_and(|rate| {
                    recent.len() >= self.minimum && failures > 0 && failures as f64 / recent.len() as f64 >= rate
                });
                if self.threshold.is_some_and(|threshold| in_a_row >= threshold) || by_rate {
                    self.open_ns = self.reset_ns;
                    self.enter(State::Open, now_ns);
                }
            }
            State::HalfOpen => {
                let Some(place) = self.probes.iter().position(|(probe, _)| *probe == call) else { return };
                self.probes.remove(place);
                match failed {
                    None => {}
                    Some(true) => {
                        self.open_ns = (self.open_ns * 2).min(self.max_reset_ns);
                        self.enter(State::Open, now_ns);
                    }
                    Some(false) => {
                        self.probe_successes += 1;
                        if self.probe_successes >= self.max_probes {
                            self.enter(State::Closed, now_ns);
                        }
                    }
                }
            }
            State::Open => {}
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Advance(u64),
    Admit,
    Finish(prop::sample::Index, Option<bool>),
    ServerAnswered,
    Reset,
    ForceOpen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => prop_oneof![Just(0u64), (0u64..30).prop_map(|seconds| seconds * SECOND), 1..3 * SECOND].prop_map(Step::Advance),
        8 => Just(Step::Admit),
        8 => (any::<prop::sample::Index>(), prop::option::weighted(0.9, prop::bool::weighted(0.6)))
            .prop_map(|(call, failed)| Step::Finish(call, failed)),
        1 => Just(Step::ServerAnswered),
        1 => prop_oneof![Just(Step::Reset), Just(Step::ForceOpen)],
    ];
    proptest::collection::vec(step, 1..150)
}

fn model_and_options() -> impl Strategy<Value = (Model, BreakerOptions)> {
    let rules = (prop::option::of(1usize..5), prop::option::of(1u32..=20), 1usize..12, 1usize..12);
    let half_open = (1usize..4, 1u64..20, 1u64..10, 0u64..40);
    (rules, half_open).prop_map(|((threshold, rate, window, minimum), (max_probes, probe_s, reset_s, growth_s))| {
        let rate = rate.map(|twentieths| f64::from(twentieths) / 20.0);
        // Without any rule the configuration would be refused.
        let threshold = if rate.is_none() { Some(threshold.unwrap_or(2)) } else { threshold };
        let minimum = minimum.min(window);
        let options = BreakerOptions {
            failure_threshold: threshold.map(|value| i64::try_from(value).unwrap()),
            reset_timeout_s: reset_s as f64,
            failure_rate: rate,
            window_calls: rate.map(|_| i64::try_from(window).unwrap()),
            minimum_calls: rate.map(|_| i64::try_from(minimum).unwrap()),
            half_open_max_calls: i64::try_from(max_probes).unwrap(),
            probe_timeout_s: probe_s as f64,
            max_reset_timeout_s: Some((reset_s + growth_s) as f64),
            ..BreakerOptions::default()
        };
        let model = Model {
            threshold,
            rate,
            window,
            minimum,
            max_probes,
            probe_timeout_ns: probe_s * SECOND,
            reset_ns: reset_s * SECOND,
            max_reset_ns: (reset_s + growth_s) * SECOND,
            state: State::Closed,
            generation: 0,
            history: Vec::new(),
            until_ns: None,
            open_ns: reset_s * SECOND,
            probes: Vec::new(),
            probe_successes: 0,
        };
        (model, options)
    })
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Model({:?})", self.state)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn it_behaves_like_the_model((mut model, options) in model_and_options(), steps in steps()) {
        let mut breaker = Breaker::new(BreakerConfig::new(&options).expect("a valid configuration"));
        let mut now_ns = SECOND;
        let mut calls: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Advance(step_ns) => now_ns += step_ns,
                Step::Admit => {
                    let expected = model.admit(calls.len(), now_ns);
                    let (result, _) = breaker.admit(now_ns);
                    prop_assert_eq!(result.is_ok(), expected);
                    if let Ok(permit) = result {
                        // The permit is the time, but for the nanoseconds that keep generations and probes apart.
                        prop_assert!(permit >= now_ns && permit < now_ns + 1_000);
                        calls.push((permit, model.generation));
                    }
                }
                Step::Finish(index, failed) => {
                    if calls.is_empty() {
                        continue;
                    }
                    let call = index.index(calls.len());
                    let (permit, generation) = calls[call];
                    model.finish(call, generation, failed, now_ns);
                    match failed {
                        None => breaker.abandon(permit),
                        Some(true) => { breaker.failure(permit, now_ns); }
                        Some(false) => { breaker.success(permit, now_ns); }
                    }
                }
                Step::ServerAnswered => {
                    if model.state == State::Open && model.until_ns.is_some() {
                        model.enter(State::HalfOpen, now_ns);
                    }
                    breaker.server_answered(now_ns);
                }
                Step::Reset => {
                    model.enter(State::Closed, now_ns);
                    breaker.reset(now_ns);
                }
                Step::ForceOpen => {
                    model.enter(State::Open, now_ns);
                    model.until_ns = None;
                    breaker.force_open(now_ns);
                }
            }
            prop_assert_eq!(breaker.state(), model.state);
        }
    }
}

/// `PROPTEST_CASES` searches longer.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000)
}
