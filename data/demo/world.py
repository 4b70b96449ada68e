"""The demo's little world: who is where and who has what, told, asked and answered in plain English.

Everything is a pure function of the `random.Random` that it is given, so the same seed gives the same text on every machine.
The base model learns this world with **short** answers ("In the attic.", "Tezo."); the demo's dataset wants the **full**
ones ("Tezo is in the attic.").

Only the standard library: the GPU host and the tests import it as it is.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

NAMES = (
    "Abel", "Bika", "Cato", "Dara", "Eino", "Finn", "Gita", "Hugo", "Ivan", "Juno", "Kori", "Lani", "Milo", "Nora",
    "Oska", "Pavi", "Remi", "Sela", "Tezo", "Ulla", "Vera", "Wim", "Yuko", "Zuri",
)  # fmt: skip
PLACES = (
    "attic", "cellar", "kitchen", "garden", "library", "tower", "stable", "forest", "market", "bakery", "chapel",
    "cave", "mill", "barn", "school", "castle",
)  # fmt: skip
THINGS = (
    "lamp", "key", "book", "drum", "rope", "cup", "hat", "coat", "clock", "map", "bell", "flute", "ring", "kite",
    "coin", "spoon",
)  # fmt: skip
COLORS = (
    "red", "blue", "green", "yellow", "white", "black", "brown", "golden",
)  # fmt: skip

HAS_A_THING = 0.75  # share of people who have something
FACTS_IN_SYSTEM_TURN, SYSTEM_TURN = 0.3, 0.75  # shares of dialogues whose system turn tells the facts; that have one
TOLD_AGAIN = 0.5  # share of stories that tell again; the others ask and answer
FEWEST_FOR_NEWS = 3  # questions that a dialogue must have for somebody to be kept back

SYSTEM_TEXTS = (
    "You know this village well.",
    "You keep the book of this village.",
    "Answer the questions about the village.",
    "You are a helpful villager.",
)


class Person(NamedTuple):
    """One inhabitant: where they are and, unless `thing` is empty, what they have and its color."""

    name: str
    place: str
    color: str
    thing: str


class Question(NamedTuple):
    """A question with its two right answers: the base model's (`short`) and the demo task's (`full`)."""

    kind: str
    text: str
    short: str
    full: str


class Turn(NamedTuple):
    """One message, kept as sentences; joined by single spaces they are its content."""

    role: str
    sentences: tuple[str, ...]

    @property
    def content(self) -> str:
        """The message's text."""
        return " ".join(self.sentences)


def people(rng: Random, count: int) -> list[Person]:
    """`count` inhabitants with different names, places and things; about one in four has nothing."""
    names, places, things = (rng.sample(words, count) for words in (NAMES, PLACES, THINGS))
    return [
        Person(name, place, *((rng.choice(COLORS), thing) if rng.random() < HAS_A_THING else ("", "")))
        for name, place, thing in zip(names, places, things, strict=True)
    ]


def tell(person: Person) -> list[str]:
    """The sentences that say everything about one person."""
    where = f"{person.name} is in the {person.place}."
    return [where, f"{person.name} has the {person.color} {person.thing}."] if person.thing else [where]


def tell_all(rng: Random, group: list[Person]) -> list[str]:
    """All sentences about a group, in random order."""
    sentences = [sentence for person in group for sentence in tell(person)]
    rng.shuffle(sentences)
    return sentences


def _where(rng: Random, p: Person) -> Question:
    text = rng.choice((f"Where is {p.name}?", f"Where can I find {p.name}?"))
    return Question("where", text, f"In the {p.place}.", f"{p.name} is in the {p.place}.")


def _who_is(_rng: Random, p: Person) -> Question:
    return Question("who_is", f"Who is in the {p.place}?", f"{p.name}.", f"{p.name} is in the {p.place}.")


def _what(rng: Random, p: Person) -> Question:
    text = rng.choice((f"What does {p.name} have?", f"What has {p.name} got?"))
    return Question("what", text, f"The {p.color} {p.thing}.", f"{p.name} has the {p.color} {p.thing}.")


def _who_has(rng: Random, p: Person) -> Question:
    text = rng.choice((f"Who has the {p.thing}?", f"Who has got the {p.thing}?"))
    return Question("who_has", text, f"{p.name}.", f"{p.name} has the {p.color} {p.thing}.")


def _color(_rng: Random, p: Person) -> Question:
    return Question(
        "color", f"What color is the {p.thing}?", f"{p.color.capitalize()}.", f"The {p.thing} is {p.color}."
    )


_ASK: dict[str, Callable[[Random, Person], Question]] = {
    "where": _where, "who_is": _who_is, "what": _what, "who_has": _who_has, "color": _color,
}  # fmt: skip
ALL_KINDS = tuple(_ASK)
NEEDS_NOTHING = ("where", "who_is")  # kinds that can be asked about somebody who has nothing
KNOWN_KINDS = ("where", "who_is", "what")  # kinds that the base model answers without fault: the dataset asks these


def ask(rng: Random, group: list[Person], kinds: tuple[str, ...]) -> Question:
    """A question about one of the group, of one of `kinds` that has an answer."""
    person = rng.choice(group)
    return _ASK[rng.choice([kind for kind in kinds if person.thing or kind in NEEDS_NOTHING])](rng, person)


def ask_many(rng: Random, group: list[Person], count: int, kinds: tuple[str, ...]) -> list[Question]:
    """Up to `count` questions, no two with the same kind and answer."""
    asked: dict[tuple[str, str], Question] = {}
    for _ in range(4 * count):
        question = ask(rng, group, kinds)
        asked.setdefault((question.kind, question.full), question)
        if len(asked) == count:
            break
    return list(asked.values())


def conversation(
    rng: Random, group: list[Person], questions: int, *, full: bool, kinds: tuple[str, ...] = ALL_KINDS
) -> list[Turn]:
    """A dialogue about `group`: what is known stands in the system turn or in the user's first turn.

    One dialogue in three keeps one person back and tells of them in a later user turn. Answers are short, or full if asked.
    """
    late = group[-1:] if len(group) > 1 and questions >= FEWEST_FOR_NEWS and rng.random() < 1 / 3 else []
    known = group[: len(group) - len(late)]
    facts = tell_all(rng, known)
    turns: list[Turn] = []
    place_of_facts = rng.random()
    if place_of_facts < FACTS_IN_SYSTEM_TURN:
        turns.append(Turn("system", (rng.choice(SYSTEM_TEXTS), *facts)))
        facts = []
    elif place_of_facts < SYSTEM_TURN:
        turns.append(Turn("system", (rng.choice(SYSTEM_TEXTS),)))
    before = questions // 2 if late else questions
    asked = ask_many(rng, known, before, kinds)
    turns += _asked_and_answered(facts, asked, full)
    if late:
        news = tell_all(rng, late)
        seen = {(question.kind, question.full) for question in asked}
        fresh = [q for q in ask_many(rng, group, questions, kinds) if (q.kind, q.full) not in seen]
        turns += _asked_and_answered(news, fresh[: questions - len(asked)], full)
    return turns


def _asked_and_answered(facts: list[str], questions: list[Question], full: bool) -> list[Turn]:
    """User and assistant in turn; the facts stand before the first question."""
    turns: list[Turn] = []
    for number, question in enumerate(questions):
        turns.append(Turn("user", (*(facts if number == 0 else ()), question.text)))
        turns.append(Turn("assistant", (question.full if full else question.short,)))
    return turns


def story(rng: Random, group: list[Person], retellings: int) -> tuple[list[str], list[str]]:
    """Plain prose, no roles: the sentences that tell the facts, and then sentences that follow from them.

    The second part tells the facts again in another order, or asks and answers in full: this is where the base model
    meets whole sentences, never as an assistant.
    """
    first = tell_all(rng, group)
    then: list[str] = []
    if rng.random() < TOLD_AGAIN:
        for _ in range(retellings):
            then += tell_all(rng, group)
    else:
        for question in ask_many(rng, group, 4 * retellings, ALL_KINDS):
            then += [question.text, question.full]
    return first, then
