-- The first schema. It runs in the schema that PostgresSettings names.

-- One row per agent. A transaction that writes for an agent holds this row: seq and last_version are taken from it.
CREATE TABLE agents (
    agent_no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id TEXT COLLATE "C" NOT NULL UNIQUE,
    seq BIGINT NOT NULL,                   -- of the last change
    last_version BIGINT NOT NULL,          -- the greatest version ever accepted
    generation BIGINT NOT NULL,            -- raised when the agent is erased
    purged_seq BIGINT NOT NULL,            -- the greatest seq of a tombstone that was forgotten
    erased_seq BIGINT NOT NULL,            -- rows up to here are erased, whether they are gone yet or not
    erased_version BIGINT NOT NULL,        -- copies up to here are refused
    short_term_count BIGINT NOT NULL,
    intermediate_count BIGINT NOT NULL,
    long_term_count BIGINT NOT NULL,
    touched_us BIGINT NOT NULL
);
CREATE INDEX agents_touched ON agents (touched_us);

-- Row numbers are taken before the rows are written, because vectors and tags need them.
CREATE SEQUENCE memory_rows;

-- One row per memory, living or tombstone; its place in the change feed is that of its last change.
CREATE TABLE memories (
    row_id BIGINT PRIMARY KEY,
    agent_no BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    writer BIGINT NOT NULL,
    deleted SMALLINT NOT NULL,
    tier SMALLINT NOT NULL,                  -- 0 short-term, 1 intermediate, 2 long-term
    created_us BIGINT NOT NULL,
    timestamp DOUBLE PRECISION NOT NULL,
    step BIGINT,
    importance DOUBLE PRECISION NOT NULL,
    memory_type TEXT NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,                -- labels, percent-encoded, each followed by "/"
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    key TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    expires_at DOUBLE PRECISION,
    tags TEXT NOT NULL,                     -- a JSON list, or empty
    metadata TEXT NOT NULL,                 -- a JSON object, or empty
    content_kind SMALLINT NOT NULL,          -- 0 text, 1 bytes, 2 JSON
    content BYTEA NOT NULL,
    dictionary INTEGER NOT NULL,            -- -1 as it is, 0 zstd, n zstd with dictionary n
    checksum BIGINT NOT NULL,
    content_hash BYTEA NOT NULL,
    seq BIGINT NOT NULL
);
CREATE UNIQUE INDEX memories_id ON memories (id);
CREATE UNIQUE INDEX memories_seq ON memories (agent_no, seq);
CREATE INDEX memories_timestamp ON memories (agent_no, timestamp);
-- Partial indexes: rows that do not use a feature do not pay for it.
CREATE INDEX memories_step ON memories (agent_no, step) WHERE step IS NOT NULL;
CREATE INDEX memories_session ON memories (agent_no, session_id) WHERE session_id <> '';
CREATE INDEX memories_user ON memories (user_id) WHERE user_id <> '';
CREATE INDEX memories_key ON memories (agent_no, namespace, key) WHERE key <> '';
CREATE INDEX memories_namespace ON memories (agent_no, namespace) WHERE namespace <> '';
CREATE INDEX memories_idempotency ON memories (agent_no, idempotency_key) WHERE idempotency_key <> '';
CREATE INDEX memories_hash ON memories (agent_no, content_hash) WHERE content_hash <> ''::bytea;
CREATE INDEX memories_expiry ON memories (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX memories_age ON memories (tier, created_us) WHERE tier < 2 AND deleted = 0;
CREATE INDEX memories_tombstones ON memories (version) WHERE deleted = 1;

-- float32 or float16, little endian: apart, so that queries that need no vectors do not read them.
CREATE TABLE vectors (
    row_id BIGINT PRIMARY KEY,
    element SMALLINT NOT NULL,               -- 0 float32, 1 float16
    vector BYTEA NOT NULL
);
-- Vectors do not compress: they are kept as they are.
ALTER TABLE vectors ALTER COLUMN vector SET STORAGE EXTERNAL;

CREATE TABLE memory_tags (
    agent_no BIGINT NOT NULL,
    tag TEXT NOT NULL,
    row_id BIGINT NOT NULL,
    PRIMARY KEY (agent_no, tag, row_id)
);

-- Statistics of use, apart, so that counting a use does not rewrite the memory.
CREATE TABLE accesses (
    row_id BIGINT PRIMARY KEY,
    uses BIGINT NOT NULL,
    last_at DOUBLE PRECISION NOT NULL
);

-- What was erased of users: copies of theirs up to fence_version are refused.
CREATE TABLE user_fences (
    user_id TEXT PRIMARY KEY,
    generation BIGINT NOT NULL,
    fence_version BIGINT NOT NULL
);

-- Erasures that were begun and are not finished.
CREATE TABLE erasures (
    kind TEXT NOT NULL,                     -- 'agent' or 'user'
    name TEXT NOT NULL,
    begun_us BIGINT NOT NULL,
    PRIMARY KEY (kind, name)
);

-- Dictionaries of zstd; never changed, never removed.
CREATE TABLE dictionaries (
    number INTEGER PRIMARY KEY,
    created_us BIGINT NOT NULL,
    data BYTEA NOT NULL
);
