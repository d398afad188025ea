-- The first schema. Pages of 16 KiB are set before this runs.

-- One row per agent. A transaction that writes for an agent holds this row: seq and last_version are taken from it.
CREATE TABLE agents (
    agent_no INTEGER PRIMARY KEY,
    agent_id TEXT NOT NULL UNIQUE,
    seq INTEGER NOT NULL,                   -- of the last change
    last_version INTEGER NOT NULL,          -- the greatest version ever accepted
    generation INTEGER NOT NULL,            -- raised when the agent is erased
    purged_seq INTEGER NOT NULL,            -- the greatest seq of a tombstone that was forgotten
    erased_seq INTEGER NOT NULL,            -- rows up to here are erased, whether they are gone yet or not
    erased_version INTEGER NOT NULL,        -- copies up to here are refused
    short_term_count INTEGER NOT NULL,
    intermediate_count INTEGER NOT NULL,
    long_term_count INTEGER NOT NULL,
    touched_us INTEGER NOT NULL
) STRICT;
CREATE INDEX agents_touched ON agents (touched_us);

-- One row per memory, living or tombstone; its place in the change feed is that of its last change.
CREATE TABLE memories (
    row_id INTEGER PRIMARY KEY,
    agent_no INTEGER NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    writer INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    tier INTEGER NOT NULL,                  -- 0 short-term, 1 intermediate, 2 long-term
    created_us INTEGER NOT NULL,
    timestamp REAL NOT NULL,
    step INTEGER,
    importance REAL NOT NULL,
    memory_type TEXT NOT NULL,
    namespace TEXT NOT NULL,                -- labels, percent-encoded, each followed by "/"
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    key TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    expires_at REAL,
    tags TEXT NOT NULL,                     -- a JSON list, or empty
    metadata TEXT NOT NULL,                 -- a JSON object, or empty
    content_kind INTEGER NOT NULL,          -- 0 text, 1 bytes, 2 JSON
    content BLOB NOT NULL,
    dictionary INTEGER NOT NULL,            -- -1 as it is, 0 zstd, n zstd with dictionary n
    checksum INTEGER NOT NULL,
    content_hash BLOB NOT NULL,
    seq INTEGER NOT NULL
) STRICT;
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
CREATE INDEX memories_hash ON memories (agent_no, content_hash) WHERE content_hash <> x'';
CREATE INDEX memories_expiry ON memories (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX memories_age ON memories (tier, created_us) WHERE tier < 2 AND deleted = 0;
CREATE INDEX memories_tombstones ON memories (version) WHERE deleted = 1;

-- float32 or float16, little endian: apart, so that queries that need no vectors do not read them.
CREATE TABLE vectors (
    row_id INTEGER PRIMARY KEY,
    element INTEGER NOT NULL,               -- 0 float32, 1 float16
    vector BLOB NOT NULL
) STRICT;

CREATE TABLE memory_tags (
    agent_no INTEGER NOT NULL,
    tag TEXT NOT NULL,
    row_id INTEGER NOT NULL,
    PRIMARY KEY (agent_no, tag, row_id)
) STRICT, WITHOUT ROWID;

-- Statistics of use, apart, so that counting a use does not rewrite the memory.
CREATE TABLE accesses (
    row_id INTEGER PRIMARY KEY,
    uses INTEGER NOT NULL,
    last_at REAL NOT NULL
) STRICT;

-- What was erased of users: copies of theirs up to fence_version are refused.
CREATE TABLE user_fences (
    user_id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    fence_version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Erasures that were begun and are not finished.
CREATE TABLE erasures (
    kind TEXT NOT NULL,                     -- 'agent' or 'user'
    name TEXT NOT NULL,
    begun_us INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- Dictionaries of zstd; never changed, never removed.
CREATE TABLE dictionaries (
    number INTEGER PRIMARY KEY,
    created_us INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
