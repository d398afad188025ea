"""The facts that the agent of the demo stores, and its questions: an assistant's notes about the people it works for.

Every content occurs once in a run, so that a memory is known by what it says.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, NamedTuple

from agent_memory.memory import NewMemory

__all__ = ["Fact", "Note", "Stories"]

_PEOPLE: Final = (
    "Amara Okafor", "Bruno Tavares", "Chiara Lombardi", "Dmitri Sokolov", "Elena Petrova", "Farid Haddad",
    "Greta Lindqvist", "Hiroshi Tanaka", "Ines Carvalho", "Jonas Weber", "Kavya Raman", "Liam Gallagher",
    "Mei Chen", "Nadia Rahimi", "Oskar Nowak", "Priya Menon", "Quentin Dubois", "Rosa Delgado",
    "Sven Halvorsen", "Tomas Horvat", "Uma Krishnan", "Viktor Balog", "Wanjiru Kamau", "Ximena Rojas",
    "Yusuf Demir", "Zofia Kaminska", "Aiko Mori", "Bashir Noor", "Camille Laurent", "Diego Fuentes",
    "Esther Mensah", "Felix Brandt", "Gwen Pritchard", "Henrik Dahl", "Isla Murray", "Jamal Carter",
    "Katya Orlova", "Lorenzo Ricci", "Mirela Popa", "Noor Siddiqui",
)  # fmt: skip

# (topic, fact, question, values); {person} and {value} are filled in.
_FACTS: Final = (
    ("allergy", "{person} is allergic to {value}.", "What is {person} allergic to?",
     ("walnuts", "shellfish", "penicillin", "cat hair", "latex", "sesame", "birch pollen")),
    ("home", "{person} lives in {value} these days.", "Where does {person} live?",
     ("Lisbon", "Porto", "Ghent", "Krakow", "Trieste", "Nairobi", "Valparaiso")),
    ("employer", "{person} is employed by {value}.", "Which company employs {person}?",
     ("a shipyard", "the botanical garden", "a small publisher", "the tram company", "a wind farm", "a theatre")),
    ("instrument", "{person} plays the {value} on Thursday evenings.", "Which instrument does {person} play?",
     ("cello", "accordion", "oboe", "double bass", "harp", "mandolin")),
    ("drink", "In cafes {person} always orders {value}.", "What does {person} order in cafes?",
     ("a cortado", "mint tea", "hot chocolate", "an espresso", "chai without sugar", "lemonade")),
    ("pet", "{person} has a pet: {value}.", "What pet does {person} have?",
     ("a grey parrot", "two ferrets", "an old greyhound", "a tortoise named Otto", "three hens", "a black cat")),
    ("language", "{person} is learning {value} this year.", "What is {person} learning this year?",
     ("Basque", "Swahili", "Korean", "sign language", "Finnish", "Quechua")),
    ("anniversary", "The wedding anniversary of {person} is on {value}.", "When is the wedding anniversary of {person}?",
     ("the 3rd of March", "the 19th of May", "the 8th of August", "the 30th of October", "the 12th of December")),
    ("seat", "On trains {person} prefers {value}.", "What does {person} prefer on trains?",
     ("the window seat", "the quiet carriage", "a table for four", "the last carriage", "the sleeper")),
    ("doctor", "The dentist of {person} is {value}.", "Which dentist does {person} see?",
     ("Dr Abel", "Dr Moreno", "Dr Schmitz", "Dr Ito", "Dr Varga", "Dr Quist")),
    ("car", "{person} drives {value}.", "What does {person} drive?",
     ("a red van", "an electric scooter", "a 1987 estate car", "a cargo bike", "a borrowed pickup")),
    ("sport", "{person} trains for {value}.", "What does {person} train for?",
     ("a half marathon", "the rowing regatta", "a climbing trip", "a triathlon", "the chess league")),
)  # fmt: skip

_VERBS: Final = ("asked", "reminded me", "wanted", "called", "wrote", "promised", "forgot", "agreed", "offered")
_MATTERS: Final = (
    "to move the budget review to {day}", "to send the {thing} to the printer before {day}",
    "to book a room for {number} people on {day}", "to compare {number} quotes for the {thing}",
    "to find out why the {thing} is late", "to translate the {thing} by {day}",
    "to cancel the {thing} that was due on {day}", "to order {number} copies of the {thing}",
    "to summarise the {thing} in {number} lines", "to water the plants on {day}",
    "to look up a train on {day} at {hour} o'clock", "to draft an answer about the {thing}",
)  # fmt: skip
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Friday", "Saturday", "Sunday")
_THINGS: Final = (
    "invoice", "floor plan", "contract", "menu", "grant proposal", "newsletter", "spare part", "exhibition text",
    "insurance claim", "survey", "playlist", "visa form", "harbour permit", "seating chart",
)  # fmt: skip
_MOODS: Final = (
    "and sounded relieved", "and was in a hurry", "twice in one morning", "after the meeting", "on the phone",
    "before lunch", "with a long attachment", "in passing", "and said thank you", "without saying why",
)  # fmt: skip


class Note(NamedTuple):
    """Something to remember."""

    content: str
    importance: float
    memory_type: str
    tags: tuple[str, ...]
    timestamp: float

    def as_memory(self) -> NewMemory:
        """What `store` and `store_many` take."""
        return {
            "content": self.content,
            "importance": self.importance,
            "memory_type": self.memory_type,
            "tags": self.tags,
            "timestamp_s": self.timestamp,
        }


@dataclass(slots=True)
class Fact:
    """Something that can be asked for. `is_settled`: no call is changing it at this moment."""

    question: str
    told: str
    """The sentence with a place for the value."""
    values: list[str]
    """Values that have not been used, the next one last."""
    content: str
    memory_id: str = ""
    stored_s: float = 0.0
    """When it was acknowledged, on the clock of the run."""
    changes: int = 0
    is_settled: bool = True


class Stories:
    """Notes and facts without end, the same ones for the same seed. `now_s`: seconds since the epoch."""

    def __init__(self, seed: int, now_s: float) -> None:
        self._random = random.Random(f"{seed} stories")
        self._now_s = now_s
        self._told: set[str] = set()
        self._subjects = [(person, number) for person in _PEOPLE for number in range(len(_FACTS))]
        self._random.shuffle(self._subjects)

    def note(self) -> Note:
        """Small talk and errands."""
        while True:
            content = self._errand()
            if content not in self._told:
                break
        self._told.add(content)
        person = content.split(" ", 1)[0].lower()
        kind = self._random.choice(("conversation", "task", "event"))
        return Note(content, round(self._random.betavariate(2, 5), 2), kind, (person,), self._moment())

    def _errand(self) -> str:
        draw = self._random
        matter = draw.choice(_MATTERS).format(
            day=draw.choice(_DAYS), thing=draw.choice(_THINGS), number=draw.randint(2, 40), hour=draw.randint(6, 22)
        )
        return f"{draw.choice(_PEOPLE)} {draw.choice(_VERBS)} {matter}, {draw.choice(_MOODS)}."

    def _moment(self) -> float:
        return round(self._now_s - self._random.uniform(0, 365 * 86_400), 3)

    def fact(self) -> tuple[Fact, Note] | None:
        """Something that can be asked for; None when all of it has been stored."""
        if not self._subjects:
            return None
        person, number = self._subjects.pop()
        _, told, question, values = _FACTS[number]
        left = list(values)
        self._random.shuffle(left)
        content = told.format(person=person, value=left.pop())
        fact = Fact(question.format(person=person), told.replace("{person}", person), left, content)
        tags = (person.split(" ", 1)[0].lower(), _FACTS[number][0])
        return fact, Note(content, round(self._random.uniform(0.6, 1.0), 2), "fact", tags, self._moment())

    def choose(self, facts: list[Fact]) -> Fact:
        """One of several."""
        return self._random.choice(facts)
