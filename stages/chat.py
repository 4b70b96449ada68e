"""A dialogue -> `input_ids` + `labels`, in one pass, pure: no file, no torch, no transformers.

The labels are the assistant's contents as the template renders them, each with the token that ends its turn; nothing
else. No table of marker strings says where they are. For every sequence of roles the template is rendered once with
marks in place of contents, which gives the text between contents (a `Skeleton`): where the answers stand, how much
white space the model writes itself after the generation prompt, and what ends a turn. Each dialogue is then rendered
for real, and must equal the skeleton filled with its contents, byte for byte. Where it does not (a template that
changes contents: drops old thoughts, escapes a tool's result), the spans come from renderings of the dialogue's
prefixes. Either way the tokens are proven against the text: each boundary is one between tokens, and the labelled
tokens spell content and end of turn. A row for which that cannot be shown is refused with the name of a rule.

Cost beside tokenization: about 0.1 ms a conversation, most of it jinja's.
"""

import functools
import os.path
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from stages.errors import StageError
from stages.rendering import Message, RenderingTooLargeError, Template, TemplateRefusedError

CONTROL_TOKEN_IN_CONTENT = "control_token_in_content"  # noqa: S105 - the name of a rule
"""A content holds a special token: as it stands it would become a real one, and forge a turn."""
NO_ASSISTANT_TURN = "no_assistant_turn"
"""Nothing to learn."""
RENDERING_TOO_LARGE = "rendering_too_large"
"""The template wrote much more than the contents account for."""
SPANS_UNVERIFIED = "spans_unverified"
"""It could not be shown which tokens are the assistant's (or the tokenizer cannot spell the text)."""
TEMPLATE_REFUSED = "template_refused"
"""The template raised: roles out of turn, a role that it does not know."""
TURN_NOT_RENDERED = "turn_not_rendered"
"""The template leaves a turn out: the model would learn an answer to something it never saw."""

NOT_TRAINED = -100
"""The label of a token that bears no loss."""

TrainOn = Literal["all_assistant_turns", "last_assistant_turn"]
Ids = npt.NDArray[np.int32]

PIPED = re.compile("<[|\uff5c][^|\uff5c<>\\s]{1,64}[|\uff5c]>")
CONTROL_SHAPE = re.compile(PIPED.pattern + r"|<[a-z]+(?:_[a-z]+)+>")
"""What a control token looks like when the vocabulary cannot say so: `<|name|>` (also with full-width bars), `<start_of_turn>`."""

MARK = re.compile("\ue000(\\d+)\ue001")
EDGE = " \n\t "
TRIMS: dict[tuple[bool, bool], Callable[[str], str]] = {
    (True, True): str,
    (False, True): str.lstrip,
    (True, False): str.rstrip,
    (False, False): str.strip,
}
"""By whether white space at the left and at the right of a content is written."""
MOST_SKELETONS = 4_096


class Row(NamedTuple):
    """One encoded dialogue."""

    input_ids: Ids
    labels: Ids
    """As long as input_ids: the id itself where it is trained, else NOT_TRAINED."""
    answer_ends: list[int]
    """Of every assistant turn, trained or not: the index after its end-of-turn token."""


class Span(NamedTuple):
    """One assistant turn in the rendered text, in characters."""

    start: int
    content_end: int
    end: int


class Answer(NamedTuple):
    """One assistant turn of a skeleton: which message, the white space before its content that the model writes, its end."""

    message: int
    gap: int
    end_of_turn: str


@dataclass(frozen=True)
class Skeleton:
    """What a template writes around the contents, for one sequence of roles."""

    literals: tuple[str, ...]
    """One more than there are messages."""
    fill: tuple[Callable[[str], str], ...]
    """How each content is written: as it is, or trimmed on one side or both."""
    answers: tuple[Answer, ...]
    control_tokens: int


@dataclass(frozen=True)
class Chat:
    """A template and a tokenizer, ready to encode. Make it with `open_chat`."""

    tokenizer: Tokenizer
    template: Template
    special: re.Pattern[str]
    """The tokenizer's control tokens: those it calls special, and added ones that look like `<|name|>`."""
    forbidden: re.Pattern[str]
    """What no content may hold: the special tokens, and the control tokens that are spelled out as text."""
    is_special: npt.NDArray[np.bool_]
    """By token id."""
    pieces: list[bytes] | None
    """The bytes of each token, for a byte-level vocabulary."""
    piece_lengths: npt.NDArray[np.int64]
    end_of_turn: str
    """What ends the last answer of a dialogue, such as `<|eot_id|>`."""
    inner_end_of_turn: str
    """What ends an answer that another turn follows; in nearly all templates the same."""
    skeletons: dict[tuple[str, ...], Skeleton | str | None] = field(default_factory=dict)
    """By sequence of roles; a str is the rule that refuses it; None: look at each dialogue's own prefixes."""


def open_chat(tokenizer: Tokenizer, template: Template, spelled: Sequence[str] = ()) -> Chat:
    """Look at what a template writes and how the tokenizer sees it.

    `spelled`: control tokens of the template that the vocabulary lacks and that stay plain text.
    Raises StageError if the template refuses a plain dialogue or writes nothing that ends an answer.
    """
    added = tokenizer.get_added_tokens_decoder()
    controls = {index: token.content for index, token in added.items() if token.special or PIPED.fullmatch(token.content)}
    special = list(controls.values())
    size = max([tokenizer.get_vocab_size(with_added_tokens=True), *(index + 1 for index in added)])
    is_special = np.zeros(size, dtype=bool)
    is_special[list(controls)] = True
    pieces = byte_pieces(tokenizer, size)
    forbidden = any_of([*special, *spelled])
    inner, last = ends_of_turn(template, forbidden)
    return Chat(
        tokenizer=tokenizer,
        template=template,
        special=any_of(special),
        forbidden=forbidden,
        is_special=is_special,
        pieces=pieces,
        piece_lengths=np.array([len(piece) for piece in pieces or []], dtype=np.int64),
        end_of_turn=last,
        inner_end_of_turn=inner,
    )


def encode_dialogues(chat: Chat, dialogues: Sequence[Sequence[Message]], train_on: TrainOn) -> list[Row | str]:
    """Each dialogue as a Row, or the name of the rule that refuses it; the same for any cut into batches."""
    results: list[Row | str] = []
    found: list[tuple[int, str, list[Span], int]] = []
    for index, dialogue in enumerate(dialogues):
        seen = rendered_spans(chat, dialogue)
        results.append(seen if isinstance(seen, str) else "")
        if not isinstance(seen, str):
            found.append((index, *seen))
    encodings = chat.tokenizer.encode_batch_fast([text for _, text, _, _ in found], add_special_tokens=False)
    for (index, text, spans, control_tokens), encoding in zip(found, encodings, strict=True):
        results[index] = labelled(chat, encoding, text, spans, control_tokens, train_on)
    return results


# --- from a dialogue to its text and the assistant's spans in it ---------------------------------------------------


def rendered_spans(chat: Chat, dialogue: Sequence[Message]) -> tuple[str, list[Span], int] | str:
    """The dialogue's text, the assistant's spans in it and how many special tokens it must hold; or a rule."""
    roles = tuple(message["role"] for message in dialogue)
    if "assistant" not in roles:
        return NO_ASSISTANT_TURN
    if any(chat.forbidden.search(message["content"]) for message in dialogue):
        return CONTROL_TOKEN_IN_CONTENT
    try:
        text = chat.template.render(dialogue)
    except (TemplateRefusedError, RenderingTooLargeError) as error:
        return TEMPLATE_REFUSED if isinstance(error, TemplateRefusedError) else RENDERING_TOO_LARGE
    skeleton = skeleton_of(chat, roles)
    if isinstance(skeleton, Skeleton) and (spans := filled_spans(skeleton, dialogue, text)):
        return text, spans, skeleton.control_tokens
    if skeleton is None or isinstance(skeleton, Skeleton):
        spans = prefix_spans(chat, dialogue, text)
        return (text, spans, len(chat.special.findall(text))) if spans else SPANS_UNVERIFIED
    return skeleton


def skeleton_of(chat: Chat, roles: tuple[str, ...]) -> Skeleton | str | None:
    """The skeleton of a sequence of roles, made once."""
    if roles in (known := chat.skeletons):
        return known[roles]
    skeleton = make_skeleton(chat, roles)
    if len(known) < MOST_SKELETONS:
        known[roles] = skeleton
    return skeleton


def make_skeleton(chat: Chat, roles: tuple[str, ...]) -> Skeleton | str | None:
    """Render marks in place of contents, bare and with white space at their edges, and look at what is between them."""
    try:
        bare = MARK.split(chat.template.render(marked(roles)))
        edged = MARK.split(chat.template.render(marked(roles, EDGE)))
    except (TemplateRefusedError, RenderingTooLargeError):
        return None
    order = [str(index) for index in range(len(roles))]
    if not set(order) <= set(bare[1::2]):
        return TURN_NOT_RENDERED
    if bare[1::2] != order or edged[1::2] != order:
        return None
    literals = bare[::2]
    kept = kept_edges(literals, edged[::2])
    if kept is None:
        return None
    fill: list[Callable[[str], str]] = [TRIMS[edges] for edges in kept]
    answers = []
    for index in (index for index, role in enumerate(roles) if role == "assistant"):
        end = end_of_turn_at(chat, literals[index + 1], last=index == len(roles) - 1)
        if end is None:
            return None
        answers.append(Answer(index, written_gap(chat.template, roles, index, literals), end))
    return Skeleton(tuple(literals), tuple(fill), tuple(answers), len(chat.special.findall("\ue000".join(literals))))


def marked(roles: Sequence[str], edge: str = "") -> list[Message]:
    """A dialogue of these roles with a mark in place of each content."""
    return [{"role": role, "content": f"{edge}\ue000{index}\ue001{edge}"} for index, role in enumerate(roles)]


def kept_edges(literals: Sequence[str], edged: Sequence[str]) -> list[tuple[bool, bool]] | None:
    """Of each content: whether white space at its left and its right is written; None if some of it is."""
    left, right = [], []
    for index, (literal, seen) in enumerate(zip(literals, edged, strict=True)):
        edges = [
            (before, after)
            for before in ([True, False] if index else [False])
            for after in ([True, False] if index < len(literals) - 1 else [False])
            if seen == before * EDGE + literal + after * EDGE
        ]
        if len(edges) != 1:
            return None
        right.append(edges[0][0])
        left.append(edges[0][1])
    return list(zip(left[:-1], right[1:], strict=True))


def written_gap(template: Template, roles: tuple[str, ...], index: int, literals: Sequence[str]) -> int:
    """White space (characters) between the generation prompt and the content: the model writes it, so it is trained.

    A template without a generation prompt tells nothing: then only blanks count, which are one token with the first word.
    """
    text = "".join(f"{literal}\ue000{number}\ue001" for number, literal in enumerate(literals[: index + 1]))
    start = text.rindex("\ue000")
    try:
        prompt = template.render(marked(roles[:index]), add_generation_prompt=True)
    except (TemplateRefusedError, RenderingTooLargeError):
        prompt = ""
    if prompt and text.startswith(prompt) and len(prompt) <= start and not text[len(prompt) : start].strip():
        return start - len(prompt)
    return len(literals[index]) - len(literals[index].rstrip(" "))


def end_of_turn_at(chat: Chat, literal: str, *, last: bool) -> str | None:
    """What ends the turn in the text that follows an answer."""
    token = leading_token(literal, chat.forbidden)
    if token:
        return token
    end = chat.end_of_turn if last else chat.inner_end_of_turn
    return end if literal.startswith(end) else None


def filled_spans(skeleton: Skeleton, dialogue: Sequence[Message], text: str) -> list[Span] | None:
    """The assistant's spans, if the skeleton filled with the contents is the text; else None."""
    parts = [skeleton.literals[0]]
    starts = []
    at = len(parts[0])
    for message, fill, literal in zip(dialogue, skeleton.fill, skeleton.literals[1:], strict=True):
        content = fill(message["content"])
        starts.append((at, at + len(content)))
        at += len(content) + len(literal)
        parts += (content, literal)
    if "".join(parts) != text:
        return None
    return [
        Span(starts[answer.message][0] - answer.gap, (end := starts[answer.message][1]), end + len(answer.end_of_turn))
        for answer in skeleton.answers
    ]


def prefix_spans(chat: Chat, dialogue: Sequence[Message], text: str) -> list[Span] | None:
    """The assistant's spans, each looked for behind the rendering of what stands before it; None if one is not found."""
    places = [index for index, message in enumerate(dialogue) if message["role"] == "assistant"]
    prompts: list[int] = []
    for index in places:
        try:
            prompt = chat.template.render(dialogue[:index], add_generation_prompt=True)
        except (TemplateRefusedError, RenderingTooLargeError):
            return None
        if not text.startswith(prompt):
            return None
        prompts.append(len(prompt))
    spans = []
    for index, start, limit in zip(places, prompts, [*prompts[1:], len(text)], strict=True):
        span = answer_between(chat, dialogue[index]["content"].strip(), text, start, limit)
        if span is None:
            return None
        spans.append(span)
    return spans


def answer_between(chat: Chat, content: str, text: str, start: int, limit: int) -> Span | None:
    """The content and its end of turn in text[start:limit]: whole, or its end (older thoughts are dropped by some templates)."""
    for end_of_turn in dict.fromkeys((chat.inner_end_of_turn, chat.end_of_turn)):
        at = text.find(content, start, limit) if content else -1
        while at >= 0:
            tail = re.compile(r"\s*" + re.escape(end_of_turn)).match(text, at + len(content), limit)
            if tail:
                begin = at if text[start:at].strip() else start
                return Span(begin, tail.end() - len(end_of_turn), tail.end())
            at = text.find(content, at + 1, limit)
        at = text.find(end_of_turn, start, limit)
        kept = text[start:at].strip() if at >= 0 else ""
        if kept and content.endswith(kept):
            return Span(start, at, at + len(end_of_turn))
    return None


def ends_of_turn(template: Template, control: re.Pattern[str]) -> tuple[str, str]:
    """What a template writes after an inner and after the last answer. Raises StageError if it is nothing."""
    try:
        parts = MARK.split(template.render(marked(("user", "assistant", "user", "assistant"))))
    except (TemplateRefusedError, RenderingTooLargeError) as error:
        msg = (
            f"the chat template refuses a plain dialogue of two questions and answers ({error}); "
            "choose another in template.chat_template (llama-3.1, chatml, plain, or a file)"
        )
        raise StageError(msg) from error
    literals = dict(zip(parts[1::2], parts[2::2], strict=True))
    inner, last = literals.get("1", ""), literals.get("3", "")
    text = os.path.commonprefix([inner, last]).rstrip()  # noqa: RUF071 - characters are meant
    ends = (leading_token(inner, control) or text, leading_token(last, control) or text)
    if not all(ends):
        msg = (
            "the chat template writes nothing that ends an answer, so a model trained on it would not stop; "
            "choose another in template.chat_template (llama-3.1, chatml, plain, or a file)"
        )
        raise StageError(msg)
    return ends


def leading_token(literal: str, control: re.Pattern[str]) -> str:
    """The control token that a text begins with, with the white space before it; empty if there is none."""
    start = len(literal) - len(literal.lstrip())
    match = control.match(literal, start)
    return literal[: match.end()] if match and match.group() else ""


def written_control_tokens(template: Template, tokenizer: Tokenizer) -> list[str]:
    """The control tokens that a template writes around a plain dialogue, in order, that are no single token of the vocabulary."""
    texts = []
    for roles in (("user", "assistant", "user", "assistant"), ("system", "user", "assistant")):
        try:
            texts += [template.render(marked(roles), add_generation_prompt=prompt) for prompt in (False, True)]
        except (TemplateRefusedError, RenderingTooLargeError):
            continue  # a template may know no system turn; `open_chat` judges the plain dialogue
    tokens = dict.fromkeys(token for text in texts for token in CONTROL_SHAPE.findall(text))
    return [token for token in tokens if len(tokenizer.encode(token, add_special_tokens=False).ids) != 1]


# --- from the text to ids and labels -------------------------------------------------------------------------------


def labelled(
    chat: Chat, encoding: Encoding, text: str, spans: list[Span], control_tokens: int, train_on: TrainOn
) -> Row | str:
    """The row of a text whose spans are known, once the tokens have been proven against it; or a rule."""
    ids: list[int] = encoding.ids
    input_ids = np.array(ids, dtype=np.int32)
    if int(chat.is_special[input_ids].sum()) != control_tokens:
        return CONTROL_TOKEN_IN_CONTENT
    places = spelled_places(chat, ids, input_ids, text, spans) or traced_places(chat, text, spans)
    if places is None:
        return SPANS_UNVERIFIED
    labels = np.full(len(ids), NOT_TRAINED, dtype=np.int32)
    for start, end in places if train_on == "all_assistant_turns" else places[-1:]:
        labels[start:end] = input_ids[start:end]
    return Row(input_ids, labels, [end for _, end in places])


def spelled_places(
    chat: Chat, ids: list[int], input_ids: Ids, text: str, spans: list[Span]
) -> list[tuple[int, int]] | None:
    """The spans in tokens, by the bytes of the tokens, which together must be the text's bytes; None if they are not."""
    if chat.pieces is None:
        return None
    data = text.encode()
    if b"".join([chat.pieces[index] for index in ids]) != data:
        return None
    ends = chat.piece_lengths[input_ids].cumsum()
    plain = len(data) == len(text)
    cuts = [cut for span in spans for cut in span]
    if not plain:
        cuts = byte_offsets(text, cuts)
    first = ends.searchsorted(cuts, side="left").tolist()
    places = []
    for number in range(0, len(cuts), 3):
        start, content_end, end = cuts[number : number + 3]
        begin = first[number] + 1 if start else 0
        stop = first[number + 2] + 1
        if start and ends[begin - 1] != start:
            return None
        if ends[stop - 1] != end:
            # an end of turn that is spelled out may share its last token with what follows: that token is not trained
            stop -= 1
            span = spans[number // 3]
            if single_token(chat, text[span.content_end : span.end]) or stop <= begin or ends[stop - 1] < content_end:
                return None
        places.append((begin, stop))
    return places


def byte_offsets(text: str, cuts: Sequence[int]) -> list[int]:
    """Character positions (rising) as positions in the text's UTF-8."""
    offsets = []
    at = total = 0
    for cut in cuts:
        total += len(text[at:cut].encode())
        at = cut
        offsets.append(total)
    return offsets


def traced_places(chat: Chat, text: str, spans: list[Span]) -> list[tuple[int, int]] | None:
    """The spans in tokens, by the tokenizer's own offsets, and proven by decoding them; None if one cannot be."""
    encoding = chat.tokenizer.encode(text, add_special_tokens=False)
    ids: list[int] = encoding.ids
    starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
    ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)
    places = []
    for span in spans:
        begin = int((ends <= span.start).sum())
        stop = int((starts < span.end).sum())
        if begin < stop and starts[begin] < span.start:
            return None
        written = text[span.start : span.end]
        exact = single_token(chat, text[span.content_end : span.end])
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


def single_token(chat: Chat, end_of_turn: str) -> bool:
    """Whether the end of turn is one special token of the vocabulary."""
    index = chat.tokenizer.token_to_id(end_of_turn.strip())
    return index is not None and bool(chat.is_special[index])


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of these strings, the longest first; of nothing, for none."""
    ordered = sorted({token for token in tokens if token}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")


def byte_pieces(tokenizer: Tokenizer, size: int) -> list[bytes] | None:
    """The bytes that each id of a byte-level vocabulary stands for; None for another kind of vocabulary.

    No proof is needed that it is one: every row's pieces are compared with its text.
    """
    alphabet = byte_alphabet()
    added = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
    pieces = [b""] * size
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        if index in added:
            continue
        try:
            pieces[index] = bytes([alphabet[character] for character in token])
        except KeyError:
            return None
    for index, content in added.items():
        pieces[index] = content.encode()
    return pieces


def byte_alphabet() -> dict[str, int]:
    """The character that byte-level vocabularies write for each byte: itself if it is visible, else one from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + rank): byte for rank, byte in enumerate(hidden)}
