//! What commands mean to the cache: which replies may be kept, and which keys a write changes.

/// What a write changes, by the places of its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// No data.
    Nothing,
    /// The key at 1.
    First,
    /// The keys at 1 and 2.
    FirstTwo,
    /// All words from 1 on.
    All,
    /// All words from 1 on but the last, which is a timeout.
    AllButLast,
    /// The key at 2.
    Second,
    /// Keys and values in turn, from 1 on.
    Pairs,
    /// A count at 1, then keys and values in turn.
    CountedPairs,
    /// The count of the keys stands at this place; the keys follow.
    Counted(usize),
    /// The key at 1, and those behind the options STORE and STOREDIST.
    Stored,
    /// The keys behind STREAMS: the first half of the rest.
    Streams,
    /// Any key: the command does not say, or is not known.
    Anything,
}

/// How the reply of a command may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cacheable {
    /// Not at all.
    No,
    /// By the key at 1.
    Single,
    /// MGET: each element by its own key.
    Elements,
}

/// Reads of one key whose reply changes only by a write of that key.
const SINGLE: &[&str] = &[
    "BITCOUNT",
    "BITFIELD_RO",
    "BITPOS",
    "GEODIST",
    "GEOHASH",
    "GEOPOS",
    "GEORADIUSBYMEMBER_RO",
    "GEORADIUS_RO",
    "GEOSEARCH",
    "GET",
    "GETBIT",
    "GETRANGE",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HSTRLEN",
    "HVALS",
    "LINDEX",
    "LLEN",
    "LPOS",
    "LRANGE",
    "SCARD",
    "SISMEMBER",
    "SMEMBERS",
    "SMISMEMBER",
    "STRLEN",
    "SUBSTR",
    "TYPE",
    "XLEN",
    "XRANGE",
    "XREVRANGE",
    "ZCARD",
    "ZCOUNT",
    "ZLEXCOUNT",
    "ZMSCORE",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZRANK",
    "ZREVRANGE",
    "ZREVRANGEBYLEX",
    "ZREVRANGEBYSCORE",
    "ZREVRANK",
    "ZSCORE",
];

/// Whether the reply to a command of so many words may be kept. `name` is in upper case.
#[must_use]
pub fn cacheable(name: &str, words: usize) -> Cacheable {
    match name {
        "MGET" if words > 1 => Cacheable::Elements,
        "EXISTS" if words == 2 => Cacheable::Single,
        _ if words > 1 && SINGLE.binary_search(&name).is_ok() => Cacheable::Single,
        _ => Cacheable::No,
    }
}

/// Names that change no data: reads, and commands to the server or about the connection.
const HARMLESS: &[&str] = &[
    "ACL",
    "ASKING",
    "AUTH",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLIENT",
    "CLUSTER",
    "COMMAND",
    "CONFIG",
    "DBSIZE",
    "DUMP",
    "ECHO",
    "EVALSHA_RO",
    "EVAL_RO",
    "EXISTS",
    "EXPIRETIME",
    "FCALL_RO",
    "HELLO",
    "HEXPIRETIME",
    "HPEXPIRETIME",
    "HPTTL",
    "HRANDFIELD",
    "HSCAN",
    "HTTL",
    "INFO",
    "KEYS",
    "LASTSAVE",
    "LATENCY",
    "LCS",
    "LOLWUT",
    "MEMORY",
    "MGET",
    "MODULE",
    "MONITOR",
    "MULTI",
    "OBJECT",
    "PEXPIRETIME",
    "PFCOUNT",
    "PING",
    "PSUBSCRIBE",
    "PTTL",
    "PUBLISH",
    "PUBSUB",
    "PUNSUBSCRIBE",
    "QUIT",
    "RANDOMKEY",
    "READONLY",
    "READWRITE",
    "REPLCONF",
    "RESET",
    "ROLE",
    "SAVE",
    "SCAN",
    "SCRIPT",
    "SDIFF",
    "SELECT",
    "SINTER",
    "SINTERCARD",
    "SLOWLOG",
    "SORT_RO",
    "SPUBLISH",
    "SRANDMEMBER",
    "SSCAN",
    "SSUBSCRIBE",
    "STRALGO",
    "SUBSCRIBE",
    "SUNION",
    "SUNSUBSCRIBE",
    "TIME",
    "TOUCH",
    "TTL",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WAIT",
    "WAITAOF",
    "WATCH",
    "XINFO",
    "XPENDING",
    "XREAD",
    "ZDIFF",
    "ZINTER",
    "ZINTERCARD",
    "ZRANDMEMBER",
    "ZSCAN",
    "ZUNION",
];

/// Writes of the key at 1.
const FIRST: &[&str] = &[
    "APPEND",
    "BITFIELD",
    "DECR",
    "DECRBY",
    "DELEX",
    "DELIFEQ",
    "EXPIRE",
    "EXPIREAT",
    "GEOADD",
    "GETDEL",
    "GETEX",
    "GETSET",
    "HDEL",
    "HEXPIRE",
    "HEXPIREAT",
    "HGETDEL",
    "HGETEX",
    "HINCRBY",
    "HINCRBYFLOAT",
    "HMSET",
    "HPERSIST",
    "HPEXPIRE",
    "HPEXPIREAT",
    "HSET",
    "HSETEX",
    "HSETNX",
    "INCR",
    "INCRBY",
    "INCRBYFLOAT",
    "LINSERT",
    "LPOP",
    "LPUSH",
    "LPUSHX",
    "LREM",
    "LSET",
    "LTRIM",
    "MOVE",
    "PERSIST",
    "PEXPIRE",
    "PEXPIREAT",
    "PFADD",
    "PSETEX",
    "RESTORE",
    "RPOP",
    "RPUSH",
    "RPUSHX",
    "SADD",
    "SET",
    "SETBIT",
    "SETEX",
    "SETNX",
    "SETRANGE",
    "SPOP",
    "SREM",
    "XACK",
    "XACKDEL",
    "XADD",
    "XAUTOCLAIM",
    "XCLAIM",
    "XDEL",
    "XDELEX",
    "XSETID",
    "XTRIM",
    "ZADD",
    "ZINCRBY",
    "ZPOPMAX",
    "ZPOPMIN",
    "ZREM",
    "ZREMRANGEBYLEX",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
];

/// What a command changes. `name` is in upper case; of a name of several words ("XGROUP CREATE") the first decides, but for
/// FUNCTION's.
#[must_use]
pub fn effect_of(name: &str) -> Effect {
    let first = name.split(' ').next().unwrap_or(name);
    if SINGLE.binary_search(&first).is_ok() || HARMLESS.binary_search(&first).is_ok() {
        return Effect::Nothing;
    }
    if FIRST.binary_search(&first).is_ok() {
        return Effect::First;
    }
    match first {
        "DEL" | "UNLINK" | "PFMERGE" | "SDIFFSTORE" | "SINTERSTORE" | "SUNIONSTORE" => Effect::All,
        "BLPOP" | "BRPOP" | "BZPOPMAX" | "BZPOPMIN" => Effect::AllButLast,
        "COPY" | "RENAME" | "RENAMENX" | "SMOVE" | "LMOVE" | "RPOPLPUSH" | "BLMOVE" | "BRPOPLPUSH" => Effect::FirstTwo,
        "GEOSEARCHSTORE" | "ZRANGESTORE" | "ZDIFFSTORE" | "ZINTERSTORE" | "ZUNIONSTORE" => Effect::First,
        "BITOP" | "XGROUP" => Effect::Second,
        "MSET" | "MSETNX" => Effect::Pairs,
        "MSETEX" => Effect::CountedPairs,
        "LMPOP" | "ZMPOP" => Effect::Counted(1),
        "BLMPOP" | "BZMPOP" | "EVAL" | "EVALSHA" | "FCALL" => Effect::Counted(2),
        "SORT" | "GEORADIUS" | "GEORADIUSBYMEMBER" => Effect::Stored,
        "XREADGROUP" => Effect::Streams,
        _ => Effect::Anything,
    }
}

/// Calls `each` with the place of every key that a command of `effect` changes; returns false where that may be any key.
///
/// `word` gives the bytes of a word. Places count the words as they are sent, the name being 0.
pub fn changed<'a>(
    effect: Effect,
    count: usize,
    word: impl Fn(usize) -> Option<&'a [u8]>,
    mut each: impl FnMut(usize),
) -> bool {
    let number = |place: usize| {
        word(place).and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse::<usize>().ok())
    };
    let is = |place: usize, option: &str| word(place).is_some_and(|text| text.eq_ignore_ascii_case(option.as_bytes()));
    match effect {
        Effect::Nothing => return true,
        Effect::Anything => return false,
        Effect::First => (1..count.min(2)).for_each(each),
        Effect::FirstTwo => (1..count.min(3)).for_each(each),
        Effect::All => (1..count).for_each(each),
        Effect::AllButLast => (1..count.saturating_sub(1)).for_each(each),
        Effect::Second => (2..count.min(3)).for_each(each),
        Effect::Pairs => (1..count).step_by(2).for_each(each),
        Effect::CountedPairs => {
            let Some(pairs) = number(1) else { return false };
            (0..pairs).map(|pair| 2 + 2 * pair).take_while(|place| *place < count).for_each(each);
        }
        Effect::Counted(place) => {
            let Some(keys) = number(place) else { return false };
            if keys == 0 {
                return false; // a script without keys may touch any
            }
            (place + 1..count.min((place + 1).saturating_add(keys))).for_each(each);
        }
        Effect::Stored => {
            (1..count.min(2)).for_each(&mut each);
            (2..count).filter(|place| is(place - 1, "STORE") || is(place - 1, "STOREDIST")).for_each(each);
        }
        Effect::Streams => {
            let Some(begin) = (1..count).find(|place| is(*place, "STREAMS")) else { return false };
            let streams = (count - begin - 1) / 2;
            (begin + 1..=begin + streams).for_each(each);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(command: &str) -> Option<Vec<&str>> {
        let words: Vec<&str> = command.split(' ').collect();
        let mut found = Vec::new();
        let known = changed(
            effect_of(words[0]),
            words.len(),
            |place| words.get(place).map(|word| word.as_bytes()),
            |place| found.push(words[place]),
        );
        known.then_some(found)
    }

    #[test]
    fn tables_are_sorted() {
        for table in [SINGLE, HARMLESS, FIRST] {
            assert!(table.is_sorted());
        }
    }

    #[test]
    fn writes_name_their_keys() {
        assert_eq!(keys("SET a 1"), Some(vec!["a"]));
        assert_eq!(keys("DEL a b"), Some(vec!["a", "b"]));
        assert_eq!(keys("MSET a 1 b 2"), Some(vec!["a", "b"]));
        assert_eq!(keys("MSETEX 2 a 1 b 2 EX 9"), Some(vec!["a", "b"]));
        assert_eq!(keys("BLPOP a b 0"), Some(vec!["a", "b"]));
        assert_eq!(keys("BLMOVE a b LEFT LEFT 0"), Some(vec!["a", "b"]));
        assert_eq!(keys("BITOP AND a b c"), Some(vec!["a"]));
        assert_eq!(keys("EVAL x 2 a b c"), Some(vec!["a", "b"]));
        assert_eq!(keys("LMPOP 2 a b LEFT"), Some(vec!["a", "b"]));
        assert_eq!(keys("SORT a BY x STORE b"), Some(vec!["a", "b"]));
        assert_eq!(keys("XREADGROUP GROUP g c STREAMS a b > >"), Some(vec!["a", "b"]));
        assert_eq!(keys("XGROUP CREATE a g $"), Some(vec!["a"]));
        assert_eq!(keys("GET a"), Some(vec![]));
        assert_eq!(keys("PING"), Some(vec![]));
    }

    #[test]
    fn what_does_not_say_changes_anything() {
        for command in ["EVAL x 0", "FLUSHALL", "SWAPDB 0 1", "FUNCTION", "JSON.SET a $ 1", "EVAL x no a"] {
            assert_eq!(keys(command), None, "{command}");
        }
    }

    #[test]
    fn only_reads_that_a_write_of_their_key_changes_are_kept() {
        assert_eq!(cacheable("GET", 2), Cacheable::Single);
        assert_eq!(cacheable("EXISTS", 2), Cacheable::Single);
        assert_eq!(cacheable("EXISTS", 3), Cacheable::No);
        assert_eq!(cacheable("MGET", 3), Cacheable::Elements);
        for name in ["TTL", "PTTL", "SRANDMEMBER", "SCAN", "XREAD", "XPENDING", "SORT_RO", "OBJECT", "SET", "SINTER"] {
            assert_eq!(cacheable(name, 2), Cacheable::No, "{name}");
        }
    }
}
