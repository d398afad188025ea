//! What of a stream the parser is given, however the stream is cut.

use agent_memory_core::protocol::replies::{MAX_ANNOUNCED, MAX_DEPTH, MAX_STRING_BYTES, Scanner, Violation};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Value {
    Line(u8, String),
    Bulk(u8, Vec<u8>),
    Nil(&'static str),
    Many(u8, Vec<Value>),
    /// An attribute of so many pairs, and what it precedes.
    Attributed(Vec<(Value, Value)>, Box<Value>),
}

impl Value {
    fn write(&self, bytes: &mut Vec<u8>, attributes: bool) {
        match self {
            Self::Line(kind, text) => {
                bytes.push(*kind);
                bytes.extend(text.as_bytes());
                bytes.extend(b"\r\n");
            }
            Self::Bulk(kind, value) => {
                bytes.push(*kind);
                bytes.extend(format!("{}\r\n", value.len()).as_bytes());
                bytes.extend(value);
                bytes.extend(b"\r\n");
            }
            Self::Nil(text) => bytes.extend(text.as_bytes()),
            Self::Many(kind, values) => {
                let count = if *kind == b'%' { values.len() / 2 } else { values.len() };
                bytes.push(*kind);
                bytes.extend(format!("{count}\r\n").as_bytes());
                let used = if *kind == b'%' { count * 2 } else { count };
                values[..used].iter().for_each(|value| value.write(bytes, attributes));
            }
            Self::Attributed(pairs, value) => {
                if attributes {
                    bytes.extend(format!("|{}\r\n", pairs.len()).as_bytes());
                    for (key, value) in pairs {
                        key.write(bytes, true);
                        value.write(bytes, true);
                    }
                }
                value.write(bytes, attributes);
            }
        }
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        (prop::sample::select(b"+-:_#,(".to_vec()), "[ -~]{0,12}").prop_map(|(kind, text)| Value::Line(kind, text)),
        (prop::sample::select(b"$=".to_vec()), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, value)| Value::Bulk(kind, value)),
        prop::sample::select(vec!["$-1\r\n", "*-1\r\n", "%-1\r\n", "~-1\r\n"]).prop_map(Value::Nil),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            (prop::sample::select(b"*~%".to_vec()), prop::collection::vec(inner.clone(), 0..6))
                .prop_map(|(kind, values)| Value::Many(kind, values)),
            (prop::collection::vec((inner.clone(), inner.clone()), 0..3), inner)
                .prop_map(|(pairs, value)| Value::Attributed(pairs, Box::new(value))),
        ]
    })
}

/// What the parser is given of a stream that comes in pieces of these lengths, the last one again and again.
fn given(stream: &[u8], cuts: &[usize]) -> (Vec<u8>, Scanner) {
    let (mut scanner, mut kept, mut at) = (Scanner::new(), Vec::new(), 0);
    for cut in cuts.iter().chain(cuts.last().into_iter().cycle()) {
        if at >= stream.len() {
            break;
        }
        let piece = &stream[at..stream.len().min(at + cut)];
        let mut parts = Vec::new();
        let is_all = scanner.scan(piece, |part| parts.extend(&piece[part]));
        kept.extend(if is_all { piece.to_vec() } else { parts });
        at += piece.len();
    }
    (kept, scanner)
}

proptest! {
    #[test]
    fn attributes_and_nothing_else_are_cut_out(
        stream in prop::collection::vec(values(), 0..6), cuts in prop::collection::vec(1_usize..30, 1..20)
    ) {
        let (mut sent, mut wanted) = (Vec::new(), Vec::new());
        for value in &stream {
            value.write(&mut sent, true);
            value.write(&mut wanted, false);
        }
        let (kept, scanner) = given(&sent, &cuts);
        prop_assert_eq!(kept, wanted);
        prop_assert_eq!(scanner.violation(), None);
        prop_assert!(scanner.is_between_replies());
    }

    #[test]
    fn any_bytes_are_taken_alike_however_they_are_cut(
        stream in prop::collection::vec(prop::sample::select(b"+$*|>%\r\n-0123a".to_vec()), 0..60),
        cuts in prop::collection::vec(1_usize..9, 1..20)
    ) {
        let (whole, at_once) = given(&stream, &[usize::MAX / 2]);
        let (kept, in_pieces) = given(&stream, &cuts);
        prop_assert_eq!(at_once.violation(), in_pieces.violation());
        prop_assert_eq!(at_once.is_between_replies(), in_pieces.is_between_replies());
        // A token that turns out wrong is given as far as it had come.
        prop_assert!(kept.starts_with(&whole) || whole.starts_with(&kept));
        if at_once.violation().is_none() {
            prop_assert_eq!(kept, whole);
        }
    }
}

fn violation_of(stream: &[u8]) -> Option<Violation> {
    given(stream, &[usize::MAX / 2]).1.violation()
}

#[test]
fn what_is_no_reply_is_named() {
    for (stream, wanted) in [
        (&b"@"[..], Violation::Type(b'@')),
        (b"HTTP/1.1 400\r\n", Violation::Type(b'H')),
        (b"*?\r\n", Violation::Length(b'*')),
        (b"$03\r\n", Violation::Length(b'$')),
        (b"$-2\r\n", Violation::Length(b'$')),
        (b"$\r\n", Violation::Length(b'$')),
        (b"$1\r1", Violation::Length(b'$')),
        (b"$1234567890123456789\r\n", Violation::Length(b'$')),
        (b"|-1\r\n", Violation::Length(b'|')),
        (b">-1\r\n", Violation::Length(b'>')),
        (b">0\r\n", Violation::Length(b'>')),
        (b"$3\r\nabcXY", Violation::StringEnd),
        (b"+OK\rX", Violation::Line),
        (b"+OK\n", Violation::Line),
        (b"*2\r\n>1\r\n", Violation::PushInside),
        (b"*4000000000\r\n", Violation::Announced(b'*', 4_000_000_000)),
        (b"%70000000\r\n", Violation::Announced(b'%', 70_000_000)),
    ] {
        assert_eq!(violation_of(stream), Some(wanted), "{}", stream.escape_ascii());
    }
    assert_eq!(
        violation_of(format!("${}\r\n", MAX_STRING_BYTES + 1).as_bytes()),
        Some(Violation::Announced(b'$', MAX_STRING_BYTES + 1))
    );
}

#[test]
fn what_is_announced_is_bounded_over_all_levels() {
    let half = MAX_ANNOUNCED / 2;
    assert_eq!(violation_of(format!("*{half}\r\n*{half}\r\n").as_bytes()), None);
    let more = half + 1;
    assert_eq!(violation_of(format!("*{half}\r\n*{more}\r\n").as_bytes()), Some(Violation::Announced(b'*', more)));
}

#[test]
fn nesting_is_bounded() {
    assert_eq!(violation_of(&b"*1\r\n".repeat(MAX_DEPTH)), None);
    assert_eq!(violation_of(&b"*1\r\n".repeat(MAX_DEPTH + 1)), Some(Violation::Depth));
}

#[test]
fn what_came_before_a_violation_is_given() {
    let (kept, scanner) = given(b"+one\r\n|1\r\n+a\r\n+b\r\n:2\r\n@+three\r\n", &[1000]);
    assert_eq!(kept, b"+one\r\n:2\r\n");
    assert_eq!(scanner.violation(), Some(Violation::Type(b'@')));
}

#[test]
fn an_attribute_owes_what_it_precedes() {
    for (stream, wanted) in [
        (&b"|0\r\n"[..], false),
        (b"|1\r\n+a\r\n+b\r\n", false),
        (b"|0\r\n+OK\r\n", true),
        (b"*1\r\n|0\r\n+OK\r\n", true),
    ] {
        assert_eq!(given(stream, &[1]).1.is_between_replies(), wanted, "{}", stream.escape_ascii());
    }
}
