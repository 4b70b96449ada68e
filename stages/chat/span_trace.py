"""Where the answers of one row stand in its tokens, by the tokenizer's own offsets, and shown by decoding them; pure.

For tokenizers whose tokens do not spell bytes (stages/chat/span_proof.py has the others).
"""

import functools

import numpy as np

from stages.chat.chat import Chat, Ids, Places, is_control_token
from stages.chat.marking import Rendered
from stages.chat.turns import Span

TokenSpan = tuple[int, int]
"""The tokens of one answer in its row: the first, and the one behind the last."""


def trace_spans(chat: Chat, rendered: Rendered, ids: Ids, begin: int, end: int) -> list[TokenSpan] | None:
    """The answers of the row ids[begin:end]; None if one cannot be shown, or does not begin where its prompt by itself ends."""
    encoding = chat.tokenizer.encode(rendered.text, add_special_tokens=False)
    if encoding.ids != ids[begin:end].tolist():
        return None
    starts, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
    found = []
    for span in rendered.spans:
        traced = trace_span(chat, rendered.text, span, encoding.ids, starts, ends)
        if traced is None or not (span.rule or is_prompt(chat, rendered.text[: span.start], encoding.ids[: traced[0]])):
            return None
        found.append(traced)
    return found


def is_prompt(chat: Chat, text: str, ids: list[int]) -> bool:
    """Whether the tokenizer makes these ids of a prompt's text alone."""
    alone: list[int] = chat.tokenizer.encode(text, add_special_tokens=False).ids
    return alone == ids


def trace_span(chat: Chat, text: str, span: Span, ids: list[int], starts: Places, ends: Places) -> TokenSpan | None:
    """One answer in the tokens of its row; `starts`, `ends`: the offsets of each token, in characters."""
    first = int((ends <= span.start).sum())
    last = int((starts < span.end).sum())
    if first < last and starts[first] < span.start:
        return None
    end = span.end
    if is_control_token(chat.tokenizer, chat.controls, text[span.content_end : span.end]):
        # the offsets of an end-of-turn token may reach over white space that it swallows
        if last <= first or starts[last - 1] < span.content_end:
            return None
        token: str = chat.tokenizer.decode([ids[last - 1]], skip_special_tokens=False)
        if not text[span.start : end].endswith(token.strip()):
            return None
    else:
        # an end of turn that is spelled out may share its last token with what follows: that token is not trained
        while last > first and ends[last - 1] > span.end:
            last -= 1
        whole = span.end == span.content_end or (
            last > first and ends[last - 1] >= len(text[: span.content_end].rstrip())
        )
        if last <= first or not whole:
            return None
        end = int(ends[last - 1])
    return (first, last) if decodes_to(chat, ids, first, last, text[span.start : end]) else None


def decodes_to(chat: Chat, ids: list[int], first: int, last: int, written: str) -> bool:
    """Whether ids[first:last] decode to `written`, or to what the tokenizer's Unicode normalizer makes of it.

    Decoders drop a blank at the very start of a text, so a token before the answer goes along, and is taken off again.
    """
    decode = functools.partial(chat.tokenizer.decode, skip_special_tokens=False)
    head: str = decode(ids[max(first - 1, 0) : first])
    whole: str = decode(ids[max(first - 1, 0) : last])
    if not whole.startswith(head):
        return False
    body = whole[len(head) :]
    normalizer = chat.tokenizer.normalizer
    return body == written or (normalizer is not None and body == normalizer.normalize_str(written))
