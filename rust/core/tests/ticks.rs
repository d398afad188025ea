//! The interpolated clock against simulated counters.

use agent_memory_core::ticks::{LEARN_NS, SPAN_NS, TickScale};
use proptest::prelude::*;

/// A machine with a trusted clock and a counter whose rate and offset may change.
struct Machine {
    scale: TickScale,
    real_ns: u64,
    ticks: f64,
    ticks_per_ns: f64,
}

impl Machine {
    fn new(ticks_per_ns: f64) -> Self {
        Self { scale: TickScale::new(), real_ns: 5 * SPAN_NS, ticks: 1e15, ticks_per_ns }
    }

    fn pass(&mut self, step_ns: u64) {
        self.real_ns += step_ns;
        self.ticks += step_ns as f64 * self.ticks_per_ns;
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
    fn ticks(&self) -> u64 {
        self.ticks as u64
    }

    fn now_ns(&self) -> u64 {
        let converted = self.scale.convert(self.ticks());
        converted.unwrap_or_else(|| self.scale.anchor(self.ticks(), self.real_ns))
    }

    fn error_ns(&self) -> u64 {
        self.now_ns().abs_diff(self.real_ns)
    }
}

#[test]
fn until_the_rate_is_known_the_trusted_clock_answers() {
    let mut machine = Machine::new(2.45);
    for _ in 0..9 {
        assert_eq!(machine.now_ns(), machine.real_ns);
        assert_eq!(machine.scale.convert(machine.ticks()), None);
        machine.pass(LEARN_NS / 10);
    }
    machine.pass(LEARN_NS);
    machine.now_ns();
    assert!(machine.scale.convert(machine.ticks()).is_some());
}

#[test]
fn an_anchor_serves_for_its_span_only() {
    let mut machine = Machine::new(2.45);
    machine.now_ns();
    machine.pass(LEARN_NS);
    machine.now_ns();
    machine.pass(SPAN_NS - 1_000);
    assert!(machine.scale.convert(machine.ticks()).is_some());
    machine.pass(2_000);
    assert_eq!(machine.scale.convert(machine.ticks()), None);
}

#[test]
fn a_counter_that_starts_anew_does_not_stop_the_clock() {
    let mut machine = Machine::new(2.45);
    for _ in 0..100 {
        machine.now_ns();
        machine.pass(SPAN_NS / 7);
    }
    machine.ticks = 12_345.0;
    let before = machine.now_ns();
    machine.pass(SPAN_NS);
    assert!(machine.now_ns() - before >= SPAN_NS - 10_000_000);
    assert!(machine.error_ns() < 1_000_000);
}

#[test]
fn a_changed_rate_is_learnt_anew() {
    let mut machine = Machine::new(2.45);
    for _ in 0..100 {
        machine.now_ns();
        machine.pass(SPAN_NS / 7);
    }
    machine.ticks_per_ns = 3.1;
    // Until the next anchor the clock runs fast; it may be wrong by what the rates differ in one span.
    for _ in 0..30 {
        machine.now_ns();
        machine.pass(SPAN_NS / 7);
    }
    assert!(machine.error_ns() < 1_000, "{}", machine.error_ns());
}

proptest! {
    #[test]
    fn it_never_runs_backwards_and_stays_close(
        ticks_per_ns in 0.02..5.0f64,
        drift_ppm in -400.0..400.0f64,
        steps in prop::collection::vec(prop_oneof![0u64..1_000, 0..LEARN_NS, 0..3 * SPAN_NS], 1..300),
    ) {
        let mut machine = Machine::new(ticks_per_ns);
        let mut last_ns = 0;
        for (index, step_ns) in steps.into_iter().enumerate() {
            let now_ns = machine.now_ns();
            prop_assert!(now_ns >= last_ns, "went back by {} ns", last_ns - now_ns);
            // In one span the clocks may part by what the drift makes of a second, and by the counter's coarseness.
            let allowed_ns = 2.0 * drift_ppm.abs() * 1e3 + 2.0 / ticks_per_ns + 20_000.0;
            prop_assert!((machine.error_ns() as f64) < allowed_ns, "off by {} ns", machine.error_ns());
            last_ns = now_ns;
            machine.pass(step_ns);
            // The counter's rate wanders within what is no jump.
            let wander = drift_ppm * if index % 2 == 0 { 1e-6 } else { -1e-6 };
            machine.ticks_per_ns = ticks_per_ns * (1.0 + wander);
        }
    }
}

#[test]
fn a_second_thread_with_an_older_pair_changes_nothing() {
    let mut machine = Machine::new(2.0);
    machine.now_ns();
    let (old_ticks, old_ns) = (machine.ticks(), machine.real_ns);
    machine.pass(2 * LEARN_NS);
    let now_ns = machine.now_ns();
    let anchored_ns = machine.scale.anchor(old_ticks, old_ns);
    assert!(anchored_ns <= now_ns, "an older moment cannot be later");
    machine.pass(100);
    assert!(machine.now_ns() >= now_ns + 99);
}
