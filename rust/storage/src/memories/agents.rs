//! The rows of the agents that a transaction writes for.

use std::collections::HashMap;

use agent_memory_core::memory::plan::Agent;

use super::raw::{Connection, SqliteError, Statement, Value};
use super::writer::Stop;

statements! {
    pub(super) struct Statements {
        read: "SELECT agent_no, seq, last_version, generation, erased_seq, erased_version, short_term_count, \
               intermediate_count, long_term_count, touched_us FROM agents WHERE agent_id = ?",
        add: "INSERT INTO agents (seq, last_version, short_term_count, intermediate_count, long_term_count, touched_us, \
              agent_id, generation, purged_seq, erased_seq, erased_version) VALUES (?, ?, ?, ?, ?, ?, ?, 1, 0, 0, 0) \
              RETURNING agent_no",
        write: "UPDATE agents SET seq = ?, last_version = ?, short_term_count = ?, intermediate_count = ?, \
                long_term_count = ?, touched_us = ? WHERE agent_no = ?",
    }
}

/// The agents of one transaction, by name; one without a number is not in the database yet.
pub(super) struct Agents {
    rows: HashMap<String, (Option<i64>, Agent)>,
}

impl Agents {
    /// Reads the rows of these.
    pub(super) fn read<'n>(
        connection: &Connection,
        statements: &mut Statements,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<Self, Stop> {
        let mut agents = Self { rows: HashMap::new() };
        agents.read_more(connection, statements, names)?;
        Ok(agents)
    }

    /// Reads the rows of these, too.
    pub(super) fn read_more<'n>(
        &mut self,
        connection: &Connection,
        statements: &mut Statements,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<(), Stop> {
        for name in names {
            if !self.rows.contains_key(name) {
                let row = read_row(connection, statements, name)?;
                self.rows.insert(name.to_owned(), row);
            }
        }
        Ok(())
    }

    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.rows.get(name)?.0
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (&str, &Agent)> {
        self.rows.iter().map(|(name, (_, agent))| (name.as_str(), agent))
    }

    /// Writes those that have changed; the numbers of those that are new.
    pub(super) fn write(
        &self,
        connection: &Connection,
        statements: &mut Statements,
        changed: Vec<(&str, Agent)>,
    ) -> Result<HashMap<String, i64>, Stop> {
        let mut added = HashMap::new();
        for (name, agent) in changed {
            let [short, intermediate, long] = agent.counts;
            let mut values = [Value::Text(name); 7];
            let words = [agent.seq, agent.last_version, short, intermediate, long, agent.touched_us];
            for (value, word) in values.iter_mut().zip(words) {
                *value = Value::Int(i64::try_from(word).map_err(|_| Stop::Undecided)?);
            }
            if let Some(number) = self.number(name) {
                values[6] = Value::Int(number);
                connection.execute(&mut statements.write, &values)?;
            } else {
                let [number] = connection.first_row(&mut statements.add, &values)?.ok_or(Stop::Undecided)?;
                added.insert(name.to_owned(), number);
            }
        }
        Ok(added)
    }
}

fn read_row(connection: &Connection, statements: &mut Statements, name: &str) -> Result<(Option<i64>, Agent), Stop> {
    let Some(row) = connection.first_row::<10>(&mut statements.read, &[Value::Text(name)])? else {
        return Ok((None, Agent::default()));
    };
    let whole = |at: usize| u64::try_from(row[at]).map_err(|_| Stop::Undecided);
    let agent = Agent {
        seq: whole(1)?,
        last_version: whole(2)?,
        generation: u32::try_from(row[3]).map_err(|_| Stop::Undecided)?,
        erased_seq: whole(4)?,
        erased_version: whole(5)?,
        counts: [whole(6)?, whole(7)?, whole(8)?],
        touched_us: whole(9)?,
    };
    Ok((Some(row[0]), agent))
}
