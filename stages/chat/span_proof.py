"""Where the answers of a batch stand in its tokens, shown by the bytes that the tokens spell; pure.

Together the tokens of a row spell its text, each boundary of an answer is one between tokens, and there are as many control tokens
as the template wrote. That is looked at for a whole batch at once, in Arrow and numpy. Where tokens do not spell bytes (a tokenizer
that normalizes, or puts a blank before the first word), a row is traced by itself (stages/chat/span_trace.py).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.chat.chat import Chat, Ids, Places, is_control_token
from stages.chat.marking import Rendered
from stages.chat.prompt_proof import check_prompts
from stages.chat.row_rules import CONTROL_TOKEN_IN_CONTENT, PROMPT_TOKENS_DIFFER, SPANS_UNVERIFIED
from stages.chat.span_trace import trace_spans

Flags = npt.NDArray[np.bool_]


class ProvenSpan(NamedTuple):
    """The tokens of one answer in its row: the first, and the one behind the last."""

    begin: int
    end: int
    rule: str | None
    """Why it may not be trained; None: it may."""


def prove_spans(chat: Chat, rendered: Sequence[Rendered], ids: Ids, lengths: Places) -> list[list[ProvenSpan] | str]:
    """By row its answers, or the rule that refuses it.

    `ids`: the tokens of all rows, one behind the other; `lengths`: how many each row has.
    """
    bounds = np.concatenate([[0], lengths.cumsum()])
    controls = np.flatnonzero(chat.is_special[ids])
    counts = np.diff(controls.searchsorted(bounds)).tolist()
    by_bytes = find_spans_by_bytes(chat, rendered, ids, bounds, controls)
    proven: list[list[ProvenSpan] | str] = []
    for one, count, spans, here in zip(rendered, counts, by_bytes, pairwise(bounds.tolist()), strict=True):
        if count != one.control_tokens:
            proven.append(CONTROL_TOKEN_IN_CONTENT)
        elif spans or one.pieces is not None:
            proven.append(spans or SPANS_UNVERIFIED)
        else:
            traced = trace_spans(chat, one, ids, *here)
            proven.append(
                [ProvenSpan(*tokens, span.rule) for tokens, span in zip(traced, one.spans, strict=True)]
                if traced
                else SPANS_UNVERIFIED
            )
    return proven


def find_spans_by_bytes(
    chat: Chat, rendered: Sequence[Rendered], ids: Ids, bounds: Places, controls: Places
) -> list[list[ProvenSpan] | None]:
    """By row its answers; None if its tokens do not spell its text, or do not cut it at an answer's end. `controls`: where `ids` has control tokens."""
    if chat.token_bytes is None:
        return [None] * len(rendered)
    texts = [one.text.encode() for one in rendered]
    data, token_starts = spell(chat.token_bytes, ids)
    row_starts = token_starts[bounds]
    edges = edges_in_bytes(rendered, texts, row_starts)
    begins, ends, begins_there, ends_there = find_tokens(chat, rendered, edges, token_starts)
    spelled = compare_texts(texts, data, row_starts)
    rows = np.repeat(np.arange(len(rendered)), [len(one.spans) for one in rendered])
    to_check = begins_there & ends_there & np.array(spelled, bool)[rows]
    prompted = np.zeros(len(rows), bool)
    prompted[to_check] = check_prompts(chat, ids, controls, bounds[rows[to_check]], begins[to_check])
    starts = bounds[:-1][rows]
    answers = zip((begins - starts).tolist(), (ends - starts).tolist(), prompted.tolist(), strict=True)
    closed = ends_there.tolist()
    found: list[list[ProvenSpan] | None] = []
    at = 0
    for one, is_spelled in zip(rendered, spelled, strict=True):
        spans = [
            ProvenSpan(begin, end, span.rule or (None if is_prompted else PROMPT_TOKENS_DIFFER))
            for span, (begin, end, is_prompted) in zip(one.spans, answers, strict=False)
        ]
        stop = at + len(spans)
        found.append(spans if is_spelled and all(closed[at:stop]) else None)
        at = stop
    return found


def spell(token_bytes: pa.LargeBinaryArray, ids: Ids) -> tuple[memoryview, Places]:
    """The bytes that ids spell, and where each token's begin in them (one more than there are ids)."""
    _, offsets, data = token_bytes.take(pa.array(ids)).buffers()
    starts = np.frombuffer(offsets, np.int64, len(ids) + 1) if len(ids) else np.zeros(1, np.int64)
    return memoryview(data).cast("B")[: starts[-1]] if data else memoryview(b""), starts


def compare_texts(texts: Sequence[bytes], data: memoryview, row_starts: Places) -> list[bool]:
    """By row, whether the bytes of its tokens are those of its text."""
    sizes = np.array([len(text) for text in texts], np.int64)
    # Arrow compares memory; Python's memoryview compares byte by byte
    if np.array_equal(np.diff(row_starts), sizes) and pa.py_buffer(data).equals(pa.py_buffer(b"".join(texts))):
        return [True] * len(texts)
    starts = row_starts.tolist()
    return [data[starts[row] : starts[row + 1]] == text for row, text in enumerate(texts)]


def edges_in_bytes(rendered: Sequence[Rendered], texts: Sequence[bytes], row_starts: Places) -> Places:
    """Of every answer its begin, the end of its content and its end, in the bytes of the batch: one line of three an answer."""
    edges: list[int] = []
    for one, text in zip(rendered, texts, strict=True):
        cuts = [cut for span in one.spans for cut in span[:3]]
        edges += cuts if len(text) == len(one.text) else byte_offsets(one.text, cuts)
    starts = np.repeat(row_starts[:-1], [len(one.spans) for one in rendered])
    return np.array(edges, np.int64).reshape(-1, 3) + starts[:, None]


def byte_offsets(text: str, cuts: Sequence[int]) -> list[int]:
    """Character positions (rising) as positions in the text's UTF-8."""
    offsets = []
    at = total = 0
    for cut in cuts:
        total += len(text[at:cut].encode())
        at = cut
        offsets.append(total)
    return offsets


def find_tokens(
    chat: Chat, rendered: Sequence[Rendered], edges: Places, token_starts: Places
) -> tuple[Places, Places, Flags, Flags]:
    """Of every answer its first token, the one behind its last, and whether tokens begin and end where it does."""
    begins, content_ends, ends = edges.T
    first, begins_there = tokens_at(token_starts, begins)
    last, ends_there = tokens_at(token_starts, ends)
    if ends_there.all():
        return first, last, begins_there, ends_there
    # an end of turn that is spelled out may share its last token with what follows: that token is not trained
    last = np.where(ends_there, last, last - 1)
    # and where nothing of the end is trained, a token that holds a part of it is not
    holds_content = (last > first) & ((token_starts[last] >= content_ends) | (content_ends == ends))
    spans = [(one.text, span) for one in rendered for span in one.spans]
    spelled_out = [
        not there and not is_control_token(chat.tokenizer, chat.controls, text[span.content_end : span.end])
        for there, (text, span) in zip(ends_there.tolist(), spans, strict=True)
    ]
    return first, last, begins_there, ends_there | (holds_content & np.array(spelled_out, bool))


def tokens_at(token_starts: Places, places: Places) -> tuple[Places, Flags]:
    """The tokens that begin at these bytes, or else the next ones; and whether they do."""
    found = token_starts.searchsorted(places, side="left")
    return found, token_starts[np.minimum(found, len(token_starts) - 1)] == places
