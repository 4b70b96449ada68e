"""A message that is made of blocks, as Anthropic's and Gemini's APIs have them, as turns; pure functions.

A call becomes a `tool_calls` beside the answer, a result a message of the tool's. Blocks of text (and thoughts) stay parts of the content.
"""

from typing import Any

from stages.conversations.dialects import Row, Turn
from stages.conversations.row_rules import CALL_NOT_LAST, LAYOUT, TOOL_CALL_UNREADABLE, Rejected

PARTS = "parts"
"""The key of Gemini's blocks."""
CALL_PARTS = ("functionCall", "function_call")
RESULT_PARTS = ("functionResponse", "function_response")
TEXTS = frozenset({"text", "input_text", "output_text"})


def read_blocks(message: dict[str, Any], role: str, content: str) -> list[Turn]:
    """The turns of one message whose content is a list that is not empty. Raises Rejected.

    Args:
        message: as it stands in the row.
        role: its role's key.
        content: its content's key.
    """
    blocks = message[content]
    if content == PARTS:
        blocks = [read_part(part) for part in blocks]
    kinds = {block["type"] for block in blocks if isinstance(block, dict) and isinstance(block.get("type"), str)}
    if kinds.isdisjoint({"tool_use", "tool_result"}):
        return [Turn(message.get(role), blocks, message)]
    turns = split_calls_and_results(blocks, message.get(role))
    more = {key: value for key, value in message.items() if key not in (role, content)}
    if more:
        if not more.keys().isdisjoint({"tool_calls", "function_call"}) and any(
            "tool_calls" in (turn.beside or {}) for turn in turns
        ):
            raise Rejected(TOOL_CALL_UNREADABLE)
        turns[0] = turns[0]._replace(beside={**more, **(turns[0].beside or {})})
    return turns


def split_calls_and_results(blocks: list[Any], role: object) -> list[Turn]:
    """One turn of all that the message says and calls, and one of each tool's result in it, in their order. Raises Rejected."""
    turns: list[Turn] = []
    said: list[Any] = []
    calls: list[Row] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result":
            turns += close_turn(said, calls, role)
            said, calls = [], []
            turns.append(read_result(block))
        elif kind == "tool_use":
            calls.append(read_use(block))
        elif calls:
            raise Rejected(CALL_NOT_LAST)
        else:
            said.append(block)
    return turns + close_turn(said, calls, role)


def close_turn(said: list[Any], calls: list[Row], role: object) -> list[Turn]:
    """The turn of what was said and called so far; none where nothing was."""
    if calls:
        return [Turn(role, said or None, {"tool_calls": calls})]
    return [Turn(role, said, None)] if said else []


def read_use(block: dict[str, Any]) -> Row:
    """A call as `tool_calls` has it. Raises Rejected."""
    arguments = block.get("input")
    if not isinstance(arguments, dict | str | None):
        raise Rejected(TOOL_CALL_UNREADABLE)
    return {
        **leave_out(block, "type", "name", "input"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": arguments},
    }


def read_result(block: dict[str, Any]) -> Turn:
    """A tool's result as a message of its own."""
    more = leave_out(block, "type", "tool_use_id", "content")
    if block.get("tool_use_id") is not None:
        more["tool_call_id"] = block["tool_use_id"]
    content = block.get("content")
    return Turn("tool", "" if content is None or content == [] else content, more)


def read_part(part: object) -> object:
    """One of Gemini's parts as Anthropic's block. Raises Rejected for what is none."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise Rejected(LAYOUT)
    given = {key: value for key, value in part.items() if value is not None}
    for name in CALL_PARTS:
        if isinstance(call := given.get(name), dict):
            return {"type": "tool_use", "input": call.get("args"), **leave_out(call, "args"), **leave_out(given, name)}
    for name in RESULT_PARTS:
        if isinstance(result := given.get(name), dict):
            more = {**leave_out(result, "response", "id", "name"), **leave_out(given, name)}
            identity = {"tool_use_id": result["id"]} if result.get("id") else {}
            return {"type": "tool_result", "content": result.get("response"), **identity, **more}
    if isinstance(given.get("text"), str):
        more = leave_out(given, "text", "thought")
        if given.get("thought") is True:
            return {"type": "thinking", "thinking": given["text"], **more}
        return {"type": "text", "text": given["text"], **more}
    is_media = any(key.replace("_", "").lower() in ("inlinedata", "filedata") for key in given)
    return {"type": "file" if is_media else "unknown"}


def leave_out(value: Row, *keys: str) -> dict[str, object]:
    """The others of an object that say something."""
    return {key: inner for key, inner in value.items() if key not in keys and inner is not None}
