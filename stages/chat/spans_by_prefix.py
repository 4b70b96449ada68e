"""The assistant's spans where a template changes contents (escapes a tool's result, cuts an answer): looked for behind the
renderings of the dialogue's prefixes.
"""

import re

from stages.chat.script import FoundAnswer, Script, open_answers
from stages.chat.turns import Span, Turns


def find_spans_by_prefix(script: Script, text: str) -> tuple[str, list[Span]] | None:
    """The text that is trained and the spans of all answers in it, each looked for behind what stands before it; None if one is not found."""
    places = [place for place, message in enumerate(script.messages) if message["role"] == "assistant"]
    starts: list[int] = []
    for place in places:
        # without the answer opened: the text up to the last turn's end is the same whatever a template's prompt is
        before = script.render(script.messages[:place]) if place else ""
        prompt = script.render_prompt(place)
        known = next((one for one in (prompt, before) if one is not None and text.startswith(one)), None)
        if known is None:
            return None
        starts.append(len(known))
    answers = []
    for place, start, limit in zip(places, starts, [*starts[1:], len(text)], strict=True):
        answer = find_answer(script, place, text, start, limit)
        if answer is None:
            return None
        answers.append(answer)
    return open_answers(script, text, answers)


def find_answer(script: Script, place: int, text: str, start: int, limit: int) -> FoundAnswer | None:
    """The content and its end of turn in text[start:limit]: whole, or its end (older thoughts are dropped by some templates)."""
    message = script.messages[place]
    thought = message.get("reasoning")
    at = text.find(thought, start, limit) if thought else -1
    behind = at + len(thought) if thought and at >= 0 else start
    found = find_content(script.turns, message["content"].strip(), text, behind, limit)
    if found is None:
        return None
    begin, content_end, end = found
    return FoundAnswer(place, at if at >= 0 else begin, begin, content_end, end, at >= 0)


def find_content(turns: Turns, content: str, text: str, start: int, limit: int) -> tuple[int, int, int] | None:
    """(begin, end of the content, end of its end of turn)."""
    for end_of_turn in dict.fromkeys((turns.inner_end_of_turn, turns.end_of_turn)):
        at = text.find(content, start, limit) if content else -1
        while at >= 0:
            tail = re.compile(r"\s*" + re.escape(end_of_turn)).match(text, at + len(content), limit)
            if tail:
                return at, tail.end() - len(end_of_turn), tail.end()
            at = text.find(content, at + 1, limit)
        at = text.find(end_of_turn, start, limit)
        kept = text[start:at].strip() if at >= 0 else ""
        if kept and content.endswith(kept):
            return start, at, at + len(end_of_turn)
    return None
