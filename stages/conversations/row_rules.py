"""What a conversation must be to be trained on: the rules as data, and the pure check of its turns that names the first one broken.

A rule's name is all that ever leaves here with a row's number: never its text.
"""

from functools import lru_cache
from itertools import pairwise

RULES = {
    "invalid_json": "the record is not JSON, or nested too deep",
    "invalid_unicode": "bytes that are not UTF-8, or a lone surrogate",
    "not_an_object": "the record is JSON, but no object (for .csv: a line with more or fewer fields than the header)",
    "media": "a picture, sound or film beside the text or in it",
    "layout": "not of the layout that the first rows of its source have",
    "no_messages": "the conversation is empty",
    "unknown_role": "a role that no dialect knows",
    "tools_unreadable": "`tools` that are no list of functions with names",
    "tool_call_unreadable": "a tool call that is no name with an object of arguments, or that is not the assistant's",
    "weight_not_0_or_1": "an answer whose weight is neither 0 nor 1: only whole answers are trained or left out",
    "null_content": "a message without content",
    "content_not_text": "content that is neither text nor text parts",
    "empty_content": "content that is empty or white space",
    "nul_character": "a NUL character",
    "system_not_first": "a system message after the first message",
    "starts_with_answer": "the first message after the system's is not the user's",
    "roles_not_alternating": "an answer, question or tool's result that may not stand behind the message before it",
    "ends_without_answer": "the last message is not the assistant's",
    "nothing_to_train": "every answer has the weight 0",
    "too_many_messages": "more messages than `standardize.max_messages`",
    "too_large": "more characters than `standardize.max_chars`",
    "duplicate_key": "a key twice in one object, so that readers differ on what the conversation is",
    "other_language": "in none of `standardize.languages`",
    "contaminated": "holds a text of `standardize.contamination`",
    "duplicate": "the same conversation came before (the first one is kept)",
    "near_heldout": "nearly repeats a held-out conversation, which would then measure what was trained",
    "near_duplicate": "nearly repeats a conversation that came before (the first one is kept)",
}
"""Every rule that sets a row aside, in the order in which they are looked at."""

CALL = "call"
"""The kind of an assistant's message that calls tools; the kinds of all others are their roles."""

FOLLOWERS = {
    "system": ("user",),
    "user": ("assistant", CALL),
    "assistant": ("user", "tool"),  # a call may stand in the text
    CALL: ("tool",),
    "tool": ("assistant", CALL, "tool"),
}
"""Which kinds may come after one: parallel tool results stand side by side, everything else takes turns."""


class Rejected(Exception):  # noqa: N818 - no error of the program's: a row that a rule sets aside
    """This row breaks `rule`, a key of RULES."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


@lru_cache(maxsize=1_000)
def find_broken_turn_rule(kinds: tuple[str, ...]) -> str | None:
    """The rule that a conversation of these kinds of messages breaks; None: it takes turns and ends with an answer.

    A dataset of a million rows has some dozens of such sequences.
    """
    if not kinds:
        return "no_messages"
    if "system" in kinds[1:]:
        return "system_not_first"
    first = kinds[1:2] if kinds[0] == "system" else kinds[:1]
    if first and first != ("user",):
        return "starts_with_answer"
    if any(after not in FOLLOWERS[before] for before, after in pairwise(kinds)):
        return "roles_not_alternating"
    return None if kinds[-1] in ("assistant", CALL) else "ends_without_answer"
