//! The circuit breaker: a state machine over results and time.
//!
//! ```text
//!            a rule trips                         reset timeout over, or the server answered a probe of its own
//!   CLOSED ───────────────▶ OPEN ───────────────▶ HALF-OPEN
//!     ▲                      ▲                      │   │
//!     │                      └──────────────────────┘   │
//!     │                            a probe fails        │
//!     └─────────────────────────────────────────────────┘
//!                 half_open_max_calls probes succeed
//! ```
//!
//! **Closed.** Every call is admitted. It opens when one of the configured rules trips: `failure_threshold` failures
//! in a row; or, over a window of the last calls or of the last seconds that holds at least `minimum_calls` results,
//! a share of failures of at least `failure_rate`, or a share of calls slower than `slow_call_duration_s` of at least
//! `slow_call_rate`.
//!
//! **Open.** Every call is rejected until the open time is over. It is `reset_timeout_s` at first, and doubles up to
//! `max_reset_timeout_s` each time a probe fails; closing sets it back. A circuit that was forced open has no end.
//!
//! **Half-open.** At most `half_open_max_calls` calls are admitted, the probes; the others are rejected. That many
//! successes close the circuit, the first failure opens it again. A probe that has not come back after
//! `probe_timeout_s` loses its place to the next caller: its late result counts no more. If slow calls are watched, a
//! slow success of a probe counts as a failure.
//!
//! **Permits.** Admission returns a permit, the time of the admission. A permit not newer than the last change of
//! state was issued in an earlier generation, and its result is ignored; so a late success cannot close a circuit,
//! nor a late failure open one. To keep the two apart when the clock stands still, a permit is always at least one
//! nanosecond newer than the last change, and probes have distinct permits.
//!
//! **Cancellation** counts as neither success nor failure, and frees the place of a probe.

use crate::config::{ConfigError, count, duration_ns, rate};
use crate::guard::window::{CountWindow, MAX_WINDOW_CALLS, Tally, TimeWindow};

/// The most probes half-open may admit at once: their permits are searched one by one.
pub const MAX_HALF_OPEN_CALLS: u32 = 1_024;

/// The calls a count window remembers when a rate is given without a window.
pub const DEFAULT_WINDOW_CALLS: u32 = 100;

/// The results a window must hold before its rates are judged, unless configured or the window is smaller.
pub const DEFAULT_MINIMUM_CALLS: u32 = 10;

/// The time a probe may take before another caller may probe.
pub const DEFAULT_PROBE_TIMEOUT_S: f64 = 30.0;

/// Where the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Calls pass.
    Closed,
    /// Calls are rejected.
    Open,
    /// A few calls pass, to see whether the server is back.
    HalfOpen,
}

impl State {
    /// The name users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// A change of state, for listeners and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Where the breaker stood.
    pub old: State,
    /// Where it stands now.
    pub new: State,
}

/// Why a call was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// [`State::Open`], or [`State::HalfOpen`] when all probes are under way.
    pub state: State,
    /// The time until the next probe may be admitted; `None` when it is unknown (the circuit was forced open).
    pub retry_after_ns: Option<u64>,
}

/// What the user configures; [`BreakerConfig::new`] checks it. Times are in seconds here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerOptions {
    /// Failures in a row that open the circuit; `None` switches the rule off.
    pub failure_threshold: Option<i64>,
    /// How long the circuit stays open at first.
    pub reset_timeout_s: f64,
    /// The share of failures that opens the circuit.
    pub failure_rate: Option<f64>,
    /// The share of slow calls that opens the circuit.
    pub slow_call_rate: Option<f64>,
    /// What counts as slow.
    pub slow_call_duration_s: Option<f64>,
    /// The size of the window in calls.
    pub window_calls: Option<i64>,
    /// The size of the window in seconds.
    pub window_s: Option<f64>,
    /// The results the window must hold before its rates are judged.
    pub minimum_calls: Option<i64>,
    /// The probes half-open admits, and the successes that close the circuit.
    pub half_open_max_calls: i64,
    /// The time a probe may take before its place is given to another.
    pub probe_timeout_s: f64,
    /// The bound of the doubling open time; `None` means that it does not grow.
    pub max_reset_timeout_s: Option<f64>,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self {
            failure_threshold: Some(3),
            reset_timeout_s: 300.0,
            failure_rate: None,
            slow_call_rate: None,
            slow_call_duration_s: None,
            window_calls: None,
            window_s: None,
            minimum_calls: None,
            half_open_max_calls: 1,
            probe_timeout_s: DEFAULT_PROBE_TIMEOUT_S,
            max_reset_timeout_s: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WindowSize {
    None,
    Calls(u32),
    Nanoseconds(u64),
}

/// A checked configuration of a [`Breaker`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerConfig {
    failure_threshold: Option<u32>,
    reset_timeout_ns: u64,
    max_reset_timeout_ns: u64,
    failure_rate: Option<f64>,
    slow_call_rate: Option<f64>,
    slow_call_duration_ns: u64,
    window: WindowSize,
    minimum_calls: u64,
    half_open_max_calls: u32,
    probe_timeout_ns: u64,
}

impl BreakerConfig {
    /// Checks what the user configured.
    ///
    /// # Errors
    /// When a number is out of range, a combination makes no sense, or no rule is left that could open the circuit.
    pub fn new(options: &BreakerOptions) -> Result<Self, ConfigError> {
        let failure_threshold = match options.failure_threshold {
            Some(value) => Some(count("failure_threshold", value, u32::MAX)?),
            None => None,
        };
        let reset_timeout_ns = duration_ns("reset_timeout_s", options.reset_timeout_s)?;
        let max_reset_timeout_ns = match options.max_reset_timeout_s {
            Some(seconds) => duration_ns("max_reset_timeout_s", seconds)?,
            None => reset_timeout_ns,
        };
        if max_reset_timeout_ns < reset_timeout_ns {
            let rule = format!(">= reset_timeout_s ({:?})", options.reset_timeout_s);
            let value = crate::config::Decimal(options.max_reset_timeout_s.unwrap_or_default());
            return Err(ConfigError::new("max_reset_timeout_s", rule, value));
        }
        let failure_rate = options.failure_rate.map(|value| rate("failure_rate", value)).transpose()?;
        let slow_call_rate = options.slow_call_rate.map(|value| rate("slow_call_rate", value)).transpose()?;
        if failure_threshold.is_none() && failure_rate.is_none() && slow_call_rate.is_none() {
            let rule = "given when neither failure_rate nor slow_call_rate is";
            return Err(ConfigError::new("failure_threshold", rule, "None"));
        }
        let (window, minimum_calls) = check_window(options, failure_rate.is_some() || slow_call_rate.is_some())?;
        Ok(Self {
            failure_threshold,
            reset_timeout_ns,
            max_reset_timeout_ns,
            failure_rate,
            slow_call_rate,
            slow_call_duration_ns: check_slow(options)?,
            window,
            minimum_calls: u64::from(minimum_calls),
            half_open_max_calls: count("half_open_max_calls", options.half_open_max_calls, MAX_HALF_OPEN_CALLS)?,
            probe_timeout_ns: duration_ns("probe_timeout_s", options.probe_timeout_s)?,
        })
    }

    fn is_slow(&self, elapsed_ns: u64) -> bool {
        elapsed_ns > self.slow_call_duration_ns
    }
}

fn check_slow(options: &BreakerOptions) -> Result<u64, ConfigError> {
    match (options.slow_call_rate, options.slow_call_duration_s) {
        (Some(_), None) => Err(ConfigError::new("slow_call_duration_s", "given with slow_call_rate", "None")),
        (None, Some(_)) => Err(ConfigError::new("slow_call_rate", "given with slow_call_duration_s", "None")),
        (None, None) => Ok(u64::MAX),
        (Some(_), Some(seconds)) => duration_ns("slow_call_duration_s", seconds),
    }
}

fn check_window(options: &BreakerOptions, needed: bool) -> Result<(WindowSize, u32), ConfigError> {
    let window = match (options.window_calls, options.window_s) {
        (Some(_), Some(seconds)) => {
            return Err(ConfigError::new("window_s", "None when window_calls is given", format!("{seconds:?}")));
        }
        (Some(calls), None) => WindowSize::Calls(count("window_calls", calls, MAX_WINDOW_CALLS)?),
        (None, Some(seconds)) => WindowSize::Nanoseconds(duration_ns("window_s", seconds)?),
        (None, None) if needed => WindowSize::Calls(DEFAULT_WINDOW_CALLS),
        (None, None) => WindowSize::None,
    };
    if !needed && window != WindowSize::None {
        let given = if options.window_calls.is_some() { "window_calls" } else { "window_s" };
        return Err(ConfigError::new("failure_rate or slow_call_rate", format!("given with {given}"), "None"));
    }
    let largest = if let WindowSize::Calls(calls) = window { calls } else { u32::MAX };
    let minimum_calls = match options.minimum_calls {
        Some(value) if !needed => {
            let rule = "None without failure_rate or slow_call_rate";
            return Err(ConfigError::new("minimum_calls", rule, value));
        }
        Some(value) => count("minimum_calls", value, largest)?,
        None => DEFAULT_MINIMUM_CALLS.min(largest),
    };
    Ok((window, minimum_calls))
}

#[derive(Debug, Clone)]
enum Window {
    None,
    Count(CountWindow),
    // A time window carries its buckets with it; a box keeps the common breaker, which has none, small.
    Time(Box<TimeWindow>),
}

#[derive(Debug, Clone, Default)]
struct Probes {
    /// The probes under way: permit, and the time it was given out, which may be a few nanoseconds older.
    outstanding: Vec<(u64, u64)>,
    successes: u32,
    /// The newest permit given out in this half-open period, so that the next one differs.
    newest: u64,
}

/// The state machine. Every method takes the time of the caller's clock; a clock that several threads read may
/// deliver times that are slightly out of order.
#[derive(Debug, Clone)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
    /// The time of the last change of state: permits at or before it belong to an earlier generation.
    changed_ns: u64,
    consecutive_failures: u32,
    window: Window,
    /// When the open time is over; `None` when the circuit was forced open.
    reopen_ns: Option<u64>,
    /// When a background probe will ask the server next, if one runs and has said so.
    announced_ns: Option<u64>,
    /// The probers that are at work while the circuit is open, and their intervals: one entry for each that lives.
    probers: Vec<(u64, u64)>,
    open_time_ns: u64,
    probes: Probes,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: State::Closed,
            changed_ns: 0,
            consecutive_failures: 0,
            window: match config.window {
                WindowSize::None => Window::None,
                WindowSize::Calls(calls) => Window::Count(CountWindow::new(calls)),
                WindowSize::Nanoseconds(window_ns) => Window::Time(Box::new(TimeWindow::new(window_ns))),
            },
            reopen_ns: None,
            announced_ns: None,
            probers: Vec::new(),
            open_time_ns: config.reset_timeout_ns,
            probes: Probes::default(),
        }
    }

    /// May a call start at `now_ns`? Also moves an open circuit whose time is over to half-open; see [`Breaker::poll`].
    ///
    /// # Errors
    /// With a [`Rejection`] while open, or half-open with all probes under way.
    pub fn admit(&mut self, now_ns: u64) -> (Result<u64, Rejection>, Option<Change>) {
        let change = self.poll(now_ns);
        let result = match self.state {
            State::Closed => Ok(now_ns.max(self.oldest_permit())),
            State::HalfOpen => self.admit_probe(now_ns),
            State::Open => Err(Rejection { state: State::Open, retry_after_ns: self.still_open_ns(now_ns) }),
        };
        (result, change)
    }

    /// The smallest permit of the present generation.
    #[must_use]
    pub fn oldest_permit(&self) -> u64 {
        self.changed_ns + 1
    }

    /// Moves an open circuit to half-open when its time is over.
    pub fn poll(&mut self, now_ns: u64) -> Option<Change> {
        let due = self.state == State::Open && self.reopen_ns.is_some_and(|at| now_ns >= at);
        due.then(|| self.enter(State::HalfOpen, now_ns))
    }

    /// The state as it was last entered; [`Breaker::poll`] first to take the passing of time into account.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The time until the next probe: zero when calls are admitted now, never zero while open, `None` when forced open.
    #[must_use]
    pub fn retry_after_ns(&self, now_ns: u64) -> Option<u64> {
        match self.state {
            State::Closed => Some(0),
            State::Open => self.still_open_ns(now_ns),
            State::HalfOpen => Some(self.half_open_wait_ns(now_ns)),
        }
    }

    /// The call admitted with `permit` succeeded at `now_ns`.
    pub fn success(&mut self, permit: u64, now_ns: u64) -> Option<Change> {
        let slow = self.config.is_slow(now_ns.saturating_sub(permit));
        let state = self.state;
        match state {
            State::Closed if permit > self.changed_ns => {
                self.consecutive_failures = 0;
                // Without a window a success can trip nothing: the path of every ordinary call stays short.
                if matches!(self.window, Window::None) { None } else { self.judge(now_ns, false, slow) }
            }
            State::HalfOpen if self.take_probe(permit) => {
                if slow {
                    return Some(self.reopen(now_ns));
                }
                self.probes.successes += 1;
                let enough = self.probes.successes >= self.config.half_open_max_calls;
                enough.then(|| self.enter(State::Closed, now_ns))
            }
            _ => None,
        }
    }

    /// The call admitted with `permit` failed at `now_ns`, for a reason that speaks against the server.
    pub fn failure(&mut self, permit: u64, now_ns: u64) -> Option<Change> {
        let state = self.state;
        match state {
            State::Closed if permit > self.changed_ns => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                let slow = self.config.is_slow(now_ns.saturating_sub(permit));
                self.judge(now_ns, true, slow)
            }
            State::HalfOpen if self.take_probe(permit) => Some(self.reopen(now_ns)),
            _ => None,
        }
    }

    /// The call admitted with `permit` was cancelled, or ended in a way that says nothing about the server.
    pub fn abandon(&mut self, permit: u64) {
        if self.state == State::HalfOpen {
            self.take_probe(permit);
        }
    }

    /// Something outside the admitted calls found the server answering: an open circuit becomes half-open at once,
    /// unless it was forced open.
    pub fn server_answered(&mut self, now_ns: u64) -> Option<Change> {
        let waiting = self.state == State::Open && self.reopen_ns.is_some();
        waiting.then(|| self.enter(State::HalfOpen, now_ns))
    }

    /// Closes the circuit and forgets every result.
    pub fn reset(&mut self, now_ns: u64) -> Option<Change> {
        let old = self.state;
        let change = self.enter(State::Closed, now_ns);
        (old != State::Closed).then_some(change)
    }

    /// Opens the circuit until [`Breaker::reset`].
    pub fn force_open(&mut self, now_ns: u64) -> Option<Change> {
        let old = self.state;
        let change = self.enter(State::Open, now_ns);
        self.reopen_ns = None;
        (old != State::Open).then_some(change)
    }

    /// The prober `id` asks the server at least every `interval_ns` while the circuit is open, until
    /// [`Breaker::expect_no_probes`]. It affects only the waiting time in errors, from the first error on.
    pub fn expect_probes(&mut self, id: u64, interval_ns: u64) {
        self.expect_no_probes(id);
        self.probers.push((id, interval_ns));
    }

    /// The prober `id` has ended.
    pub fn expect_no_probes(&mut self, id: u64) {
        self.probers.retain(|(known, _)| *known != id);
    }

    fn probe_interval_ns(&self) -> Option<u64> {
        self.probers.iter().map(|(_, interval_ns)| *interval_ns).min()
    }

    /// A background probe will ask the server at `at_ns`: errors report it as the time to wait, if it is sooner than the
    /// breaker's own time. It has no other effect, and is forgotten at the next change of state.
    pub fn announce_probe(&mut self, at_ns: u64) {
        self.announced_ns = Some(at_ns);
    }

    /// The time until something is tried while open: the announced probe or the end of the open time.
    ///
    /// A probe whose time has come is under way or late: what it finds is known within another interval.
    fn still_open_ns(&self, now_ns: u64) -> Option<u64> {
        let announced_ns = self.announced_ns.filter(|at| *at > now_ns);
        let probe_ns =
            announced_ns.or_else(|| self.probe_interval_ns().map(|interval_ns| now_ns.saturating_add(interval_ns)));
        self.reopen_ns.map(|at| probe_ns.map_or(at, |probe| probe.min(at)).saturating_sub(now_ns).max(1))
    }

    /// The time until a place is free while half-open; with a prober, which is what holds it, an interval at most.
    fn half_open_wait_ns(&self, now_ns: u64) -> u64 {
        let place_ns = self.next_place_ns(now_ns);
        self.probe_interval_ns().map_or(place_ns, |interval_ns| interval_ns.min(place_ns))
    }

    fn admit_probe(&mut self, now_ns: u64) -> Result<u64, Rejection> {
        let timeout_ns = self.config.probe_timeout_ns;
        self.probes.outstanding.retain(|(_, started_ns)| started_ns.saturating_add(timeout_ns) > now_ns);
        let under_way = u32::try_from(self.probes.outstanding.len()).unwrap_or(u32::MAX);
        if under_way + self.probes.successes >= self.config.half_open_max_calls {
            let retry_after_ns = Some(self.half_open_wait_ns(now_ns));
            return Err(Rejection { state: State::HalfOpen, retry_after_ns });
        }
        let permit = now_ns.max(self.oldest_permit()).max(self.probes.newest + 1);
        self.probes.newest = permit;
        self.probes.outstanding.push((permit, now_ns));
        Ok(permit)
    }

    /// The time until the oldest probe loses its place, at the latest; zero when a place is free.
    fn next_place_ns(&self, now_ns: u64) -> u64 {
        let under_way = u32::try_from(self.probes.outstanding.len()).unwrap_or(u32::MAX);
        if under_way + self.probes.successes < self.config.half_open_max_calls {
            return 0;
        }
        let oldest_ns = self.probes.outstanding.iter().map(|(_, started_ns)| *started_ns).min().unwrap_or(now_ns);
        oldest_ns.saturating_add(self.config.probe_timeout_ns).saturating_sub(now_ns)
    }

    fn take_probe(&mut self, permit: u64) -> bool {
        let place = self.probes.outstanding.iter().position(|(outstanding, _)| *outstanding == permit);
        if let Some(index) = place {
            self.probes.outstanding.swap_remove(index);
        }
        place.is_some()
    }

    /// Enters a result into the window and opens the circuit if a rule trips.
    fn judge(&mut self, now_ns: u64, failed: bool, slow: bool) -> Option<Change> {
        let tally = match &mut self.window {
            Window::None => Tally::default(),
            Window::Count(window) => {
                window.record(failed, slow);
                window.tally()
            }
            Window::Time(window) => {
                window.record(now_ns, failed, slow);
                window.tally(now_ns)
            }
        };
        let trips = self.config.failure_threshold.is_some_and(|limit| self.consecutive_failures >= limit)
            || (tally.calls >= self.config.minimum_calls
                && (reaches(tally.failures, tally.calls, self.config.failure_rate)
                    || reaches(tally.slow, tally.calls, self.config.slow_call_rate)));
        trips.then(|| {
            self.open_time_ns = self.config.reset_timeout_ns;
            self.enter(State::Open, now_ns)
        })
    }

    fn reopen(&mut self, now_ns: u64) -> Change {
        self.open_time_ns = self.open_time_ns.saturating_mul(2).min(self.config.max_reset_timeout_ns);
        self.enter(State::Open, now_ns)
    }

    fn enter(&mut self, new: State, now_ns: u64) -> Change {
        let old = std::mem::replace(&mut self.state, new);
        // Every permit given out so far is at most now_ns, oldest_permit() or the newest probe: none may look newer
        // than this.
        self.changed_ns = now_ns.max(self.oldest_permit()).max(self.probes.newest);
        self.consecutive_failures = 0;
        self.probes.outstanding.clear();
        self.probes.successes = 0;
        match &mut self.window {
            Window::None => {}
            Window::Count(window) => window.clear(),
            Window::Time(window) => window.clear(),
        }
        self.announced_ns = None;
        match new {
            State::Open => self.reopen_ns = Some(now_ns.saturating_add(self.open_time_ns)),
            State::HalfOpen => self.reopen_ns = None,
            State::Closed => {
                self.reopen_ns = None;
                self.open_time_ns = self.config.reset_timeout_ns;
            }
        }
        Change { old, new }
    }
}

/// Is `part / whole` at least `limit`, which is above zero? Divided rather than multiplied, so that 3 of 30 reaches 0.1.
fn reaches(part: u64, whole: u64, limit: Option<f64>) -> bool {
    limit.is_some_and(|limit| part as f64 / whole as f64 >= limit)
}
