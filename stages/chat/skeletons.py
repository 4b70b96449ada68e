"""The text that a template writes between contents, for each sequence of roles: found once, and held against every dialogue.

The template is rendered with placeholders, which gives the text between contents: where the answers stand, how much white space
the model writes itself after the generation prompt, and what ends a turn. Each dialogue is rendered for real and must equal the
skeleton filled with its contents, byte for byte.
"""

from collections.abc import Callable, Sequence

from stages.chat.rendering import Message
from stages.chat.row_rules import TURN_NOT_RENDERED
from stages.chat.turns import (
    PLACEHOLDER,
    AnswerPlace,
    DialogueSkeleton,
    Span,
    Turns,
    end_of_turn_at,
    gap_before,
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


def find_skeleton(turns: Turns, roles: tuple[str, ...]) -> DialogueSkeleton | str | None:
    """The skeleton of a sequence of roles, made once; the rule that refuses it; or None: look at each dialogue's own prefixes."""
    if roles in (known := turns.skeletons):
        return known[roles]
    skeleton = make_skeleton(turns, roles)
    if len(known) < MOST_SKELETONS:
        known[roles] = skeleton
    return skeleton


def make_skeleton(turns: Turns, roles: tuple[str, ...]) -> DialogueSkeleton | str | None:
    """Render placeholders, bare and with white space at their edges, and look at what is between them."""
    plain = turns.template.try_render(make_placeholders(roles))
    spaced = turns.template.try_render(make_placeholders(roles, EDGE))
    if plain is None or spaced is None:
        return None
    bare, edged = PLACEHOLDER.split(plain), PLACEHOLDER.split(spaced)
    order = [str(index) for index in range(len(roles))]
    if not set(order) <= set(bare[1::2]):
        return TURN_NOT_RENDERED
    if bare[1::2] != order or edged[1::2] != order:
        return None
    literals = bare[::2]
    kept = find_kept_edges(literals, edged[::2])
    if kept is None:
        return None
    answers = []
    for index in (index for index, role in enumerate(roles) if role == "assistant"):
        end = end_of_turn_at(turns, literals[index + 1], last=index == len(roles) - 1)
        if end is None:
            return None
        before = plain[: plain.index(f"\ue000{index}\ue001")]
        prompt = turns.template.try_render(make_placeholders(roles[:index]), add_generation_prompt=True)
        answers.append(AnswerPlace(index, gap_before(before, prompt), end))
    control_tokens = len(turns.special.findall("\ue000".join(literals)))
    return DialogueSkeleton(tuple(literals), tuple(TRIMS[edges] for edges in kept), tuple(answers), control_tokens)


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


def match_skeleton(skeleton: DialogueSkeleton, messages: Sequence[Message], text: str) -> list[Span] | None:
    """The assistant's spans, if the skeleton filled with the contents is the text; else None."""
    if not text.startswith(skeleton.literals[0]):
        return None
    places = []
    at = len(skeleton.literals[0])
    for message, fill, literal in zip(messages, skeleton.fill, skeleton.literals[1:], strict=True):
        content = fill(message["content"])
        end = at + len(content)
        if not (text.startswith(content, at) and text.startswith(literal, end)):
            return None
        places.append((at, end))
        at = end + len(literal)
    if at != len(text):
        return None
    return [
        Span(places[answer.message][0] - answer.gap, (end := places[answer.message][1]), end + len(answer.end_of_turn))
        for answer in skeleton.answers
    ]
