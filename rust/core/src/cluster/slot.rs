//! From keys to hash slots: CRC16 (XMODEM) of the key, or of its hash tag, modulo 16,384.
//!
//! A hash tag is what stands between the first `{` and the first `}` behind it, if that is not empty.

use std::sync::OnceLock;

/// How many slots a cluster has.
pub const SLOTS: u16 = 16_384;
const MASK: u16 = SLOTS - 1;

const POLYNOMIAL: u16 = 0x1021;
/// Bytes that one step of the checksum takes.
const STEP: usize = 8;

/// `TABLES[n][b]` is the checksum of the byte `b` followed by `n` zero bytes.
static TABLES: [[u16; 256]; STEP] = tables();

const fn tables() -> [[u16; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ POLYNOMIAL };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut step = 1;
    while step < STEP {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[step - 1][byte];
            tables[step][byte] = (before << 8) ^ tables[0][(before >> 8) as usize];
            byte += 1;
        }
        step += 1;
    }
    tables
}

/// CRC16 as Redis computes it (polynomial 0x1021, from 0, most significant bit first).
#[inline]
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0_u16;
    let (steps, rest) = bytes.as_chunks::<STEP>();
    for step in steps {
        let [high, low] = crc.to_be_bytes();
        crc = TABLES[7][usize::from(step[0] ^ high)]
            ^ TABLES[6][usize::from(step[1] ^ low)]
            ^ TABLES[5][usize::from(step[2])]
            ^ TABLES[4][usize::from(step[3])]
            ^ TABLES[3][usize::from(step[4])]
            ^ TABLES[2][usize::from(step[5])]
            ^ TABLES[1][usize::from(step[6])]
            ^ TABLES[0][usize::from(step[7])];
    }
    for byte in rest {
        let [high, low] = crc.to_be_bytes();
        crc = (u16::from(low) << 8) ^ TABLES[0][usize::from(high ^ byte)];
    }
    crc
}

/// What of a key decides its slot: its hash tag, or all of it.
#[inline]
#[must_use]
pub fn hashed_part(key: &[u8]) -> &[u8] {
    // `contains` looks at whole words, `position` at bytes: most keys have no tag.
    if !key.contains(&b'{') {
        return key;
    }
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let behind = &key[open + 1..];
    match behind.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(len) => &behind[..len],
    }
}

/// The slot of a key.
#[inline]
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hashed_part(key)) & MASK
}

const TAG_LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A hash tag of at most four characters whose keys lie in `slot`; `None` beyond the last slot.
#[must_use]
pub fn tag_of(slot: u16) -> Option<&'static str> {
    static TAGS: OnceLock<Vec<String>> = OnceLock::new();
    TAGS.get_or_init(all_tags).get(usize::from(slot)).map(String::as_str)
}

fn all_tags() -> Vec<String> {
    let mut tags = vec![String::new(); usize::from(SLOTS)];
    let mut left = tags.len();
    let mut number = 0_usize;
    while left > 0 {
        let mut tag = String::new();
        // Numbers in base 36 without zero (a, b, …, aa, ab, …): each tag once, the shortest first.
        let mut rest = number + 1;
        while rest > 0 {
            rest -= 1;
            tag.push(char::from(TAG_LETTERS[rest % 36]));
            rest /= 36;
        }
        let place = &mut tags[usize::from(slot_of(tag.as_bytes()))];
        if place.is_empty() {
            *place = tag;
            left -= 1;
        }
        number += 1;
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") & MASK);
        assert_eq!(hashed_part(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hashed_part(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hashed_part(b"}{a"), b"}{a");
        assert_eq!(slot_of(b""), 0);
    }

    #[test]
    fn every_slot_has_a_short_tag() {
        for slot in 0..SLOTS {
            let tag = tag_of(slot).expect("a slot");
            assert!((1..=4).contains(&tag.len()));
            assert_eq!(slot_of(format!("prefix{{{tag}}}suffix").as_bytes()), slot);
        }
        assert_eq!(tag_of(SLOTS), None);
    }

    fn bit_by_bit(bytes: &[u8]) -> u16 {
        bytes.iter().fold(0, |crc, byte| {
            (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ POLYNOMIAL }
            })
        })
    }

    proptest! {
        #[test]
        fn steps_give_what_single_bits_give(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(crc16(&bytes), bit_by_bit(&bytes));
        }
    }
}
