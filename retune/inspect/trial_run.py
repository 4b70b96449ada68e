"""The data stages, tried on a source in a temporary folder: what `retune inspect` tells. Nothing of data/ is written.

The stages' own functions do the work, so what is told here is what `dvc repro` will do; a stage that somebody has put between them is
not tried, and named (`find_untried`).
"""

import inspect
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from retune.dvc_files import read_owners
from retune.project import find_tokenizer
from retune.yaml_files import read_yaml
from stages.core.errors import StageError
from stages.core.files import scratch
from stages.core.params import Runtime, section_params

LONGEST = 2**30
"""A max_length that no row has."""


TRIED = {"check", "fetch_model", "fetch_data", "standardize", "template"}
"""The stages up to the tokens whose work is done here, or whose outputs are there."""


@dataclass(frozen=True)
class TrialRun:
    """Where the stages have written, as far as they came."""

    raw: Path
    messages: Path
    tokens: Path | None
    """None where there is no tokenizer yet, or where `template` cannot use it."""
    long: Path | None
    """The rows that are too long as whole tokens, of data/tokens' form; None if there are none."""
    no_tokens: str
    """Why there are no tokens; empty if there are."""
    tokenizer: str
    """The folder that the tokenizer came from, as the project's folder has it."""


@contextmanager
def put_in_place(root: Path, path: Path | None) -> Iterator[Path]:
    """The folder that stands for data/custom: the one with the source in it; where there are links, one with a copy, as `retune use` makes it."""
    from retune.use.copying import copy_data, name_of

    if path is None:
        yield root / "data/custom"
    elif path.is_symlink() or (path.is_dir() and any(file.is_symlink() for file in path.rglob("*"))):
        with make_scratch_folder(root) as folder:
            copy_data(path, folder / name_of(path))
            yield folder
    else:
        yield path.resolve().parent


@contextmanager
def make_scratch_folder(root: Path) -> Iterator[Path]:
    """A folder in the project's scratch folder, as long as the block."""
    place = scratch(root) / "inspect"
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


@contextmanager
def try_stages(
    root: Path, custom: Path, sources: list[dict[str, Any]], limit: int | None, values: dict[str, Any]
) -> Iterator[TrialRun]:
    """Run the data stages on sources; the files are there as long as the block.

    Args:
        root: the project's folder.
        custom: what stands for data/custom to `fetch_data`: the folder with the source.
        sources: what stands for `fetch_data.sources`.
        limit: rows of each source, from its beginning; None: all.
        values: params.yaml.

    Raises:
        StageError: the source cannot be read or is not recognized, or the params are not right.
    """
    from stages.fetch_data import FetchDataParams, fetch_data
    from stages.standardize import StandardizeParams, standardize
    from stages.template import TemplateParams

    fetched = section_params(FetchDataParams, "fetch_data", {"fetch_data": {"sources": sources, "limit": limit}})
    params = section_params(StandardizeParams, "standardize", values)
    runtime = section_params(Runtime, "runtime", values)
    form = section_params(TemplateParams, "template", values)
    with make_scratch_folder(root) as work:
        raw, messages = work / "raw", work / "messages"
        call_stage(
            fetch_data, {"demo": root / "data/demo/dialogues.jsonl", "custom": custom, "raw": raw, "params": fetched}
        )
        given = {"custom": root / "data/custom", "exclusions": root / "data/exclusions.csv", "runtime": runtime}
        try:
            call_stage(standardize, {**given, "raw": raw, "messages": messages, "params": params})
        except StageError:
            if not are_complete(messages):
                raise
        yield make_tokens(root, work, raw, messages, {**given, "params": form}, values)


def find_untried(root: Path) -> list[str]:
    """The stages of dvc.yaml before `template` that are not tried here."""
    stages = read_yaml(root / "dvc.yaml")["stages"]
    writers = read_owners(stages)
    needed = {"template"}
    while more := {writers[dep] for one in needed for dep in stages[one]["deps"] if dep in writers} - needed:
        needed |= more
    return [name for name in stages if name in needed - TRIED]


def are_complete(messages: Path) -> bool:
    """Whether `standardize` has written what became of every row: it fails only then if no row is left to train on."""
    from stages.contracts.messages import EXCLUDED, MESSAGES, REJECTED

    return all((messages / name).is_file() for name in (MESSAGES, REJECTED, EXCLUDED))


def call_stage(stage: Callable[..., None], arguments: Mapping[str, object]) -> None:
    """Call a stage function with those of the arguments that it asks for, in a process of its own.

    A stage forks its workers, which is safe only before other libraries have started threads.
    """
    wanted = {name: arguments[name] for name in inspect.signature(stage).parameters}
    # what the stages log is told in other words here
    with ProcessPoolExecutor(1, get_context("spawn"), logging.disable, (logging.CRITICAL,)) as pool:
        pool.submit(stage, **wanted).result()


def make_tokens(
    root: Path, work: Path, raw: Path, messages: Path, given: Mapping[str, object], values: dict[str, Any]
) -> TrialRun:
    """The rows as tokens, too, if there is a tokenizer for them."""
    from stages.contracts.tokens import SUMMARY
    from stages.template import template

    tokenizer = find_tokenizer(root, values)
    if tokenizer is None:
        return TrialRun(
            raw,
            messages,
            None,
            None,
            "the model is not fetched yet: after `dvc repro fetch_model` tokens are shown",
            "",
        )
    name = tokenizer.relative_to(root).as_posix()
    tokens = work / "tokens"
    try:
        call_stage(template, {**given, "messages": messages, "tokenizer": tokenizer, "tokens": tokens})
    except StageError as error:
        if not (tokens / SUMMARY).is_file():
            return TrialRun(raw, messages, None, None, str(error), name)
    return TrialRun(
        raw, messages, tokens, make_long_tokens(work, messages, tokens, {**given, "tokenizer": tokenizer}), "", name
    )


def make_long_tokens(work: Path, messages: Path, tokens: Path, given: Mapping[str, Any]) -> Path | None:
    """The rows that `template` set aside as too long, in their whole length; None if there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from stages.arrow.tables import read_parquet, read_parquet_batches, write_parquet
    from stages.chat.row_rules import TOO_LONG
    from stages.contracts import messages as message_files
    from stages.contracts import tokens as token_files
    from stages.template import template

    rejected = read_parquet(tokens / token_files.REJECTED)
    rows = rejected.filter(pc.equal(rejected["rule"], TOO_LONG))["row"].combine_chunks()
    if not len(rows):
        return None
    long, whole = work / "long", work / "whole"
    long.mkdir()
    batches = read_parquet_batches(messages / message_files.MESSAGES)
    found = (batch.filter(pc.is_in(batch["row"], pa.array(rows))) for batch in batches)
    write_parquet(long / message_files.MESSAGES, found, message_files.SCHEMA)
    params = given["params"].model_copy(update={"max_length": LONGEST})
    # none may be left to train on, where all of them are held out
    with suppress(StageError):
        call_stage(template, {**given, "params": params, "messages": long, "tokens": whole})
    return whole if (whole / token_files.SUMMARY).is_file() else None
