//! The decisions of `agent_memory`, as state machines over (event, time, randomness).
//!
//! Nothing in this crate reads a clock, opens a socket, sleeps or draws from a global generator: the caller passes
//! `now_ns` and random words in, so every behaviour can be replayed from a seed.
//!
//! Times are nanoseconds of a monotonic clock in a `u64`; what the user configures is in seconds and becomes
//! nanoseconds once, when the configuration is checked.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod config;
pub mod fence;
pub mod guard;
pub mod journal;
pub mod memory_copy;
pub mod memory_plan;
pub mod metrics;
pub mod random;
pub mod recovery;
pub mod replies;
pub mod resp;
pub mod retry;
pub mod scoring;
mod sync;
pub mod ticks;
pub mod window;
