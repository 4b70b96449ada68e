"""Where the assistant's turns stand in a rendered dialogue, for any chat template; pure, and without a tokenizer.

No table of marker strings says where they are. For every sequence of roles the template is rendered once with marks in
place of contents, which gives the text between contents (a `Skeleton`): where the answers stand, how much white space
the model writes itself after the generation prompt, and what ends a turn. Each dialogue is then rendered for real, and
must equal the skeleton filled with its contents, byte for byte. Where it does not (a template that changes contents:
drops old thoughts, escapes a tool's result), the spans come from renderings of the dialogue's prefixes.

A second rendering costs more than the rest (0.1 ms a conversation, most of it jinja's), so the prefixes are rendered
only where the skeleton does not fit.
"""

import os.path
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
class Turns:
    """A template and what it writes around contents. Make it with `open_turns`."""

    template: Template
    special: re.Pattern[str]
    """The control tokens of the vocabulary."""
    forbidden: re.Pattern[str]
    """What no content may hold: those, and the control tokens that are spelled out as text."""
    end_of_turn: str
    """What ends the last answer of a dialogue, such as `<|eot_id|>`."""
    inner_end_of_turn: str
    """What ends an answer that another turn follows; in nearly all templates the same."""
    skeletons: dict[tuple[str, ...], Skeleton | str | None] = field(default_factory=dict)
    """By sequence of roles; a str is the rule that refuses it; None: look at each dialogue's own prefixes."""


def open_turns(template: Template, special: Iterable[str], spelled: Iterable[str] = ()) -> Turns:
    """Look at what a template writes. `special`: the vocabulary's control tokens; `spelled`: those of the template that it lacks.

    Raises StageError if the template refuses a plain dialogue or writes nothing that ends an answer.
    """
    special = list(special)
    forbidden = any_of([*special, *spelled])
    inner, last = ends_of_turn(template, forbidden)
    return Turns(template, any_of(special), forbidden, last, inner)


def rendered_spans(turns: Turns, dialogue: Sequence[Message]) -> tuple[str, list[Span], int] | str:
    """The dialogue's text, the assistant's spans in it and how many special tokens it must hold; or a rule."""
    roles = tuple(message["role"] for message in dialogue)
    if "assistant" not in roles:
        return NO_ASSISTANT_TURN
    if any(turns.forbidden.search(message["content"]) for message in dialogue):
        return CONTROL_TOKEN_IN_CONTENT
    try:
        text = turns.template.render(dialogue)
    except (TemplateRefusedError, RenderingTooLargeError) as error:
        return TEMPLATE_REFUSED if isinstance(error, TemplateRefusedError) else RENDERING_TOO_LARGE
    skeleton = skeleton_of(turns, roles)
    if isinstance(skeleton, Skeleton) and (spans := filled_spans(skeleton, dialogue, text)):
        return text, spans, skeleton.control_tokens
    if skeleton is None or isinstance(skeleton, Skeleton):
        spans = prefix_spans(turns, dialogue, text)
        return (text, spans, len(turns.special.findall(text))) if spans else SPANS_UNVERIFIED
    return skeleton


def skeleton_of(turns: Turns, roles: tuple[str, ...]) -> Skeleton | str | None:
    """The skeleton of a sequence of roles, made once."""
    if roles in (known := turns.skeletons):
        return known[roles]
    skeleton = make_skeleton(turns, roles)
    if len(known) < MOST_SKELETONS:
        known[roles] = skeleton
    return skeleton


def make_skeleton(turns: Turns, roles: tuple[str, ...]) -> Skeleton | str | None:
    """Render marks in place of contents, bare and with white space at their edges, and look at what is between them."""
    try:
        bare = MARK.split(turns.template.render(marked(roles)))
        edged = MARK.split(turns.template.render(marked(roles, EDGE)))
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
        end = end_of_turn_at(turns, literals[index + 1], last=index == len(roles) - 1)
        if end is None:
            return None
        answers.append(Answer(index, written_gap(turns.template, roles, index, literals), end))
    return Skeleton(tuple(literals), tuple(fill), tuple(answers), len(turns.special.findall("\ue000".join(literals))))


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


def end_of_turn_at(turns: Turns, literal: str, *, last: bool) -> str | None:
    """What ends the turn in the text that follows an answer."""
    token = leading_token(literal, turns.forbidden)
    if token:
        return token
    end = turns.end_of_turn if last else turns.inner_end_of_turn
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


def prefix_spans(turns: Turns, dialogue: Sequence[Message], text: str) -> list[Span] | None:
    """The assistant's spans, each looked for behind the rendering of what stands before it; None if one is not found."""
    places = [index for index, message in enumerate(dialogue) if message["role"] == "assistant"]
    prompts: list[int] = []
    for index in places:
        try:
            prompt = turns.template.render(dialogue[:index], add_generation_prompt=True)
        except (TemplateRefusedError, RenderingTooLargeError):
            return None
        if not text.startswith(prompt):
            return None
        prompts.append(len(prompt))
    spans = []
    for index, start, limit in zip(places, prompts, [*prompts[1:], len(text)], strict=True):
        span = answer_between(turns, dialogue[index]["content"].strip(), text, start, limit)
        if span is None:
            return None
        spans.append(span)
    return spans


def answer_between(turns: Turns, content: str, text: str, start: int, limit: int) -> Span | None:
    """The content and its end of turn in text[start:limit]: whole, or its end (older thoughts are dropped by some templates)."""
    for end_of_turn in dict.fromkeys((turns.inner_end_of_turn, turns.end_of_turn)):
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


def written_control_tokens(template: Template) -> list[str]:
    """The control tokens that a template writes around a plain dialogue, by their look, in order.

    Rendered text is looked at, not the source: the branches for tools do not count.
    """
    texts = []
    for roles in (("user", "assistant", "user", "assistant"), ("system", "user", "assistant")):
        try:
            texts += [template.render(marked(roles), add_generation_prompt=prompt) for prompt in (False, True)]
        except (TemplateRefusedError, RenderingTooLargeError):
            continue  # a template may know no system turn; `open_turns` judges the plain dialogue
    return list(dict.fromkeys(token for text in texts for token in CONTROL_SHAPE.findall(text)))


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of these strings, the longest first; of nothing, for none."""
    ordered = sorted({token for token in tokens if token}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")
