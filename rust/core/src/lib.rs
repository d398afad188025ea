//! The decisions of `agent_memory`, as state machines over (event, time, randomness).
//!
//! Nothing in this crate reads a clock, opens a socket, sleeps or draws from a global generator: the caller passes
//! `now_ns` and random words in, so every behaviour can be replayed from a seed.
