"""The text that a template writes between contents, for each sequence of roles: found once, and held against every dialogue.

The template is rendered with marks in place of contents, which gives the text between contents: where the answers stand, how
much white space the model writes itself after the generation prompt, and what ends a turn. Each dialogue is rendered for real
and must equal the skeleton filled with its contents, byte for byte.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stages.chat.rendering import Message, RenderingTooLargeError, Template, TemplateRefusedError
from stages.chat.row_rules import TURN_NOT_RENDERED
from stages.chat.turns import MARK, Span, Turns, end_of_turn_at, marked

EDGE = " \n\t "
TRIMS: dict[tuple[bool, bool], Callable[[str], str]] = {
    (True, True): str,
    (False, True): str.lstrip,
    (True, False): str.rstrip,
    (False, False): str.strip,
}
"""By whether white space at the left and at the right of a content is written."""
MOST_SKELETONS = 4_096


class Answer(NamedTuple):
    """One assistant turn of a skeleton: which message, the white space before its content that the model writes, its end."""

    message: int
    gap: int
    end_of_turn: str


@dataclass(frozen=True)
class Skeleton:
    """What a template writes around the contents, for one sequence of roles."""

    literals: tuple[str, ...]
    """One more than there are messages."""
    fill: tuple[Callable[[str], str], ...]
    """How each content is written: as it is, or trimmed on one side or both."""
    answers: tuple[Answer, ...]
    control_tokens: int


def skeleton_of(turns: Turns, roles: tuple[str, ...]) -> Skeleton | str | None:
    """The skeleton of a sequence of roles, made once."""
    if roles in (known := turns.skeletons):
        return known[roles]
    skeleton = make_skeleton(turns, roles)
    if len(known) < MOST_SKELETONS:
        known[roles] = skeleton
    return skeleton


def make_skeleton(turns: Turns, roles: tuple[str, ...]) -> Skeleton | str | None:
    """Render marks in place of contents, bare and with white space at their edges, and look at what is between them."""
    try:
        bare = MARK.split(turns.template.render(marked(roles)))
        edged = MARK.split(turns.template.render(marked(roles, EDGE)))
    except (TemplateRefusedError, RenderingTooLargeError):
        return None
    order = [str(index) for index in range(len(roles))]
    if not set(order) <= set(bare[1::2]):
        return TURN_NOT_RENDERED
    if bare[1::2] != order or edged[1::2] != order:
        return None
    literals = bare[::2]
    kept = kept_edges(literals, edged[::2])
    if kept is None:
        return None
    fill: list[Callable[[str], str]] = [TRIMS[edges] for edges in kept]
    answers = []
    for index in (index for index, role in enumerate(roles) if role == "assistant"):
        end = end_of_turn_at(turns, literals[index + 1], last=index == len(roles) - 1)
        if end is None:
            return None
        answers.append(Answer(index, written_gap(turns.template, roles, index, literals), end))
    return Skeleton(tuple(literals), tuple(fill), tuple(answers), len(turns.special.findall("\ue000".join(literals))))


def kept_edges(literals: Sequence[str], edged: Sequence[str]) -> list[tuple[bool, bool]] | None:
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


def written_gap(template: Template, roles: tuple[str, ...], index: int, literals: Sequence[str]) -> int:
    """White space (characters) between the generation prompt and the content: the model writes it, so it is trained.

    A template without a generation prompt tells nothing: then only blanks count, which are one token with the first word.
    """
    text = "".join(f"{literal}\ue000{number}\ue001" for number, literal in enumerate(literals[: index + 1]))
    start = text.rindex("\ue000")
    try:
        prompt = template.render(marked(roles[:index]), add_generation_prompt=True)
    except (TemplateRefusedError, RenderingTooLargeError):
        prompt = ""
    if prompt and text.startswith(prompt) and len(prompt) <= start and not text[len(prompt) : start].strip():
        return start - len(prompt)
    return len(literals[index]) - len(literals[index].rstrip(" "))


def filled_spans(skeleton: Skeleton, dialogue: Sequence[Message], text: str) -> list[Span] | None:
    """The assistant's spans, if the skeleton filled with the contents is the text; else None."""
    if not text.startswith(skeleton.literals[0]):
        return None
    starts = []
    at = len(skeleton.literals[0])
    for message, fill, literal in zip(dialogue, skeleton.fill, skeleton.literals[1:], strict=True):
        content = fill(message["content"])
        end = at + len(content)
        if not (text.startswith(content, at) and text.startswith(literal, end)):
            return None
        starts.append((at, end))
        at = end + len(literal)
    if at != len(text):
        return None
    return [
        Span(starts[answer.message][0] - answer.gap, (end := starts[answer.message][1]), end + len(answer.end_of_turn))
        for answer in skeleton.answers
    ]
