//! What follows an error reply that says: not here, or not now.
//!
//! All of them prove that the server did not run the command, so it may be sent again whatever it does.
//!
//! | reply | what follows | counted as |
//! |---|---|---|
//! | MOVED to another node | the slot is patched, send there | redirect |
//! | MOVED to the node itself | resolve its name anew, send there | redirect |
//! | ASK | ASKING and the command there; nothing is patched | redirect |
//! | TRYAGAIN | pause, route anew | wait |
//! | CLUSTERDOWN, READONLY, LOADING, MASTERDOWN | refresh, pause, route anew | wait |
//! | anything else | it is the answer | |
//!
//! The first [`FREE_REDIRECTS`] redirects of a call cost no pause, the others 2 ms doubling to 64 ms; after [`MAX_REDIRECTS`] the
//! reply is the answer. A wait begins their count anew. Waits pause 4 ms doubling to 256 ms and are bounded by the deadline (without one: [`MAX_WAITS`]). No pause
//! reaches beyond the deadline.

use super::address::Address;
use super::slot::SLOTS;
use super::{MILLISECOND_NS, Rules};
use crate::guard::random::Random;

/// Redirects at once.
pub const FREE_REDIRECTS: u32 = 2;
/// The most redirects of one call.
pub const MAX_REDIRECTS: u32 = 8;
/// The most waits of a call without a deadline.
pub const MAX_WAITS: u32 = 100;

const REDIRECT_PAUSES_MS: (u64, u64) = (2, 64);
const WAIT_PAUSES_MS: (u64, u64) = (4, 256);

/// What a script's error contains, which may have written before it failed.
const SCRIPT_MARKS: [&str; 4] = ["script:", "user_script", "Error running script", "on @user_function"];

/// A reply that proves that the command was not run, and says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another node owns the slot.
    Moved(u16, Address),
    /// Another node is about to own the slot, and may have the key already.
    Ask(u16, Address),
    /// Some keys of the command are here, some are there.
    TryAgain,
    /// The cluster serves no commands, or not for this slot.
    ClusterDown,
    /// The node is no primary any more.
    ReadOnly,
    /// The node reads its data set.
    Loading,
    /// A replica has lost its primary.
    MasterDown,
}

impl Refusal {
    /// Reads an error reply, its code included. `asked_host` stands for an empty host.
    #[must_use]
    pub fn parse(text: &str, asked_host: &str) -> Option<Self> {
        let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
        let place = || {
            let (slot, address) = rest.split_once(' ')?;
            let slot = slot.parse::<u16>().ok().filter(|slot| *slot < SLOTS)?;
            Some((slot, Address::parse(address, asked_host)?))
        };
        let refusal = match code {
            "MOVED" => place().map(|(slot, address)| Self::Moved(slot, address))?,
            "ASK" => place().map(|(slot, address)| Self::Ask(slot, address))?,
            "TRYAGAIN" => Self::TryAgain,
            "CLUSTERDOWN" => Self::ClusterDown,
            "READONLY" => Self::ReadOnly,
            "LOADING" => Self::Loading,
            "MASTERDOWN" => Self::MasterDown,
            _ => return None,
        };
        (!SCRIPT_MARKS.iter().any(|mark| text.contains(mark))).then_some(refusal)
    }
}

/// What one call has been through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    redirects: u32,
    waits: u32,
}

impl Progress {
    /// As one number, for callers that keep it.
    #[must_use]
    pub fn pack(self) -> u64 {
        (u64::from(self.waits) << 32) | u64::from(self.redirects)
    }

    /// From that number.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    pub fn unpack(packed: u64) -> Self {
        Self { redirects: packed as u32, waits: (packed >> 32) as u32 }
    }

    /// One more redirect; the pause before it, or `None` where it is one too many or too late.
    pub fn redirect(&mut self, rules: Rules, now_ns: u64, deadline_ns: u64, random: &mut Random) -> Option<u64> {
        if rules.redirects_are_bounded && self.redirects >= MAX_REDIRECTS {
            return None;
        }
        let paid = self.redirects.checked_sub(FREE_REDIRECTS);
        self.redirects += 1;
        let pause_ns = paid.map_or(0, |paid| pause(REDIRECT_PAUSES_MS, paid, random));
        in_time(pause_ns, now_ns, deadline_ns)
    }

    /// One more wait; the pause, or `None` where it ends too late.
    pub fn wait(&mut self, now_ns: u64, deadline_ns: u64, random: &mut Random) -> Option<u64> {
        if deadline_ns == 0 && self.waits >= MAX_WAITS {
            return None;
        }
        let pause_ns = pause(WAIT_PAUSES_MS, self.waits, random);
        // ASK, TRYAGAIN, ASK … is no loop, but a key that has not arrived yet.
        self.redirects = 0;
        self.waits = self.waits.saturating_add(1);
        in_time(pause_ns, now_ns, deadline_ns)
    }
}

fn in_time(pause_ns: u64, now_ns: u64, deadline_ns: u64) -> Option<u64> {
    (deadline_ns == 0 || now_ns.saturating_add(pause_ns) < deadline_ns).then_some(pause_ns)
}

fn pause((first_ms, most_ms): (u64, u64), number: u32, random: &mut Random) -> u64 {
    let whole_ms = first_ms.saturating_mul(1 << number.min(16)).min(most_ms);
    super::refresh::share(whole_ms * MILLISECOND_NS, random.uniform(0.5, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moved(text: &str) -> Option<(u16, String)> {
        match Refusal::parse(text, "asked") {
            Some(Refusal::Moved(slot, address)) => Some((slot, address.to_string())),
            _ => None,
        }
    }

    #[test]
    fn refusals() {
        assert_eq!(moved("MOVED 3999 127.0.0.1:6381"), Some((3999, "127.0.0.1:6381".into())));
        assert_eq!(moved("MOVED 3999 :6381"), Some((3999, "asked:6381".into())));
        assert_eq!(moved("MOVED 3999 2001:db8::1:6381"), Some((3999, "[2001:db8::1]:6381".into())));
        for text in ["MOVED", "MOVED 1", "MOVED 16384 a:1", "MOVED -1 a:1", "MOVED 1 a", "MOVED 1 a:1 b", "moved 1 a:1"]
        {
            assert_eq!(Refusal::parse(text, "asked"), None, "{text}");
        }
        let parse = |text| Refusal::parse(text, "asked");
        assert!(matches!(parse("ASK 1 a:1"), Some(Refusal::Ask(1, _))));
        assert_eq!(parse("TRYAGAIN Multiple keys request during rehashing of slot"), Some(Refusal::TryAgain));
        assert_eq!(parse("CLUSTERDOWN Hash slot not served"), Some(Refusal::ClusterDown));
        assert_eq!(parse("READONLY You can't write against a read only replica."), Some(Refusal::ReadOnly));
        assert_eq!(parse("LOADING Redis is loading the dataset in memory"), Some(Refusal::Loading));
        assert_eq!(parse("MASTERDOWN Link with MASTER is down"), Some(Refusal::MasterDown));
        assert_eq!(parse("ERR unknown command"), None);
        assert_eq!(parse("CROSSSLOT Keys in request don't hash to the same slot"), None);
        // A script may have written before it failed.
        assert_eq!(
            parse("READONLY You can't write against a read only replica. script: 4e6d, on @user_script:1."),
            None
        );
    }

    #[test]
    fn two_redirects_are_free_and_eight_are_all() {
        let (mut progress, mut random) = (Progress::default(), Random::new(1));
        let pauses: Vec<_> = (0..9).map(|_| progress.redirect(Rules::ALL, 0, 0, &mut random)).collect();
        assert_eq!(&pauses[..2], [Some(0), Some(0)]);
        for (pause_ns, whole_ms) in pauses[2..8].iter().zip([2, 4, 8, 16, 32, 64]) {
            let pause_ns = pause_ns.expect("within the bound");
            assert!(pause_ns <= whole_ms * MILLISECOND_NS && pause_ns >= whole_ms * MILLISECOND_NS / 2);
        }
        assert_eq!(pauses[8], None);
        assert!(progress.wait(0, 0, &mut random).is_some(), "redirects do not use up the waits");
        assert_eq!(progress.redirect(Rules::ALL, 0, 0, &mut random), Some(0), "a wait begins their count anew");
    }

    proptest! {
        #[test]
        fn no_pause_reaches_beyond_the_deadline(seed: u64, now_ns in 0..u64::MAX / 2, left_ns in 0..400 * MILLISECOND_NS, waits in 0_u32..20) {
            let mut progress = Progress { redirects: 0, waits };
            if let Some(pause_ns) = progress.wait(now_ns, now_ns + left_ns + 1, &mut Random::new(seed)) {
                prop_assert!(pause_ns <= left_ns);
            }
            prop_assert_eq!(Progress::unpack(progress.pack()), progress);
        }
    }
}
