//! What one shared connection knows of its commands: the waiter of each reply, what was handed over when, which is late.
//!
//! Replies come in the order of the commands, so a reply belongs to the oldest *slot*. A slot stays until its reply has come,
//! whatever became of its caller: one that gave up leaves an *orphan*, whose reply is dropped, and the stream stays in step.
//! What leaves in one write is one *hand-over*: deadlines are looked at by hand-over, never by command.
//!
//! Slots are numbered from 0 for as long as the connection lives. Times are seconds of the caller's clock, offsets are bytes of
//! our stream.

mod slots;

pub use slots::{HandOver, Slots, Sweep};
