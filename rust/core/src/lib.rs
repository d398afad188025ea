//! The decisions of `agent_memory`, as state machines over (event, time, randomness).
//!
//! * [`guard`]: may a command be sent, and what follows its result: breaker, retries, backoff, budget, metrics.
//! * [`cache`]: which replies may be served without asking the server, and until when.
//! * [`cluster`]: which node of a Redis Cluster a command goes to, and what follows redirects and failovers.
//! * [`fence`]: which steps establish the outcome of a write that was not answered.
//! * [`recovery`]: the queue of writes that could not be executed; [`journal`]: its log on disk, as bytes.
//! * [`memory`]: what becomes of a memory's write, when a memory expires, and its copy in Redis, as bytes.
//! * [`scoring`]: exact ranking of memories by vectors, words, time and importance.
//! * [`protocol`]: the bytes of Redis commands and replies; [`round_trip`]: which reply is whose on a shared connection, and which is late.
//! * [`config`]: checks of settings. [`ticks`]: a clock from a counter. `sync`: atomics and locks, or those of loom.
//!
//! Nothing in this crate reads a clock, opens a socket, sleeps or draws from a global generator: the caller passes
//! `now_ns` and random words in, so every behaviour can be replayed from a seed. Times are nanoseconds of a monotonic
//! clock in a `u64`; what the user configures is in seconds and is converted once, when the configuration is checked.

pub mod cache;
pub mod cluster;
pub mod config;
pub mod fence;
pub mod guard;
pub mod journal;
pub mod memory;
pub mod protocol;
pub mod recovery;
pub mod round_trip;
pub mod scoring;
mod sync;
pub mod ticks;
