"""The assistant's spans of a dialogue with tools: a placeholder is put for each answer, and what does not change is not the answer's.

A call is written by the template out of structured data (`{"name": ..., "parameters": ...}`), and tool definitions stand wherever
the template puts them, so there is no content to look for. The dialogue is rendered once more for each answer, with a placeholder
for that answer alone: the text before it and behind it must be the dialogue's own, and what is between is the answer.
Then it is held against the message: its content, its thought, the names of the functions, and every string and number of the arguments.
"""

import json
import os.path
from collections.abc import Iterator, Mapping
from typing import Any

from stages.chat.prompts import cut_at_tag
from stages.chat.reasoning import PROBE
from stages.chat.row_rules import (
    CALL_NOT_RENDERED,
    SPANS_UNVERIFIED,
    TEXT_BESIDE_CALL_NOT_RENDERED,
    TOOLS_NOT_RENDERED,
    TURN_NOT_RENDERED,
)
from stages.chat.script import FoundAnswer, Script, open_answers
from stages.chat.turns import Span, Turns, end_of_turn_at, make_placeholders


def find_spans_by_substitution(script: Script, text: str) -> tuple[str, list[Span]] | str:
    """The text that is trained and the spans of all answers in it, of `text`, the dialogue's rendering; or the rule that refuses it."""
    if missing := find_unwritten(script, text):
        return missing
    calling = any("tool_calls" in message for message in script.messages)
    # an answer that is not in it holds something that others say: Gemma 4 writes a call, its result, and then the text beside the call
    without_others = (script.change_others().render() or "") if calling else text
    answers: list[FoundAnswer] = []
    for place, message in enumerate(script.messages):
        if message["role"] != "assistant":
            continue
        answer = look_for_answer(script, text, place, without_others)
        if isinstance(answer, str):
            return answer
        if answers and answer.first < answers[-1].end:
            return SPANS_UNVERIFIED
        written = text[answer.content : answer.content_end]
        if not all(is_written(value, written) for value in values_of_calls(message)):
            return CALL_NOT_RENDERED
        if not is_written(message["content"], written):
            return TEXT_BESIDE_CALL_NOT_RENDERED if "tool_calls" in message else SPANS_UNVERIFIED
        answers.append(answer)
    return open_answers(script, text, answers)


def look_for_answer(script: Script, text: str, place: int, without_others: str) -> FoundAnswer | str:
    """The answer of message `place`, by the first way that finds one with nothing of others in it; or the rule that refuses it."""
    torn = False
    for look in (substitute_answer, compare_with_prompt, extend_call):
        answer = look(script, text, place)
        if answer and text[answer.first : answer.end] in without_others:
            return answer
        torn = torn or answer is not None
    beside = "tool_calls" in script.messages[place] and script.messages[place]["content"]
    return TEXT_BESIDE_CALL_NOT_RENDERED if torn and beside else SPANS_UNVERIFIED


def find_unwritten(script: Script, text: str) -> str | None:
    """The rule that a dialogue breaks whose tools or other turns the template leaves out, or None."""
    names = [tool.get("function", tool).get("name") for tool in script.tools or ()]
    if not all(isinstance(name, str) and is_written(name, text) for name in names):
        return TOOLS_NOT_RENDERED
    if script.tools and text == script._replace(tools=None).render():
        return TOOLS_NOT_RENDERED
    others = [message["content"] for message in script.messages if message["role"] != "assistant"]
    return None if all(is_written(content, text) for content in others) else TURN_NOT_RENDERED


def substitute_answer(script: Script, text: str, place: int) -> FoundAnswer | None:
    """The answer of message `place`; None if the text around it is not the same with a placeholder for it."""
    message = script.messages[place]
    (placeholder,) = make_placeholders(["assistant"])
    thought = {"reasoning": message["reasoning"]} if "reasoning" in message else {}
    changed = render_with(script, place, {**placeholder, **thought})
    before, found, behind = changed.partition(placeholder["content"])
    last = place == len(script.messages) - 1
    end = end_of_turn_at(script.turns, behind, last=last) if found else None
    if end is None:
        return None
    start = len(before)
    if not text.startswith(before):
        # white space before a content that a call does not have
        start = len(before.rstrip())
        if not text.startswith(before[:start]):
            return None
    if len(text) - len(behind) >= start and text.endswith(behind):
        content_end = len(text) - len(behind)
    else:
        # a call may end with another token than an answer's
        rest = behind[len(end) :]
        head = text.removesuffix(rest)
        head = cut_next_opening(script.turns, script.render_prompt(place) or "", head) if last else head
        token = last_control_token(script.turns, head)
        if not text.endswith(rest) or token is None:
            return None
        end, content_end = token, len(head) - len(token)
    if start > content_end:
        return None
    first = find_thought(script, before, place, start) if thought else None
    return FoundAnswer(
        place, start if first is None else first, start, content_end, content_end + len(end), first is not None
    )


def render_with(script: Script, place: int, message: Mapping[str, Any]) -> str:
    """The dialogue's text with another message in place of one; empty where the template refuses it."""
    return script.render([*script.messages[:place], message, *script.messages[place + 1 :]]) or ""


def find_thought(script: Script, before: str, place: int, content: int) -> int | None:
    """Where the thought before an answer's content begins; None: the template leaves it out. `before`: the text up to the content."""
    changed = render_with(script, place, {**script.messages[place], "reasoning": PROBE})
    head, found, _ = changed.partition(PROBE)
    thought = script.messages[place]["reasoning"]
    at = len(head)
    return at if found and before[:at] == head and before.startswith(thought, at) and at <= content else None


def compare_with_prompt(script: Script, text: str, place: int) -> FoundAnswer | None:
    """A call in a template that refuses a tool's result without one: what the message adds to its prompt."""
    prompt = script.render_prompt(place)
    whole = script.render(script.messages[: place + 1])
    if prompt is None or whole is None:
        return None
    upto = cut_next_opening(script.turns, prompt, whole).rstrip()
    token = last_control_token(script.turns, upto)
    if token is None or not upto.startswith(prompt) or not text.startswith(upto):
        return None
    return find_between(script, place, len(prompt), upto, token)


def extend_call(script: Script, text: str, place: int) -> FoundAnswer | None:
    """A call whose result is written with its name, and which is written in another way once it is answered (gpt-oss drops its thought).

    It ends with the control token behind its last argument, which one argument more shows.
    """
    message = script.messages[place]
    prompt = script.render_prompt(place)
    if "tool_calls" not in message or prompt is None:
        return None
    begin = len(cut_at_tag(os.path.commonprefix([prompt, text])))  # noqa: RUF071 - characters are meant
    *calls, last = message["tool_calls"]
    longer = {**last["function"], "arguments": {**last["function"]["arguments"], PROBE: PROBE}}
    changed = render_with(script, place, {**message, "tool_calls": [*calls, {**last, "function": longer}]})
    token = script.turns.special.search(text, len(os.path.commonprefix([text, changed])))  # noqa: RUF071 - characters are meant
    if PROBE not in changed or token is None or token.start() < begin:
        return None
    return find_between(script, place, begin, text[: token.end()], token.group())


def find_between(script: Script, place: int, begin: int, upto: str, token: str) -> FoundAnswer:
    """The answer of message `place` that stands between `begin` and the end of `upto`, which is `token`."""
    thought = script.messages[place].get("reasoning")
    at = upto.find(thought, begin) if thought is not None else -1
    content = at + len(str(thought)) if at >= 0 else begin
    return FoundAnswer(place, max(at, begin), content, len(upto) - len(token), len(upto), at >= 0)


def cut_next_opening(turns: Turns, prompt: str, text: str) -> str:
    """A text that ends with an answer, without the header of the next one, which Command R7B's template writes behind a call unasked.

    `prompt`: of the answer, which ends with the same header. A single control token is what ends the turn.
    """
    opener = os.path.commonprefix([prompt[::-1], text[::-1]])[::-1]  # noqa: RUF071 - characters are meant
    return text.removesuffix(opener) if len(turns.special.findall(opener)) > 1 else text


def last_control_token(turns: Turns, text: str) -> str | None:
    """The control token that a text ends with."""
    token = turns.special.findall(text)[-1:]
    return token[0] if token and text.endswith(token[0]) else None


def values_of_calls(message: Mapping[str, Any]) -> Iterator[str]:
    """What an assistant's calls must show: the names and every value of the arguments."""
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
    """Whether a string stands in the text as it is (trimmed), as Python writes it, or as JSON does, once or inside a JSON string."""
    value = value.strip()
    if value in text or repr(value)[1:-1] in text:
        return True
    for ascii_only in (False, True):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        if once in text or json.dumps(once, ensure_ascii=ascii_only)[1:-1] in text:
            return True
    return False
