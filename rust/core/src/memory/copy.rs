//! A copy of a memory as bytes: its checksum, and the value of its key in Redis.
//!
//! ```text
//! offset  length
//! 0       1       format, "1"
//! 1       1       state: "c" clean, "d" dirty, "t" tombstone
//! 2       1       tier: "s", "i", "l"
//! 3       1       "0"
//! 4       16      version, decimal digits
//! 20      16      writer, hexadecimal digits
//! 36      40      the epoch when the copy was put
//! 76      72      checksum u32, generation u32, seq u64, created u64 (us), timestamp f64, importance f64,
//!                 expires f64 (nan: never), step i64, content kind u8, has step u8, has hash u8, 0, and the lengths in
//!                 bytes of vector, texts and content, u32 each; all little endian
//! 148             vector (float32), texts (joined by NUL), content
//! ```
//!
//! The prefix, up to offset 76, is text of fixed width: a script compares versions as strings and changes a state with
//! SETRANGE. State, tier, epoch, seq and generation may change without a new version and are not covered by the
//! checksum; everything else is. A tombstone ends at offset 148 and has checksum 0.

use std::fmt::Write;
use std::ops::Range;

/// How many characters an epoch has.
pub const EPOCH_LEN: usize = 40;
/// How much of a value is text that scripts read.
pub const PREFIX_LEN: usize = 76;
/// Where a value's vector begins, and a tombstone ends.
pub const HEADER_LEN: usize = 148;

const FORMAT: u8 = b'1';
const TIERS: &[u8; 3] = b"sil";
const VERSION: Range<usize> = 4..20;
const WRITER: Range<usize> = 20..36;
const EPOCH: Range<usize> = 36..PREFIX_LEN;
/// What the checksum's head has in the place of a step that is not there.
const NO_STEP: i64 = i64::MIN;
/// How many texts of a copy stand in its value: all but id and agent, which its key has.
pub const VALUE_TEXTS: usize = 8;

/// The places of a copy's texts.
pub mod place {
    /// What kind of memory it is.
    pub const MEMORY_TYPE: usize = 0;
    /// Labels, percent-encoded, each followed by "/".
    pub const NAMESPACE: usize = 1;
    /// The user it is about.
    pub const USER: usize = 2;
    /// The session it is from.
    pub const SESSION: usize = 3;
    /// The caller's name for it.
    pub const KEY: usize = 4;
    /// The caller's name for the call that made it.
    pub const IDEMPOTENCY_KEY: usize = 5;
    /// A JSON list, or empty.
    pub const TAGS: usize = 6;
    /// A JSON object, or empty.
    pub const METADATA: usize = 7;
}

/// What a copy's key in Redis is for its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// SQL holds at least it.
    Clean,
    /// Accepted while SQL was away.
    Dirty,
    /// The memory was deleted.
    Tombstone,
}

impl State {
    /// The state's letter.
    #[must_use]
    pub fn letter(self) -> u8 {
        match self {
            Self::Clean => b'c',
            Self::Dirty => b'd',
            Self::Tombstone => b't',
        }
    }

    fn of_letter(letter: u8) -> Option<Self> {
        [Self::Clean, Self::Dirty, Self::Tombstone].into_iter().find(|state| state.letter() == letter)
    }
}

/// The parts of a copy that are of fixed size.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Numbers {
    /// Microseconds since the epoch.
    pub version: u64,
    /// The writer of this version.
    pub writer: u64,
    /// 0 short-term, 1 intermediate, 2 long-term.
    pub tier: u8,
    /// Microseconds since the epoch.
    pub created_us: u64,
    /// Seconds since the epoch.
    pub timestamp: f64,
    /// The caller's number of a step, if any.
    pub step: Option<i64>,
    /// 0..1.
    pub importance: f64,
    /// Seconds since the epoch, if ever.
    pub expires_at: Option<f64>,
    /// How the content is read.
    pub content_kind: u8,
    /// CRC-32 of what belongs to the version.
    pub checksum: u32,
    /// Whether the memory takes part in deduplication.
    pub has_hash: bool,
    /// Its place in the agent's change feed; 0: none yet.
    pub seq: u64,
    /// The agent's generation it was written in; 0: any.
    pub generation: u32,
}

/// A living copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Copy<'a> {
    /// The parts of fixed size.
    pub numbers: Numbers,
    /// Name of the memory, never with a NUL, like all texts here.
    pub id: &'a str,
    /// Name of its agent.
    pub agent_id: &'a str,
    /// See [`place`].
    pub texts: [&'a str; VALUE_TEXTS],
    /// float32, little endian.
    pub vector: &'a [u8],
    /// As `content_kind` says.
    pub content: &'a [u8],
}

/// Why bytes are no copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCopyError;

/// Why a copy has no value: a part is longer than 32 bits can say, the tier is none, or the epoch is not as long as epochs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoValueError;

impl<'a> Copy<'a> {
    /// The tags: a JSON list of text, or nothing.
    #[must_use]
    pub fn tags(&self) -> &'a str {
        self.texts[place::TAGS]
    }

    /// CRC-32 over everything that belongs to this version of the memory: the writer's two halves as the start, then head,
    /// texts, vector and content.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        let numbers = &self.numbers;
        let texts_len = self.texts.iter().map(|text| text.len() + 1).sum::<usize>();
        let mut head = Vec::with_capacity(49 + self.id.len() + 1 + self.agent_id.len() + texts_len);
        head.extend_from_slice(&numbers.version.to_le_bytes());
        head.extend_from_slice(&numbers.timestamp.to_le_bytes());
        head.extend_from_slice(&numbers.importance.to_le_bytes());
        head.extend_from_slice(&numbers.expires_at.unwrap_or(f64::NAN).to_le_bytes());
        head.extend_from_slice(&numbers.step.unwrap_or(NO_STEP).to_le_bytes());
        head.push(numbers.content_kind);
        head.extend_from_slice(&numbers.created_us.to_le_bytes());
        head.extend_from_slice(self.id.as_bytes());
        for text in [self.agent_id].iter().chain(&self.texts) {
            head.push(0);
            head.extend_from_slice(text.as_bytes());
        }
        let mut hasher = crc32fast::Hasher::new_with_initial(folded(numbers.writer));
        hasher.update(&head);
        hasher.update(self.vector);
        hasher.update(self.content);
        hasher.finalize()
    }

    /// How many bytes the copy's value takes.
    #[must_use]
    pub fn value_len(&self) -> usize {
        HEADER_LEN + self.vector.len() + self.texts_len() + self.content.len()
    }

    fn texts_len(&self) -> usize {
        self.texts.iter().map(|text| text.len()).sum::<usize>() + VALUE_TEXTS - 1
    }

    /// Writes the copy's value into a buffer of exactly `value_len` bytes.
    ///
    /// # Errors
    /// [`NoValueError`].
    pub fn write_value(&self, state: State, epoch: &str, buffer: &mut [u8]) -> Result<(), NoValueError> {
        let lengths = [self.vector.len(), self.texts_len(), self.content.len()];
        let (header, rest) = buffer.split_at_mut(HEADER_LEN);
        write_header(&self.numbers, state, epoch, lengths, header)?;
        let (vector, rest) = rest.split_at_mut(self.vector.len());
        vector.copy_from_slice(self.vector);
        let (texts, content) = rest.split_at_mut(lengths[1]);
        let mut at = 0;
        for (number, text) in self.texts.iter().enumerate() {
            if number > 0 {
                texts[at] = 0;
                at += 1;
            }
            texts[at..at + text.len()].copy_from_slice(text.as_bytes());
            at += text.len();
        }
        content.copy_from_slice(self.content);
        Ok(())
    }
}

/// The value of a tombstone.
///
/// # Errors
/// [`NoValueError`].
pub fn tombstone_value(numbers: &Numbers, epoch: &str) -> Result<[u8; HEADER_LEN], NoValueError> {
    let mut value = [0; HEADER_LEN];
    write_header(numbers, State::Tombstone, epoch, [0; 3], &mut value)?;
    Ok(value)
}

fn write_header(
    numbers: &Numbers,
    state: State,
    epoch: &str,
    lengths: [usize; 3],
    header: &mut [u8],
) -> Result<(), NoValueError> {
    if epoch.len() != EPOCH_LEN || numbers.version > 9_999_999_999_999_999 {
        return Err(NoValueError);
    }
    header[0] = FORMAT;
    header[1] = state.letter();
    header[2] = *TIERS.get(usize::from(numbers.tier)).ok_or(NoValueError)?;
    header[3] = b'0';
    let mut rest = numbers.version;
    for place in header[VERSION].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    for (number, place) in header[WRITER].iter_mut().rev().enumerate() {
        *place = b"0123456789abcdef"[(numbers.writer >> (4 * number) & 15) as usize];
    }
    header[EPOCH].copy_from_slice(epoch.as_bytes());
    let mut fields = Fields { bytes: header, at: PREFIX_LEN };
    fields.put(numbers.checksum.to_le_bytes());
    fields.put(numbers.generation.to_le_bytes());
    fields.put(numbers.seq.to_le_bytes());
    fields.put(numbers.created_us.to_le_bytes());
    fields.put(numbers.timestamp.to_le_bytes());
    fields.put(numbers.importance.to_le_bytes());
    fields.put(numbers.expires_at.unwrap_or(f64::NAN).to_le_bytes());
    fields.put(numbers.step.unwrap_or(0).to_le_bytes());
    fields.put([numbers.content_kind, u8::from(numbers.step.is_some()), u8::from(numbers.has_hash), 0]);
    for len in lengths {
        fields.put(u32::try_from(len).map_err(|_| NoValueError)?.to_le_bytes());
    }
    Ok(())
}

struct Fields<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Fields<'_> {
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        self.bytes[self.at..self.at + N].copy_from_slice(&field);
        self.at += N;
    }
}

/// 32 bits of 63, in which a change of any one byte shows.
fn folded(writer: u64) -> u32 {
    ((writer ^ writer >> 32) & 0xFFFF_FFFF) as u32
}

/// What the prefix of a value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix<'a> {
    /// Clean, dirty, or a tombstone.
    pub state: State,
    /// 0 short-term, 1 intermediate, 2 long-term.
    pub tier: u8,
    /// Microseconds since the epoch.
    pub version: u64,
    /// The writer of this version.
    pub writer: u64,
    /// The epoch when the copy was put.
    pub epoch: &'a str,
}

/// How many characters an order has.
pub const ORDER_LEN: usize = 33;

impl Prefix<'_> {
    /// Appends the copy's place among the copies of its memory, as the scripts compare it: a greater one is greater as text.
    pub fn write_order(&self, text: &mut String) {
        let deleted = u8::from(self.state == State::Tombstone);
        // Writing to a string cannot fail.
        let _ = write!(text, "{deleted}{:016}{:016x}", self.version, self.writer);
    }
}

/// The prefix of a value.
///
/// # Errors
/// [`NoCopyError`] for what is no value of ours.
pub fn read_prefix(value: &[u8]) -> Result<Prefix<'_>, NoCopyError> {
    if value.len() < HEADER_LEN || value[0] != FORMAT {
        return Err(NoCopyError);
    }
    let tier = (0_u8..).zip(TIERS).find(|(_, letter)| **letter == value[2]).ok_or(NoCopyError)?.0;
    Ok(Prefix {
        state: State::of_letter(value[1]).ok_or(NoCopyError)?,
        tier,
        version: read_digits(&value[VERSION], 10)?,
        writer: read_digits(&value[WRITER], 16)?,
        epoch: std::str::from_utf8(&value[EPOCH]).map_err(|_| NoCopyError)?,
    })
}

fn read_digits(digits: &[u8], radix: u32) -> Result<u64, NoCopyError> {
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(radix).ok_or(NoCopyError)?;
        Ok(number.wrapping_mul(u64::from(radix)).wrapping_add(u64::from(digit)))
    })
}

/// What a value holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Read<'a> {
    /// What is left of a deleted memory: version, writer, seq and generation.
    Tombstone(Numbers),
    /// A memory, whose checksum has been compared.
    Living(Copy<'a>),
}

/// Reads the value of the key of a memory.
///
/// # Errors
/// [`NoCopyError`] where anything does not fit, the checksum above all.
pub fn read_value<'a>(value: &'a [u8], id: &'a str, agent_id: &'a str) -> Result<(Prefix<'a>, Read<'a>), NoCopyError> {
    let prefix = read_prefix(value)?;
    let mut fields = Reader { bytes: &value[PREFIX_LEN..HEADER_LEN] };
    let mut numbers = Numbers {
        version: prefix.version,
        writer: prefix.writer,
        tier: prefix.tier,
        checksum: u32::from_le_bytes(fields.take()),
        generation: u32::from_le_bytes(fields.take()),
        seq: u64::from_le_bytes(fields.take()),
        created_us: u64::from_le_bytes(fields.take()),
        timestamp: f64::from_le_bytes(fields.take()),
        importance: f64::from_le_bytes(fields.take()),
        ..Numbers::default()
    };
    let expires_at = f64::from_le_bytes(fields.take());
    numbers.expires_at = (!expires_at.is_nan()).then_some(expires_at);
    let step = i64::from_le_bytes(fields.take());
    let [content_kind, has_step, has_hash, _] = fields.take();
    numbers.content_kind = content_kind;
    numbers.step = (has_step != 0).then_some(step);
    numbers.has_hash = has_hash != 0;
    if prefix.state == State::Tombstone {
        let Numbers { version, writer, seq, generation, .. } = numbers;
        return Ok((prefix, Read::Tombstone(Numbers { version, writer, seq, generation, ..Numbers::default() })));
    }
    let mut rest = &value[HEADER_LEN..];
    let mut parts = [&[][..]; 3];
    for part in &mut parts {
        let len = u32::from_le_bytes(fields.take()) as usize;
        (*part, rest) = rest.split_at_checked(len).ok_or(NoCopyError)?;
    }
    if !rest.is_empty() {
        return Err(NoCopyError);
    }
    let [vector, joined, content] = parts;
    let mut split = std::str::from_utf8(joined).map_err(|_| NoCopyError)?.split('\0');
    let mut texts = [""; VALUE_TEXTS];
    for text in &mut texts {
        *text = split.next().ok_or(NoCopyError)?;
    }
    let copy = Copy { numbers, id, agent_id, texts, vector, content };
    if split.next().is_some() || copy.checksum() != numbers.checksum {
        return Err(NoCopyError);
    }
    Ok((prefix, Read::Living(copy)))
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    /// The next `N` bytes; the header has them all.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.bytes.split_first_chunk().expect("the header is as long as its fields");
        self.bytes = rest;
        *taken
    }
}

/// Whether every element of a vector (float32, little endian) is a finite number.
#[must_use]
pub fn is_finite_vector(vector: &[u8]) -> bool {
    const EXPONENT: u32 = 0x7F80_0000;
    // Without an early return the compiler finds the wide registers.
    vector
        .as_chunks::<4>()
        .0
        .iter()
        .fold(true, |all, element| all & (u32::from_le_bytes(*element) & EXPONENT != EXPONENT))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH_NOW: &str = "0123456789abcdef0123456789abcdef01234567";

    fn any_numbers() -> impl Strategy<Value = Numbers> {
        (
            (0..1_u64 << 52, 0..1_u64 << 63, 0..3_u8, 0..1_u64 << 52, -1e12..1e12, any::<Option<i64>>()),
            (0.0..=1.0, proptest::option::of(-1e12..1e12), 0..3_u8, any::<bool>(), any::<u64>(), any::<u32>()),
        )
            .prop_map(
                |(
                    (version, writer, tier, created_us, timestamp, step),
                    (importance, expires_at, content_kind, has_hash, seq, generation),
                )| Numbers {
                    version,
                    writer,
                    tier,
                    created_us,
                    timestamp,
                    step: step.filter(|step| *step != NO_STEP),
                    importance,
                    expires_at,
                    content_kind,
                    checksum: 0,
                    has_hash,
                    seq,
                    generation,
                },
            )
    }

    fn value_of(copy: &Copy<'_>, state: State) -> Vec<u8> {
        let mut value = vec![0; copy.value_len()];
        copy.write_value(state, EPOCH_NOW, &mut value).unwrap();
        value
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            numbers in any_numbers(),
            texts in proptest::array::uniform8("[^\0]{0,12}"),
            vector in proptest::collection::vec(any::<u8>(), 0..40),
            content in proptest::collection::vec(any::<u8>(), 0..40),
            is_dirty in any::<bool>(),
        ) {
            let texts = std::array::from_fn(|at| texts[at].as_str());
            let mut copy = Copy { numbers, id: "id", agent_id: "agent", texts, vector: &vector, content: &content };
            copy.numbers.checksum = copy.checksum();
            let state = if is_dirty { State::Dirty } else { State::Clean };
            let value = value_of(&copy, state);
            let (prefix, read) = read_value(&value, "id", "agent").unwrap();
            prop_assert_eq!(read, Read::Living(copy));
            prop_assert_eq!(
                prefix,
                Prefix {
                    state, tier: numbers.tier, version: numbers.version, writer: numbers.writer, epoch: EPOCH_NOW
                }
            );
        }

        #[test]
        fn a_changed_byte_is_noticed(numbers in any_numbers(), at in any::<prop::sample::Index>(), change in 1..=255_u8) {
            let texts = ["type", "scope/", "user", "", "key", "", "[\"tag\"]", ""];
            let mut copy =
                Copy { numbers, id: "id", agent_id: "agent", texts, vector: &[1, 2, 3, 4], content: b"content" };
            copy.numbers.checksum = copy.checksum();
            let mut value = value_of(&copy, State::Clean);
            let at = at.index(value.len());
            value[at] ^= change;
            // State, tier, epoch, generation, seq, whether there is a hash, and two bytes of filling are not covered.
            let free = [1..3, 3..4, EPOCH, 80..92, 134..136];
            if free.iter().any(|range| range.contains(&at)) {
                return Ok(());
            }
            match read_value(&value, "id", "agent") {
                Err(NoCopyError) => {}
                // An exact nan of another kind, or the upper case of a digit, says the same.
                Ok((_, read)) => prop_assert_eq!(read, Read::Living(copy)),
            }
        }

        #[test]
        fn no_bytes_are_too_strange(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_value(&value, "id", "agent");
        }

        #[test]
        fn an_element_that_is_not_finite_is_found(mut elements in proptest::collection::vec(-1e30_f32..1e30, 1..70),
            at in any::<prop::sample::Index>(), bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY])) {
            let bytes = |elements: &[f32]| elements.iter().flat_map(|one| one.to_le_bytes()).collect::<Vec<_>>();
            prop_assert!(is_finite_vector(&bytes(&elements)));
            let at = at.index(elements.len());
            elements[at] = bad;
            prop_assert!(!is_finite_vector(&bytes(&elements)));
        }
    }

    #[test]
    fn an_order_is_greater_as_text_where_the_copy_is() {
        let order = |state, version, writer| {
            let mut text = String::new();
            Prefix { state, tier: 0, version, writer, epoch: "" }.write_order(&mut text);
            assert_eq!(text.len(), ORDER_LEN);
            text
        };
        let orders = [
            order(State::Dirty, 9, u64::MAX >> 1),
            order(State::Dirty, 10, 9),
            order(State::Clean, 10, 10),
            order(State::Dirty, 9_999_999_999_999_999, 0),
            order(State::Tombstone, 1, 1),
        ];
        assert!(orders.is_sorted_by(|one, next| one < next), "{orders:?}");
        assert_eq!(orders[2], "00000000000000010000000000000000a");
    }

    #[test]
    fn a_tombstone_is_read_without_what_it_never_had() {
        let numbers = Numbers { version: 12, writer: 34, seq: 5, generation: 6, ..Numbers::default() };
        let value = tombstone_value(&numbers, EPOCH_NOW).unwrap();
        assert_eq!(read_value(&value, "id", "agent").unwrap().1, Read::Tombstone(numbers));
    }

    #[test]
    fn what_has_no_value_is_refused() {
        let numbers = Numbers::default();
        assert_eq!(tombstone_value(&numbers, "short"), Err(NoValueError));
        assert_eq!(tombstone_value(&Numbers { tier: 3, ..numbers }, EPOCH_NOW), Err(NoValueError));
        assert_eq!(tombstone_value(&Numbers { version: 10_u64.pow(16), ..numbers }, EPOCH_NOW), Err(NoValueError));
        assert!(tombstone_value(&Numbers { version: 10_u64.pow(16) - 1, ..numbers }, EPOCH_NOW).is_ok());
    }
}
