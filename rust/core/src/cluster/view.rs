//! What one server says of the cluster: CLUSTER SLOTS or CLUSTER SHARDS, and CLUSTER INFO.
//!
//! * An empty or missing host is the host that was asked. `?` (no name is set) gives way to the `ip` beside it.
//! * A node without a usable address is left out; slots whose owner is left out have no owner in this view.
//! * Two owners of one slot, slots out of range and anything of another shape make the reply malformed as a whole.

use super::address::Address;
use super::reply::Reply;
use super::slot::SLOTS;

/// The most nodes that a reply may name: a bound of what one answer can make a client remember.
pub const MAX_NODES_OF_VIEW: usize = 1_024;

/// One node of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewNode {
    /// Where clients reach it.
    pub address: Address,
    /// Its id in the cluster.
    pub id: Option<Box<str>>,
    /// Its name, beside an address.
    pub hostname: Option<Box<str>>,
    /// Its availability zone.
    pub zone: Option<Box<str>>,
}

/// A range of slots, both ends included, and the nodes that hold it, as places in [`View::nodes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewRange {
    /// The first slot.
    pub first: u16,
    /// The last slot.
    pub last: u16,
    /// The owner; `None` where it has no usable address.
    pub primary: Option<usize>,
    /// Its replicas.
    pub replicas: Vec<usize>,
}

/// One server's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The nodes it names, each once.
    pub nodes: Vec<ViewNode>,
    /// The slots that have an owner, ascending.
    pub ranges: Vec<ViewRange>,
    /// Primaries without slots, and their replicas.
    pub slotless: Vec<(usize, Vec<usize>)>,
}

/// What a reply is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// How addresses are to be read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The host that was asked.
    pub asked_host: &'a str,
    /// Whether the connections use TLS: CLUSTER SHARDS names both ports.
    pub is_tls: bool,
}

impl View {
    /// Reads a reply of CLUSTER SLOTS or of CLUSTER SHARDS.
    ///
    /// # Errors
    /// When it is neither.
    pub fn read(reply: &Reply, reading: Reading<'_>) -> Result<Self, Malformed> {
        let entries = reply.as_array().ok_or(Malformed("it must be an array"))?;
        let mut view = Self::default();
        for entry in entries {
            if entry.field("nodes").is_some() {
                view.read_shard(entry, reading)?;
            } else {
                view.read_slots(entry, reading)?;
            }
        }
        view.ranges.sort_by_key(|range| range.first);
        if view.ranges.windows(2).any(|pair| pair[0].last >= pair[1].first) {
            return Err(Malformed("a slot must have one owner"));
        }
        Ok(view)
    }

    /// Gives every address to `remap`, and merges the nodes whose addresses become one.
    pub fn remap(&mut self, mut remap: impl FnMut(&Address) -> Option<Address>) {
        let nodes = std::mem::take(&mut self.nodes);
        let places: Vec<usize> = nodes
            .into_iter()
            .map(|mut node| {
                if let Some(address) = remap(&node.address) {
                    node.address = address;
                }
                self.place_of(node)
            })
            .collect();
        let renumber = |list: &mut Vec<usize>| list.iter_mut().for_each(|place| *place = places[*place]);
        for range in &mut self.ranges {
            range.primary = range.primary.map(|place| places[place]);
            renumber(&mut range.replicas);
        }
        for (primary, replicas) in &mut self.slotless {
            *primary = places[*primary];
            renumber(replicas);
        }
    }

    /// `[first, last, primary, replica …]`, each node `[host, port, id, metadata]`.
    fn read_slots(&mut self, entry: &Reply, reading: Reading<'_>) -> Result<(), Malformed> {
        let [first, last, nodes @ ..] = entry.as_array().ok_or(Malformed("a range must be an array"))? else {
            return Err(Malformed("a range must have two ends"));
        };
        let (first, last) = range_of(first, last)?;
        let mut places = Vec::with_capacity(nodes.len());
        for node in nodes {
            let parts = node.as_array().ok_or(Malformed("a node must be an array"))?;
            let [host, port, rest @ ..] = parts else { return Err(Malformed("a node must have host and port")) };
            let port = port.as_int().ok_or(Malformed("a port must be a number"))?;
            let about = rest.get(1);
            let ip = about.and_then(|about| about.field("ip")).and_then(Reply::as_text);
            let address = address_of(host.as_text(), ip, port, reading);
            let id = rest.first().and_then(Reply::as_text);
            places.push(self.add(address, id, about)?);
        }
        let primary = *places.first().ok_or(Malformed("a range must have an owner"))?;
        let replicas = places[1..].iter().copied().flatten().collect();
        self.ranges.push(ViewRange { first, last, primary, replicas });
        Ok(())
    }

    /// `{slots: [first, last, …], nodes: [{id, endpoint, ip, port, tls-port, hostname, role, health, …}]}`.
    fn read_shard(&mut self, entry: &Reply, reading: Reading<'_>) -> Result<(), Malformed> {
        let nodes = entry.field("nodes").and_then(Reply::as_array).ok_or(Malformed("nodes must be an array"))?;
        let (mut primary, mut primary_is_online, mut replicas) = (None, false, Vec::new());
        for node in nodes {
            let text = |name| node.field(name).and_then(Reply::as_text);
            let port = |name| node.field(name).and_then(Reply::as_int);
            let port = if reading.is_tls { port("tls-port").or_else(|| port("port")) } else { port("port") };
            let address = address_of(text("endpoint"), text("ip"), port.unwrap_or(0), reading);
            let Some(place) = self.add(address, text("id"), Some(node))? else { continue };
            let is_online = text("health") == Some("online");
            if text("role") != Some("master") {
                replicas.push(place);
            } else if primary.is_none() || (is_online && !primary_is_online) {
                // During a failover a shard may have two: the one that failed, and its successor.
                (primary, primary_is_online) = (Some(place), is_online);
            }
        }
        let mut ends = Vec::new();
        for item in entry.field("slots").and_then(Reply::as_array).ok_or(Malformed("slots must be an array"))? {
            match item.as_array() {
                Some(pair) => ends.extend(pair.iter()),
                None => ends.push(item),
            }
        }
        let (pairs, []) = ends.as_chunks::<2>() else { return Err(Malformed("a range must have two ends")) };
        if let (Some(primary), []) = (primary, pairs) {
            self.slotless.push((primary, replicas));
            return Ok(());
        }
        for [first, last] in pairs {
            let (first, last) = range_of(first, last)?;
            self.ranges.push(ViewRange { first, last, primary, replicas: replicas.clone() });
        }
        Ok(())
    }

    fn add(
        &mut self,
        address: Option<Address>,
        id: Option<&str>,
        about: Option<&Reply>,
    ) -> Result<Option<usize>, Malformed> {
        let Some(address) = address else { return Ok(None) };
        let text = |name| {
            let value = about.and_then(|about| about.field(name)).and_then(Reply::as_text)?;
            (!value.is_empty() && value != "?").then(|| value.into())
        };
        let zone = text("availability-zone");
        let node = ViewNode { address, id: id.map(Into::into), hostname: text("hostname"), zone };
        let place = self.place_of(node);
        if self.nodes.len() > MAX_NODES_OF_VIEW {
            return Err(Malformed("it must name at most 1024 nodes"));
        }
        Ok(Some(place))
    }

    fn place_of(&mut self, node: ViewNode) -> usize {
        if let Some(place) = self.nodes.iter().position(|known| known.address == node.address) {
            return place;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }
}

fn range_of(first: &Reply, last: &Reply) -> Result<(u16, u16), Malformed> {
    let slot = |end: &Reply| end.as_int().and_then(|slot| u16::try_from(slot).ok()).filter(|slot| *slot < SLOTS);
    match (slot(first), slot(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(Malformed("the ends of a range must be slots in order")),
    }
}

fn address_of(host: Option<&str>, ip: Option<&str>, port: i64, reading: Reading<'_>) -> Option<Address> {
    match host {
        None | Some("") => Address::new(reading.asked_host, port),
        Some("?") => Address::new(ip.filter(|ip| !ip.is_empty())?, port),
        Some(host) => Address::new(host, port),
    }
}

/// What CLUSTER INFO says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Info {
    /// The largest epoch that the server has heard of.
    pub epoch: u64,
    /// Whether it serves commands.
    pub is_ok: bool,
    /// Slots whose owner the servers suspect or hold to be down.
    pub failing_slots: u64,
}

impl Info {
    /// Reads the text; `None` where it names no epoch.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut info = Self::default();
        let mut has_epoch = false;
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.trim() {
                "cluster_state" => info.is_ok = value == "ok",
                "cluster_current_epoch" => {
                    info.epoch = value.parse().ok()?;
                    has_epoch = true;
                }
                "cluster_slots_pfail" | "cluster_slots_fail" => info.failing_slots += value.parse().unwrap_or(0),
                _ => {}
            }
        }
        has_epoch.then_some(info)
    }
}
