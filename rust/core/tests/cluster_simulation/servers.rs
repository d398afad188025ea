//! Six servers of a cluster: claims to slots with epochs, gossip, elections, slots that move key by key.
//!
//! Only a dozen slots exist, each with two keys. A server knows what it has heard: its view may be old.

use std::collections::BTreeMap;

use agent_memory_core::cluster::address::Address;
use agent_memory_core::cluster::view::{Info, View, ViewNode, ViewRange};
use agent_memory_core::guard::random::Random;

use super::{MS, Time};

pub(crate) const SERVERS: usize = 6;
pub(crate) const SHARDS: usize = 3;
pub(crate) const SLOTS: [u16; 12] = [0, 1, 2, 3, 5_461, 5_462, 5_463, 8_000, 10_923, 12_182, 16_000, 16_383];
/// How long a server must be away before the others hold it to be down.
pub(crate) const NODE_TIMEOUT: Time = 1_500 * MS;

/// Of what a server knows, the owner of a slot and the epoch of its claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub(crate) owner: usize,
    pub(crate) epoch: u64,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) is_up: bool,
    pub(crate) stalled_until: Time,
    /// Servers of different islands do not hear each other; clients are on island 0.
    pub(crate) island: u8,
    pub(crate) away_since: Option<Time>,
    pub(crate) epoch: u64,
    pub(crate) claims: [Claim; SLOTS.len()],
    pub(crate) primary: Option<usize>,
}

#[derive(Clone, Copy)]
pub(crate) struct Move {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The keys that have moved already, one bit each.
    pub(crate) moved: u8,
}

pub(crate) struct World {
    pub(crate) servers: Vec<Server>,
    pub(crate) moves: BTreeMap<usize, Move>,
    /// Where and when each command was executed.
    pub(crate) executed: BTreeMap<u64, Vec<(Time, usize)>>,
    /// Slots that no server serves, and since when.
    pub(crate) unassigned: BTreeMap<usize, Time>,
    /// Two servers that name each other as the owner of this slot.
    pub(crate) loop_of: Option<usize>,
}

pub(crate) fn address(server: usize) -> Address {
    Address::new(&format!("10.0.0.{server}"), 7_000).expect("valid")
}

pub(crate) fn server_at(address: &Address) -> usize {
    address.host.rsplit('.').next().and_then(|last| last.parse().ok()).expect("an address of these servers")
}

impl World {
    pub(crate) fn new() -> Self {
        let claims = std::array::from_fn(|slot| Claim { owner: slot * SHARDS / SLOTS.len(), epoch: 0 })
            .map(|claim: Claim| Claim { epoch: claim.owner as u64 + 1, ..claim });
        let server = |number| Server {
            is_up: true,
            stalled_until: 0,
            island: 0,
            away_since: None,
            epoch: SERVERS as u64,
            claims,
            primary: (number >= SHARDS).then(|| number - SHARDS),
        };
        Self {
            servers: (0..SERVERS).map(server).collect(),
            moves: BTreeMap::new(),
            unassigned: BTreeMap::new(),
            executed: BTreeMap::new(),
            loop_of: None,
        }
    }

    pub(crate) fn is_answering(&self, server: usize, now: Time) -> bool {
        self.servers[server].is_up && self.servers[server].stalled_until <= now
    }

    pub(crate) fn hear_each_other(&self, one: usize, other: usize, now: Time) -> bool {
        self.is_answering(one, now)
            && self.is_answering(other, now)
            && self.servers[one].island == self.servers[other].island
    }

    /// Whether it has heard a majority of the shards lately.
    pub(crate) fn is_ok(&self, server: usize, now: Time) -> bool {
        let away = self.servers[server].away_since.filter(|_| self.servers[server].island != 0);
        away.is_none_or(|since| now < since + NODE_TIMEOUT)
    }

    /// What `server` replies to a command for keys (bits) of a slot; `Ok` has executed it.
    pub(crate) fn serve(
        &mut self,
        server: usize,
        id: u64,
        slot: usize,
        keys: u8,
        asking: bool,
        now: Time,
    ) -> Result<(), String> {
        let number = SLOTS[slot];
        let text = |word: &str, to: usize| Err(format!("{word} {number} {}", address(to)));
        if self.loop_of == Some(slot) {
            return text("MOVED", (server + 1) % SHARDS);
        }
        let owner = self.servers[server].claims[slot].owner;
        if self.unassigned.contains_key(&slot) {
            return Err("CLUSTERDOWN Hash slot not served".into());
        }
        if !self.is_ok(server, now) {
            return Err("CLUSTERDOWN The cluster is down".into());
        }
        if self.servers[server].primary.is_some() {
            return text("MOVED", owner);
        }
        let moving = self.moves.get(&slot).copied();
        match moving {
            Some(moving) if owner == server && moving.from == server && keys & moving.moved != 0 => {
                if keys & moving.moved != keys {
                    return Err("TRYAGAIN Multiple keys request during rehashing of slot".into());
                }
                return text("ASK", moving.to);
            }
            Some(moving) if asking && moving.to == server && owner != server && keys & moving.moved == keys => {}
            Some(moving) if asking && moving.to == server && owner != server => {
                return Err("TRYAGAIN Multiple keys request during rehashing of slot".into());
            }
            _ if owner != server => return text("MOVED", owner),
            _ => {}
        }
        self.executed.entry(id).or_default().push((now, server));
        Ok(())
    }

    pub(crate) fn view(&self, server: usize, now: Time) -> (View, Info) {
        let known = &self.servers[server];
        let node = |number| ViewNode {
            address: address(number),
            id: Some(format!("id-{number}").into()),
            hostname: None,
            zone: None,
        };
        let range = |(slot, claim): (usize, &Claim)| {
            let is_replica = |other: &usize| self.servers[*other].primary == Some(claim.owner);
            let replicas = (0..SERVERS).filter(is_replica).collect();
            ViewRange { first: SLOTS[slot], last: SLOTS[slot], primary: Some(claim.owner), replicas }
        };
        let is_away =
            |claim: &&Claim| self.servers[claim.owner].away_since.is_some_and(|since| now > since + NODE_TIMEOUT);
        let view = View {
            nodes: (0..SERVERS).map(node).collect(),
            ranges: known
                .claims
                .iter()
                .enumerate()
                .filter(|(slot, _)| !self.unassigned.contains_key(slot))
                .map(range)
                .collect(),
            slotless: Vec::new(),
        };
        let failing_slots = known.claims.iter().filter(is_away).count() as u64;
        (view, Info { epoch: known.epoch, is_ok: self.is_ok(server, now), failing_slots })
    }

    /// What one server hears of another.
    pub(crate) fn hear(&mut self, server: usize, from: usize) {
        let (theirs, epoch) = (self.servers[from].claims, self.servers[from].epoch);
        let mut lost_to = None;
        for (slot, claim) in theirs.into_iter().enumerate() {
            let mine = &mut self.servers[server].claims[slot];
            if claim.epoch > mine.epoch {
                if mine.owner == server && claim.owner != server {
                    lost_to = Some(claim.owner);
                }
                *mine = claim;
            }
        }
        let me = &mut self.servers[server];
        me.epoch = me.epoch.max(epoch);
        // A primary that has lost its last slot follows the one that took it, unless a slot moves to it.
        let is_target = self.moves.values().any(|moving| moving.to == server);
        if let Some(winner) = lost_to.filter(|_| !is_target && me.claims.iter().all(|claim| claim.owner != server)) {
            me.primary = Some(winner);
        }
        let follows = self.servers[server].primary;
        if let Some(next) = follows.and_then(|primary| self.servers[primary].primary).filter(|next| *next != server) {
            self.servers[server].primary = Some(next);
        }
    }

    pub(crate) fn gossip(&mut self, server: usize, now: Time, random: &mut Random) {
        let peers: Vec<_> =
            (0..SERVERS).filter(|peer| *peer != server && self.hear_each_other(server, *peer, now)).collect();
        if let Some(peer) = peers.get(usize::try_from(random.next_u64()).unwrap_or(0) % peers.len().max(1)) {
            self.hear(server, *peer);
            self.hear(*peer, server);
        }
    }

    /// An election for a primary that is away: whether a replica took over.
    pub(crate) fn elect(&mut self, primary: usize, now: Time) -> bool {
        let is_away = self.servers[primary].away_since.is_some_and(|since| now >= since + NODE_TIMEOUT);
        let can_win = |other: &usize| {
            self.servers[*other].primary == Some(primary)
                && self.is_answering(*other, now)
                && self.servers[*other].island == 0
        };
        let Some(winner) = (0..SERVERS).find(can_win).filter(|_| is_away) else { return false };
        let epoch =
            self.servers.iter().filter(|server| server.island == 0).map(|server| server.epoch).max().unwrap_or(0) + 1;
        for slot in 0..SLOTS.len() {
            if self.servers[winner].claims[slot].owner == primary {
                self.servers[winner].claims[slot] = Claim { owner: winner, epoch };
                self.moves.remove(&slot);
            }
        }
        (self.servers[winner].epoch, self.servers[winner].primary) = (epoch, None);
        self.announce(winner, now);
        true
    }

    /// All that can hear `from` do.
    pub(crate) fn announce(&mut self, from: usize, now: Time) {
        for other in 0..SERVERS {
            if other != from && self.hear_each_other(other, from, now) {
                self.hear(other, from);
            }
        }
    }

    /// Ends a move: the target claims the slot, and tells the source. All others learn it by gossip.
    pub(crate) fn finish_move(&mut self, slot: usize) {
        let Some(done) = self.moves.remove(&slot) else { return };
        let epoch = self.servers.iter().map(|server| server.epoch).max().unwrap_or(0) + 1;
        self.servers[done.to].claims[slot] = Claim { owner: done.to, epoch };
        self.servers[done.to].epoch = epoch;
        self.hear(done.from, done.to);
    }

    /// Everything is made anew: small epochs, other owners.
    pub(crate) fn remake(&mut self) {
        self.moves.clear();
        let claims = std::array::from_fn(|slot| {
            let owner = (slot * SHARDS / SLOTS.len() + 1) % SHARDS;
            Claim { owner, epoch: 1 }
        });
        for (number, server) in self.servers.iter_mut().enumerate() {
            (server.epoch, server.claims) = (1, claims);
            server.primary = (number >= SHARDS).then(|| number - SHARDS);
        }
    }
}
