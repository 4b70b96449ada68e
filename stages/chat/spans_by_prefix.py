"""The assistant's spans where a template changes contents (drops old thoughts, escapes a tool's result): looked for behind the
renderings of the dialogue's prefixes.
"""

import re
from collections.abc import Sequence

from stages.chat.rendering import Message
from stages.chat.turns import Span, Turns


def find_spans_by_prefix(turns: Turns, messages: Sequence[Message], text: str) -> list[Span] | None:
    """The spans of all answers, each looked for behind the rendering of what stands before it; None if one is not found."""
    places = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    starts: list[int] = []
    for index in places:
        prompt = turns.template.try_render(messages[:index], add_generation_prompt=True)
        if prompt is None or not text.startswith(prompt):
            return None
        starts.append(len(prompt))
    spans = []
    for index, start, limit in zip(places, starts, [*starts[1:], len(text)], strict=True):
        span = find_answer(turns, messages[index]["content"].strip(), text, start, limit)
        if span is None:
            return None
        spans.append(span)
    return spans


def find_answer(turns: Turns, content: str, text: str, start: int, limit: int) -> Span | None:
    """The content and its end of turn in text[start:limit]: whole, or its end (older thoughts are dropped by some templates)."""
    for end_of_turn in dict.fromkeys((turns.inner_end_of_turn, turns.end_of_turn)):
        at = text.find(content, start, limit) if content else -1
        while at >= 0:
            tail = re.compile(r"\s*" + re.escape(end_of_turn)).match(text, at + len(content), limit)
            if tail:
                begin = at if text[start:at].strip() else start
                return Span(begin, tail.end() - len(end_of_turn), tail.end())
            at = text.find(content, at + 1, limit)
        at = text.find(end_of_turn, start, limit)
        kept = text[start:at].strip() if at >= 0 else ""
        if kept and content.endswith(kept):
            return Span(start, at, at + len(end_of_turn))
    return None
