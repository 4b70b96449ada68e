"""The assistant's spans of a dialogue with tools: a placeholder is put for each answer, and what does not change is not the answer's.

A call is written by the template out of structured data (`{"name": ..., "parameters": ...}`), and tool definitions stand wherever
the template puts them, so there is no content to look for. The dialogue is rendered once more for each answer, with a placeholder
for that answer alone: the text before it and behind it must be the dialogue's own, and what is between is the answer.
Then it is held against the message: its content, the names of the functions, and every string and number of the arguments.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from stages.chat.rendering import Dialogue, Message
from stages.chat.row_rules import SPANS_UNVERIFIED, TOOLS_NOT_RENDERED, TURN_NOT_RENDERED
from stages.chat.turns import Span, Turns, end_of_turn_at, gap_before, make_placeholders


def find_spans_by_substitution(turns: Turns, dialogue: Dialogue, text: str) -> list[Span] | str:
    """The spans of all answers in `text`, the dialogue's rendering; or the rule that refuses it."""
    if missing := find_unwritten(turns, dialogue, text):
        return missing
    spans: list[Span] = []
    for index, message in enumerate(dialogue.messages):
        if message["role"] != "assistant":
            continue
        span = substitute_answer(turns, dialogue, text, index) or compare_with_prompt(turns, dialogue, text, index)
        if span is None or (spans and span.start < spans[-1].end):
            return SPANS_UNVERIFIED
        if not all(is_written(value, text[span.start : span.content_end]) for value in values_of(message)):
            return TOOLS_NOT_RENDERED if "tool_calls" in message else SPANS_UNVERIFIED
        spans.append(span)
    return spans


def find_unwritten(turns: Turns, dialogue: Dialogue, text: str) -> str | None:
    """The rule that a dialogue breaks whose tools or other turns the template leaves out, or None."""
    names = [tool.get("function", tool).get("name") for tool in dialogue.tools or ()]
    if not all(isinstance(name, str) and is_written(name, text) for name in names):
        return TOOLS_NOT_RENDERED
    if dialogue.tools and text == turns.template.try_render(dialogue.messages):
        return TOOLS_NOT_RENDERED
    others = [message["content"] for message in dialogue.messages if message["role"] != "assistant"]
    return None if all(is_written(content, text) for content in others) else TURN_NOT_RENDERED


def substitute_answer(turns: Turns, dialogue: Dialogue, text: str, index: int) -> Span | None:
    """The span of message `index`; None if the text around it is not the same with a placeholder for it."""
    (placeholder,) = make_placeholders(["assistant"])
    messages = [*dialogue.messages[:index], placeholder, *dialogue.messages[index + 1 :]]
    changed = turns.template.try_render(messages, tools=dialogue.tools) or ""
    before, found, behind = changed.partition(placeholder["content"])
    end = end_of_turn_at(turns, behind, last=index == len(messages) - 1) if found else None
    if end is None:
        return None
    prompt = turns.template.try_render(dialogue.messages[:index], tools=dialogue.tools, add_generation_prompt=True)
    start = len(before) - gap_before(before, prompt)
    if not text.startswith(before):
        # white space before a content that a call does not have
        start = min(start, len(before.rstrip()))
        if not text.startswith(before[:start]):
            return None
    if len(text) - len(behind) >= start and text.endswith(behind):
        content_end = len(text) - len(behind)
    else:
        # a call may end with another token than an answer's
        rest = behind[len(end) :]
        head = text.removesuffix(rest)
        token = last_control_token(turns, head)
        if not text.endswith(rest) or token is None:
            return None
        end, content_end = token, len(head) - len(token)
    return Span(start, content_end, content_end + len(end)) if start <= content_end else None


def compare_with_prompt(turns: Turns, dialogue: Dialogue, text: str, index: int) -> Span | None:
    """The span of a call in a template that refuses a tool's result without one: what the message adds to its prompt."""
    render, messages, tools = turns.template.try_render, dialogue.messages, dialogue.tools
    prompt = render(messages[:index], tools=tools, add_generation_prompt=True)
    whole = render(messages[: index + 1], tools=tools)
    if prompt is None or whole is None:
        return None
    upto = whole.rstrip()
    token = last_control_token(turns, upto)
    if token is None or not upto.startswith(prompt) or not text.startswith(upto):
        return None
    return Span(len(prompt), len(upto) - len(token), len(upto))


def last_control_token(turns: Turns, text: str) -> str | None:
    """The control token that a text ends with."""
    token = turns.special.findall(text)[-1:]
    return token[0] if token and text.endswith(token[0]) else None


def values_of(message: Message) -> Iterator[str]:
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
