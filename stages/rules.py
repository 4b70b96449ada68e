"""What a conversation must be to be trained on: the rules as data, and the pure check that names the first one broken.

A rule's name is all that ever leaves here with a row's number: never its text.
"""

from collections.abc import Sequence
from itertools import pairwise

RULES = {
    "invalid_json": "the record is not JSON",
    "invalid_unicode": "bytes that are not UTF-8, or a lone surrogate",
    "not_an_object": "the record is JSON, but no object (for .csv: a line with more or fewer fields than the header)",
    "layout": "not of the layout that the dataset's first rows have",
    "no_messages": "the conversation is empty",
    "unknown_role": "a role that no dialect knows",
    "null_content": "a message without content",
    "content_not_text": "content that is neither text nor text parts",
    "nul_character": "content with a NUL character",
    "empty_content": "content that is empty or white space",
    "tool_calls": "tool calls beside the content: they would be lost",
    "weight_zero_answer": "an answer marked as not to be trained on: it would be trained on",
    "system_not_first": "a system message after the first message",
    "starts_with_answer": "the first message after the system's is not the user's",
    "roles_not_alternating": "an answer or question that follows its own kind",
    "ends_without_answer": "the last message is not the assistant's",
    "too_many_messages": "more messages than `standardize.max_messages`",
    "too_large": "more characters than `standardize.max_chars`",
    "duplicate": "the same conversation came before (the first one is kept)",
}
"""Every rule that sets a row aside, in the order in which they are looked at."""

ALIASES = {
    "system": ("system",),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "function_call"),
    "tool": ("tool", "observation", "function_response"),
}
ROLES = {alias: role for role, aliases in ALIASES.items() for alias in aliases}

FOLLOWERS = {
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Which roles may come after one: parallel tool results stand side by side, everything else takes turns."""

Message = tuple[str, str]
"""(role, content), the role one of contracts.messages.ROLES."""


class Rejected(Exception):  # noqa: N818 - no error of the program's: a row that a rule sets aside
    """This row breaks `rule`, a key of RULES."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


def message(role: object, content: object) -> Message:
    """One message in canonical form: the role's alias resolved, the content as it came (no trimming).

    Raises Rejected for a role or content that cannot be trained on.
    """
    canonical = ROLES.get(role.lower()) if isinstance(role, str) else None
    if canonical is None:
        raise Rejected("unknown_role")
    if content is None:
        raise Rejected("null_content")
    text = content if isinstance(content, str) else joined_parts(content)
    if "\0" in text:
        raise Rejected("nul_character")
    if not text or text.isspace():
        raise Rejected("empty_content")
    return canonical, text


def joined_parts(content: object) -> str:
    """The text of `[{"type": "text", "text" or "value": ...}, ...]`. Raises Rejected for anything else: an image is no text."""
    if not isinstance(content, list) or not content:
        raise Rejected("content_not_text")
    texts = []
    for part in content:
        text = part.get("text", part.get("value")) if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise Rejected("content_not_text")
        texts.append(text)
    return "".join(texts)


def check_turns(messages: Sequence[Message], *, max_messages: int | None, max_chars: int | None) -> None:
    """Raise Rejected unless there are messages, they take turns, end with an answer, and are within the limits."""
    if not messages:
        raise Rejected("no_messages")
    roles = [role for role, _ in messages]
    if "system" in roles[1:]:
        raise Rejected("system_not_first")
    first = roles[1:2] if roles[0] == "system" else roles[:1]
    if first and first != ["user"]:
        raise Rejected("starts_with_answer")
    if any(after not in FOLLOWERS[before] for before, after in pairwise(roles)):
        raise Rejected("roles_not_alternating")
    if roles[-1] != "assistant":
        raise Rejected("ends_without_answer")
    if max_messages is not None and len(messages) > max_messages:
        raise Rejected("too_many_messages")
    if max_chars is not None and sum(len(content) for _, content in messages) > max_chars:
        raise Rejected("too_large")
