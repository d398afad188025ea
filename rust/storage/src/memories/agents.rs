//! The rows of the agents that a transaction writes for.

use std::collections::HashMap;

use agent_memory_core::memory::plan::Agent;

use super::raw::{Connection, SqliteError, Statement, Value};
use super::writer::Stop;

statements! {
    pub(super) struct Statements {
        read: "SELECT agent_no, seq, last_version, generation, erased_seq, erased_version, short_term_count, \
               intermediate_count, long_term_count, touched_us FROM agents WHERE agent_id = ?",
        add: "INSERT INTO agents (agent_id, seq, last_version, generation, purged_seq, erased_seq, erased_version, \
              short_term_count, intermediate_count, long_term_count, touched_us) \
              VALUES (?, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0) RETURNING agent_no",
        write: "UPDATE agents SET seq = ?, last_version = ?, short_term_count = ?, intermediate_count = ?, \
                long_term_count = ?, touched_us = ? WHERE agent_no = ?",
    }
}

/// An agent's row, and what has become of it.
pub(super) struct Row {
    pub(super) number: i64,
    pub(super) agent: Agent,
    before: Agent,
}

/// The agents of one transaction, by name; None: there is no such agent.
pub(super) struct Agents<'a> {
    connection: &'a Connection,
    statements: &'a mut Statements,
    rows: HashMap<&'a str, Option<Row>>,
}

impl<'a> Agents<'a> {
    pub(super) fn new(connection: &'a Connection, statements: &'a mut Statements) -> Self {
        Self { connection, statements, rows: HashMap::new() }
    }

    /// The row of an agent, if there is one.
    pub(super) fn find(&mut self, name: &'a str) -> Result<Option<&mut Row>, Stop> {
        if !self.rows.contains_key(name) {
            let row = self.read(name)?;
            self.rows.insert(name, row);
        }
        Ok(self.rows.get_mut(name).and_then(Option::as_mut))
    }

    /// The row of an agent, which is made where there is none.
    pub(super) fn find_or_add(&mut self, name: &'a str) -> Result<&mut Row, Stop> {
        if self.find(name)?.is_none() {
            let added = self.connection.first_row(&mut self.statements.add, &[Value::Text(name)])?;
            let [number] = added.ok_or(Stop::Undecided)?;
            let row = Row { number, agent: Agent::default(), before: Agent::default() };
            self.rows.insert(name, Some(row));
        }
        self.find(name)?.ok_or(Stop::Undecided)
    }

    fn read(&mut self, name: &str) -> Result<Option<Row>, Stop> {
        let Some(row) = self.connection.first_row::<10>(&mut self.statements.read, &[Value::Text(name)])? else {
            return Ok(None);
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
        Ok(Some(Row { number: row[0], before: agent.clone(), agent }))
    }

    /// Writes those that have changed.
    pub(super) fn write(self) -> Result<(), Stop> {
        let changed = self.rows.into_values().flatten().filter(|row| row.agent != row.before);
        for Row { number, agent, .. } in changed {
            let [short, intermediate, long] = agent.counts;
            let mut values = [Value::Int(number); 7];
            let words = [agent.seq, agent.last_version, short, intermediate, long, agent.touched_us];
            for (value, word) in values.iter_mut().zip(words) {
                *value = Value::Int(i64::try_from(word).map_err(|_| Stop::Undecided)?);
            }
            self.connection.execute(&mut self.statements.write, &values)?;
        }
        Ok(())
    }
}
