"""The text that a template writes between contents, for each sequence of kinds of messages: found once, and held against every dialogue.

The template is rendered with placeholders, which gives the text between contents and thoughts: where the answers stand, what of it
the model writes itself after the generation prompt, and what ends a turn. Each dialogue is rendered for real and must equal the
skeleton filled with its contents, byte for byte. Where the last answer does not go on from its generation prompt, the text that is
trained has another literal there (stages/chat/prompts.py).
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.chat.prompts import continue_prompt, name_difference, name_dropped, write_dropped_thought
from stages.chat.reasoning import ThoughtForm, hand_over
from stages.chat.rendering import Message
from stages.chat.row_rules import TURN_NOT_RENDERED
from stages.chat.turns import (
    PLACEHOLDER,
    THINKING,
    AnswerPlace,
    DialogueSkeleton,
    Frame,
    Slot,
    Span,
    Turns,
    cut_inner_end,
    end_of_turn_at,
    make_placeholders,
)

EDGE = " \n\t "
TRIMS: dict[tuple[bool, bool], Callable[[str], str]] = {
    (True, True): str,
    (False, True): str.lstrip,
    (True, False): str.rstrip,
    (False, False): str.strip,
}
"""By whether white space at the left and at the right of a content is written."""
MOST_SKELETONS = 4_096
PLACEHOLDERS = "\ue000"
"""What every placeholder begins with."""


def find_skeleton(
    turns: Turns, kinds: tuple[str, ...], options: Mapping[str, Any] | None = None
) -> DialogueSkeleton | str | None:
    """The skeleton of a sequence of kinds of messages, made once; the rule that refuses it; or None: look at each dialogue's own prefixes.

    `kinds`: of each message its role, and for an answer with a thought THINKING. `options`: those of the row itself.
    """
    key = (*kinds, json.dumps(options)) if options else kinds
    if key in (known := turns.skeletons):
        return known[key]
    skeleton = SkeletonMaker(turns, kinds, options).make()
    if len(known) < MOST_SKELETONS:
        known[key] = skeleton
    return skeleton


@dataclasses.dataclass(frozen=True)
class SkeletonMaker:
    """Renders placeholders, bare and with white space at their edges, and looks at what is between them."""

    turns: Turns
    kinds: tuple[str, ...]
    options: Mapping[str, Any] | None

    def make(self) -> DialogueSkeleton | str | None:
        """As `find_skeleton`."""
        plain, spaced = self.render(make_placeholders(self.kinds)), self.render(make_placeholders(self.kinds, EDGE))
        if plain is None or spaced is None:
            return None
        bare, edged = PLACEHOLDER.split(plain), PLACEHOLDER.split(spaced)
        slots = [Slot.of(int(number)) for number in bare[1::2]]
        if not {Slot(place, "content") for place in range(len(self.kinds))} <= set(slots):
            return TURN_NOT_RENDERED
        if slots != sorted(set(slots), key=lambda slot: slot.number) or edged[1::2] != bare[1::2]:
            return None
        kept = find_kept_edges(bare[::2], edged[::2])
        if kept is None:
            return None
        frame = Frame(tuple(bare[::2]), tuple(slots), tuple(TRIMS[edges] for edges in kept))
        written, answers = frame, []
        for place, kind in enumerate(self.kinds):
            if kind in ("assistant", THINKING):
                answer, written = self.place_answer(place, written)
                if answer is None:
                    return None
                answers.append(answer)
        controls = len(self.turns.special.findall(PLACEHOLDERS.join(written.literals)))
        return DialogueSkeleton(frame, written, tuple(answers), controls)

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> str | None:
        """Messages with placeholders, as the template writes them."""
        handed = hand_over(messages, self.turns.style)
        return self.turns.template.try_render(handed, options=self.options, add_generation_prompt=prompt)

    def place_answer(self, place: int, written: Frame) -> tuple[AnswerPlace | None, Frame]:
        """Where the answer of message `place` is trained, and what is written around it, which for the last one may be mended."""
        last = place == len(self.kinds) - 1
        thinks = self.kinds[place] == THINKING
        content = written.slots.index(Slot(place, "content"))
        thought = content - 1 if thinks and Slot(place, "reasoning") in written.slots else None
        end = end_of_turn_at(self.turns, written.literals[content + 1], last=last)
        if end is None and last and self.turns.end_is_added and not written.literals[content + 1]:
            end = self.turns.end_of_turn
            written = written.with_literal(content + 1, end)
        if end is None:
            return None, written
        end = cut_inner_end(self.turns, end)
        first = content if thought is None else thought
        before = written.text_before(first)
        prompt = self.render(make_placeholders(self.kinds[:place]), prompt=True)
        if thinks and thought is None:
            form = self.turns.thought
            added = write_dropped_thought(prompt, before, form) if last and prompt is not None and form else None
            if added is None:
                return AnswerPlace(place, content, 0, end, name_dropped(prompt, last=last)), written
            written = add_thought(written, content, added, before)
            first, content, before = content, content + 1, added.before
        if prompt is None or not before.startswith(prompt):
            mended = self.mend(place, prompt, before, thinks=thinks) if last and prompt is not None else None
            head = before[: len(before) - len(written.literals[first])]
            literal = mended[len(head) :] if mended and mended.startswith(head) else PLACEHOLDERS
            if mended is None or PLACEHOLDERS in literal:
                # the turns before it are not written as they are in training, or the prompt says that there is no thought
                return AnswerPlace(place, content, 0, end, name_difference(prompt, last=last, thinks=thinks)), written
            written, before = written.with_literal(first, literal), mended
        if self.turns.reasoning == "mask" and thinks:
            return AnswerPlace(place, content, 0, end, None), written
        return AnswerPlace(place, first, len(before) - len(str(prompt)), end, None, content), written

    def mend(self, place: int, prompt: str, before: str, *, thinks: bool) -> str | None:
        """What is to stand before the last answer so that it goes on from its prompt."""
        form = None if thinks else self.find_form(place)
        return continue_prompt(prompt, before, form, thinks=thinks)

    def find_form(self, place: int) -> ThoughtForm | None:
        """How the template would write a thought before this answer."""
        if self.turns.style != "field":
            return None
        text = self.render(make_placeholders((*self.kinds[:place], THINKING))) or ""
        before, thought, behind = text.partition(Slot(place, "reasoning").placeholder)
        between, answered, _ = behind.partition(Slot(place, "content").placeholder)
        return ThoughtForm(before, between) if thought and answered else None


def add_thought(frame: Frame, content: int, added: ThoughtForm, before: str) -> Frame:
    """The frame with a slot for the thought that the template leaves out of its text. `before`: the template's text up to the answer."""
    head = before[: len(before) - len(frame.literals[content])]
    literals = [
        *frame.literals[:content],
        added.before.removeprefix(head),
        added.behind,
        *frame.literals[content + 1 :],
    ]
    slots = [*frame.slots[:content], Slot(frame.slots[content].message, "reasoning"), *frame.slots[content:]]
    fill = [*frame.fill[:content], str.strip, *frame.fill[content:]]
    return Frame(tuple(literals), tuple(slots), tuple(fill))


def find_kept_edges(literals: Sequence[str], edged: Sequence[str]) -> list[tuple[bool, bool]] | None:
    """Of each content: whether white space at its left and its right is written; None if some of it is."""
    left, right = [], []
    for index, (literal, seen) in enumerate(zip(literals, edged, strict=True)):
        edges = [
            (before, after)
            for before in ([True, False] if index else [False])
            for after in ([True, False] if index < len(literals) - 1 else [False])
            if seen == before * EDGE + literal + after * EDGE
        ]
        if len(edges) != 1:
            return None
        right.append(edges[0][0])
        left.append(edges[0][1])
    return list(zip(left[:-1], right[1:], strict=True))


def match_skeleton(skeleton: DialogueSkeleton, messages: Sequence[Message], text: str) -> tuple[str, list[Span]] | None:
    """The text that is trained and the assistant's spans in it, if the skeleton filled with the contents is the template's text; else None."""
    frame = skeleton.template
    contents = [fill(messages[slot.message][slot.field]) for slot, fill in zip(frame.slots, frame.fill, strict=True)]
    if not text.startswith(frame.literals[0]):
        return None
    places = []
    at = len(frame.literals[0])
    for content, literal in zip(contents, frame.literals[1:], strict=True):
        end = at + len(content)
        if not (text.startswith(content, at) and text.startswith(literal, end)):
            return None
        places.append((at, end))
        at = end + len(literal)
    if at != len(text):
        return None
    if skeleton.written is not frame:
        text, places = fill_frame(skeleton.written, messages)
    return text, [
        Span(
            places[answer.slot][0] - answer.gap,
            (end := places[answer.content][1]),
            end + len(answer.end_of_turn),
            answer.rule,
        )
        for answer in skeleton.answers
    ]


def fill_frame(frame: Frame, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
    """The text of a frame with its contents, and where each stands in it."""
    pieces, places = [frame.literals[0]], []
    at = len(frame.literals[0])
    for slot, fill, literal in zip(frame.slots, frame.fill, frame.literals[1:], strict=True):
        content = fill(messages[slot.message][slot.field])
        places.append((at, at + len(content)))
        at += len(content) + len(literal)
        pieces += [content, literal]
    return "".join(pieces), places
