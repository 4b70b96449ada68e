"""What a chat template writes around contents; pure, and without a tokenizer.

It is found by rendering dialogues with a placeholder in place of each content: what stands between the placeholders is the template's.
"""

import os.path
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stages.chat.rendering import Message, RenderingTooLargeError, Template, TemplateRefusedError
from stages.core.errors import StageError

PIPED = re.compile("<[|\uff5c][^|\uff5c<>\\s]{1,64}[|\uff5c]>")
CONTROL_SHAPE = re.compile(PIPED.pattern + r"|<[a-z]+(?:_[a-z]+)+>")
"""What a control token looks like when the vocabulary cannot say so: `<|name|>` (also with full-width bars), `<start_of_turn>`."""

PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")
TWO_QUESTIONS = ("user", "assistant", "user", "assistant")
WITH_SYSTEM = ("system", "user", "assistant")
"""A template may know no system turn."""


class Span(NamedTuple):
    """One assistant turn in the rendered text, in characters."""

    start: int
    content_end: int
    end: int


class AnswerPlace(NamedTuple):
    """One assistant turn of a skeleton: which message, the white space before its content that the model writes, its end."""

    message: int
    gap: int
    end_of_turn: str


@dataclass(frozen=True)
class DialogueSkeleton:
    """What a template writes around the contents, for one sequence of roles."""

    literals: tuple[str, ...]
    """One more than there are messages."""
    fill: tuple[Callable[[str], str], ...]
    """How each content is written: as it is, or trimmed on one side or both."""
    answers: tuple[AnswerPlace, ...]
    control_tokens: int


@dataclass(frozen=True)
class Turns:
    """A template and what it writes around contents. Make it with `open_turns`."""

    template: Template
    special: re.Pattern[str]
    """The control tokens of the vocabulary."""
    spelled: re.Pattern[str]
    """The control tokens that the vocabulary lacks and that are spelled out as text."""
    forbidden: re.Pattern[str]
    """What no content may hold: both."""
    end_of_turn: str
    """What ends the last answer of a dialogue, such as `<|eot_id|>`."""
    inner_end_of_turn: str
    """What ends an answer that another turn follows; in nearly all templates the same."""
    between: re.Pattern[str] | None = None
    """What the template writes between two turns where no control token is in it; None: one is everywhere."""
    skeletons: dict[tuple[str, ...], DialogueSkeleton | str | None] = field(default_factory=dict)
    """By sequence of roles, as `stages.chat.skeletons.find_skeleton` has found them."""


def open_turns(template: Template, special: Iterable[str], spelled: Iterable[str] = ()) -> Turns:
    """Look at what a template writes. `special`: the vocabulary's control tokens; `spelled`: those of the template that it lacks.

    Raises StageError if the template refuses a plain dialogue or writes nothing that ends an answer.
    """
    special, spelled = list(special), list(spelled)
    forbidden = any_of([*special, *spelled])
    inner, last = ends_of_turn(template, forbidden)
    texts = texts_between(template, forbidden)
    return Turns(template, any_of(special), any_of(spelled), forbidden, last, inner, any_of(texts) if texts else None)


def ends_of_turn(template: Template, control: re.Pattern[str]) -> tuple[str, str]:
    """What a template writes after an inner and after the last answer. Raises StageError if it is nothing."""
    try:
        parts = PLACEHOLDER.split(template.render(make_placeholders(TWO_QUESTIONS)))
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


def texts_between(template: Template, control: re.Pattern[str]) -> set[str]:
    """What a template writes between two contents of plain dialogues, as far as it has words and no control token."""
    texts = [template.try_render(make_placeholders(roles)) for roles in (TWO_QUESTIONS, WITH_SYSTEM)]
    found = {between for text in texts if text for between in PLACEHOLDER.split(text)[2:-1:2]}
    return {text for text in found if any(map(str.isalnum, text)) and not control.search(text)}


def leading_token(literal: str, control: re.Pattern[str]) -> str:
    """The control token that a text begins with, with the white space before it; empty if there is none."""
    start = len(literal) - len(literal.lstrip())
    match = control.match(literal, start)
    return literal[: match.end()] if match and match.group() else ""


def end_of_turn_at(turns: Turns, literal: str, *, last: bool) -> str | None:
    """What ends the turn in the text that follows an answer."""
    token = leading_token(literal, turns.forbidden)
    if token:
        return token
    end = turns.end_of_turn if last else turns.inner_end_of_turn
    return end if literal.startswith(end) else None


def gap_before(before: str, prompt: str | None) -> int:
    """White space (characters) between the generation prompt and an answer: the model writes it, so it is trained.

    `before` is the text up to the answer's content, `prompt` the generation prompt. A template without one tells nothing:
    then only blanks count, which are one token with the first word.
    """
    if prompt and before.startswith(prompt) and not before[len(prompt) :].strip():
        return len(before) - len(prompt)
    return len(before) - len(before.rstrip(" "))


def make_placeholders(roles: Sequence[str], edge: str = "") -> list[Message]:
    """A dialogue of these roles with a placeholder in place of each content, and `edge` around it."""
    return [{"role": role, "content": f"{edge}\ue000{index}\ue001{edge}"} for index, role in enumerate(roles)]


def written_control_tokens(template: Template) -> list[str]:
    """The control tokens that a template writes around a plain dialogue, by their look, in order.

    Rendered text is looked at, not the source: the branches for tools do not count.
    """
    texts = [
        template.try_render(make_placeholders(roles), add_generation_prompt=prompt)
        for roles in (TWO_QUESTIONS, WITH_SYSTEM)
        for prompt in (False, True)
    ]
    return list(dict.fromkeys(token for text in texts if text for token in CONTROL_SHAPE.findall(text)))


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of these strings, the longest first; of nothing, for none."""
    ordered = sorted({token for token in tokens if token}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")
