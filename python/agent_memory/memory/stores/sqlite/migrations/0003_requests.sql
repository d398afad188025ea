-- Idempotency keys of calls that were answered with a memory that was there: by its key, or because it is equal. The key of the
-- call that made the memory stands in its row.
CREATE TABLE requests (
    agent_no INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,               -- of the memory after that call
    PRIMARY KEY (agent_no, user_id, idempotency_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_user ON requests (user_id) WHERE user_id <> '';
CREATE INDEX requests_id ON requests (id);
CREATE INDEX requests_version ON requests (version);
