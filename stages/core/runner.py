"""From a stage function's signature to its command line.

`run(standardize)` under `__main__` makes `python -m stages.standardize --raw data/raw --messages data/messages`:

- each `Input` and `Output` parameter is a flag that takes a path, one `Inputs` takes all other flags; `params` is the
  section of params.yaml named like the function; `runtime` (optional) is the section that bears no identity; one `Sections`
  is a flag that takes a params file and gives its values;
- `run(standardize, uses)` says which files of an input the params ask for, where that is not all of it;
- params.yaml is read once, the inputs are hashed before the work, and they and the code must be the same after it: DVC reads them
  only when the command has ended, so it would certify what was edited meanwhile (stages/core/start.py);
- an input that is not what the record of the stage that wrote it says is refused (stages/core/producers.py);
- the function writes to temporary names beside the outputs, which are renamed into place when all of it has succeeded; a function that
  it returns is called then (what a stopped run would go on from may go only when nothing can be lost any more);
- Ctrl-C ends it with one line and status 130, nothing half-written left;
- `--record FILE` writes what made the outputs: sha256 of inputs, code and outputs, the params, the versions of the packages
  that `--environment FILE` pins. It is an output of its own, so that a reason that changes nothing re-runs nothing but the audit;
- `--execution FILE` writes when, where and how it ran, and what ran of what was asked (stages/core/execution.py); no stage reads it.
"""

import argparse
import gc
import importlib.metadata
import inspect
import logging
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from stages.core.errors import Refusal, StageError
from stages.core.execution import begin_execution, write_execution
from stages.core.files import sha256_file, sha256_files, sha256_tree, write_json
from stages.core.inputs import Uses, read_inputs
from stages.core.interrupts import INTERRUPTED, take_interrupts, uninterrupted
from stages.core.params import Params, Runtime, read_params, section_params
from stages.core.parent_death import die_with_parent
from stages.core.producers import refuse_rotten
from stages.core.project_code import imported_code, keep_code
from stages.core.start import ReadSections, Start, without_runtime

Input = Annotated[Path, "input"]
Inputs = Annotated[Mapping[str, Path], "inputs"]
"""Every other flag of the command that takes a path, by its name: dvc.yaml says which there are."""
Output = Annotated[Path, "output"]
Sections = Annotated[Mapping[str, Any], "sections"]
"""All values of a params file, {section: plain values}, as they were when the stage began."""
Finish = Callable[[], None]
"""What a stage may return: it is called when the outputs and the record are in place."""

PARAMS = Path("params.yaml")

log = logging.getLogger("retune")


def run(stage: Callable[..., Finish | None], uses: Uses | None = None, *, runtime_keys: tuple[str, ...] = ()) -> None:
    """Carry out one stage as a command; the exit code is 0, 1 with the message of a StageError, or 130 after Ctrl-C.

    Args:
        stage: the stage's function.
        uses: which files of its inputs the params ask for; None: all are read whole.
        runtime_keys: the keys of `runtime` that it uses, beside `log_level`.
    """
    started = time.time()
    die_with_parent()
    pressed = take_interrupts()
    # what a stage makes by the million (rows, messages) is no cycle: looking for some at every 700th object costs a sixth of its time
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    try:
        carry_out(stage, started, uses, runtime_keys)
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing more to stop
        # an interrupt may come out as something else: a library's error, a child's that was interrupted as well
        if pressed or isinstance(error, KeyboardInterrupt):
            said, status = (
                "interrupted; nothing half-written is left, and `dvc repro` begins this stage again",
                INTERRUPTED,
            )
        elif isinstance(error, StageError):
            said, status = str(error), 1
        else:
            raise
        sys.stdout.flush()
        print(f"{stage.__name__}: {said}", file=sys.stderr)
        if last_good_files(stage.__name__):
            print(
                "The last good files of this stage, made of the data and params of then, are in the cache: "
                f"`retune restore {stage.__name__}`",
                file=sys.stderr,
            )
        sys.exit(status)
    gc.freeze()  # Python's end would look for cycles in all that is left, a tenth of a second; the system frees it at once


def carry_out(
    stage: Callable[..., Finish | None], started: float, uses: Uses | None, runtime_keys: tuple[str, ...]
) -> None:
    """The stage's command: read the flags and params, hash the inputs, do the work, put the outputs in place, write the records."""
    name = stage.__name__
    hints = get_type_hints(stage, include_extras=True)
    paths = {key: hint.__metadata__[0] for key, hint in hints.items() if getattr(hint, "__metadata__", None)}
    flags = read_flags(stage, paths)
    begun = begin_execution(flags["execution"], started)
    ran = keep_code()
    values = read_params(PARAMS)
    settings, runtime = read_settings(name, hints, values)
    pins = Path(flags["environment"]) if flags["environment"] else None
    versions = environment(pins) if pins else {}
    inputs = {key: Path(flags[key]) for key, kind in paths.items() if kind == "input"}
    files = {key: Path(flags[key]) for key, kind in paths.items() if kind == "sections"}
    whole = {key: values if file == PARAMS else read_params(file) for key, file in files.items()}
    others = {
        key: Path(path) for key, path in flags.items() if key not in {*paths, "record", "environment", "execution"}
    }
    several = {key: others for key, kind in paths.items() if kind == "inputs"}
    outputs = {key: Path(flags[key]) for key, kind in paths.items() if kind == "output"}
    read = read_inputs(name, {**inputs, **others}, uses, settings.get("params"))
    refuse_rotten(read)
    sections = [ReadSections(PARAMS, {name: values[name]})] if "params" in settings else []
    sections += [without_runtime(files[key], found) for key, found in whole.items()]
    start = Start(name, sections, read, uses, settings.get("params"), ran, pins)
    temporary = {key: partial_path(path) for key, path in outputs.items()}
    for path in temporary.values():
        remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        finish, refusal = work(stage, temporary, {**inputs, **whole, **several, **temporary, **settings})
        begun.end_query()
        written = {key: output_record(path, temporary[key]) for key, path in outputs.items()}
        record = {
            "stage": name,
            "code": {path: ran.get(path, "") for path in imported_code()},
            "environment": versions,
            "params": settings["params"].model_dump(mode="json") if "params" in settings else {},
            "inputs": {key: one.record() for key, one in read.items()},
            "outputs": written,
        }
        # last of all: what is edited from here on is seen by nobody before DVC reads it
        start.refuse_changes(resumes=finish is not None)
    except BaseException as error:
        with uninterrupted():
            for path in temporary.values():
                remove(path)
        if isinstance(error, Exception) and not isinstance(error, StageError):
            # what fails on a file that somebody writes meanwhile is no bug
            start.refuse_changes(resumes=False)
        raise
    with uninterrupted():
        for key, path in outputs.items():
            remove(path)
            temporary[key].rename(path)
        if flags["record"]:
            write_json(Path(flags["record"]), record)
        digests = {out["path"]: out["sha256"] for out in written.values()}
        write_execution(begun, name, settings.get("params"), runtime, runtime_keys, flags["record"], digests)
        if finish:
            finish()
    if refusal:
        raise refusal


def read_settings(name: str, hints: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[dict[str, Params], Runtime]:
    """What a stage's signature asks of params.yaml: `params` (its own section), `runtime`; and `runtime`. Sets the log up, too."""
    runtime = section_params(Runtime, "runtime", values)
    logging.basicConfig(level=runtime.log_level.upper(), format=f"{name}: %(message)s", stream=sys.stdout)
    # torch's complaint to other libraries about their registrations, four lines at every import
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    settings: dict[str, Params] = {"runtime": runtime} if "runtime" in hints else {}
    if "params" in hints:
        settings["params"] = section_params(hints["params"], name, values)
    return settings, runtime


def work(
    stage: Callable[..., Finish | None], temporary: Mapping[str, Path], arguments: Mapping[str, Any]
) -> tuple[Finish | None, Refusal | None]:
    """Call the stage function; what it returned, and its Refusal if it ended with one: that is no failure, its outputs count."""
    finish, refusal = None, None
    try:
        finish = stage(**arguments)
    except Refusal as no:
        refusal = no
    missing = [key for key, path in temporary.items() if not path.exists()]
    if missing:
        raise RuntimeError(f"{stage.__name__} ended without writing {', '.join(missing)}")
    return finish, refusal


def last_good_files(name: str) -> bool:
    """Whether DVC, which deletes a stage's outputs before it runs, has one of this stage's that is gone in its cache: dvc.lock names them."""
    store = Path(".dvc/cache/files/md5")
    try:
        found = read_params(Path("dvc.lock")).get("stages", {}).get(name, {})
    except StageError:  # no such file, or a broken one: nothing is known
        return False
    gone = [out.get("md5", "") for out in found.get("outs", []) if not Path(out["path"]).exists()]
    return any((store / digest[:2] / digest[2:]).is_file() for digest in gone)


def read_flags(stage: Callable[..., Finish | None], paths: Mapping[str, str]) -> dict[str, str]:
    """The command line of a stage: one required flag for each path of its signature; with `Inputs` in it, any others, too."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{stage.__name__}", description=inspect.getdoc(stage), allow_abbrev=False
    )
    for key, kind in paths.items():
        if kind != "inputs":
            parser.add_argument(
                f"--{key}", required=True, metavar="PATH", help="params file" if kind == "sections" else kind
            )
    parser.add_argument("--record", metavar="FILE", default="", help="write the record of what made the outputs")
    parser.add_argument("--execution", metavar="FILE", default="", help="write when, where and how it ran")
    parser.add_argument(
        "--environment", metavar="FILE", default="", help="the pins whose installed versions go into the record"
    )
    if "inputs" not in paths.values():
        return vars(parser.parse_args())
    # what is left is declared by its own name, so that argparse says what is wrong with it, too
    for word in dict.fromkeys(parser.parse_known_args()[1]):
        if word.startswith("--"):
            parser.add_argument(word, required=True, metavar="PATH", help="input")
    return vars(parser.parse_args())


def partial_path(path: Path) -> Path:
    """The temporary name beside `path`: on the same file system, so that the rename is atomic."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def output_record(path: Path, written: Path) -> dict[str, Any]:
    """{path, sha256 of the whole, sha256 of each file} of an output that is still at its temporary name."""
    digests = sha256_files(written) if written.is_dir() else {path.name: sha256_file(written)}
    return {"path": path.as_posix(), "sha256": sha256_tree(digests), "files": digests}


def environment(pins: Path) -> dict[str, str]:
    """{package: installed version} for every package that a pin file names; a difference from the pin is said in the log."""
    versions: dict[str, str] = {}
    for line in pins.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        package, pinned = line.split("==")
        try:
            versions[package] = importlib.metadata.version(package).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
        if versions[package] != pinned:
            log.warning(
                "%s is %s here and %s in %s: results may differ (`make setup` installs the pins)",
                package,
                versions[package],
                pinned,
                pins,
            )
    return versions
