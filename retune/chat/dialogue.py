"""A dialogue with a loaded model: its turns as the ids that training saw, and the answer drawn token by token. No terminal."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retune.chat.answer_stream import AnswerStream, Piece, count_beginning
from stages.chat.reasoning import Style, hand_over
from stages.chat.rendering import Message, RenderingTooLargeError, Template, TemplateRefusedError
from stages.contracts.tokens import AnswerForm
from stages.core.errors import StageError
from stages.core.params import read_params

TEXTS = ("content", "reasoning")
"""What of a message somebody wrote."""

PRIVATE_USE = range(0xE000, 0xF900)
"""Code points without a meaning of their own."""


class Speaker(Protocol):
    """A loaded model with its tokenizer and chat template."""

    template: Template
    special: re.Pattern[str]
    """The control tokens' texts."""
    controls: Mapping[int, str]
    """Their texts by id."""
    form: AnswerForm
    """What the template writes between its generation prompt and an answer."""
    style: Style
    """How its template takes the thoughts of earlier answers."""
    begin: int | None
    """The id that a prompt must begin with although the template does not write it."""
    stops: tuple[str, ...]
    """Texts that end an answer, where the vocabulary has no token for that."""
    context: int
    """Tokens of a dialogue, at most."""

    def encode(self, text: str, *, plain: bool) -> list[int]:
        """The ids of a text, nothing added; `plain` leaves control tokens in it as text."""

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after the last id, shape [vocabulary]. What `ids` shares with the sequence before is not computed again."""

    def ends(self, token: int) -> bool:
        """Whether an answer is over with this token."""

    def reader(self) -> Callable[[int], str]:
        """A function that takes an answer's tokens one by one and gives the text that each completes."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn."""

    temperature: float
    """0 takes the most likely token."""
    min_p: float
    """Tokens less likely than this share of the most likely one are left out."""
    max_tokens: int


@dataclass(frozen=True)
class Answer:
    """What was said."""

    text: str
    thoughts: str
    """What it thought before; empty: nothing."""
    prompt_tokens: int
    tokens: int
    seconds: float
    """For the answer, without the time that its prompt took."""
    ended: str
    """`end`: the model ended it; `limit`: it has as many tokens as it may; `stopped`: somebody stopped it."""


def read_sampling(
    root: Path, temperature: float | None = None, min_p: float | None = None, max_tokens: int | None = None
) -> Sampling:
    """What is given, and for the rest gguf.sampling in params.yaml: what the exported files are shipped with. Raises StageError."""
    section = read_params(root / "params.yaml").get("gguf", {}).get("sampling")
    try:
        return Sampling(
            float(section["temperature"] if temperature is None else temperature),
            float(section["min_p"] if min_p is None else min_p),
            int(section["max_new_tokens"] if max_tokens is None else max_tokens),
        )
    except (TypeError, ValueError, KeyError) as error:
        raise StageError(
            "params.yaml: gguf.sampling must name temperature, min_p and max_new_tokens; `dvc repro check` says more"
        ) from error


def prompt_ids(speaker: Speaker, messages: Sequence[Message]) -> list[int]:
    """The dialogue with the answer opened, as `apply_chat_template` has it, but with control tokens in a content left as text.

    Raises StageError if the template refuses the dialogue, or a content holds what would end or forge a turn in any case.
    """
    contents = [str(message[key]) for message in messages for key in TEXTS if key in message]
    if any(stop in content for content in contents for stop in speaker.stops):
        raise StageError(
            "that holds the text which ends a turn of this model, and would forge one; write it in another way"
        )
    if not any(speaker.special.search(content) for content in contents):
        ids = speaker.encode(render(speaker, messages), plain=False)
    else:
        ids = split_ids(speaker, messages)
    return ids if speaker.begin is None or ids[:1] == [speaker.begin] else [speaker.begin, *ids]


def split_ids(speaker: Speaker, messages: Sequence[Message]) -> list[int]:
    """The same for contents with control tokens: they stand aside while the text is rendered and cut at the template's own."""
    everything = "".join(str(message[key]) for message in messages for key in TEXTS if key in message)
    mark = next(chr(code) for code in PRIVATE_USE if chr(code) not in everything)
    aside: list[str] = []

    def put_aside(match: re.Match[str]) -> str:
        aside.append(match.group())
        return f"{mark}{len(aside) - 1}{mark}"

    hidden = [
        {**message, **{key: speaker.special.sub(put_aside, str(message[key])) for key in TEXTS if key in message}}
        for message in messages
    ]
    text = render(speaker, hidden)
    ids: list[int] = []
    at = 0
    for start, end in [*(match.span() for match in speaker.special.finditer(text)), (len(text), len(text))]:
        plain = re.sub(f"{mark}(\\d+){mark}", lambda match: aside[int(match.group(1))], text[at:start])
        part = speaker.encode(plain, plain=True)
        if not speaker.controls.keys().isdisjoint(part):
            raise StageError(
                "that holds a control token which this vocabulary cannot keep as text; write it in another way"
            )
        ids += part + speaker.encode(text[start:end], plain=False)
        at = end
    return ids


def render(speaker: Speaker, messages: Sequence[Message]) -> str:
    """The dialogue's text with the answer opened. Raises StageError if the template refuses it."""
    try:
        return speaker.template.render(hand_over(messages, speaker.style), add_generation_prompt=True)
    except (TemplateRefusedError, RenderingTooLargeError) as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise StageError(f"the model's chat template refuses a dialogue of {roles}") from error


def fit_dialogue(speaker: Speaker, messages: Sequence[Message], room: int) -> tuple[list[Message], list[int]]:
    """(the messages, their ids) without the oldest question and answer, as often as `room` tokens for the answer ask for it.

    Raises StageError if the last question alone is too long.
    """
    kept = list(messages)
    while len(ids := prompt_ids(speaker, kept)) + room > speaker.context:
        first = next(index for index, message in enumerate(kept) if message["role"] == "user")
        if first == len(kept) - 1:
            raise StageError(
                f"that makes {len(ids)} tokens, and with {room} for the answer the model's {speaker.context} are too few; "
                "shorten it, or change --max-tokens or --context"
            )
        kept = [*kept[:first], *kept[first + 2 :]]
    return kept, ids


def answer(
    speaker: Speaker,
    ids: Sequence[int],
    sampling: Sampling,
    draw: np.random.Generator,
    say: Callable[[Piece], None],
    stopped: Callable[[], bool],
) -> Answer:
    """Draw an answer to a prompt, and `say` its pieces as they come; `stopped` is asked before each token."""
    sequence, read, stream = list(ids), speaker.reader(), AnswerStream(speaker.form)
    said: list[Piece] = []
    held, ended, started = "", "limit", time.perf_counter()
    first: float | None = None

    def pass_on(pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            said.append(piece)
            say(piece)

    for _ in range(sampling.max_tokens):
        if stopped():
            ended = "stopped"
            break
        token = choose_token(speaker.logits(sequence), sampling, draw)
        first = first or time.perf_counter()
        sequence.append(token)
        if speaker.ends(token):
            ended = "end"
            break
        if token in speaker.controls:
            pass_on(stream.feed(held, control=False))
            pass_on(stream.feed(speaker.controls[token], control=True))
            held = ""
            continue
        held += read(token)
        cut = min((place for stop in speaker.stops if (place := held.find(stop)) >= 0), default=None)
        out = held[: cut if cut is not None else len(held) - count_beginning(held, speaker.stops)]
        held = held[len(out) :]
        pass_on(stream.feed(out, control=False))
        if cut is not None:
            held, ended = "", "end"
            break
    pass_on(stream.feed(held, control=False))
    pass_on(stream.finish())
    # the first token comes with the prompt's time
    count, seconds = len(sequence) - len(ids), time.perf_counter() - (first or started)
    text, thoughts = ("".join(piece.text for piece in said if piece.thought == which) for which in (False, True))
    return Answer(text, thoughts.strip(), len(ids), count, seconds, ended)


def choose_token(logits: NDArray[np.float32], sampling: Sampling, draw: np.random.Generator) -> int:
    """One token. As in llama.cpp, min_p looks at the model's own probabilities, before the temperature changes them."""
    above = logits.astype(np.float64) - logits.max()
    if sampling.temperature == 0:
        return int(above.argmax())
    odds = np.exp(above / sampling.temperature)
    odds[np.exp(above) < sampling.min_p] = 0
    return int(draw.choice(len(odds), p=odds / odds.sum()))


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
