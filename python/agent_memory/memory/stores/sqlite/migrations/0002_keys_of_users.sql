-- Keys and idempotency keys are a user's own: unique per agent, user (empty: none) and, keys, namespace.
DROP INDEX memories_key;
CREATE INDEX memories_key ON memories (agent_no, user_id, namespace, key) WHERE key <> '';
DROP INDEX memories_idempotency;
CREATE INDEX memories_idempotency ON memories (agent_no, user_id, idempotency_key) WHERE idempotency_key <> '';
