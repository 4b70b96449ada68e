"""The assistant's spans of a dialogue with tools: each answer is replaced by a mark, and what does not change is not the answer's.

A call is written by the template out of structured data (`{"name": ..., "parameters": ...}`), and tool definitions stand wherever
the template puts them, so there is no content to look for. The dialogue is rendered once more for each answer, with a mark
in place of that answer alone: the text before the mark and behind it must be the dialogue's own, and what is between is the answer.
Then it is held against the message: its content, the names of the functions, and every string and number of the arguments.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from stages.chat.rendering import Dialogue, Message, RenderingTooLargeError, TemplateRefusedError
from stages.chat.row_rules import SPANS_UNVERIFIED, TOOLS_NOT_RENDERED, TURN_NOT_RENDERED
from stages.chat.turns import Span, Turns, end_of_turn_at

MARK = "\ue0000\ue001"


def replaced_spans(turns: Turns, dialogue: Dialogue, text: str) -> list[Span] | str:
    """The spans of all answers in `text`, the dialogue's rendering; or the rule that refuses it."""
    if missing := not_rendered(turns, dialogue, text):
        return missing
    spans: list[Span] = []
    for index, message in enumerate(dialogue.messages):
        if message["role"] != "assistant":
            continue
        span = replaced_span(turns, dialogue, text, index) or prompted_span(turns, dialogue, text, index)
        if span is None or (spans and span.start < spans[-1].end):
            return SPANS_UNVERIFIED
        if not all(is_written(value, text[span.start : span.content_end]) for value in said(message)):
            return TOOLS_NOT_RENDERED if "tool_calls" in message else SPANS_UNVERIFIED
        spans.append(span)
    return spans


def not_rendered(turns: Turns, dialogue: Dialogue, text: str) -> str | None:
    """The rule that a dialogue breaks whose tools or other turns the template leaves out, or None."""
    names = [tool.get("function", tool).get("name") for tool in dialogue.tools or ()]
    if not all(isinstance(name, str) and is_written(name, text) for name in names):
        return TOOLS_NOT_RENDERED
    if dialogue.tools and text == without_tools(turns, dialogue):
        return TOOLS_NOT_RENDERED
    others = [message["content"] for message in dialogue.messages if message["role"] != "assistant"]
    return None if all(is_written(content, text) for content in others) else TURN_NOT_RENDERED


def without_tools(turns: Turns, dialogue: Dialogue) -> str | None:
    """The dialogue as the template writes it without definitions; None if it refuses that."""
    try:
        return turns.template.render(dialogue.messages)
    except (TemplateRefusedError, RenderingTooLargeError):
        return None


def replaced_span(turns: Turns, dialogue: Dialogue, text: str, index: int) -> Span | None:
    """The span of message `index`; None if the text around it is not the same with a mark in its place."""
    messages = list(dialogue.messages)
    messages[index] = {"role": "assistant", "content": MARK}
    try:
        before, mark, behind = turns.template.render(messages, tools=dialogue.tools).partition(MARK)
    except (TemplateRefusedError, RenderingTooLargeError):
        return None
    end = end_of_turn_at(turns, behind, last=index == len(messages) - 1) if mark else None
    if end is None:
        return None
    start = len(before) - gap_before(turns, dialogue, index, before)
    if not text.startswith(before):
        # white space before a content that a call does not have
        start = min(start, len(before.rstrip()))
        if not text.startswith(before[:start]):
            return None
    if len(text) - len(behind) >= start and text.endswith(behind):
        content_end = len(text) - len(behind)
    else:
        rest = behind[len(end) :]
        head = text.removesuffix(rest)
        token = turns.special.findall(head)[-1:]
        if not text.endswith(rest) or not token or not head.endswith(token[0]):
            return None
        end, content_end = token[0], len(head) - len(token[0])
    return Span(start, content_end, content_end + len(end)) if start <= content_end else None


def prompted_span(turns: Turns, dialogue: Dialogue, text: str, index: int) -> Span | None:
    """The span of a call in a template that refuses a tool's result without one: what the message adds to its prompt."""
    before = dialogue.messages[:index]
    try:
        prompt = turns.template.render(before, tools=dialogue.tools, add_generation_prompt=True)
        upto = turns.template.render(dialogue.messages[: index + 1], tools=dialogue.tools).rstrip()
    except (TemplateRefusedError, RenderingTooLargeError):
        return None
    end = turns.special.findall(upto)[-1:]
    if not end or not upto.endswith(end[0]) or not upto.startswith(prompt) or not text.startswith(upto):
        return None
    return Span(len(prompt), len(upto) - len(end[0]), len(upto))


def gap_before(turns: Turns, dialogue: Dialogue, index: int, before: str) -> int:
    """White space (characters) between the generation prompt and an answer: the model writes it, so it is trained."""
    try:
        prompt = turns.template.render(dialogue.messages[:index], tools=dialogue.tools, add_generation_prompt=True)
    except (TemplateRefusedError, RenderingTooLargeError):
        prompt = ""
    if prompt and before.startswith(prompt) and not before[len(prompt) :].strip():
        return len(before) - len(prompt)
    return len(before) - len(before.rstrip(" "))


def said(message: Message) -> Iterator[str]:
    """What an assistant's turn must show: its content, and of its calls the names and every value of the arguments."""
    if content := message["content"].strip():
        yield content
    for call in message.get("tool_calls", ()):
        function = call["function"]
        yield function["name"]
        yield from leaves(function["arguments"])


def leaves(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    """Every string and number of a JSON value, and the keys of its objects."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif isinstance(value, str):
        yield value
    elif value is not None and not isinstance(value, bool):
        yield json.dumps(value)


def is_written(value: str, text: str) -> bool:
    """Whether a string stands in the text as it is (trimmed), or as JSON writes it, once or inside a JSON string."""
    value = value.strip()
    if value in text:
        return True
    for ascii_only in (False, True):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        if once in text or json.dumps(once, ensure_ascii=ascii_only)[1:-1] in text:
            return True
    return False
