//! The log of the recovery journal: how records become bytes, and what can be read of bytes that were damaged.
//!
//! **Layout.** A segment is one file: two copies of its header, then frames, each behind the one before.
//!
//! ```text
//! 0      header   magic, version, length of the identity, salt, identity, CRC-32; zeros up to 4,096
//! 4096   header   the same
//! 8192   frame    magic, kind, length, changes, notes, sequence, row, kept, CRC-32 of the body, CRC-32 of this header; body
//!        frame    …
//! ```
//!
//! Numbers are little-endian. Every CRC begins with the salt, which is random: bytes of a record that look like a frame are
//! none, nor is a frame of another segment.
//!
//! **Rules.**
//!
//! - Frames are numbered without a gap (`sequence`), so it is known how many were lost. `changes` and `notes` count the frames
//!   so far that changed what was there before: so it is known, too, whether a lost frame was one of those.
//! - What would bring back a write that was executed is there twice: a removal and the announcement of what is being sent are
//!   repeated at once (`RemovedAgain`, `SentAgain`), and a frame of its own says that a record is about to be replaced.
//! - `kept` is the last sequence whose frames had been acknowledged when a frame was written. A frame that is missing up to
//!   there is damage; one that is missing behind it, or cut off at the end, is a torn tail, which a crash leaves.
//! - A damaged frame costs itself: reading goes on with the next frame that is intact. A header of which one bit is wrong is
//!   put right. Where a lost frame may have removed or changed earlier records, those are returned as uncertain.

mod format;
mod scan;

pub use format::{
    FRAME_BYTES, FRAMES_AT, Frames, HEADER_BYTES, Header, MAX_IDENTITY_BYTES, VERSION, body_of, decode_rows,
    encode_rows, header_of, note_of,
};
pub use scan::{Contents, Loss, Record, scan};

/// The longest body of a frame, in bytes.
pub const MAX_BODY_BYTES: usize = 512 << 20;
/// A log that is shorter is not rewritten.
pub const MIN_REWRITTEN_BYTES: u64 = 4 << 20;

/// Is it worth rewriting a log of `log_bytes`, of which `live_bytes` are still of use? Each rewriting at least halves it, so it
/// costs each byte that was written at most one more.
#[must_use]
pub const fn is_worth_rewriting(log_bytes: u64, live_bytes: u64) -> bool {
    log_bytes >= MIN_REWRITTEN_BYTES && live_bytes <= log_bytes / 2
}
