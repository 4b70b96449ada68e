"""A dialogue -> its text, with the assistant's turns marked in it, for any chat template; pure, and without a tokenizer.

No table of marker strings says where the turns stand. In order:

- a plain dialogue is held against the skeleton of its kinds of messages (stages/chat/skeletons.py);
- one with tools is rendered again with a placeholder for each answer (stages/chat/spans_by_substitution.py);
- where a template changes contents, the spans come from renderings of the dialogue's prefixes (stages/chat/spans_by_prefix.py).

Each answer is marked from the end of its generation prompt on; what breaks that contract is mended or not trained (stages/chat/prompts.py).
A second rendering costs more than the rest, so it is made only where the skeleton does not fit.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from stages.chat.reasoning import choose_kept, hand_over
from stages.chat.rendering import RESERVED, Dialogue, Message, RenderingTooLargeError, TemplateRefusedError
from stages.chat.row_rules import (
    CONTROL_TOKEN_IN_CONTENT,
    NO_ASSISTANT_TURN,
    OPTION_NOT_ALLOWED,
    REASONING_ENDS_TURN,
    REASONING_NOT_RENDERED,
    RENDERING_TOO_LARGE,
    SPANS_UNVERIFIED,
    TEMPLATE_FORBIDDEN,
    TEMPLATE_REFUSED,
    TOOLS_NOT_RENDERED,
    TURN_IN_CONTENT,
)
from stages.chat.script import Script
from stages.chat.skeletons import find_skeleton, match_skeleton
from stages.chat.spans_by_prefix import find_spans_by_prefix
from stages.chat.spans_by_substitution import find_spans_by_substitution
from stages.chat.turns import THINKING, DialogueSkeleton, Span, Turns

TOOL_OPTIONS = ("xml_tools", "python_tools")
"""Options in which a row defines its tools (smoltalk2's way): a template that does not read them shows calls of tools that nobody saw."""


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
    messages, tools, options = dialogue.messages, dialogue.tools, dialogue.options
    thinks = any("reasoning" in message for message in messages)
    if thinks:
        messages = choose_kept(messages, turns.reasoning)
        dialogue = dialogue._replace(messages=messages)
    texts = texts_of(messages) if thinks else [message["content"] for message in messages]
    with_tools = bool(tools) or any("tool_calls" in message for message in messages)
    forged = any(turns.forbidden.search(text) for text in texts)
    refused = forged and not (split and not any(turns.spelled.search(text) for text in texts))
    if rule := find_broken_rule(turns, dialogue, texts, with_tools=with_tools, forged=refused):
        return rule
    try:
        handed = hand_over(messages, turns.style) if thinks else messages
        text = turns.template.render(handed, tools=tools, options=options)
    except RenderingTooLargeError:
        return RENDERING_TOO_LARGE
    except TemplateRefusedError as error:
        if error.forbidden:
            refused_by = TEMPLATE_FORBIDDEN
        elif thinks:
            refused_by = name_without_thoughts(turns, dialogue, split=split)
        else:
            refused_by = name_refusal(turns, messages, dialogue)
        return refused_by
    if options and any(options.get(name) and is_unread(turns, handed, dialogue, name, text) for name in TOOL_OPTIONS):
        return TOOLS_NOT_RENDERED
    script = Script(turns, messages, tools, options)
    if not with_tools:
        return mark_plain(script, text, thinks=thinks, forged=forged)
    found = find_spans_by_substitution(script, script.add_end(text))
    if thinks and isinstance(found, str):
        found = name_without_thoughts(turns, dialogue, split=split)
    return found if isinstance(found, str) else Rendered(*found, len(turns.special.findall(found[0])))


def name_without_thoughts(turns: Turns, dialogue: Dialogue, *, split: bool) -> str:
    """The rule for a dialogue with thoughts that breaks one: its own without them; or it is for them, and the template takes it without."""
    bare = mark_answers(turns, dialogue._replace(messages=choose_kept(dialogue.messages, "strip")), split=split)
    return bare if isinstance(bare, str) else REASONING_NOT_RENDERED


def texts_of(messages: Sequence[Message]) -> list[str]:
    """What messages say: contents and thoughts."""
    return [message[key] for message in messages for key in ("content", "reasoning") if key in message]


def is_unread(turns: Turns, messages: Sequence[Message], dialogue: Dialogue, name: str, text: str) -> bool:
    """Whether the text is the same without one of the row's options."""
    others = {key: value for key, value in (dialogue.options or {}).items() if key != name}
    return turns.template.try_render(messages, tools=dialogue.tools, options=others) == text


def name_refusal(turns: Turns, messages: Sequence[Message], dialogue: Dialogue) -> str:
    """The rule for a dialogue that the template refuses: whether it is the tools that it refuses."""
    # without calls and what they gave back the roles take turns as before
    spoken = [message for message in messages if message["role"] != "tool" and "tool_calls" not in message]
    if len(spoken) == len(messages) and not dialogue.tools:
        return TEMPLATE_REFUSED
    plain = [{"role": message["role"], "content": message["content"]} for message in spoken]
    return (
        TEMPLATE_REFUSED if turns.template.try_render(plain, options=dialogue.options) is None else TOOLS_NOT_RENDERED
    )


def find_broken_rule(
    turns: Turns, dialogue: Dialogue, texts: Sequence[str], *, with_tools: bool, forged: bool
) -> str | None:
    """The rule that refuses a dialogue before it is rendered, or None."""
    if not any(message["role"] == "assistant" for message in dialogue.messages):
        return NO_ASSISTANT_TURN
    if dialogue.options and not RESERVED.isdisjoint(dialogue.options):
        return OPTION_NOT_ALLOWED
    if turns.stop_closes_thought and any("reasoning" in message for message in dialogue.messages):
        return REASONING_ENDS_TURN
    if (
        forged
        or (with_tools and forges(turns, [dialogue.tools, list(dialogue.messages)]))
        or forges(turns, dialogue.options)
    ):
        return CONTROL_TOKEN_IN_CONTENT
    if turns.between and any(turns.between.search(text) for text in texts):
        return TURN_IN_CONTENT
    return None


def mark_plain(script: Script, text: str, *, thinks: bool, forged: bool) -> Rendered | str:
    """The spans of a dialogue without tools, whose contents may hold control tokens only where the skeleton tells them from real ones."""
    turns, messages = script.turns, script.messages
    roles = [message["role"] for message in messages]
    if thinks:
        roles = [THINKING if "reasoning" in message else role for message, role in zip(messages, roles, strict=True)]
    skeleton = find_skeleton(turns, tuple(roles), script.options)
    if isinstance(skeleton, str):
        return skeleton
    if skeleton and (matched := match_skeleton(skeleton, messages, text)):
        pieces = cut_at_controls(turns, skeleton, messages) if forged else None
        return Rendered(*matched, skeleton.control_tokens, pieces)
    if forged:
        return CONTROL_TOKEN_IN_CONTENT
    found = find_spans_by_prefix(script, script.add_end(text))
    return Rendered(*found, len(turns.special.findall(found[0]))) if found else SPANS_UNVERIFIED


def forges(turns: Turns, value: object) -> bool:
    """Whether a control token stands anywhere in JSON that the template may write: definitions, calls and their arguments, options."""
    return bool(value) and bool(turns.forbidden.search(json.dumps(value, ensure_ascii=False)))


def cut_at_controls(turns: Turns, skeleton: DialogueSkeleton, messages: Sequence[Message]) -> list[str]:
    """The text of a dialogue cut at the control tokens that the template wrote: piece, token, piece, ..., piece."""
    pieces = [""]
    frame = skeleton.written
    contents = [fill(messages[slot.message][slot.field]) for slot, fill in zip(frame.slots, frame.fill, strict=True)]
    for literal, content in zip(frame.literals, [*contents, ""], strict=True):
        at = 0
        for match in turns.special.finditer(literal):
            pieces[-1] += literal[at : match.start()]
            pieces += [match.group(), ""]
            at = match.end()
        pieces[-1] += literal[at:] + content
    return pieces
