//! The bytes of a command on the wire: an array of bulk strings, `*2\r\n$3\r\nGET\r\n$3\r\nfoo\r\n`.
//!
//! A packer asks for the length first and then writes into a buffer of exactly that length, so that the bytes are made in
//! the place where they stay.

/// One word of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'a> {
    /// Taken as they are.
    Bytes(&'a [u8]),
    /// Written in decimal digits.
    Int(i64),
}

impl Word<'_> {
    /// How many bytes the word takes in a command, its own length included.
    #[inline]
    #[must_use]
    pub fn packed_len(&self) -> usize {
        let len = match self {
            Word::Bytes(bytes) => bytes.len(),
            Word::Int(value) => usize::from(*value < 0) + digits(value.unsigned_abs()),
        };
        header_len(len) + len + LINE_END.len()
    }
}

const LINE_END: &[u8; 2] = b"\r\n";

/// How many bytes the line takes that says how many words follow, or how many bytes.
#[inline]
#[must_use]
pub fn header_len(count: usize) -> usize {
    1 + digits(count as u64) + LINE_END.len()
}

#[inline]
fn digits(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |exponent| exponent as usize + 1)
}

/// Writes a command into a buffer that is exactly as long as [`header_len`] and [`Word::packed_len`] say.
///
/// # Panics
/// When the buffer is too short.
#[derive(Debug)]
pub struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    /// Begins a command of `count` words.
    #[inline]
    #[must_use]
    pub fn new(buffer: &'a mut [u8], count: usize) -> Self {
        let mut writer = Self { rest: buffer };
        writer.header(b'*', count);
        writer
    }

    /// Appends one word.
    #[inline]
    pub fn word(&mut self, word: Word<'_>) {
        match word {
            Word::Bytes(bytes) => {
                self.header(b'$', bytes.len());
                self.bytes(bytes);
            }
            Word::Int(value) => {
                let magnitude = value.unsigned_abs();
                self.header(b'$', usize::from(value < 0) + digits(magnitude));
                if value < 0 {
                    self.bytes(b"-");
                }
                self.number(magnitude);
            }
        }
        self.bytes(LINE_END);
    }

    #[inline]
    fn header(&mut self, mark: u8, count: usize) {
        self.bytes(&[mark]);
        self.number(count as u64);
        self.bytes(LINE_END);
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        let (place, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        self.rest = rest;
    }

    #[inline]
    fn number(&mut self, mut value: u64) {
        let (place, rest) = std::mem::take(&mut self.rest).split_at_mut(digits(value));
        for digit in place.iter_mut().rev() {
            *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(words: &[Word<'_>]) -> Vec<u8> {
        let len = header_len(words.len()) + words.iter().map(Word::packed_len).sum::<usize>();
        let mut buffer = vec![0; len];
        let mut writer = Writer::new(&mut buffer, words.len());
        for word in words {
            writer.word(*word);
        }
        assert!(writer.rest.is_empty(), "the length is exact");
        buffer
    }

    #[test]
    fn packs_words_and_numbers() {
        assert_eq!(
            pack(&[Word::Bytes(b"SETEX"), Word::Bytes(b""), Word::Int(-10)]),
            b"*3\r\n$5\r\nSETEX\r\n$0\r\n\r\n$3\r\n-10\r\n"
        );
        assert_eq!(pack(&[Word::Int(i64::MIN), Word::Int(0)]), b"*2\r\n$20\r\n-9223372036854775808\r\n$1\r\n0\r\n");
    }

    proptest! {
        #[test]
        fn packs_as_format_does(numbers in prop::collection::vec(any::<i64>(), 0..20), bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut words: Vec<_> = numbers.iter().map(|number| Word::Int(*number)).collect();
            words.push(Word::Bytes(&bytes));
            let mut expected = format!("*{}\r\n", words.len()).into_bytes();
            for number in &numbers {
                let text = number.to_string();
                expected.extend(format!("${}\r\n{text}\r\n", text.len()).bytes());
            }
            expected.extend(format!("${}\r\n", bytes.len()).bytes());
            expected.extend(&bytes);
            expected.extend(b"\r\n");
            prop_assert_eq!(pack(&words), expected);
        }
    }
}
