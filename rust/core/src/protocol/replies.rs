//! Where replies begin and end in the bytes that a server sends: what the parser must not be given is found before it is.
//!
//! hiredis makes a list of an attribute (`|`), which precedes a reply and is none, and of a push (`>`) in the middle of a reply;
//! it takes memory for what is announced, not for what has come. The scanner follows the same bytes without making anything of
//! them. It is the stricter of the two: where it finds nothing wrong, the parser finds as many replies as it does.

use core::fmt;
use core::ops::Range;
use std::collections::VecDeque;

/// Bound of aggregates within aggregates; hiredis' is 1024.
pub const MAX_DEPTH: usize = 1_000;
/// Bound of elements that all open aggregates have announced and not yet sent: hiredis reserves 8 bytes for each.
pub const MAX_ANNOUNCED: u64 = 1 << 27;
/// Bound of the bytes of one string that is announced by its length.
pub const MAX_STRING_BYTES: u64 = 1 << 32;
/// Bound of the bytes of one line; hiredis looks for its end anew with each piece.
pub const MAX_LINE_BYTES: usize = 1 << 24;

/// What ended the stream as one of replies; nothing behind it can be matched to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// No reply begins with this byte.
    Type(u8),
    /// A length that is none: signs, blanks, leading zeros, no digits, below -1, streamed, a push of nothing.
    Length(u8),
    /// An aggregate or string that announces more than the bounds.
    Announced(u8, u64),
    /// Nested deeper than [`MAX_DEPTH`].
    Depth,
    /// A line without an end, or with half of one.
    Line,
    /// A string that is longer than it said.
    StringEnd,
    /// A push inside a reply.
    PushInside,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(byte) => write!(f, "no reply begins with \"{}\"", byte.escape_ascii()),
            Self::Length(byte) => write!(f, "a length that is none behind \"{}\"", byte.escape_ascii()),
            Self::Announced(byte, count) => write!(f, "\"{}\" announces {count}", byte.escape_ascii()),
            Self::Depth => write!(f, "replies nested deeper than {MAX_DEPTH}"),
            Self::Line => write!(f, "a line that does not end"),
            Self::StringEnd => write!(f, "a string that is longer than it said"),
            Self::PushInside => write!(f, "a push inside a reply"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next byte says what comes.
    Type,
    /// In a line that is its own value; how long it is, and whether the last byte was `\r`.
    Line { len: usize, is_ending: bool },
    /// In the line that says a length: of what, its digits so far, whether it is negative, whether the last byte was `\r`.
    Length { kind: u8, value: u64, digits: u8, is_negative: bool, is_ending: bool },
    /// In a string: so many bytes to go.
    String { left: u64 },
    /// Behind the bytes of a string: `\r\n`, of which `\r` may have been seen.
    StringEnd { is_ending: bool },
}

#[derive(Debug, Clone, Copy)]
struct Open {
    left: u64,
    is_attribute: bool,
}

/// Follows one stream, in pieces of any size.
#[derive(Debug)]
pub struct Scanner {
    open: Vec<Open>,
    announced: u64,
    attributes: usize,
    /// Whether an attribute has begun outside all replies, and what it precedes is not complete.
    owes_value: bool,
    state: State,
    violation: Option<Violation>,
    /// Whether pushes are noted.
    notes_pushes: bool,
    /// How many replies and pushes have been complete since pushes are noted.
    complete: u64,
    /// The numbers of those that are pushes, complete or not, as long as they are not taken.
    pushes: VecDeque<u64>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            open: Vec::new(),
            announced: 0,
            attributes: 0,
            owes_value: false,
            state: State::Type,
            violation: None,
            notes_pushes: false,
            complete: 0,
            pushes: VecDeque::new(),
        }
    }

    /// From now on it is noted which of the replies are pushes. What was scanned has to be taken by now, but for a part.
    pub fn note_pushes(&mut self) {
        self.notes_pushes = true;
    }

    /// Whether the reply of this number, counted from when pushes are noted, is a push; asked for each in order.
    #[inline]
    pub fn is_push(&mut self, number: u64) -> bool {
        while self.pushes.front().is_some_and(|first| *first < number) {
            self.pushes.pop_front();
        }
        self.pushes.front() == Some(&number)
    }

    /// Whether the stream stands between two replies; behind an attribute it does not.
    #[must_use]
    pub fn is_between_replies(&self) -> bool {
        self.state == State::Type && self.open.is_empty() && !self.owes_value && self.violation.is_none()
    }

    /// What ended the stream.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    /// Follows the next piece. Calls `give` with what of it is for the parser, in order, where that is not all of it; returns
    /// whether it is all.
    pub fn scan(&mut self, piece: &[u8], mut give: impl FnMut(Range<usize>)) -> bool {
        if self.violation.is_some() {
            return false;
        }
        let mut at = 0;
        // Where what is not given yet begins; None inside an attribute.
        let mut kept = if self.is_in_attribute() { None } else { Some(0) };
        while at < piece.len() {
            let begins = at;
            match self.step(piece, at) {
                Ok(next) => at = next,
                Err(violation) => {
                    self.violation = Some(violation);
                    if let Some(from) = kept {
                        give_some(&mut give, from..begins);
                    }
                    return false;
                }
            }
            match (kept, self.is_in_attribute()) {
                (Some(from), true) => {
                    give_some(&mut give, from..begins);
                    kept = None;
                }
                (None, false) => kept = Some(at),
                _ => {}
            }
        }
        match kept {
            Some(0) => true,
            Some(from) => {
                give_some(&mut give, from..piece.len());
                false
            }
            None => false,
        }
    }

    fn is_in_attribute(&self) -> bool {
        self.attributes > 0 || matches!(self.state, State::Length { kind: b'|', .. })
    }

    /// Takes what of the piece belongs to the state, at least a byte; returns where the next state begins.
    #[inline]
    fn step(&mut self, piece: &[u8], at: usize) -> Result<usize, Violation> {
        match self.state {
            State::Type => {
                self.begin(piece[at])?;
                Ok(at + 1)
            }
            State::Line { len, is_ending } => self.line(piece, at, len, is_ending),
            State::Length { kind, value, digits, is_negative, is_ending } => {
                self.length(piece[at], kind, value, digits, is_negative, is_ending)?;
                Ok(at + 1)
            }
            State::String { left } => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len() - at);
                let left = left - here as u64;
                self.state = if left == 0 { State::StringEnd { is_ending: false } } else { State::String { left } };
                Ok(at + here)
            }
            State::StringEnd { is_ending } => {
                match (piece[at], is_ending) {
                    (b'\r', false) => self.state = State::StringEnd { is_ending: true },
                    (b'\n', true) => self.complete(),
                    _ => return Err(Violation::StringEnd),
                }
                Ok(at + 1)
            }
        }
    }

    fn begin(&mut self, kind: u8) -> Result<(), Violation> {
        self.state = match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => State::Line { len: 0, is_ending: false },
            b'|' if self.open.is_empty() => {
                self.owes_value = true;
                State::Length { kind, value: 0, digits: 0, is_negative: false, is_ending: false }
            }
            b'>' if !self.open.is_empty() => return Err(Violation::PushInside),
            b'>' => {
                if self.notes_pushes {
                    self.pushes.push_back(self.complete);
                }
                State::Length { kind, value: 0, digits: 0, is_negative: false, is_ending: false }
            }
            b'$' | b'=' | b'*' | b'%' | b'~' | b'|' => {
                State::Length { kind, value: 0, digits: 0, is_negative: false, is_ending: false }
            }
            _ => return Err(Violation::Type(kind)),
        };
        Ok(())
    }

    fn line(&mut self, piece: &[u8], at: usize, len: usize, is_ending: bool) -> Result<usize, Violation> {
        if is_ending {
            if piece[at] != b'\n' {
                return Err(Violation::Line);
            }
            self.complete();
            return Ok(at + 1);
        }
        let rest = &piece[at..];
        let found = rest.iter().position(|&byte| byte == b'\r' || byte == b'\n');
        let here = found.unwrap_or(rest.len());
        let len = len + here;
        if len > MAX_LINE_BYTES || found.is_some_and(|place| rest[place] == b'\n') {
            return Err(Violation::Line);
        }
        self.state = State::Line { len, is_ending: found.is_some() };
        Ok(at + here + usize::from(found.is_some()))
    }

    fn length(
        &mut self,
        byte: u8,
        kind: u8,
        value: u64,
        digits: u8,
        is_negative: bool,
        is_ending: bool,
    ) -> Result<(), Violation> {
        let wrong = Err(Violation::Length(kind));
        if is_ending {
            return if byte == b'\n' { self.announce(kind, value, is_negative) } else { wrong };
        }
        self.state = match byte {
            b'\r' if digits > 0 => State::Length { kind, value, digits, is_negative, is_ending: true },
            b'-' if digits == 0 && !is_negative => {
                State::Length { kind, value, digits, is_negative: true, is_ending: false }
            }
            b'0'..=b'9' if digits < 18 && (digits == 0 || value > 0) => {
                let value = value * 10 + u64::from(byte - b'0');
                State::Length { kind, value, digits: digits + 1, is_negative, is_ending: false }
            }
            _ => return wrong,
        };
        Ok(())
    }

    fn announce(&mut self, kind: u8, value: u64, is_negative: bool) -> Result<(), Violation> {
        if is_negative {
            // No value, where there may be none.
            if value != 1 || matches!(kind, b'>' | b'|' | b'=') {
                return Err(Violation::Length(kind));
            }
            self.complete();
            return Ok(());
        }
        if matches!(kind, b'$' | b'=') {
            if value > MAX_STRING_BYTES {
                return Err(Violation::Announced(kind, value));
            }
            self.state = if value == 0 { State::StringEnd { is_ending: false } } else { State::String { left: value } };
            return Ok(());
        }
        if kind == b'>' && value == 0 {
            // A push says its kind first. One of nothing would stand in the place of a reply, which the next command's is taken for.
            return Err(Violation::Length(kind));
        }
        let elements = if matches!(kind, b'%' | b'|') { value.saturating_mul(2) } else { value };
        if elements > MAX_ANNOUNCED - self.announced {
            return Err(Violation::Announced(kind, value));
        }
        self.state = State::Type;
        let is_attribute = kind == b'|';
        if elements == 0 {
            if !is_attribute {
                self.complete();
            }
            return Ok(());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(Violation::Depth);
        }
        self.announced += elements;
        self.attributes += usize::from(is_attribute);
        self.open.push(Open { left: elements, is_attribute });
        Ok(())
    }

    /// An element is complete, and with the last one what it belongs to. An attribute is an element of nothing.
    fn complete(&mut self) {
        self.state = State::Type;
        while let Some(top) = self.open.last_mut() {
            top.left -= 1;
            self.announced -= 1;
            if top.left > 0 {
                return;
            }
            let is_attribute = top.is_attribute;
            self.open.pop();
            if is_attribute {
                self.attributes -= 1;
                return;
            }
        }
        self.owes_value = false;
        self.complete += u64::from(self.notes_pushes);
    }
}

fn give_some(give: &mut impl FnMut(Range<usize>), range: Range<usize>) {
    if !range.is_empty() {
        give(range);
    }
}
