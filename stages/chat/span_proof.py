"""Where the answers of a batch stand in its tokens, shown by the bytes that the tokens spell; pure.

Together the tokens of a row spell its text, each boundary of an answer is one between tokens, and there are as many control tokens
as the template wrote. That is looked at for a whole batch at once, in Arrow and numpy. Where tokens do not spell bytes (a tokenizer
that normalizes, or puts a blank before the first word), the tokenizer's own offsets and its decoder are asked instead, row by row.
"""

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from stages.chat.assistant_spans import Rendered
from stages.chat.chat import Chat, Ids, Places, single_token
from stages.chat.row_rules import CONTROL_TOKEN_IN_CONTENT, SPANS_UNVERIFIED
from stages.chat.turns import Span


class Proof:
    """Where the answers of a batch stand in its tokens, shown by the bytes that the tokens spell."""

    def __init__(self, chat: Chat, rendered: Sequence[Rendered], ids: Ids, lengths: Places) -> None:
        """Compare all tokens with all texts at once; rows in which they differ are looked at one by one."""
        self.chat = chat
        self.rendered = rendered
        self.ids = ids
        ends = lengths.cumsum()
        self.starts = (ends - lengths).tolist()
        self.ends = ends.tolist()
        control_tokens = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(chat.is_special[ids], out=control_tokens[1:])
        self.control_tokens = (control_tokens[ends] - control_tokens[ends - lengths]).tolist()
        self.spelled, self.cuts = spelled_cuts(chat, rendered, ids, ends) if chat.pieces is not None else ([], [])

    def places(self, number: int) -> list[tuple[int, int]] | str:
        """The answers of a row as (begin, end) in the batch's ids, or the rule that refuses the row."""
        rendered = self.rendered[number]
        if self.control_tokens[number] != rendered.control_tokens:
            return CONTROL_TOKEN_IN_CONTENT
        places = self.cuts[number] if self.spelled and self.spelled[number] else None
        if not places and rendered.pieces is None:
            start = self.starts[number]
            traced = traced_places(self.chat, rendered, self.ids[start : self.ends[number]])
            places = traced and [(begin + start, end + start) for begin, end in traced]
        return places or SPANS_UNVERIFIED


def spelled_cuts(
    chat: Chat, rendered: Sequence[Rendered], ids: Ids, row_ends: Places
) -> tuple[list[bool], list[list[tuple[int, int]] | None]]:
    """By row: whether its tokens' bytes are its text's, and its answers as (begin, end) in `ids`; None if one is not cut by tokens."""
    texts = [one.text.encode() for one in rendered]
    sizes = np.array([len(text) for text in texts], np.int64)
    text_ends = sizes.cumsum()
    blob, offsets = spelled_bytes(chat, ids)
    token_ends = np.concatenate([[0], row_ends])
    whole = b"".join(texts)
    # Arrow compares memory; Python's memoryview compares byte by byte
    if (offsets[row_ends] == text_ends).all() and pa.py_buffer(blob).equals(pa.py_buffer(whole)):
        spelled = [True] * len(texts)
    else:
        places = offsets[token_ends].tolist()
        spelled = [blob[places[row] : places[row + 1]] == text for row, text in enumerate(texts)]
    cuts = [cut for one in rendered for span in one.spans for cut in span]
    rows = np.repeat(np.arange(len(rendered)), [len(one.spans) for one in rendered])
    cut_bytes = byte_cuts(rendered, sizes.tolist(), cuts).reshape(-1, 3) + offsets[token_ends[:-1]][rows][:, None]
    begins, content_ends, ends = cut_bytes.T
    first = offsets.searchsorted(begins, side="left")
    last = offsets.searchsorted(ends, side="left")
    good = offsets[np.minimum(first, len(ids))] == begins
    exact = offsets[np.minimum(last, len(ids))] == ends
    # an end of turn that is spelled out may share its last token with what follows: that token is not trained
    last = np.where(exact, last, last - 1)
    loose = [
        not exact_here and not single_token(chat.tokenizer, chat.controls, one.text[span.content_end : span.end])
        for exact_here, (one, span) in zip(
            exact.tolist(), ((one, span) for one in rendered for span in one.spans), strict=True
        )
    ]
    good &= exact | (np.array(loose, bool) & (last > first) & (offsets[np.minimum(last, len(ids))] >= content_ends))
    found: list[list[tuple[int, int]] | None] = [[] for _ in rendered]
    for row, fine, begin, end in zip(rows.tolist(), good.tolist(), first.tolist(), last.tolist(), strict=True):
        if not fine:
            found[row] = None
        elif (here := found[row]) is not None:
            here.append((begin, end))
    return spelled, found


def spelled_bytes(chat: Chat, ids: Ids) -> tuple[memoryview, Places]:
    """The bytes that ids spell, and where each token's begin in them (one more than there are ids)."""
    taken = chat.pieces.take(pa.array(ids)) if chat.pieces is not None else pa.array([], pa.large_binary())
    _, offsets, data = taken.buffers()
    places = np.frombuffer(offsets, np.int64, len(ids) + 1) if len(ids) else np.zeros(1, np.int64)
    return memoryview(data).cast("B")[: places[-1]] if data else memoryview(b""), places


def byte_cuts(rendered: Sequence[Rendered], sizes: list[int], cuts: list[int]) -> Places:
    """Positions in characters (rising in each row) as positions in the row's UTF-8."""
    at = 0
    for one, size in zip(rendered, sizes, strict=True):
        stop = at + 3 * len(one.spans)
        if len(one.text) != size:
            cuts[at:stop] = byte_offsets(one.text, cuts[at:stop])
        at = stop
    return np.array(cuts, np.int64)


def byte_offsets(text: str, cuts: Sequence[int]) -> list[int]:
    """Character positions (rising) as positions in the text's UTF-8."""
    offsets = []
    at = total = 0
    for cut in cuts:
        total += len(text[at:cut].encode())
        at = cut
        offsets.append(total)
    return offsets


def traced_places(chat: Chat, rendered: Rendered, expected: Ids) -> list[tuple[int, int]] | None:
    """The spans in tokens, by the tokenizer's own offsets, and proven by decoding them; None if one cannot be."""
    text, spans, _, _ = rendered
    encoding = chat.tokenizer.encode(text, add_special_tokens=False)
    ids: list[int] = encoding.ids
    if ids != expected.tolist():
        return None
    starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
    ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)
    places = []
    for span in spans:
        begin = int((ends <= span.start).sum())
        stop = int((starts < span.end).sum())
        if begin < stop and starts[begin] < span.start:
            return None
        written = text[span.start : span.end]
        exact = single_token(chat.tokenizer, chat.controls, text[span.content_end : span.end])
        if exact and (stop <= begin or not chat_ends_at(chat, ids[stop - 1], written, int(starts[stop - 1]), span)):
            return None
        if not exact:
            while stop > begin and ends[stop - 1] > span.end:
                stop -= 1
            if stop <= begin or ends[stop - 1] < len(text[: span.content_end].rstrip()):
                return None
            written = text[span.start : int(ends[stop - 1])]
        if not spells(chat, ids, begin, stop, written):
            return None
        places.append((begin, stop))
    return places


def chat_ends_at(chat: Chat, token: int, written: str, start: int, span: Span) -> bool:
    """Whether the last token of a span is its end-of-turn token (its offsets may reach over white space that it swallows)."""
    content: str = chat.tokenizer.decode([token], skip_special_tokens=False)
    return start >= span.content_end and written.endswith(content.strip())


def spells(chat: Chat, ids: list[int], begin: int, stop: int, written: str) -> bool:
    """Whether ids[begin:stop] decode to `written`, or to what the tokenizer's Unicode normalizer makes of it.

    Decoders drop a blank at the very start of a text, so a token before the span goes along, and is taken off again.
    """
    decode = functools.partial(chat.tokenizer.decode, skip_special_tokens=False)
    head: str = decode(ids[max(begin - 1, 0) : begin])
    whole: str = decode(ids[max(begin - 1, 0) : stop])
    if not whole.startswith(head):
        return False
    body = whole[len(head) :]
    normalizer = chat.tokenizer.normalizer
    return body == written or (normalizer is not None and body == normalizer.normalize_str(written))
