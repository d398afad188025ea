//! A parsed reply, so far as the topology needs it: RESP2 and RESP3 alike.

/// A value of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// No value.
    Nil,
    /// A number.
    Int(i64),
    /// A string of any kind.
    Text(String),
    /// An array.
    Array(Vec<Reply>),
    /// A map of RESP3.
    Map(Vec<(Reply, Reply)>),
    /// Anything else, which nothing here asks for.
    Other,
}

impl Reply {
    /// The number, also where it is written as a string.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The string.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Reply]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// What stands under `name` in a map, or in an array of names and values (RESP2's form of a map).
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Reply> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value),
            Self::Array(items) => {
                items.chunks_exact(2).find(|pair| pair[0].as_text() == Some(name)).map(|pair| &pair[1])
            }
            _ => None,
        }
    }
}
