//! Where a node is reached: a host (name, IPv4 or IPv6) and a port.

use std::fmt;

/// The longest host name that is taken from a reply: DNS allows 253 characters.
pub const MAX_HOST_BYTES: usize = 255;

/// The address of a node, IPv6 without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name or an IP address.
    pub host: Box<str>,
    /// The port for clients.
    pub port: u16,
}

impl Address {
    /// An address, if the host can be one and the port is not 0.
    #[must_use]
    pub fn new(host: &str, port: i64) -> Option<Self> {
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        let is_plausible =
            !host.is_empty() && host.len() <= MAX_HOST_BYTES && !host.contains(|c: char| c.is_control() || c == ' ');
        is_plausible.then(|| Self { host: host.into(), port })
    }

    /// The `host:port` of a redirect. An empty host is the one that answered (`asked_host`).
    #[must_use]
    pub fn parse(text: &str, asked_host: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.is_empty() { asked_host } else { host };
        Self::new(host, i64::from(port.parse::<u16>().ok()?))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    fn parsed(text: &str) -> Option<String> {
        Address::parse(text, "asked").map(|address| address.to_string())
    }

    #[test]
    fn addresses_of_redirects() {
        assert_eq!(parsed("10.0.0.1:7000").as_deref(), Some("10.0.0.1:7000"));
        assert_eq!(parsed("::1:7000").as_deref(), Some("[::1]:7000"));
        assert_eq!(parsed("[fe80::1]:7000").as_deref(), Some("[fe80::1]:7000"));
        assert_eq!(parsed("node-1.example:7000").as_deref(), Some("node-1.example:7000"));
        assert_eq!(parsed(":7000").as_deref(), Some("asked:7000"));
        for refused in ["", "host", "host:", "host:0", "host:65536", "host:-1", "a b:7000", "a\n:7000"] {
            assert_eq!(parsed(refused), None, "{refused:?}");
        }
        assert_eq!(Address::new(&"x".repeat(256), 7000), None);
    }
}
