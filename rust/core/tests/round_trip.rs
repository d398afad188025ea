//! The slots of a connection against a model that keeps everything in plain lists.

use agent_memory_core::round_trip::Slots;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Push { wants_bytes: bool, len: usize },
    HandOver,
    Answer,
    Wait { tenths: u32 },
    Sweep { moved_ago: u32 },
    End { received: Option<u64> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<bool>(), 0_usize..50).prop_map(|(wants_bytes, len)| Step::Push { wants_bytes, len }),
        3 => Just(Step::HandOver),
        4 => Just(Step::Answer),
        2 => (0_u32..20).prop_map(|tenths| Step::Wait { tenths }),
        2 => (0_u32..30).prop_map(|moved_ago| Step::Sweep { moved_ago }),
        1 => prop::option::of(0_u64..500).prop_map(|received| Step::End { received }),
    ];
    prop::collection::vec(step, 0..200)
}

#[derive(Debug, Clone)]
struct Command {
    wants_bytes: bool,
    len: usize,
    /// When, and where its hand-over begins and which number that is.
    handed_over: Option<(f64, u64, usize)>,
    answered: bool,
    told: bool,
}

const TIMEOUT_S: f64 = 1.0;
const PATIENCE_S: f64 = 2.0;

#[derive(Debug, Default)]
struct Model {
    commands: Vec<Command>,
    hand_overs: usize,
    written: u64,
    now_s: f64,
}

impl Model {
    fn unanswered(&self) -> impl Iterator<Item = (usize, &Command)> {
        self.commands.iter().enumerate().filter(|(_, command)| !command.answered)
    }

    /// Commands of a hand-over that is answered altogether are not looked at any more.
    fn is_settled(&self, hand_over: usize) -> bool {
        self.commands.iter().all(|one| one.answered || one.handed_over.is_none_or(|(.., number)| number != hand_over))
    }

    fn open_hand_overs(&self) -> Vec<(f64, u64, usize)> {
        let mut open: Vec<(f64, u64, usize)> = Vec::new();
        for hand_over in self.commands.iter().filter_map(|command| command.handed_over) {
            if !self.is_settled(hand_over.2) && open.last() != Some(&hand_over) {
                open.push(hand_over);
            }
        }
        open
    }
}

proptest! {
    #[test]
    fn slots_are_what_the_model_says(steps in steps()) {
        let mut slots: Slots<usize, usize> = Slots::default();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Push { wants_bytes, len } => {
                    slots.push(model.commands.len(), wants_bytes, len);
                    model.commands.push(Command { wants_bytes, len, handed_over: None, answered: false, told: false });
                }
                Step::HandOver => {
                    let waiting: Vec<usize> = (0..model.commands.len())
                        .filter(|place| model.commands[*place].handed_over.is_none()).collect();
                    prop_assert_eq!(slots.unsent(), waiting.len());
                    prop_assert_eq!(slots.unsent_lens(), waiting.iter().map(|place| model.commands[*place].len).collect::<Vec<_>>());
                    if waiting.is_empty() {
                        continue;
                    }
                    let len: usize = waiting.iter().map(|place| model.commands[*place].len).sum();
                    slots.hand_over(model.now_s, len, model.hand_overs);
                    for place in waiting {
                        model.commands[place].handed_over = Some((model.now_s, model.written, model.hand_overs));
                    }
                    model.written += len as u64;
                    model.hand_overs += 1;
                }
                // A server answers what it was sent.
                Step::Answer => {
                    let oldest = model.unanswered().next().map(|(place, command)| (place, command.clone()));
                    if oldest.as_ref().is_some_and(|(_, command)| command.handed_over.is_none()) {
                        continue;
                    }
                    prop_assert_eq!(slots.next_wants_bytes(), oldest.as_ref().is_some_and(|(_, command)| command.wants_bytes));
                    prop_assert_eq!(slots.answer(), oldest.as_ref().map(|(place, _)| *place));
                    if let Some((place, _)) = oldest {
                        model.commands[place].answered = true;
                    }
                    slots.settle().for_each(drop);
                }
                Step::Wait { tenths } => model.now_s += f64::from(tenths) / 10.0,
                Step::Sweep { moved_ago } => {
                    let moved_s = model.now_s - f64::from(moved_ago) / 10.0;
                    let open = model.open_hand_overs();
                    let swept = slots.sweep(model.now_s, moved_s, TIMEOUT_S, PATIENCE_S);
                    prop_assert_eq!(swept.is_none(), open.is_empty());
                    let Some(swept) = swept else { continue };
                    let silent = moved_s.max(open[0].0) <= model.now_s - TIMEOUT_S;
                    prop_assert_eq!(swept.silent, silent);
                    let allowed_s = if silent { TIMEOUT_S } else { PATIENCE_S };
                    let late: Vec<usize> = model.unanswered()
                        .filter(|(_, command)| !command.told)
                        .filter(|(_, command)| command.handed_over.is_some_and(|(at_s, ..)| at_s <= model.now_s - allowed_s))
                        .map(|(place, _)| place).collect();
                    prop_assert_eq!(slots.waiting_in(&swept.expired).copied().collect::<Vec<_>>(), late.clone());
                    for place in late {
                        model.commands[place].told = true;
                    }
                    prop_assert!(swept.next_s > model.now_s - TIMEOUT_S);
                }
                Step::End { received } => {
                    let reached = |command: &Command| match (command.handed_over, received) {
                        (None, _) => false,
                        (Some(_), None) => true,
                        (Some((_, first_byte, _)), Some(received)) => first_byte < received,
                    };
                    let maybe = model.unanswered().filter(|(_, command)| reached(command)).count();
                    prop_assert_eq!(slots.maybe_executed(received), maybe);
                    let left: Vec<usize> = model.unanswered().map(|(place, _)| place).collect();
                    prop_assert_eq!(slots.end().collect::<Vec<_>>(), left);
                    prop_assert!(slots.is_empty() && slots.oldest_s().is_none());
                    return Ok(());
                }
            }
            prop_assert_eq!(slots.len(), model.unanswered().count());
            prop_assert_eq!(slots.answered(), (model.commands.len() - slots.len()) as u64);
            prop_assert_eq!(slots.written(), model.written);
            let open: Vec<(f64, u64, usize)> = slots.hand_overs().map(|(one, _)| (one.at_s, one.first_byte, one.kept)).collect();
            prop_assert_eq!(&open, &model.open_hand_overs());
            for (one, lens) in slots.hand_overs() {
                let theirs: Vec<usize> = model.commands.iter()
                    .filter(|command| command.handed_over.is_some_and(|(.., number)| number == one.kept))
                    .map(|command| command.len).collect();
                prop_assert_eq!(lens, theirs);
            }
        }
    }
}
