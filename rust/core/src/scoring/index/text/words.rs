//! The words of a text, in order: where Unicode puts their borders, what stands around them, how they are written.

use super::script::{Script, is_emoji};
use unicode_segmentation::UnicodeSegmentation;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word with spaces or punctuation around it; its first letter is of this script.
    Word(Script),
    /// A run of characters of a script that does not separate words, or whose words carry their particles.
    Run(Script),
    /// An emoji.
    Emoji,
}

/// A piece of text that terms are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'t> {
    pub(super) text: &'t str,
    pub(super) kind: Kind,
    /// Whether it begins a sentence, a line, a quotation or what follows a colon.
    pub(super) opens: bool,
    /// Whether only a hyphen stands between it and the piece before.
    pub(super) is_hyphenated: bool,
}

/// Calls `each` with every piece of a text, in order.
pub(super) fn pieces<'t>(text: &'t str, mut each: impl FnMut(Piece<'t>)) {
    let mut state = State { opens: true, hyphen: Hyphen::None, run: None };
    for (start, part) in text.split_word_bound_indices() {
        let first = part.chars().find(|character| character.is_alphanumeric());
        let Some(first) = first else {
            state.flush(text, &mut each);
            state.punctuation(part, &mut each);
            continue;
        };
        let script = Script::of(first);
        if matches!(script, Script::Cjk | Script::Unspaced) {
            state.extend(text, start, part, script, &mut each);
            continue;
        }
        state.flush(text, &mut each);
        state.emit(part, Kind::Word(script), &mut each);
    }
    state.flush(text, &mut each);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hyphen {
    None,
    AfterWord,
    Between,
}

struct State {
    opens: bool,
    hyphen: Hyphen,
    run: Option<(usize, usize, Script)>,
}

impl State {
    fn emit<'t>(&mut self, text: &'t str, kind: Kind, each: &mut impl FnMut(Piece<'t>)) {
        each(Piece { text, kind, opens: self.opens, is_hyphenated: self.hyphen == Hyphen::Between });
        self.opens = false;
        self.hyphen = Hyphen::AfterWord;
    }

    fn extend<'t>(
        &mut self,
        text: &'t str,
        start: usize,
        part: &str,
        script: Script,
        each: &mut impl FnMut(Piece<'t>),
    ) {
        match &mut self.run {
            Some((_, end, of)) if *end == start && *of == script => *end += part.len(),
            _ => {
                self.flush(text, each);
                self.run = Some((start, start + part.len(), script));
            }
        }
    }

    fn flush<'t>(&mut self, text: &'t str, each: &mut impl FnMut(Piece<'t>)) {
        if let Some((start, end, script)) = self.run.take() {
            self.emit(&text[start..end], Kind::Run(script), each);
        }
    }

    fn punctuation<'t>(&mut self, part: &'t str, each: &mut impl FnMut(Piece<'t>)) {
        if part.chars().any(is_emoji) {
            self.emit(part, Kind::Emoji, each);
            self.hyphen = Hyphen::None;
            return;
        }
        let is_hyphen = matches!(part, "-" | "\u{2010}" | "\u{2011}");
        self.hyphen = if is_hyphen && self.hyphen == Hyphen::AfterWord { Hyphen::Between } else { Hyphen::None };
        // A comma or an apostrophe goes on; a full stop, a colon, a quotation mark, a line break begin something.
        if part.chars().any(|c| !matches!(c, ' ' | '\t' | ',' | ';' | '-' | '\'' | '’' | '/' | '&' | '\u{a0}')) {
            self.opens = true;
        }
    }
}
