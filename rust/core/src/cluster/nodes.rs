//! The nodes a client knows, by number.
//!
//! A node is an address: connections go to an address, whatever runs there. Its number is the lowest that is free, and stays
//! its own until it is retired, which happens when no view and no slot names it and nothing is under way to it.

use std::collections::BTreeMap;

use super::address::Address;

/// How many nodes a client knows at once, seeds included: Redis Cluster is made for up to 1,000.
pub const MAX_NODES: usize = 2_048;

/// The number of a node.
pub type NodeNumber = u16;

/// What a node is, as the last accepted view or redirect had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A seed, or a node that no view named.
    Unnamed,
    /// It owns slots, or may own some.
    Primary,
    /// It replicates this primary.
    Replica(NodeNumber),
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it is reached.
    pub address: Address,
    /// Its id in the cluster.
    pub id: Option<Box<str>>,
    /// Its name, where the servers tell it beside the address.
    pub hostname: Option<Box<str>>,
    /// Its availability zone.
    pub zone: Option<Box<str>>,
    /// What it is.
    pub role: Role,
}

/// The nodes by number and by address.
#[derive(Debug, Default)]
pub struct Nodes {
    by_number: Vec<Option<Node>>,
    by_address: BTreeMap<Address, NodeNumber>,
}

impl Nodes {
    /// The number of the node at `address`, which is made known if it is not; `None` where there are too many.
    pub fn ensure(&mut self, address: &Address) -> Option<NodeNumber> {
        if let Some(number) = self.by_address.get(address) {
            return Some(*number);
        }
        let place = self.by_number.iter().position(Option::is_none).unwrap_or(self.by_number.len());
        let number = NodeNumber::try_from(place).ok().filter(|_| place < MAX_NODES)?;
        let node = Node { address: address.clone(), id: None, hostname: None, zone: None, role: Role::Unnamed };
        if place == self.by_number.len() {
            self.by_number.push(Some(node));
        } else {
            self.by_number[place] = Some(node);
        }
        self.by_address.insert(address.clone(), number);
        Some(number)
    }

    /// The number of the node at `address`.
    #[must_use]
    pub fn find(&self, address: &Address) -> Option<NodeNumber> {
        self.by_address.get(address).copied()
    }

    /// The node with this number.
    #[must_use]
    pub fn get(&self, number: NodeNumber) -> Option<&Node> {
        self.by_number.get(usize::from(number))?.as_ref()
    }

    /// The node with this number, to be changed; its address is not.
    pub fn get_mut(&mut self, number: NodeNumber) -> Option<&mut Node> {
        self.by_number.get_mut(usize::from(number))?.as_mut()
    }

    /// Forgets a node; its number is free.
    pub fn remove(&mut self, number: NodeNumber) -> Option<Node> {
        let node = self.by_number.get_mut(usize::from(number))?.take()?;
        self.by_address.remove(&node.address);
        Some(node)
    }

    /// All nodes, by number.
    pub fn iter(&self) -> impl Iterator<Item = (NodeNumber, &Node)> {
        (0..).zip(&self.by_number).filter_map(|(number, node)| Some((number, node.as_ref()?)))
    }

    /// How many nodes are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Whether no node is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_and_used_again() {
        let address = |port| Address::new("host", port).expect("valid");
        let mut nodes = Nodes::default();
        assert_eq!((nodes.ensure(&address(1)), nodes.ensure(&address(2))), (Some(0), Some(1)));
        assert_eq!(nodes.ensure(&address(1)), Some(0));
        assert!(nodes.remove(0).is_some() && nodes.remove(0).is_none());
        assert_eq!((nodes.find(&address(1)), nodes.len()), (None, 1));
        assert_eq!(nodes.ensure(&address(3)), Some(0));
        for port in 4..=2049 {
            assert!(nodes.ensure(&address(port)).is_some());
        }
        assert_eq!((nodes.len(), nodes.ensure(&address(5000))), (MAX_NODES, None));
    }
}
