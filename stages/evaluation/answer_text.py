"""The ids that a model said -> the answer that people read, and the thoughts before it."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

from stages.contracts.tokens import AnswerForm


class Said(NamedTuple):
    """What was said, decoded without control tokens, without white space at the edges."""

    thoughts: str | None
    """None: it did not think."""
    text: str
    """The answer; empty where the thoughts did not end."""


def read_answer(tokenizer: Any, ids: Sequence[int], end: Sequence[int], form: AnswerForm) -> Said:  # noqa: ANN401 - tokenizers ships no types that mypy reads
    """What an answer says.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        ids: from the generation prompt on, with what ends the turn or without.
        end: the ids of the end of turn.
        form: of the shipped template (data/tokens/summary.json, `answer`).
    """
    ended = bool(end) and list(ids[-len(end) :]) == list(end)
    spoken = list(ids[: -len(end)] if ended else ids)
    if ended and form["ends"]:
        spoken = cut_words_before_stop(tokenizer, spoken, form["ends"])

    def decode(start: int, stop: int, *, controls: bool = False) -> str:
        return str(tokenizer.decode(spoken[start:stop], skip_special_tokens=not controls))

    def cut(start: int, marker: str) -> tuple[str, int, str] | None:
        """(the text from `start` up to a marker, how many ids that and the marker take, what the last of them says behind it)."""
        if marker not in decode(start, len(spoken), controls=True):
            return None
        counts = range(start, len(spoken) + 1)
        stop = counts[bisect_left(counts, 1, key=lambda count: marker in decode(start, count, controls=True))]
        before, _, behind = decode(start, stop, controls=True).partition(marker)
        return before, stop, behind

    whole = decode(0, len(spoken), controls=True).lstrip()
    if form["closes"] and whole.startswith(form["opens"]):
        opened = cut(0, form["opens"]) if form["opens"] else None
        begin, first = opened[1:] if opened else (0, "")
        closed = cut(begin, form["closes"])
        if closed:
            thoughts, after, behind = closed
            return Said((first + thoughts).strip() or None, (behind + decode(after, len(spoken))).strip())
        if opened or not form["opens"]:
            return Said((first + decode(begin, len(spoken))).strip() or None, "")
    if form["gap"] and whole.startswith(form["gap"]) and (skipped := cut(0, form["gap"])):
        return Said(None, (skipped[2] + decode(skipped[1], len(spoken))).strip())
    return Said(None, decode(0, len(spoken)).strip())


def cut_words_before_stop(tokenizer: Any, spoken: Sequence[int], ends: str) -> list[int]:  # noqa: ANN401 - tokenizers ships no types that mypy reads
    """The ids of an answer without the template's own words at its end, if they stand there."""
    for count in range(1, len(spoken) + 1):
        said = str(tokenizer.decode(spoken[-count:], skip_special_tokens=False)).strip()
        if said == ends:
            return list(spoken[:-count])
        if len(said) > len(ends):
            break
    return list(spoken)
