//! The bytes of the Redis protocol.
//!
//! * [`commands`]: packs a command.
//! * [`replies`]: finds where replies begin and end, and refuses what the parser must not be given.

pub mod commands;
pub mod replies;
