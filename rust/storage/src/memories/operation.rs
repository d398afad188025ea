//! What is written, and what became of it.

use agent_memory_core::memory::copy::{Copy, Numbers, place};
use agent_memory_core::memory::plan::{Answer, Operation, Status};

/// One operation, and what the plan does not look at.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// What the plan decides.
    pub operation: Operation<'a>,
    /// Of a put.
    pub payload: Option<Payload<'a>>,
}

/// A copy to be stored, as the caller gives it.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    /// All of it but its content hash.
    pub copy: Copy<'a>,
    /// What makes it a duplicate of another; empty: nothing does.
    pub content_hash: &'a [u8],
    /// The content as long-term memory has it, and its dictionary's number; None where it is not known: the copy was to go
    /// elsewhere.
    pub packed: Option<(&'a [u8], i64)>,
    /// The tags, one by one.
    pub tags: &'a [String],
}

/// Which contents that are in the database a move to long-term memory would compress, which is not done here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressible {
    /// Those of at least so many bytes that are as they were.
    pub least_bytes: i64,
    /// Those that are compressed with another dictionary than this one.
    pub newest_dictionary: i64,
}

/// What became of one operation: the plan's answer, without what it borrows.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What became of it.
    pub status: Status,
    /// The memory, where it is not the operation's own.
    pub other_id: Option<String>,
    /// The version held now; 0: none.
    pub version: u64,
    /// The place in the feed; 0 where nothing changed.
    pub seq: u64,
    /// Whether a copy was held before, neither a tombstone nor expired.
    pub existed: bool,
    /// Of a put that was applied.
    pub stored: Option<Stored>,
}

/// In what the copy that is held differs from the one that was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// As they are now.
    pub numbers: Numbers,
    /// Where it is not the copy's own.
    pub other_idempotency_key: Option<String>,
}

impl Outcome {
    /// The plan's answer to an operation, with the copy that is held now.
    #[must_use]
    pub fn of(write: &Write<'_>, answer: &Answer<'_>, stored: Option<&Copy<'_>>) -> Self {
        let is_own = write.operation.names().0 == answer.id;
        let stored = stored.zip(write.payload.as_ref()).map(|(copy, payload)| {
            let (own, held) = (payload.copy.texts[place::IDEMPOTENCY_KEY], copy.texts[place::IDEMPOTENCY_KEY]);
            Stored { numbers: copy.numbers, other_idempotency_key: (own != held).then(|| held.to_owned()) }
        });
        Self {
            status: answer.status,
            other_id: (!is_own).then(|| answer.id.to_owned()),
            version: answer.version,
            seq: answer.seq,
            existed: answer.existed,
            stored,
        }
    }
}
