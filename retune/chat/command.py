"""`retune chat`: talk to what was made: a GGUF file, the base with the adapter as it was trained, or the base alone."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retune.project import give_up, project_root
from stages.core.value_differences import show_text

if TYPE_CHECKING:
    import numpy as np

    from retune.chat.answer_stream import Piece
    from retune.chat.dialogue import Answer, Sampling, Speaker
    from stages.chat.rendering import Message


def chat(
    gguf: Annotated[Path | None, typer.Option(help="This GGUF file. Default: the first of data/gguf.")] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="The base as training loaded it, with the adapter on it.")
    ] = False,
    base: Annotated[bool, typer.Option("--base", help="The base alone, for comparison.")] = False,
    system: Annotated[str | None, typer.Option(help="A system text for the dialogue.")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="0 takes the most likely token each time. Default: gguf.sampling in params.yaml."),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Leaves out tokens less likely than this share of the most likely one. Default: as for --temperature.",
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of one answer. Default: as for --temperature.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed draws the same answers.")] = None,
    context: Annotated[
        int, typer.Option(min=1, help="Tokens of the dialogue, at most; older turns are left out, and it is said.")
    ] = 4096,
) -> None:
    """Talk to the model in the terminal; Ctrl-C stops an answer, Ctrl-D ends.

    From a pipe each line is a turn, and only the answers go to stdout. Control tokens in what you type stay text.
    """
    if sum((gguf is not None, adapter, base)) > 1:
        give_up("--gguf, --adapter and --base name one each: take one of them")
    root = project_root()
    file = gguf.absolute() if gguf else None
    os.chdir(root)
    import numpy as np

    from retune.chat.dialogue import read_sampling
    from stages.core.errors import StageError

    try:
        sampling = read_sampling(root, temperature, min_p, max_tokens)
        with open_speaker(root, file, context, sampling.max_tokens, adapter=adapter, base=base) as (speaker, name):
            talk(speaker, name, system, sampling, np.random.default_rng(seed))
    except StageError as error:
        give_up(str(error))


@contextmanager
def open_speaker(
    root: Path, file: Path | None, context: int, max_tokens: int, *, adapter: bool, base: bool
) -> "Iterator[tuple[Speaker, str]]":
    """(the loaded model, what it is called). Raises StageError."""
    if adapter or base:
        from retune.chat.torch_model import open_base

        # what libraries say of themselves at every start
        for library in ("torch.utils._pytree", "bitsandbytes", "transformers"):
            logging.getLogger(library).setLevel(logging.ERROR)
        name = "data/base with data/adapter" if adapter else "data/base"
        if adapter:
            note_verdict(root, root / "data/adapter/adapter_config.json")
        note(f"loading {name} with PyTorch: some seconds, of a large base a minute or more")
        yield open_base(root, with_adapter=adapter, context=context, max_tokens=max_tokens), name
        return
    from retune.chat.gguf_files import choose_file
    from retune.chat.gguf_model import open_gguf

    path, lora = choose_file(root, file)
    note_verdict(root, lora or path)
    with open_gguf(path, context, len(os.sched_getaffinity(0)), lora) as speaker:
        yield speaker, show_text(f"{path.name} with {lora.name}" if lora else path.name)


def note_verdict(root: Path, file: Path) -> None:
    """Say so where no verdict lets a file of data/ pass, and where a GGUF file is of another adapter than lies there."""
    from retune.earlier import warn_of_adapter
    from retune.verdict import warn_of

    for warning in filter(None, (warn_of_adapter(root, file), warn_of(root, file))):
        note(warning)


def talk(speaker: "Speaker", name: str, system: str | None, sampling: "Sampling", draw: "np.random.Generator") -> None:
    """The dialogue. Raises StageError for a turn that cannot be answered; in a terminal that is said, and the dialogue goes on."""
    from retune.chat.dialogue import answer, fit_dialogue
    from stages.core.errors import StageError

    terminal = sys.stdin.isatty()
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    # in a pipe too: which file answers is not in the answers
    note(f"{name}: Ctrl-C stops an answer, Ctrl-D ends" if terminal else name)
    for line in read_turns(terminal=terminal):
        asked: list[Message] = [*messages, {"role": "user", "content": line}]
        try:
            kept, ids = fit_dialogue(speaker, asked, sampling.max_tokens)
            if len(kept) < len(asked):
                note(f"{len(asked) - len(kept)} older turns are left out from here on (--context {speaker.context})")
            with catch_interrupt(terminal=terminal) as stopped:
                said = answer(speaker, ids, sampling, draw, make_writer(terminal=terminal), stopped)
        except StageError as error:
            if not terminal:
                raise
            note(str(error))
            continue
        print(flush=True)
        note(figures(said))
        messages = [*kept, remember(said)] if said.text.strip() else kept[:-1]


def remember(said: "Answer") -> "Message":
    """An answer as a turn of the dialogue: its thoughts apart, so that the template writes or drops them as in training."""
    thoughts = {"reasoning": said.thoughts} if said.thoughts else {}
    return {"role": "assistant", "content": said.text, **thoughts}


def read_turns(*, terminal: bool) -> Iterator[str]:
    """What the user says, turn by turn, without empty ones."""
    if not terminal:
        yield from filter(str.strip, (line.rstrip("\r\n") for line in sys.stdin))
        return
    import readline  # noqa: F401 - gives input() its editing and history

    while True:
        try:
            line = input("> " if sys.stdout.isatty() else "")
        except EOFError:
            note("")
            return
        except KeyboardInterrupt:
            note("\nCtrl-D ends")
            continue
        if line.strip():
            yield line


@contextmanager
def catch_interrupt(*, terminal: bool) -> Iterator[Callable[[], bool]]:
    """In a terminal the first Ctrl-C is only noted, for the answer to stop at its next token; a second one interrupts."""
    if not terminal:
        yield lambda: False
        return
    asked = False

    def on_interrupt(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def make_writer(*, terminal: bool) -> "Callable[[Piece], None]":
    """How a piece of an answer is written: into a pipe as it is; to a terminal nothing that would move its cursor. Thoughts go to stderr."""
    from stages.reporting.token_view import visible

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    safe = terminal or sys.stdout.isatty()
    thinking = False

    def write(piece: "Piece") -> None:
        nonlocal thinking
        if piece.thought:
            print(dim(visible(piece.text)), end="", file=sys.stderr, flush=True)
        elif thinking:
            note("")
        thinking = piece.thought
        if not piece.thought:
            print(visible(piece.text) if safe else piece.text, end="", flush=True)

    return write


def figures(said: "Answer") -> str:
    """Tokens and speed, and why it ended if the model did not end it."""
    # the first token comes with the prompt's own pass
    speed = f", {(said.tokens - 1) / said.seconds:.1f} tokens/s" if said.tokens > 1 and said.seconds else ""
    why = {"end": "", "limit": "; cut at --max-tokens", "stopped": "; stopped"}[said.ended]
    return f"[{said.tokens} tokens{speed}{why}]"


def note(text: str) -> None:
    """A line about the answers, not of them: on stderr, dim in a terminal."""
    print(dim(text), file=sys.stderr, flush=True)


def dim(text: str) -> str:
    """A text for stderr, in a terminal less bright."""
    return f"\x1b[2m{text}\x1b[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") and text else text
