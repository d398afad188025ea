"""The scripts that write agent memory in Redis: the rules of `_copy_rules.py` in Lua, each atomic, each idempotent.

All keys of one agent and of its bucket's bookkeeping have one hash tag, so that every script works on one slot:

    {b0123}:m:AGENT:ID    string   a copy (`memory/copy.rs` of the core has the layout); clean ones have a TTL
    {b0123}:a:AGENT       hash     e: the epoch, c: the cursor in SQL's change feed, h: the hint, which every put increments
    {b0123}:v:AGENT       zset     floors: ID -> 2 * version + deleted (R3)
    {b0123}:t:AGENT       zset     clean copies: ID -> when it was put, in microseconds
    {b0123}:dirty         zset     AGENT:ID of the bucket's dirty copies and tombstones, score 0 (R5)
    {b0123}:due           zset     AGENT:ID of the bucket's clean copies -> when its residency is over, in microseconds
    {b0123}:bytes         string   bytes of the bucket's dirty copies
    {b0123}:damaged       zset     AGENT:ID of dirty copies that do not match their checksum: no sync is kept up by them

AGENT and ID are percent-encoded. A script is given every key that it touches, at most MAX_ENTRIES copies, and the ids of one
call are distinct. It answers with one letter per copy:

    o applied    h held: an equal or greater copy is there    f refused by a floor    x nothing to do
    d a tombstone is there    c another version is there than the one the copy was made from    e another epoch

The clock is the server's TIME; tests hand in one of their own.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

__all__ = [
    "EVICT",
    "FOLLOW",
    "MARK",
    "MAX_ENTRIES",
    "OPEN",
    "PUT_CLEAN",
    "PUT_DIRTY",
    "QUARANTINE",
    "READ",
    "RELABEL",
    "Script",
]

MAX_ENTRIES: Final = 500
"""The most copies that one call of a script touches; each costs about two elements of sets besides."""

_TRIMMED_BESIDES: Final = 16


class Script(NamedTuple):
    """A script, by its name for people and its text for the server."""

    name: str
    text: str


# KEYS: agent, floors, times, dirty, due, bytes, copies...   ARGV: epoch, clock or "", lifetime, then what follows.
_PRELUDE: Final = (
    """
local agent, floors, times, dirty, due, bytes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local given_epoch, lifetime = ARGV[1], tonumber(ARGV[3])
local clock = tonumber(ARGV[2])
if not clock then
  local time = redis.call('TIME')
  clock = time[1] * 1000000 + time[2]
end
local id_from = #agent + 2  -- the agent is "{b0123}:a:AGENT", a copy "{b0123}:m:AGENT:ID"

local function whole(number) return string.format('%.0f', number) end
local function member_of(key) return string.sub(key, 11) end
local function id_of(key) return string.sub(key, id_from) end

local function current_epoch()
  local state = redis.call('HMGET', agent, 'e', 'c')
  local epoch = state[1]
  if not epoch then return nil end
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  if string.sub(epoch, 1, 24) ~= string.sub(run_id, 1, 24) then return nil end
  return epoch, state[2]
end

-- state (c, d, t), order (deleted, version, writer: greater as text is greater), version, all that was read; nil where
-- nothing valid is.
local function header(key, epoch)
  local head = redis.call('GETRANGE', key, 0, 75)
  if #head < 76 then return nil end
  local state = string.sub(head, 2, 2)
  local carried = string.sub(head, 37, 76)
  if state == 'c' and carried ~= epoch then return nil end
  local deleted = state == 't' and '1' or '0'
  return state, deleted .. string.sub(head, 5, 36), string.sub(head, 5, 20), head
end

local function order_of(value)
  local deleted = string.sub(value, 2, 2) == 't' and '1' or '0'
  return deleted .. string.sub(value, 5, 36)
end

local function floor_of(order, follows_clock)
  local deleted, version = tonumber(string.sub(order, 1, 1)), tonumber(string.sub(order, 2, 17))
  if follows_clock and version + math.floor(lifetime / 2) < clock then version = clock end
  return 2 * version + deleted
end

local function raised_floor(held, order, follows_clock)
  local floor = floor_of(order, follows_clock)
  local highest = math.max(held, floor)
  if highest % 2 == 0 and (held % 2 == 1 or floor % 2 == 1) then highest = highest + 1 end
  return highest
end

local function raise_floor(id, order, follows_clock)
  local held = tonumber(redis.call('ZSCORE', floors, id) or 0)
  local highest = raised_floor(held, order, follows_clock)
  if highest ~= held then redis.call('ZADD', floors, whole(highest), id) end
end

local function forget_floors(count)
  local old = redis.call('ZRANGEBYSCORE', floors, '-inf', '(' .. whole(2 * (clock - lifetime)), 'LIMIT', 0, count)
  if #old > 0 then redis.call('ZREM', floors, unpack(old)) end
end

local function drop(key, state)
  if state == 'd' or state == 't' then
    redis.call('DECRBY', bytes, redis.call('STRLEN', key))
    redis.call('ZREM', dirty, member_of(key))
  end
  redis.call('UNLINK', key)
  redis.call('ZREM', times, id_of(key))
  redis.call('ZREM', due, member_of(key))
end

local first = 7
local count = #KEYS - 6
local answers = {}
local epoch, cursor = current_epoch()
"""
).lstrip()

OPEN: Final = Script(
    "open",
    # ARGV[4]: nonce, ARGV[5]: where SQL's feed stood before. An epoch begins where there is none of this run.
    _PRELUDE
    + """
if not epoch then
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  epoch = string.sub(run_id, 1, 24) .. ARGV[4]
  redis.call('HSET', agent, 'e', epoch, 'c', ARGV[5])
end
local state = redis.call('HMGET', agent, 'c', 'h')
return {epoch, state[1] or '0', state[2] or '0', whole(clock)}
""",
)

PUT_CLEAN: Final = Script(
    "put_clean",
    # Copies that SQL holds: R1, R3, R4. ARGV[4]: residency in microseconds; ARGV[5], ARGV[6]: where SQL's feed stood before the
    # copies and after them, "" where they are no unbroken part of it; then the values.
    _PRELUDE
    + """
if not epoch or epoch ~= given_epoch then return {string.rep('e', count), '0', '0'} end
local residency = tonumber(ARGV[4])
local backstop = whole(math.ceil(residency / 500) + 60000)
-- The rows that come next in the feed: this does what FOLLOW would do with them, too.
local follows = ARGV[5] ~= '' and ARGV[5] == cursor
-- Formatting a number and a call of the server cost about as much as all else that is done for a copy.
local now, due_at = whole(clock), whole(clock + residency)
local floor_pairs, time_pairs, due_pairs, ids = {}, {}, {}, {}
for i = 1, count do ids[i] = id_of(KEYS[first + i - 1]) end
local held_floors = redis.call('ZMSCORE', floors, unpack(ids))
for i = 1, count do
  local key, value = KEYS[first + i - 1], ARGV[6 + i]
  local id, order = ids[i], order_of(value)
  local state, held = header(key, epoch)
  local floor = tonumber(held_floors[i])
  local deleted = string.sub(order, 1, 1) == '1'
  local refused = floor and not deleted and (floor % 2 == 1 or 2 * tonumber(string.sub(order, 2, 17)) < floor)
  local is_cleaned = state == 'd' and held == order
  if refused then
    if held and order > held then drop(key, state) end
    if follows then raise_floor(id, order, true) end
    answers[i] = 'f'
  elseif held and order <= held and not is_cleaned then
    if follows then raise_floor(id, order, true) end
    answers[i] = 'h'
  elseif deleted then
    drop(key, state)
    raise_floor(id, order, true)
    answers[i] = 'o'
  else
    if state == 'd' then drop(key, state) end
    redis.call('SET', key, value, 'PX', backstop)
    local highest = raised_floor(floor or 0, order, state == 'd' or follows)
    if highest ~= floor then
      floor_pairs[#floor_pairs + 1] = whole(highest)
      floor_pairs[#floor_pairs + 1] = id
    end
    time_pairs[#time_pairs + 1] = now
    time_pairs[#time_pairs + 1] = id
    due_pairs[#due_pairs + 1] = due_at
    due_pairs[#due_pairs + 1] = member_of(key)
    answers[i] = 'o'
  end
end
if #floor_pairs > 0 then redis.call('ZADD', floors, unpack(floor_pairs)) end
if #time_pairs > 0 then
  redis.call('ZADD', times, unpack(time_pairs))
  redis.call('ZADD', due, unpack(due_pairs))
end
if follows then redis.call('HSET', agent, 'c', ARGV[6]) end
forget_floors(count + """
    + str(_TRIMMED_BESIDES)
    + """)
return {table.concat(answers), redis.call('HINCRBY', agent, 'h', 1), redis.call('ZCARD', times)}
""",
)

PUT_DIRTY: Final = Script(
    "put_dirty",
    # ARGV from 4: value and the version it was made from (16 digits, or "" for a new memory or a delete), by turns. R1, R5.
    _PRELUDE
    + """
local members, added = {}, 0
for i = 1, count do
  local key, value, base = KEYS[first + i - 1], ARGV[2 + 2 * i], ARGV[3 + 2 * i]
  local id, order = id_of(key), order_of(value)
  local state, held, version = header(key, epoch)
  local floor = tonumber(redis.call('ZSCORE', floors, id) or 0)
  local deleted = string.sub(order, 1, 1) == '1'
  if held == order then
    answers[i] = 'o'
  elseif floor % 2 == 1 or state == 't' then
    answers[i] = 'd'
  elseif base ~= '' and version ~= base then
    answers[i] = 'c'
  elseif held and order < held then
    answers[i] = 'h'
  elseif not deleted and 2 * tonumber(string.sub(order, 2, 17)) < floor then
    answers[i] = 'f'
  else
    if state then drop(key, state) end
    redis.call('SET', key, value)
    members[#members + 1] = '0'
    members[#members + 1] = member_of(key)
    added = added + #value
    answers[i] = 'o'
  end
end
if #members > 0 then redis.call('ZADD', dirty, unpack(members)) end
return {table.concat(answers), redis.call('HINCRBY', agent, 'h', 1), redis.call('INCRBY', bytes, added)}
""",
)

MARK: Final = Script(
    "mark",
    # A dirty copy becomes clean, or goes where SQL holds a greater one: R5. ARGV[4]: residency; ARGV[5], [6]: as in PUT_CLEAN;
    # ARGV[7]: the orders that went to SQL, 33 characters each; then by turns the number of a copy of which SQL holds a
    # greater one, and that one's order.
    _PRELUDE
    + """
local residency, orders = tonumber(ARGV[4]), ARGV[7]
local is_current = epoch and epoch == given_epoch
local follows = is_current and ARGV[5] ~= '' and ARGV[5] == cursor
local backstop = whole(math.ceil(residency / 500) + 60000)
local now, due_at = whole(clock), whole(clock + residency)
local greater, ids = {}, {}
for i = 8, #ARGV, 2 do greater[tonumber(ARGV[i])] = ARGV[i + 1] end
for i = 1, count do ids[i] = id_of(KEYS[first + i - 1]) end
local held_floors = redis.call('ZMSCORE', floors, unpack(ids))
local floor_pairs, time_pairs, due_pairs, cleaned, cleaned_bytes = {}, {}, {}, {}, 0
for i = 1, count do
  local key, id = KEYS[first + i - 1], ids[i]
  local seen = string.sub(orders, 33 * i - 32, 33 * i)
  local head = redis.call('GETRANGE', key, 0, 147)
  local state, held = string.sub(head, 2, 2), order_of(head)
  if #head < 148 or (state ~= 'd' and state ~= 't') or held ~= seen then
    if follows and not greater[i] then
      state, held = header(key, epoch)
      if held and seen > held and (state == 'c' or string.sub(seen, 1, 1) == '1') then drop(key, state) end
      raise_floor(id, seen, true)
    end
    answers[i] = 'x'
  elseif greater[i] or state == 't' or not is_current then
    drop(key, state)
    raise_floor(id, greater[i] or seen, true)
    answers[i] = 'o'
  else
    -- The lengths that the header tells: to ask for the value's would be one more call.
    local vector, texts, content = struct.unpack('<I4I4I4', head, 137)
    cleaned_bytes = cleaned_bytes + 148 + vector + texts + content
    redis.call('SETRANGE', key, 1, 'c' .. string.sub(head, 3, 36) .. epoch)
    redis.call('PEXPIRE', key, backstop)
    local floor = tonumber(held_floors[i] or 0)
    local highest = raised_floor(floor, seen, true)
    if highest ~= floor then
      floor_pairs[#floor_pairs + 1] = whole(highest)
      floor_pairs[#floor_pairs + 1] = id
    end
    local member, at = member_of(key), #cleaned + 1
    cleaned[at] = member
    time_pairs[2 * at - 1], time_pairs[2 * at] = now, id
    due_pairs[2 * at - 1], due_pairs[2 * at] = due_at, member
    answers[i] = 'o'
  end
end
if #floor_pairs > 0 then redis.call('ZADD', floors, unpack(floor_pairs)) end
if #cleaned > 0 then
  redis.call('DECRBY', bytes, whole(cleaned_bytes))
  redis.call('ZREM', dirty, unpack(cleaned))
  redis.call('ZADD', times, unpack(time_pairs))
  redis.call('ZADD', due, unpack(due_pairs))
end
if follows then redis.call('HSET', agent, 'c', ARGV[6]) end
forget_floors(count + """
    + str(_TRIMMED_BESIDES)
    + """)
return {table.concat(answers), redis.call('HINCRBY', agent, 'h', 1), tonumber(redis.call('GET', bytes) or '0')}
""",
)

FOLLOW: Final = Script(
    "follow",
    # ARGV[4]: the new cursor; then the orders of rows after the old one: floors rise, lower copies go.
    _PRELUDE
    + """
if not epoch or epoch ~= given_epoch then return {string.rep('e', count), '0', '0'} end
for i = 1, count do
  local key, order = KEYS[first + i - 1], ARGV[4 + i]
  local state, held = header(key, epoch)
  local deleted = string.sub(order, 1, 1) == '1'
  if held and order > held and (state == 'c' or deleted) then
    drop(key, state)
    answers[i] = 'o'
  else
    answers[i] = 'x'
  end
  raise_floor(id_of(key), order, true)
end
local cursor = tonumber(redis.call('HGET', agent, 'c') or '0')
if tonumber(ARGV[4]) > cursor then redis.call('HSET', agent, 'c', ARGV[4]) end
forget_floors(count + """
    + str(_TRIMMED_BESIDES)
    + """)
return {table.concat(answers), redis.call('HGET', agent, 'h') or '0', '0'}
""",
)

EVICT: Final = Script(
    "evict",
    # The residency of clean copies is over: those that are due at ARGV[4] (microseconds; "": whenever). "all": dirty
    # ones go too, and with them what they hold that nothing else does: their agent is being erased.
    _PRELUDE
    + """
local limit = tonumber(ARGV[4])
for i = 1, count do
  local key = KEYS[first + i - 1]
  local state = header(key, epoch)
  local at = limit and tonumber(redis.call('ZSCORE', due, member_of(key)))
  if (state == 'd' or state == 't') and ARGV[4] ~= 'all' then
    redis.call('ZREM', due, member_of(key))
    answers[i] = 'x'
  elseif at and at > limit then
    answers[i] = 'x'
  else
    drop(key, state)
    answers[i] = 'o'
  end
end
return {table.concat(answers), '0', '0'}
""",
)

RELABEL: Final = Script(
    "relabel",
    # ARGV[4]: the tier's letter, ARGV[5]: residency. The label only: R6.
    _PRELUDE
    + """
for i = 1, count do
  local key = KEYS[first + i - 1]
  local state, held = header(key, epoch)
  if held and state ~= 't' then
    redis.call('SETRANGE', key, 2, ARGV[4])
    if state == 'c' then
      redis.call('ZADD', due, whole(clock + tonumber(ARGV[5])), member_of(key))
      redis.call('PEXPIRE', key, whole(math.ceil(tonumber(ARGV[5]) / 500) + 60000))
    end
    answers[i] = 'o'
  else
    answers[i] = 'x'
  end
end
return {table.concat(answers), '0', '0'}
""",
)

READ: Final = Script(
    "read",
    # Copies that are valid now: dirty ones, tombstones, and clean ones of the current epoch.
    _PRELUDE
    + """
local state = redis.call('HMGET', agent, 'h', 'c')
local reply = {epoch or '', state[1] or '0', state[2] or '0', whole(clock)}
for i = 1, count do
  local value = redis.call('GET', KEYS[first + i - 1])
  if value and string.sub(value, 2, 2) == 'c' and string.sub(value, 37, 76) ~= epoch then value = false end
  reply[4 + i] = value
end
return reply
""",
)

QUARANTINE: Final = Script(
    "quarantine",
    # The last key is the set of damaged copies; ARGV from 4: the SHA-1 of the value that was seen to be damaged. It stays
    # where it is, so that it is not called absent, and its bytes count as before.
    _PRELUDE
    + """
local damaged = KEYS[#KEYS]
for i = 1, count - 1 do
  local key = KEYS[first + i - 1]
  local value = redis.call('GET', key)
  answers[i] = 'x'
  if value and redis.sha1hex(value) == ARGV[3 + i] then
    if redis.call('ZREM', dirty, member_of(key)) == 1 then answers[i] = 'o' end
    redis.call('ZADD', damaged, 0, member_of(key))
  end
end
return {table.concat(answers), '0', '0'}
""",
)


def parse_answers(reply: list[Any]) -> tuple[str, int, int]:
    """The letters, the hint, and the script's own number of a reply."""
    letters = reply[0]
    return (letters.decode() if isinstance(letters, bytes) else letters), int(reply[1]), int(reply[2])
