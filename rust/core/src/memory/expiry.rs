//! When a memory has expired: the one rule of all stores, indices and readers.

/// Whether a memory is gone at a time, both in seconds since the epoch: from its expiry on, swept or not.
#[must_use]
pub fn is_expired(expires_at: Option<f64>, now: f64) -> bool {
    expires_at.is_some_and(|expires_at| expires_at <= now)
}

#[cfg(test)]
mod tests {
    use super::is_expired;

    #[test]
    fn a_memory_is_gone_from_its_expiry_on() {
        assert!(!is_expired(None, f64::MAX));
        assert!(!is_expired(Some(10.0), 9.999_999));
        assert!(is_expired(Some(10.0), 10.0));
        assert!(is_expired(Some(-1.0), 0.0));
    }
}
