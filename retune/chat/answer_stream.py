"""What a model says, piece by piece -> its thoughts and its answer, as they come: the template's own words around them are neither."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from stages.contracts.tokens import AnswerForm


class Piece(NamedTuple):
    """A part of what was said."""

    text: str
    thought: bool
    """Whether it belongs to the thoughts."""


class AnswerStream:
    """The pieces of one answer. `feed` it all that is said in order, then `finish`.

    Args:
        form: what the model's template writes between its generation prompt and an answer.
    """

    def __init__(self, form: AnswerForm) -> None:
        self.opens, self.closes, self.gap, self.ends = form["opens"], form["closes"], form["gap"], form["ends"]
        self.held: list[tuple[str, bool]] = []
        """(text, whether it is a control token's) of what cannot be told yet."""
        # where the prompt itself opens the thoughts, they come at once
        self.where = "thoughts" if self.closes and not self.opens else "head" if self.opens or self.gap else "answer"
        self.at_edge = False
        """Whether white space is left out: after the template's own words."""

    def feed(self, text: str, *, control: bool) -> Iterator[Piece]:
        """The pieces that are certain with this text; `control`: it is a control token's."""
        self.held.append((text, control))
        yield from self.read_on()

    def finish(self) -> Iterator[Piece]:
        """What was held back."""
        yield from self.take(len(self.text()), thought=self.where == "thoughts")

    def text(self) -> str:
        """What is held, with control tokens written out."""
        return "".join(text for text, _ in self.held)

    def read_on(self) -> Iterator[Piece]:
        """Go on with what is held as far as it can be told."""
        if self.where == "head":
            self.read_head()
        if self.where == "thoughts":
            text = self.text()
            at = text.find(self.closes)
            if at < 0:
                yield from self.take(len(text) - count_beginning(text, [self.closes]), thought=True)
                return
            yield from self.take(at, thought=True)
            self.drop(len(self.closes))
            self.where, self.at_edge = "answer", True
        if self.where == "answer":
            text = self.text()
            at = text.find(self.ends) if self.ends else -1
            yield from self.take(at if at >= 0 else len(text) - count_beginning(text, [self.ends]), thought=False)
            if at >= 0:
                self.where = "over"
        if self.where == "over":
            self.held.clear()

    def read_head(self) -> None:
        """Look for what opens an answer; what cannot be it any more is the answer itself."""
        text = self.text()
        begun = text.lstrip()
        for marker, where in ((self.opens, "thoughts"), (self.gap, "answer")):
            if marker and begun.startswith(marker):
                self.drop(len(text) - len(begun) + len(marker))
                self.where, self.at_edge = where, True
                return
        if not any(marker.startswith(begun) for marker in (self.opens, self.gap)):
            self.where = "answer"

    def take(self, count: int, *, thought: bool) -> Iterator[Piece]:
        """The first `count` characters of what is held, without control tokens."""
        text = "".join(part for part, control in self.drop(count) if not control)
        if self.at_edge:
            text = text.lstrip()
            self.at_edge = not text
        if text:
            yield Piece(text, thought)

    def drop(self, count: int) -> list[tuple[str, bool]]:
        """Take the first `count` characters out of what is held; they are given back."""
        taken: list[tuple[str, bool]] = []
        while count and self.held:
            text, control = self.held.pop(0)
            taken.append((text[:count], control))
            if len(text) > count:
                self.held.insert(0, (text[count:], control))
            count -= len(taken[-1][0])
        return taken


def count_beginning(text: str, markers: Iterable[str]) -> int:
    """How many characters at the end of a text may be the beginning of a marker."""
    lengths = [length for marker in markers for length in range(1, len(marker)) if text.endswith(marker[:length])]
    return max(lengths, default=0)
