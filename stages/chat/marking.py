"""A dialogue -> its text, with the assistant's turns marked in it, for any chat template; pure, and without a tokenizer.

No table of marker strings says where the turns stand. In order:

- a plain dialogue is held against the skeleton of its roles (stages/chat/skeletons.py);
- one with tools is rendered again with a placeholder for each answer (stages/chat/spans_by_substitution.py);
- where a template changes contents, the spans come from renderings of the dialogue's prefixes (stages/chat/spans_by_prefix.py).

A second rendering costs more than the rest, so it is made only where the skeleton does not fit.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from stages.chat.rendering import Dialogue, Message, RenderingTooLargeError, TemplateRefusedError
from stages.chat.row_rules import (
    CONTROL_TOKEN_IN_CONTENT,
    NO_ASSISTANT_TURN,
    RENDERING_TOO_LARGE,
    SPANS_UNVERIFIED,
    TEMPLATE_REFUSED,
    TOOLS_NOT_RENDERED,
    TURN_IN_CONTENT,
)
from stages.chat.skeletons import find_skeleton, match_skeleton
from stages.chat.spans_by_prefix import find_spans_by_prefix
from stages.chat.spans_by_substitution import find_spans_by_substitution
from stages.chat.turns import DialogueSkeleton, Span, Turns


class Rendered(NamedTuple):
    """A dialogue's text and what is known of it."""

    text: str
    spans: list[Span]
    """Of all answers, in their order."""
    control_tokens: int
    """How many special tokens the text must hold once it is tokenized."""
    pieces: list[str] | None = None
    """Where contents hold control tokens that stay text: the text cut at its real control tokens, piece, token, piece, ..., piece."""


def mark_answers(turns: Turns, dialogue: Dialogue, *, split: bool = False) -> Rendered | str:
    """The dialogue's text with the assistant's spans, or the rule that refuses it.

    `split`: control tokens in a content do not refuse it; they are to stay text.
    """
    messages, tools = dialogue.messages, dialogue.tools
    with_tools = bool(tools) or any("tool_calls" in message for message in messages)
    forged = any(turns.forbidden.search(message["content"]) for message in messages)
    refused = forged and not (split and may_stay_text(turns, messages))
    if rule := find_broken_rule(turns, dialogue, with_tools=with_tools, forged=refused):
        return rule
    try:
        text = turns.template.render(messages, tools=tools)
    except RenderingTooLargeError:
        return RENDERING_TOO_LARGE
    except TemplateRefusedError:
        return TOOLS_NOT_RENDERED if with_tools else TEMPLATE_REFUSED
    if not with_tools:
        return mark_plain(turns, messages, text, forged=forged)
    spans = find_spans_by_substitution(turns, dialogue, text)
    return spans if isinstance(spans, str) else Rendered(text, spans, len(turns.special.findall(text)))


def find_broken_rule(turns: Turns, dialogue: Dialogue, *, with_tools: bool, forged: bool) -> str | None:
    """The rule that refuses a dialogue before it is rendered, or None."""
    messages = dialogue.messages
    if not any(message["role"] == "assistant" for message in messages):
        return NO_ASSISTANT_TURN
    if forged or (with_tools and forges(turns, dialogue)):
        return CONTROL_TOKEN_IN_CONTENT
    if turns.between and any(turns.between.search(message["content"]) for message in messages):
        return TURN_IN_CONTENT
    return None


def mark_plain(turns: Turns, messages: Sequence[Message], text: str, *, forged: bool) -> Rendered | str:
    """The spans of a dialogue without tools, whose contents may hold control tokens only where the skeleton tells them from real ones."""
    skeleton = find_skeleton(turns, tuple([message["role"] for message in messages]))
    if isinstance(skeleton, str):
        return skeleton
    if skeleton and (spans := match_skeleton(skeleton, messages, text)):
        pieces = cut_at_controls(turns, skeleton, messages) if forged else None
        return Rendered(text, spans, skeleton.control_tokens, pieces)
    if forged:
        return CONTROL_TOKEN_IN_CONTENT
    found = find_spans_by_prefix(turns, messages, text)
    return Rendered(text, found, len(turns.special.findall(text))) if found else SPANS_UNVERIFIED


def may_stay_text(turns: Turns, messages: Sequence[Message]) -> bool:
    """Whether the control tokens in contents can be told from real ones: not those that are spelled out themselves."""
    return not any(turns.spelled.search(message["content"]) for message in messages)


def forges(turns: Turns, dialogue: Dialogue) -> bool:
    """Whether a control token stands anywhere in a dialogue with tools: in a content, a definition, a call or its arguments."""
    everything = [dialogue.tools, list(dialogue.messages)]
    return bool(turns.forbidden.search(json.dumps(everything, ensure_ascii=False)))


def cut_at_controls(turns: Turns, skeleton: DialogueSkeleton, messages: Sequence[Message]) -> list[str]:
    """The text of a dialogue cut at the control tokens that the template wrote: piece, token, piece, ..., piece."""
    pieces = [""]
    contents = [fill(message["content"]) for message, fill in zip(messages, skeleton.fill, strict=True)]
    for literal, content in zip(skeleton.literals, [*contents, ""], strict=True):
        at = 0
        for match in turns.special.finditer(literal):
            pieces[-1] += literal[at : match.start()]
            pieces += [match.group(), ""]
            at = match.end()
        pieces[-1] += literal[at:] + content
    return pieces
