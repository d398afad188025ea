//! Moves between tiers.

use std::thread;
use std::time::Duration;

use agent_memory_core::memory::plan::{Held, LONG_TERM, Relabelled};

use super::agents::{self, Agents};
use super::raw::{Connection, SqliteError, Statement, Value};
use super::writer::Stop;

/// After so many moves the writer lets others have the processor: whoever serves a caller goes first.
const YIELDING_MOVES: usize = 100;
/// Long enough that whoever waits is woken up.
const GIVE_WAY: Duration = Duration::from_micros(10);

/// A memory of which only the label is to change.
#[derive(Debug, Clone, Copy)]
pub struct Move<'a> {
    /// Name of the memory.
    pub id: &'a str,
    /// Name of its agent.
    pub agent_id: &'a str,
    /// The version that it must still have.
    pub version: u64,
    /// Where it goes.
    pub tier: u8,
}

/// Which contents a move to long-term memory would compress, which is not done here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressible {
    /// Those of at least so many bytes that are as they were.
    pub least_bytes: i64,
    /// Those that are compressed with another dictionary than this one.
    pub newest_dictionary: i64,
}

statements! {
    pub(super) struct Statements {
        held: "SELECT row_id, agent_no, version, deleted, tier, seq, \
               (dictionary = -1 AND length(content) >= ?2) OR (dictionary >= 0 AND dictionary <> ?3) \
               FROM memories WHERE id = ?1",
        label: "UPDATE memories SET tier = ?, seq = ? WHERE row_id = ?",
    }
}

/// Moves all of them, in their order; what became of each.
pub(super) fn write(
    connection: &Connection,
    statements: &mut Statements,
    agent_statements: &mut agents::Statements,
    moves: &[Move<'_>],
    compressible: Compressible,
    now_us: u64,
) -> Result<Vec<Relabelled>, Stop> {
    let mut agents = Agents::new(connection, agent_statements);
    let mut done = Vec::with_capacity(moves.len());
    for (at, one) in moves.iter().enumerate() {
        if at > 0 && at % YIELDING_MOVES == 0 {
            thread::sleep(GIVE_WAY);
        }
        let Some(row) = agents.find(one.agent_id)? else {
            done.push(Relabelled::Absent(
                read(connection, statements, one, compressible)?.map_or(0, |found| found.1.version),
            ));
            continue;
        };
        let found = read(connection, statements, one, compressible)?;
        let own = found.as_ref().filter(|found| found.0.agent_no == row.number);
        let result = match (own, &found) {
            (None, Some((_, others))) => Relabelled::Absent(others.version),
            _ => row.agent.relabel(own.map(|found| &found.1), one.version, one.tier, now_us),
        };
        if let (Relabelled::Moved(seq), Some((place, _))) = (result, own) {
            if one.tier == LONG_TERM && place.is_compressible {
                return Err(Stop::Undecided);
            }
            let seq = i64::try_from(seq).map_err(|_| Stop::Undecided)?;
            let values = [Value::Int(one.tier.into()), Value::Int(seq), Value::Int(place.row_id)];
            connection.execute(&mut statements.label, &values)?;
        }
        done.push(result);
    }
    agents.write()?;
    Ok(done)
}

/// Where a row is, apart from what decides about it.
struct Place {
    row_id: i64,
    agent_no: i64,
    is_compressible: bool,
}

fn read(
    connection: &Connection,
    statements: &mut Statements,
    one: &Move<'_>,
    compressible: Compressible,
) -> Result<Option<(Place, Held)>, Stop> {
    let values =
        [Value::Text(one.id), Value::Int(compressible.least_bytes), Value::Int(compressible.newest_dictionary)];
    let Some([row_id, agent_no, version, deleted, tier, seq, is_compressible]) =
        connection.first_row(&mut statements.held, &values)?
    else {
        return Ok(None);
    };
    let whole = |number: i64| u64::try_from(number).map_err(|_| Stop::Undecided);
    let held = Held {
        version: whole(version)?,
        is_deleted: deleted != 0,
        tier: u8::try_from(tier).map_err(|_| Stop::Undecided)?,
        seq: whole(seq)?,
    };
    Ok(Some((Place { row_id, agent_no, is_compressible: is_compressible != 0 }, held)))
}
