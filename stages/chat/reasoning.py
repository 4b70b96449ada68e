"""An answer's thoughts, as a chat template takes them; pure.

Inside they stand in `message["reasoning"]`. Templates take them in a field beside the content, whose name differs by family, or in
the content between tags, or write none of them and open a thought in the generation prompt.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from stages.chat.rendering import Message, Template

Reasoning = Literal["train", "mask", "strip", "last_turn"]
Style = Literal["field", "parts", "inline", "prompt", "none"]
"""How a template takes thoughts: beside the content; as a part of it; in its text; after a generation prompt that opens one; or not at all."""

FIELDS = ("reasoning_content", "reasoning", "thinking")
"""What templates call them (Qwen and DeepSeek, gpt-oss and LFM the others); each looks for its own, and none writes two."""
INLINE_OPEN, INLINE_CLOSE = "<think>\n", "\n</think>\n\n"

OPENER = re.compile(r"<([^<>/\s]*think[^<>\s]*)>(\s*)\Z")
"""A generation prompt that ends so has opened a thought."""
CLOSER = re.compile(r"(?:</[^<>\s]*think[^<>\s]*>|<\|END_THINKING\|>|<channel\|>)\s*\Z")
"""One that ends so has said that there is none."""

CLOSED = re.compile(r"</[^<>\s]*think[^<>\s]*>")

PROBE, ANSWER = "\ue002", "\ue004"
"""What stands for a thought and an answer while a template is looked at."""
ASKED: list[Message] = [{"role": "user", "content": "\ue003"}]
ASKED_TWICE: list[Message] = [*ASKED, {"role": "assistant", "content": "\ue005"}, *ASKED]


class ThoughtForm(NamedTuple):
    """What a template writes around the thought of an answer."""

    before: str
    """Behind the generation prompt and before the thought."""
    behind: str
    """Between the thought and the answer."""


def choose_kept(messages: Sequence[Message], mode: Reasoning) -> Sequence[Message]:
    """The messages with the thoughts that `template.reasoning` keeps: all, none, or those behind the last question."""
    if mode in ("train", "mask") or not any("reasoning" in message for message in messages):
        return messages
    last = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=-1)
    first_kept = len(messages) if mode == "strip" else last
    return [without_reasoning(message) if place < first_kept else message for place, message in enumerate(messages)]


def without_reasoning(message: Message) -> Message:
    """A message that says no thought."""
    return {key: value for key, value in message.items() if key != "reasoning"}


def hand_over(messages: Sequence[Message], style: Style) -> Sequence[Message]:
    """The messages as the template takes them."""
    if not any("reasoning" in message for message in messages):
        return messages
    return [hand_over_one(message, style) if "reasoning" in message else message for message in messages]


def hand_over_one(message: Message, style: Style) -> Message:
    """A message with a thought as the template takes it."""
    thought = message["reasoning"]
    if style == "inline":
        return {**without_reasoning(message), "content": write_inline(thought, message["content"])}
    if style == "parts":
        parts = [{"type": "thinking", "thinking": thought}, {"type": "text", "text": message["content"]}]
        return {**without_reasoning(message), "content": parts}
    return {**message, **dict.fromkeys(FIELDS, thought)}


def write_inline(thought: str, content: str) -> str:
    """A thought and the answer behind it as one text."""
    return f"{INLINE_OPEN}{thought}{INLINE_CLOSE}{content}"


def find_style(template: Template) -> tuple[Style, ThoughtForm | None]:
    """How a template takes the thought of its last answer, and what it writes around it."""
    for style in ("field", "parts"):
        for beginning in (ASKED, ASKED_TWICE):
            if found := find_form(template, beginning, style):
                return style, found
    prompt = template.try_render(ASKED, add_generation_prompt=True) or ""
    if OPENER.search(prompt):
        return "prompt", ThoughtForm("", close_thought(prompt))
    found = None if CLOSER.search(prompt) else find_form(template, ASKED, "inline")
    # a thought behind one that the template has closed already would be none
    return ("inline", found) if found and not CLOSED.search(found.before) else ("none", None)


def find_form(template: Template, asked: Sequence[Message], style: Style) -> ThoughtForm | None:
    """What is written around a thought that is handed over so; None if it is not written as a thought behind the prompt."""
    answer = hand_over_one({"role": "assistant", "content": ANSWER, "reasoning": PROBE}, style)
    written = template.try_render([*asked, answer]) or ""
    before, thought, behind = written.partition(PROBE)
    between, answered, _ = behind.partition(ANSWER)
    prompt = template.try_render(asked, add_generation_prompt=True) or ""
    if not (thought and answered) or "'type'" in written or '"type"' in written:
        # nothing of it, or the list of parts itself, as Python or JSON spells it
        return None
    if before.startswith(prompt):
        return ThoughtForm(before[len(prompt) :], between)
    return None if style == "inline" else ThoughtForm("", between)


def close_thought(prompt: str) -> str:
    """What ends, at once, the thought that a prompt has opened; empty if it has opened none."""
    opened = OPENER.search(prompt)
    if not opened:
        return ""
    name, space = opened.groups()
    return f"{space}</{name}>{space * 2}"
