//! The vector in a line of an export, most of what there is to read: it need not go through the reader of the JSON.

const MEMBER: &str = "\"embedding_base64\":\"";
/// In the place of a digit: there is none.
const NONE: u8 = 64;

/// A line without its vector, and the vector's bytes. None where it has none, where it is not written as an export writes it,
/// or where it is no JSON as far as can be seen: then the JSON's reader has to say.
#[must_use]
pub fn split(line: &str) -> Option<(String, Vec<u8>)> {
    let begin = line.find(MEMBER)?;
    let digits = begin + MEMBER.len();
    let end = digits + line[digits..].find('"')?;
    let (before, after) = (&line[..begin], &line[end + 1..]);
    // Of two the last one counts.
    if !is_in_outer_object(before) || after.contains(&MEMBER[..MEMBER.len() - 1]) {
        return None;
    }
    let (before, after) = match (before.as_bytes().last()?, after.as_bytes().first()?) {
        (b',' | b'{', b',') => (before, &after[1..]),
        (b',', b'}') => (&before[..before.len() - 1], after),
        _ => return None,
    };
    let vector = decode_base64(&line.as_bytes()[digits..end])?;
    Some(([before, after].concat(), vector))
}

/// Whether a text ends within one object and nothing else, where a member may begin.
fn is_in_outer_object(text: &str) -> bool {
    let (mut depth, mut is_text, mut is_escaped) = (0_i32, false, false);
    for byte in text.bytes() {
        if is_text {
            (is_escaped, is_text) = (byte == b'\\' && !is_escaped, byte != b'"' || is_escaped);
        } else {
            match byte {
                b'"' => is_text = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
        }
    }
    depth == 1 && !is_text && text.as_bytes()[0] == b'{'
}

const VALUES: [u8; 256] = {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [NONE; 256];
    let mut at = 0;
    while at < 64 {
        #[expect(clippy::cast_possible_truncation, reason = "below 64")]
        let value = at as u8;
        values[digits[at] as usize] = value;
        at += 1;
    }
    values
};

/// None of what has other characters than base64's, or no proper end.
fn decode_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let padding = digits.iter().rev().take_while(|digit| **digit == b'=').count();
    if !digits.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3);
    let mut seen = 0;
    let mut take = |four: [u8; 4]| {
        let [a, b, c, d] = four.map(|digit| VALUES[usize::from(digit)]);
        seen |= a | b | c | d;
        let [a, b, c, d] = [a, b, c, d].map(u32::from);
        let [_, one, two, three] = (a << 18 | b << 12 | c << 6 | d).to_be_bytes();
        bytes.extend_from_slice(&[one, two, three]);
    };
    let (whole, _) = digits[..digits.len() - padding].as_chunks::<4>();
    for four in whole {
        take(*four);
    }
    if padding > 0 {
        let mut last = [b'A'; 4];
        let rest = &digits[whole.len() * 4..digits.len() - padding];
        last[..rest.len()].copy_from_slice(rest);
        take(last);
        bytes.truncate(bytes.len() - padding);
    }
    (seen < NONE).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{decode_base64, split};

    #[test]
    fn the_vector_is_cut_out_wherever_it_stands() {
        for (line, rest) in [
            (r#"{"id":"a","embedding_base64":"AACAPw==","tags":["b"]}"#, r#"{"id":"a","tags":["b"]}"#),
            (r#"{"id":"a","embedding_base64":"AACAPw=="}"#, r#"{"id":"a"}"#),
            (r#"{"embedding_base64":"AACAPw==","id":"a"}"#, r#"{"id":"a"}"#),
            (
                r#"{"content":"\"embedding_base64\":\"AAAA\" \\","embedding_base64":"AACAPw==","id":"é"}"#,
                r#"{"content":"\"embedding_base64\":\"AAAA\" \\","id":"é"}"#,
            ),
            (r#"{"content":[{"a":"}"}],"embedding_base64":"AACAPw=="}"#, r#"{"content":[{"a":"}"}]}"#),
        ] {
            assert_eq!(split(line), Some((rest.to_owned(), vec![0, 0, 128, 63])), "{line}");
        }
    }

    #[test]
    fn what_an_export_does_not_write_is_left_alone() {
        for line in [
            "",
            "null",
            r#"{"id":"a"}"#,
            r#"{"content":{"embedding_base64":"AACAPw=="},"id":"a"}"#,
            r#"{"metadata":{"a":1,"embedding_base64":"AACAPw=="},"id":"a"}"#,
            r#"{"embedding_base64":"AAAA","a":1,"embedding_base64":"AACAPw=="}"#,
            r#"{"embedding_base64":"AAAA","a":1,"embedding_base64": null}"#,
            r#"{"a":1 "embedding_base64":"AACAPw==","b":2}"#,
            r#"{"a":1,"embedding_base64":"AACAPw==" ,"b":2}"#,
            r#"{"embedding_base64":"AACAPw=="}"#,
            r#"["a","embedding_base64":"AACAPw==","b"]"#,
            r#""embedding_base64":"AACAPw==","#,
            r#"{"a":"b,"embedding_base64":"AACAPw==","c":1}"#,
            r#"{"a":1,"embedding_base64":"AACAPw=","b":2}"#,
            r#"{"a":1,"embedding_base64":"AACA\nPw==","b":2}"#,
            r#"{"a":1,"embedding_base64":"A===","b":2}"#,
            r#"{"a":1,"embedding_base64":"AA=A","b":2}"#,
            r#"{"a":1,"embedding_base64":"AACAPw=="#,
        ] {
            assert_eq!(split(line), None, "{line}");
        }
    }

    fn encode_base64(bytes: &[u8]) -> String {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
        let digit = |first: usize| (0..6).fold(0, |value, at| value << 1 | usize::from(bit(first + at)));
        let mut text: String = (0..bytes.len() * 8).step_by(6).map(|at| char::from(digits[digit(at)])).collect();
        while !text.len().is_multiple_of(4) {
            text.push('=');
        }
        text
    }

    proptest! {
        #[test]
        fn all_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(decode_base64(encode_base64(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn other_characters_are_none_of_it(bytes in prop::collection::vec(any::<u8>(), 3..40), at in any::<usize>(), other in any::<u8>()) {
            let mut digits = encode_base64(&bytes).into_bytes();
            prop_assume!(!(other.is_ascii_alphanumeric() || b"+/=".contains(&other)));
            let at = at % digits.len();
            digits[at] = other;
            prop_assert_eq!(decode_base64(&digits), None);
        }
    }
}
