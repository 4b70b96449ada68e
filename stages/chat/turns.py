"""What a chat template writes around contents; pure, and without a tokenizer.

It is found by rendering dialogues with a placeholder in place of each content: what stands between the placeholders is the template's.
"""

import os.path
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stages.chat.reasoning import Reasoning, Style, ThoughtForm, find_style
from stages.chat.rendering import Message, RenderingTooLargeError, Template, TemplateRefusedError
from stages.core.errors import StageError

PIPED = re.compile("<[|\uff5c][^|\uff5c<>\\s]{1,64}[|\uff5c]>")
CONTROL_SHAPE = re.compile(PIPED.pattern + r"|<[a-z]+(?:_[a-z]+)+>")
"""What a control token looks like when the vocabulary cannot say so: `<|name|>` (also with full-width bars), `<start_of_turn>`."""

PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")
TWO_QUESTIONS = ("user", "assistant", "user", "assistant")
WITH_SYSTEM = ("system", "user", "assistant")
"""A template may know no system turn."""


THINKING = "assistant, thinking"
"""The kind of an answer that stands behind a thought; the kinds of all other messages are their roles."""


class Span(NamedTuple):
    """One assistant turn in the rendered text, in characters."""

    start: int
    """Where the generation prompt ends: the first character that the model writes."""
    content_end: int
    end: int
    """Of what is trained: behind the end of turn; at `content_end`, where generation does not stop at that (`cut_inner_end`)."""
    rule: str | None = None
    """Why it may not be trained, a key of row_rules.RULES; None: it may."""


class Slot(NamedTuple):
    """What stands between two literals of a frame."""

    message: int
    field: str
    """`content` or `reasoning`; in the order of the text the thought comes first, so they are compared by `number`."""

    @property
    def number(self) -> int:
        """Its number in a placeholder: rising in the order of a dialogue."""
        return 2 * self.message + (self.field == "content")

    @property
    def placeholder(self) -> str:
        """What stands for it in a rendering."""
        return f"\ue000{self.number}\ue001"

    @classmethod
    def of(cls, number: int) -> "Slot":
        """The slot of a placeholder's number."""
        return cls(number // 2, "content" if number % 2 else "reasoning")


class AnswerPlace(NamedTuple):
    """One assistant turn of a skeleton."""

    message: int
    slot: int
    """The first slot of it that is trained."""
    gap: int
    """Characters before that slot's content that the model writes itself after the generation prompt."""
    end_of_turn: str
    """As far as it is trained; empty: it is not."""
    rule: str | None
    """Why it may not be trained; None: it may."""
    last_slot: int | None = None
    """The slot of its content; None: the first one."""

    @property
    def content(self) -> int:
        """The slot of its content."""
        return self.slot if self.last_slot is None else self.last_slot


@dataclass(frozen=True)
class Frame:
    """Literals with contents between them."""

    literals: tuple[str, ...]
    """One more than there are slots."""
    slots: tuple[Slot, ...]
    fill: tuple[Callable[[str], str], ...]
    """How each content is written: as it is, or trimmed on one side or both."""

    def text_before(self, slot: int) -> str:
        """The text up to a slot, with placeholders in the slots before it."""
        pieces = [self.literals[0]]
        for one, literal in zip(self.slots[:slot], self.literals[1:], strict=False):
            pieces += [one.placeholder, literal]
        return "".join(pieces)

    def with_literal(self, index: int, literal: str) -> "Frame":
        """The same with another literal before slot `index`."""
        return Frame((*self.literals[:index], literal, *self.literals[index + 1 :]), self.slots, self.fill)


@dataclass(frozen=True)
class DialogueSkeleton:
    """What is written around the contents, for one sequence of kinds of messages."""

    template: Frame
    """By the template."""
    written: Frame
    """In the text that is trained: the same object, but where the last answer had to be mended."""
    answers: tuple[AnswerPlace, ...]
    """Places in `written`."""
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
    """What ends the last answer of a dialogue, such as `<|eot_id|>`, up to what generation stops at."""
    inner_end_of_turn: str
    """What ends an answer that another turn follows; in nearly all templates the same."""
    stop: str
    """What generation stops at: `end_of_turn`, or, where the template closes more than the turn, the control token that it ends with."""
    style: Style = "none"
    """How the template takes an answer's thoughts."""
    thought: ThoughtForm | None = None
    """What it writes around them; None: it takes none."""
    reasoning: Reasoning = "train"
    """What becomes of thoughts: template.reasoning."""
    stop_closes_thought: bool = False
    """Whether the template closes a thought with `stop`, too: generation would not come to the answer."""
    end_is_added: bool = False
    """Whether the template ends an answer by the next turn alone, so that what is trained adds that end to the last answer."""
    between: re.Pattern[str] | None = None
    """What the template writes between two turns where no control token is in it; None: one is everywhere."""
    skeletons: dict[tuple[str, ...], DialogueSkeleton | str | None] = field(default_factory=dict)
    """By sequence of kinds of messages (and the row's options), as `stages.chat.skeletons.find_skeleton` has found them."""


def open_turns(
    template: Template, special: Iterable[str], spelled: Iterable[str] = (), reasoning: Reasoning = "train"
) -> Turns:
    """Look at what a template writes. `special`: the vocabulary's control tokens; `spelled`: those of the template that it lacks.

    Raises StageError if the template refuses a plain dialogue or writes nothing that ends an answer.
    """
    special, spelled = list(special), list(spelled)
    forbidden = any_of([*special, *spelled])
    style, thought = find_style(template)
    form = thought.before + thought.behind if thought else ""
    inner, last, added = ends_of_turn(template, forbidden, form)
    first = leading_token(last, forbidden)
    stop = forbidden.findall(last)[-1] if first and first != last else last.strip()
    texts = texts_between(template, forbidden)
    return Turns(
        template=template,
        special=any_of(special),
        spelled=any_of(spelled),
        forbidden=forbidden,
        end_of_turn=last,
        inner_end_of_turn=inner,
        stop=stop,
        stop_closes_thought=bool(first) and stop in form,
        style=style,
        thought=thought,
        reasoning=reasoning,
        end_is_added=added,
        between=any_of(texts) if texts else None,
    )


def ends_of_turn(template: Template, control: re.Pattern[str], form: str) -> tuple[str, str, bool]:
    """What ends an inner and the last answer, and whether the template leaves the latter out. Raises StageError if nothing does.

    `form`: what the template writes around a thought; a control token of it ends an answer only if no other one does.
    """
    try:
        parts = PLACEHOLDER.split(template.render(make_placeholders(TWO_QUESTIONS)))
    except (TemplateRefusedError, RenderingTooLargeError) as error:
        needs = " It needs an option that nobody gives: template.options." if getattr(error, "undefined", False) else ""
        msg = (
            f"the chat template refuses a plain dialogue of two questions and answers ({error}); "
            f"choose another in template.chat_template (llama-3.1, chatml, plain, or a file).{needs}"
        )
        raise StageError(msg) from error
    literals = dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))
    inner, last = (literals.get(Slot(place, "content").number, "") for place in (1, 3))
    text = os.path.commonprefix([inner, last]).rstrip()  # noqa: RUF071 - characters are meant
    if late := find_late_end(text, control, form):
        return late, late, False
    ends = (leading_token(inner, control) or text, leading_token(last, control) or text)
    if ends[0] and not last.strip():
        # GLM and others: the next turn's header ends an answer, and their runtimes stop at it
        return ends[0], ends[0], True
    if not all(ends):
        msg = (
            "the chat template writes nothing that ends an answer, so a model trained on it would not stop; "
            "choose another in template.chat_template (llama-3.1, chatml, plain, or a file)"
        )
        raise StageError(msg)
    return *ends, False


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


def find_late_end(text: str, control: re.Pattern[str], form: str) -> str:
    """Where the first control token of `text`, which stands behind every answer, closes thoughts, too: up to one that does not; else empty.

    Kimi-K3 writes `<|close|>think<|sep|>` and, behind an answer, `<|close|>response<|sep|><|close|>message<|sep|><|end_of_msg|>`.
    """
    if not (first := leading_token(text, control)) or first.strip() not in form:
        return ""
    return next((text[: token.end()] for token in control.finditer(text) if token.group() not in form), "")


def end_of_turn_at(turns: Turns, literal: str, *, last: bool) -> str | None:
    """What ends the turn in the text that follows an answer."""
    end = turns.end_of_turn if last else turns.inner_end_of_turn
    token = leading_token(literal, turns.forbidden)
    if token and not (end.startswith(token) and literal.startswith(end)):
        return token
    return end if literal.startswith(end) else None


def cut_inner_end(turns: Turns, end: str) -> str:
    """What of an answer's end is trained: all; or nothing, where the template ends the last answer otherwise.

    gpt-oss writes `<|end|>` behind thoughts and behind answers that another turn follows: no program stops there, so a model that
    had learned to say it would go on. It learns to stop by what ends the last answer.
    """
    return "" if end.strip() == turns.inner_end_of_turn.strip() != turns.end_of_turn.strip() else end


def make_placeholders(kinds: Sequence[str], edge: str = "") -> list[Message]:
    """A dialogue of these kinds of messages with a placeholder in place of each content and thought, and `edge` around it."""
    messages: list[Message] = []
    for place, kind in enumerate(kinds):
        content = f"{edge}{Slot(place, 'content').placeholder}{edge}"
        thought = {"reasoning": f"{edge}{Slot(place, 'reasoning').placeholder}{edge}"} if kind == THINKING else {}
        messages.append({"role": "assistant" if kind == THINKING else kind, "content": content, **thought})
    return messages


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
