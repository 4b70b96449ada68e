"""Whether the tokens before an answer are those that its prompt has by itself; pure.

In training a row is encoded whole, at inference its prompt alone. A tokenizer cuts a text at control tokens first, so the two can
differ only behind the last control token before the answer: there few texts stand (a turn's header), and each is looked at once.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.chat.chat import Chat, Ids, Places

Flags = npt.NDArray[np.bool_]
LONGEST_HEADER = 64
"""Tokens of a prompt's end that is remembered."""


def check_prompts(chat: Chat, ids: Ids, controls: Places, row_begins: Places, begins: Places) -> Flags:
    """By answer, whether ids[row's begin:begin] are what the tokenizer makes of that text alone.

    Args:
        chat: the tokenizer, and what has been seen of it.
        ids: the tokens of all rows, one behind the other.
        controls: where `ids` has control tokens.
        row_begins: by answer, where its row begins in `ids`.
        begins: by answer, its first token in `ids`.
    """
    last = np.concatenate([[-1], controls])[controls.searchsorted(begins)]
    starts = np.maximum(last, row_begins)
    ends = [ids[start:begin] for start, begin in zip(starts.tolist(), begins.tolist(), strict=True)]
    keys = [end.tobytes() for end in ends]
    known = chat.prompt_ends
    new = {key: end for key, end in zip(keys, ends, strict=True) if key not in known}
    fresh = dict(zip(new, encode_again(chat, list(new.values())), strict=True))
    # a long one is not remembered: it holds a dialogue
    known.update({key: same for key, same in fresh.items() if len(new[key]) <= LONGEST_HEADER})
    return np.array([known[key] if key in known else fresh[key] for key in keys], bool)


def encode_again(chat: Chat, found: Sequence[Ids]) -> list[bool]:
    """Whether the text of these ids, encoded by itself, gives them again."""
    if not found or chat.token_bytes is None:
        return []
    texts = [b"".join(chat.token_bytes.take(pa.array(ids)).to_pylist()).decode("utf-8", "replace") for ids in found]
    again, lengths = chat.encoder.encode(texts)
    return [np.array_equal(one, ids) for one, ids in zip(np.split(again, lengths.cumsum()[:-1]), found, strict=True)]
