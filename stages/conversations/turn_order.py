"""Which messages may follow which: the pure check of a conversation's turns, which names the first rule that they break."""

from functools import lru_cache
from itertools import pairwise

from stages.conversations.roles import CALL
from stages.conversations.row_rules import (
    ENDS_WITHOUT_ANSWER,
    NO_MESSAGES,
    ROLES_NOT_ALTERNATING,
    STARTS_WITH_ANSWER,
    SYSTEM_NOT_FIRST,
)

FOLLOWERS = {
    "system": ("user",),
    "user": ("assistant", CALL),
    "assistant": ("user", "tool"),  # a call may stand in the text
    CALL: ("tool",),
    "tool": ("assistant", CALL, "tool"),
}
"""Which kinds may come after one: parallel tool results stand side by side, everything else takes turns."""


@lru_cache(maxsize=1_000)
def find_broken_turn_rule(kinds: tuple[str, ...], greeting: int | None = None) -> str | None:
    """The rule that a conversation of these kinds of messages breaks; None: it takes turns and ends with an answer.

    `greeting`: the place of an opening answer that is allowed. A dataset of a million rows has some dozens of such sequences.
    """
    if greeting is not None:
        kinds = kinds[:greeting] + kinds[greeting + 1 :]
    if not kinds:
        return NO_MESSAGES
    if "system" in kinds[1:]:
        return SYSTEM_NOT_FIRST
    first = kinds[1:2] if kinds[0] == "system" else kinds[:1]
    if first and first != ("user",):
        return STARTS_WITH_ANSWER
    if any(after not in FOLLOWERS[before] for before, after in pairwise(kinds)):
        return ROLES_NOT_ALTERNATING
    return None if kinds[-1] in ("assistant", CALL) else ENDS_WITHOUT_ANSWER
