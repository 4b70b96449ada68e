"""A row of data/tokens as a person reads it: ids and labels -> stretches of text, trained or context, control tokens apart. Pure.

Used by `retune preview`, `retune inspect` and the report. What is shown is decoded from the ids, so it is what the model sees.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from stages.contracts.tokens import NOT_TRAINED

# as stages.chat.turns has it: an added token of this shape is a control token even where the tokenizer does not call it special
PIPED = re.compile("<[|\uff5c][^|\uff5c<>\\s]{1,64}[|\uff5c]>")
# what moves a cursor, starts an escape sequence, turns text round or cannot be seen at all; line feed and tab may stay
UNSEEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
SHORT = {"\r": r"\r", "\0": r"\0"}


class Run(NamedTuple):
    """Neighbouring tokens of one kind, as text."""

    text: str
    """As the model sees it, unescaped: `visible` makes it fit to be shown."""
    trained: bool
    """Whether they bear loss."""
    control: bool
    """Whether it is a control token, such as <|eot_id|>: always one token."""
    tokens: int


def control_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of the control tokens: those that the tokenizer calls special, and added ones like `<|name|>`."""
    added = tokenizer.get_added_tokens_decoder().items()
    return frozenset(index for index, token in added if token.special or PIPED.fullmatch(token.content))


def token_runs(
    tokenizer: Tokenizer, controls: frozenset[int], input_ids: Sequence[int], labels: Sequence[int]
) -> list[Run]:
    """The runs of a row, in order. Tokens that are parts of one character are joined before they are decoded.

    Raises ValueError if there are not as many labels as ids.
    """
    kinds = [
        # a control token is a run of its own: its index tells it from its neighbour
        (label != NOT_TRAINED, index if token in controls else -1)
        for index, (token, label) in enumerate(zip(input_ids, labels, strict=True))
    ]
    runs = []
    end = 0
    for (trained, control), group in itertools.groupby(kinds):
        begin, end = end, end + len(list(group))
        runs.append(Run(text_between(tokenizer, input_ids, begin, end), trained, control >= 0, end - begin))
    return runs


def text_between(tokenizer: Tokenizer, ids: Sequence[int], begin: int, end: int) -> str:
    """The text of ids[begin:end] where it stands: some decoders drop a blank at a text's start, so the token before goes along."""
    before = max(begin - 1, 0)
    head: str = tokenizer.decode(list(ids[before:begin]), skip_special_tokens=False)
    whole: str = tokenizer.decode(list(ids[before:end]), skip_special_tokens=False)
    if whole.startswith(head):
        return whole[len(head) :]
    alone: str = tokenizer.decode(list(ids[begin:end]), skip_special_tokens=False)
    return alone


def visible(text: str, also: str = "") -> str:
    r"""The text with control characters, direction marks and the like (and those in `also`) as `\x1b` or `\u202e`.

    Line feeds and tabs stay. A backslash stays as it is: this is for the eye and is not read back.
    """
    text = UNSEEN.sub(lambda match: escape(match.group()), text)
    return re.sub(f"[{re.escape(also)}]", lambda match: escape(match.group()), text) if also else text


def escape(character: str) -> str:
    """The character by its number."""
    code = ord(character)
    if character in SHORT:
        return SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004


def spread(rows: int, count: int) -> list[int]:
    """The places of `count` rows among `rows`, evenly spread from the first on: always the same ones."""
    count = min(count, rows)
    return [place * rows // count for place in range(count)]
