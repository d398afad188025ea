//! Whether a failed command is tried again, and how long to wait first.
//!
//! What a failure says of the server is its [`FailureKind`]; what is known of the command's effect is its [`Outcome`].
//! The two are separate questions: the kind feeds the breaker, the outcome decides whether repeating is safe.
//!
//! A command is tried again if all of these hold:
//! - repeating is safe: it was not sent; or the server said that it did not run it; or the outcome is unknown and the
//!   command only reads;
//! - repeating may help: the kind is not [`FailureKind::Client`] nor [`FailureKind::Other`];
//! - the policy has attempts left: `attempt < max_retries`, attempts counted from 0;
//! - the delay ends before the deadline of the call;
//! - the budget pays for it. It is asked last, so that a retry that does not happen costs nothing.

use crate::config::{ConfigError, duration_ns, integer_between};
use crate::guard::backoff::Backoff;

/// The most retries a policy may ask for.
pub const MAX_RETRIES: u32 = 1_000_000;

/// What a command does to the data, which decides whether it may be repeated when its outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Category {
    /// Changes nothing: GET, HGETALL, SCAN.
    Read = 0,
    /// Leaves the same state when it runs twice in a row: SET, DEL, HSET. Not repeated blindly all the same, since
    /// another client's write may have come between.
    AbsoluteWrite = 1,
    /// Adds to what is there: INCR, LPUSH, APPEND.
    RelativeWrite = 2,
    /// Waits on the server: BLPOP, XREAD BLOCK.
    Blocking = 3,
    /// Changes the connection: SELECT, AUTH, SUBSCRIBE.
    ConnectionState = 4,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    /// The connection could not be made.
    Refused = 0,
    /// No answer in time.
    Timeout = 1,
    /// The connection broke.
    Reset = 2,
    /// The server answered that it is unavailable: LOADING, MASTERDOWN, CLUSTERDOWN, BUSY, max number of clients.
    UnavailableReply = 3,
    /// The server answered that it did not run the command, for a reason that passes: TRYAGAIN, READONLY, MOVED.
    RejectedReply = 4,
    /// The fault lies on this side: all connections in use, wrong password.
    Client = 5,
    /// An exception that a stand-alone breaker is set to count.
    Other = 6,
}

/// How many kinds there are.
pub const FAILURE_KINDS: usize = 7;

impl FailureKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [FailureKind; FAILURE_KINDS] = [
        FailureKind::Refused,
        FailureKind::Timeout,
        FailureKind::Reset,
        FailureKind::UnavailableReply,
        FailureKind::RejectedReply,
        FailureKind::Client,
        FailureKind::Other,
    ];

    /// The name users see in statistics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Refused => "refused",
            FailureKind::Timeout => "timeout",
            FailureKind::Reset => "reset",
            FailureKind::UnavailableReply => "unavailable_reply",
            FailureKind::RejectedReply => "rejected_reply",
            FailureKind::Client => "client",
            FailureKind::Other => "other",
        }
    }

    /// How the breaker takes it.
    #[must_use]
    pub fn health_signal(self) -> HealthSignal {
        match self {
            FailureKind::Refused
            | FailureKind::Timeout
            | FailureKind::Reset
            | FailureKind::UnavailableReply
            | FailureKind::Other => HealthSignal::Failure,
            // The server answered, so it is there.
            FailureKind::RejectedReply => HealthSignal::Success,
            FailureKind::Client => HealthSignal::Neutral,
        }
    }

    fn may_pass(self) -> bool {
        !matches!(self, FailureKind::Client | FailureKind::Other)
    }
}

/// What a result says about the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthSignal {
    /// It answered.
    Success,
    /// It is in trouble.
    Failure,
    /// Nothing.
    Neutral,
}

/// What is known about the effect of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// It did not reach the server.
    NotSent = 0,
    /// The server did not run it.
    Rejected = 1,
    /// The server ran it.
    Applied = 2,
    /// It may have been executed or not.
    Unknown = 3,
}

macro_rules! from_number {
    ($name:ident, $($variant:ident),+) => {
        impl TryFrom<u8> for $name {
            type Error = ();

            fn try_from(number: u8) -> Result<Self, ()> {
                $(if number == $name::$variant as u8 { return Ok($name::$variant); })+
                Err(())
            }
        }
    };
}

from_number!(Category, Read, AbsoluteWrite, RelativeWrite, Blocking, ConnectionState);
from_number!(FailureKind, Refused, Timeout, Reset, UnavailableReply, RejectedReply, Client, Other);
from_number!(Outcome, NotSent, Rejected, Applied, Unknown);

/// Would repeating the command be safe, and might it help?
#[must_use]
pub fn may_repeat(category: Category, kind: FailureKind, outcome: Outcome) -> bool {
    let safe = match outcome {
        Outcome::NotSent | Outcome::Rejected => true,
        Outcome::Applied => false,
        Outcome::Unknown => category == Category::Read,
    };
    safe && kind.may_pass()
}

/// A checked retry policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryConfig {
    max_retries: u32,
    backoff: Backoff,
    deadline_ns: Option<u64>,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { max_retries: 3, backoff: Backoff::default(), deadline_ns: None }
    }
}

impl RetryConfig {
    /// Checks the numbers. `deadline_s` bounds the whole call, attempts and delays, from its start.
    ///
    /// # Errors
    /// When a number is out of range.
    pub fn new(max_retries: i64, backoff: Backoff, deadline_s: Option<f64>) -> Result<Self, ConfigError> {
        let max_retries = integer_between("max_retries", max_retries, 0, i64::from(MAX_RETRIES))?;
        Ok(Self {
            max_retries: u32::try_from(max_retries).unwrap_or(MAX_RETRIES),
            backoff,
            deadline_ns: deadline_s.map(|seconds| duration_ns("deadline_s", seconds)).transpose()?,
        })
    }

    /// The delays.
    #[must_use]
    pub fn backoff(&self) -> &Backoff {
        &self.backoff
    }

    /// Is attempt number `attempt` (from 0) followed by another?
    #[must_use]
    pub fn has_attempt_after(&self, attempt: u64) -> bool {
        attempt < u64::from(self.max_retries)
    }

    /// When a call that started at `call_started_ns` must be over, given its own `deadline_ns` (0 for none).
    #[must_use]
    pub fn deadline_of(&self, call_started_ns: u64, deadline_ns: u64) -> u64 {
        let own_ns = if deadline_ns == 0 { u64::MAX } else { deadline_ns };
        let policy_ns = self.deadline_ns.map_or(u64::MAX, |length_ns| call_started_ns.saturating_add(length_ns));
        own_ns.min(policy_ns)
    }
}
