"""Ways to tamper with a finished project, size and time kept wherever DVC would look at them; and by which kind `retune verify` names each.

python -m tests.end_to_end.tamperings > docs/tamperings.md
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from retune.verify.kinds import KINDS
from stages.dvc_lock.hashes import digest_file, object_path

Act = Callable[[Path], Path]
"""Bends one file of a project, and gives it."""


@dataclass(frozen=True)
class Tampering:
    """One, and what must be said of it."""

    what: str
    act: Act
    touches: tuple[str, ...]
    """The files that it changes, to be put back."""
    kind: str
    path: str
    """The path that is named."""
    field: str = ""
    deep: bool = False
    together: str = ""
    """Those of one name do not touch each other: they are carried out at once."""


@contextmanager
def put_back(root: Path, names: tuple[str, ...]) -> Iterator[None]:
    """Whatever happens to files, they are as they were afterwards: bytes, mode and times."""
    kept = {}
    for name in names:
        path = root / name
        kept[path] = (path.read_bytes(), path.stat()) if path.is_file() else None
    try:
        yield
    finally:
        for path, before in kept.items():
            path.unlink(missing_ok=True)
            if before is not None:
                path.write_bytes(before[0])
                path.chmod(before[1].st_mode)
                os.utime(path, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))


def write_unseen(path: Path, content: bytes) -> Path:
    """Write other bytes under the times and the mode of the file that was there."""
    stat = path.stat()
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return path


def flip(root: Path, name: str, share: float = 0.5) -> Path:
    """One bit of a byte, in the middle or elsewhere."""
    content = bytearray((root / name).read_bytes())
    content[int(len(content) * share)] ^= 1
    return write_unseen(root / name, bytes(content))


def swap(root: Path, name: str, old: bytes, new: bytes) -> Path:
    """Text for text of the same length."""
    content = (root / name).read_bytes()
    assert old in content, name
    assert len(old) == len(new)
    return write_unseen(root / name, content.replace(old, new, 1))


def cut(root: Path, name: str) -> Path:
    """The first half is left."""
    content = (root / name).read_bytes()
    return write_unseen(root / name, content[: len(content) // 2])


def cut_lock(root: Path) -> Path:
    """In the middle of a key."""
    content = (root / "dvc.lock").read_bytes()
    return write_unseen(root / "dvc.lock", content[: content.rindex(b"    md5: ") + 6])


def remove(root: Path, name: str) -> Path:
    (root / name).unlink()
    return root / name


def add(root: Path, name: str) -> Path:
    (root / name).write_text("a stranger's")
    return root / name


def edit_json(root: Path, name: str, *keys: str, to: object) -> Path:
    """A value of a JSON file, written as the stages write it."""
    value: Any = json.loads((root / name).read_bytes())
    inner = value
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return write_unseen(root / name, text.encode())


def edit_lock(root: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load(root / "dvc.lock")
    change(values["stages"])
    with (root / "dvc.lock").open("w") as file:
        yaml.dump(values, file)
    return root / "dvc.lock"


def lock_hash(stages: dict[str, Any], stage: str, kind: str, path: str, digest: str = "") -> None:
    (found,) = [one for one in stages[stage][kind] if one["path"] == path]
    found["md5"] = digest or found["md5"][:-8] + "0000.dir" if found["md5"].endswith(".dir") else digest or "0" * 32


def lock_param(stages: dict[str, Any], stage: str, section: str, key: str, value: object) -> None:
    stages[stage]["params"]["params.yaml"][section][key] = value


def lock_size(stages: dict[str, Any], stage: str, number: int) -> None:
    next(out for out in stages[stage]["outs"] if out["path"] == "data/merged")["size"] = number


def edit_lock_by(root: Path, act: Callable[..., None], *arguments: object) -> Path:
    return edit_lock(root, lambda stages: act(stages, *arguments))


def with_lock(root: Path, act: Act, stage: str, name: str) -> Path:
    """A single file bent, and its new md5 put into dvc.lock: of the stage that wrote it and of all that read it."""
    act(root)
    digest = digest_file(root / name)

    def change(stages: dict[str, Any]) -> None:
        for entry in stages.values():
            for one in [*entry["outs"], *entry["deps"]]:
                if one["path"] == name:
                    one |= {"md5": digest, "size": (root / name).stat().st_size}

    assert stage
    return edit_lock(root, change)


def cached(root: Path, name: str) -> str:
    """Where the cache has a file's bytes, below the project."""
    store = root / ".dvc/cache"
    return object_path(store, digest_file(root / name)).relative_to(root).as_posix()


def listing(root: Path, stage: str) -> str:
    """Where the cache has the listing of a stage's first output."""
    stages = YAML(typ="safe", pure=True).load(root / "dvc.lock")["stages"]
    digest = next(out["md5"] for out in stages[stage]["outs"] if out["md5"].endswith(".dir"))
    return object_path(root / ".dvc/cache", digest).relative_to(root).as_posix()


def run_entry(root: Path) -> str:
    """An entry of the run cache: of gate."""
    files = sorted((root / ".dvc/cache/runs").glob("*/*/*"))
    found = next(file for file in files if "stages.gate" in file.read_text())
    return found.relative_to(root).as_posix()


def swap_in_run(root: Path, old: bytes, new: bytes) -> Path:
    return swap(root, run_entry(root), old, new)


OUTPUTS = (
    "data/base/model.safetensors", "data/base/config.json", "data/tokenizer/tokenizer.json", "data/raw/rows.parquet",
    "data/messages/messages.parquet", "data/messages/rejected.parquet", "data/messages/summary.json", "data/tokens/train.arrow",
    "data/tokens/heldout.arrow", "data/adapter/adapter_model.safetensors", "data/adapter/ledger.parquet", "data/adapter/steps.jsonl",
    "data/adapter/retune.json", "data/evaluation/answers.parquet", "data/evaluation/metrics.json", "data/evaluation/export.json",
    "data/merged/model.safetensors", "data/merged/checks.json", "data/gguf/retune-demo-q8_0.gguf", "data/gguf/retune-demo-lora-f16.gguf",
    "data/gguf/retune-demo-base-q8_0.gguf", "data/gguf/Modelfile", "data/audit/verdict.json", "data/audit/provenance.json",
    "data/report/index.html", "data/report/README.md", "data/gate.json", "data/checked.json", "data/execution/train.json",
)  # fmt: skip
RECORDS = tuple(
    f"data/records/{stage}.json" for stage in ("fetch_model", "fetch_data", "train", "merge", "gguf", "evaluate")
)
SOURCES = ("data/demo/dialogues.jsonl", "data/demo/base/model.safetensors", "data/exclusions.csv")
CODE = ("stages/train.py", "stages/core/files.py", "stages/environment/train.txt")


def list_tamperings() -> Iterator[Tampering]:
    """All of them."""
    for name in OUTPUTS:
        yield Tampering(
            f"one bit of {name}", partial(flip, name=name), (name,), "output_changed", name, together="outputs"
        )
    gguf, adapter, ledger = OUTPUTS[18], OUTPUTS[9], OUTPUTS[10]
    bend = partial(swap, name=gguf, old=b"apache-2.0", new=b"apache-9.0")
    yield Tampering("the licence in a GGUF file's metadata", bend, (gguf,), "output_changed", gguf, together="metadata")
    bend = partial(swap, name=adapter, old=b'"dtype"', new=b'"dtypE"')
    yield Tampering(
        "the header of the adapter's weights", bend, (adapter,), "output_changed", adapter, together="metadata"
    )
    yield Tampering(
        "the footer of the ledger",
        partial(flip, name=ledger, share=0.98),
        (ledger,),
        "output_changed",
        ledger,
        together="metadata",
    )
    yield Tampering("a GGUF file cut off", partial(cut, name=gguf), (gguf,), "output_changed", gguf)
    yield Tampering("a GGUF file gone", partial(remove, name=gguf), (gguf,), "output_missing", gguf)
    stray = "data/merged/model-2.safetensors"
    yield Tampering("a file put beside the merged model", partial(add, name=stray), (stray,), "output_added", stray)
    stray = "data/records/score.json"
    yield Tampering("a record put beside the others", partial(add, name=stray), (stray,), "output_added", stray)
    metrics = "data/evaluation/metrics.json"
    better = lambda root: edit_json(root, metrics, "tuned", "loss", to=0.0)  # noqa: E731
    yield Tampering("the tuned model's loss in the metrics", better, (metrics,), "output_changed", metrics)
    yield from list_of_records()
    yield from list_of_lock()
    params = "params.yaml"
    bend_params = partial(swap, name=params, old=b"learning_rate: 2e-3", new=b"learning_rate: 1e-3")
    yield Tampering("a param after the run", bend_params, (params,), "params_changed", params, "train.learning_rate")
    for name in SOURCES:
        yield Tampering(
            f"one bit of {name}, which is yours",
            partial(flip, name=name),
            (name,),
            "source_changed",
            name,
            together="sources",
        )
    yield Tampering("a source gone", partial(remove, name=SOURCES[0]), (SOURCES[0],), "source_missing", SOURCES[0])
    for name in CODE:
        yield Tampering(f"one bit of {name}", partial(flip, name=name), (name,), "code_changed", name, together="code")
    yield from list_of_cache()


def list_of_records() -> Iterator[Tampering]:
    for name in RECORDS:
        yield Tampering(
            f"one bit of {name}",
            partial(flip, name=name, share=0.4),
            (name,),
            "record_changed",
            name,
            together="records",
        )
    train, gguf, lock = RECORDS[2], RECORDS[4], "dvc.lock"
    bend = lambda root: edit_json(root, train, "params", "learning_rate", to=0.1)  # noqa: E731
    yield Tampering("a param in a record", bend, (train,), "record_changed", train, "params.learning_rate")
    yield Tampering(
        "the same, with its md5 put into dvc.lock",
        lambda root: with_lock(root, bend, "train", train),
        (train, lock),
        "record_params",
        train,
        "train.learning_rate",
    )
    forge = lambda root: edit_json(root, gguf, "outputs", "files", "files", "retune-demo-q8_0.gguf", to="0" * 64)  # noqa: E731
    yield Tampering(
        "a file's sha256 in a record, with the record's md5 put into dvc.lock",
        lambda root: with_lock(root, forge, "gguf", gguf),
        (gguf, lock),
        "record_bytes",
        "data/gguf/retune-demo-q8_0.gguf",
    )
    read = lambda root: edit_json(root, train, "inputs", "tokens", "sha256", to="0" * 64)  # noqa: E731
    yield Tampering("what a stage read, in a record", read, (train,), "record_chain", train, "inputs.tokens.sha256")
    yield Tampering("a record cut off", partial(cut, name=train), (train,), "record_unreadable", train)
    yield Tampering(
        "a record of another stage",
        lambda root: edit_json(root, train, "stage", to="merge"),
        (train,),
        "record_unreadable",
        train,
    )
    yield Tampering(
        "a record with a field that nobody knows",
        lambda root: edit_json(root, train, "version", to=9),
        (train,),
        "record_unreadable",
        train,
    )
    yield Tampering("a record gone", partial(remove, name=train), (train,), "record_changed", train)
    run = "data/execution/train.json"
    other = lambda root: edit_json(root, run, "record", "sha256", to="0" * 64)  # noqa: E731
    yield Tampering("the record that an execution record names", other, (run,), "execution_contradicts", run)
    verdict, gate, page = "data/audit/verdict.json", "data/gate.json", "data/report/index.html"
    yield Tampering(
        "the verdict",
        lambda root: edit_json(root, verdict, "passed", to=None),
        (verdict,),
        "verdict_contradicts",
        verdict,
    )
    reasons = lambda root: edit_json(root, gate, "reasons", to=["a reason of its own"])  # noqa: E731
    yield Tampering(
        "the gate, with its md5 put into dvc.lock",
        lambda root: with_lock(root, reasons, "gate", gate),
        (gate, lock),
        "verdict_contradicts",
        gate,
    )
    yield Tampering(
        "what the page says that it is of",
        partial(swap, name=page, old=b"retune-judged: ", new=b"retune-judgeD: "),
        (page,),
        "verdict_contradicts",
        page,
    )


def list_of_lock() -> Iterator[Tampering]:
    def of(what: str, kind: str, field: str, *act: Any, path: str = "dvc.lock") -> Tampering:
        return Tampering(
            f"in dvc.lock: {what}", lambda root: edit_lock_by(root, *act), ("dvc.lock",), kind, path, field
        )

    yield of(
        "a param",
        "record_params",
        "train.steps",
        lock_param,
        "train",
        "train",
        "steps",
        99,
        path="data/records/train.json",
    )
    yield of(
        "a param, in check's entry",
        "params_changed",
        "train.steps",
        lock_param,
        "check",
        "train",
        "steps",
        99,
        path="params.yaml",
    )
    yield of(
        "the hash of an output", "lock_hash", "stages.gguf.outs.data/gguf.md5", lock_hash, "gguf", "outs", "data/gguf"
    )
    yield of(
        "the hash of the metrics",
        "lock_hash",
        "stages.evaluate.outs.data/evaluation/metrics.json.md5",
        lock_hash,
        "evaluate",
        "outs",
        "data/evaluation/metrics.json",
    )
    yield of(
        "the hash of a record",
        "lock_hash",
        "stages.train.outs.data/records/train.json.md5",
        lock_hash,
        "train",
        "outs",
        "data/records/train.json",
    )
    yield of(
        "the hash of what a stage read",
        "lock_chain",
        "stages.train.deps.data/tokens.md5",
        lock_hash,
        "train",
        "deps",
        "data/tokens",
    )
    yield of(
        "the hash of a source",
        "lock_hash",
        "stages.fetch_data.deps.data/demo/dialogues.jsonl.md5",
        lock_hash,
        "fetch_data",
        "deps",
        "data/demo/dialogues.jsonl",
    )
    yield of(
        "the hash of code",
        "lock_hash",
        "stages.train.deps.stages/training.md5",
        lock_hash,
        "train",
        "deps",
        "stages/training",
    )
    yield of("a size", "lock_entry", "stages.merge.outs.data/merged.size", lock_size, "merge", 7)
    yield of(
        "a command",
        "lock_command",
        "stages.gate.cmd",
        lambda stages: stages["gate"].update(cmd="python -m stages.gate"),
    )
    yield of("an output left out", "lock_entry", "", lambda stages: stages["merge"]["outs"].pop(0))
    yield of("a stage left out", "lock_entry", "stages.gguf", lambda stages: stages.pop("gguf"))
    yield of(
        "a path outside of the project",
        "lock_entry",
        "stages.gate",
        lambda stages: stages["gate"]["outs"][0].update(path="../gate.json"),
    )
    yield of("a field that nobody knows", "lock_unreadable", "", lambda stages: stages["gate"].update(frozen=True))
    yield Tampering("dvc.lock cut off in a line", cut_lock, ("dvc.lock",), "lock_unreadable", "dvc.lock")
    yield Tampering(
        "dvc.lock cut off between lines", partial(cut, name="dvc.lock"), ("dvc.lock",), "lock_entry", "dvc.lock"
    )
    yield Tampering("dvc.lock gone", partial(remove, name="dvc.lock"), ("dvc.lock",), "lock_unreadable", "dvc.lock")


def list_of_cache() -> Iterator[Tampering]:
    weights, record = "data/merged/model.safetensors", "data/records/train.json"
    for what, act, kind in (
        ("flipped", flip, "cache_rotten"),
        ("cut off", cut, "cache_rotten"),
        ("gone", remove, "cache_missing"),
    ):
        for name in (weights, record):
            yield Tampering(
                f"the cache's object of {name} {what}",
                lambda root, act=act, name=name: act(root, cached(root, name)),
                (f"cache of {name}",),
                kind,
                name,
                deep=True,
                together=f"cache {what}",
            )
        yield Tampering(
            f"the cache's listing of data/messages {what}",
            lambda root, act=act: act(root, listing(root, "standardize")),
            ("listing of standardize",),
            kind,
            "data/messages",
            deep=True,
            together=f"cache {what}",
        )
        if act is not remove:
            yield Tampering(
                f"an entry of the run cache {what}",
                lambda root, act=act: act(root, run_entry(root)),
                ("run cache",),
                "run_cache",
                "runs/",
                deep=True,
                together=f"cache {what}",
            )
    hand = partial(
        swap_in_run, old=b"data/gate.json\n  hash: md5\n  md5: ", new=b"data/gate.json\n  hash: md5\n  md6: "
    )
    yield Tampering("an output of an entry of the run cache", hand, ("run cache",), "run_cache", "runs/", deep=True)


def find_touched(root: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """The files behind the names: those of the cache depend on what was made."""
    found = []
    for name in names:
        if name.startswith("cache of "):
            found.append(cached(root, name.removeprefix("cache of ")))
        elif name.startswith("listing of "):
            found.append(listing(root, name.removeprefix("listing of ")))
        else:
            found.append(run_entry(root) if name == "run cache" else name)
    return tuple(found)


TAMPERINGS = list(list_tamperings())


def render_page() -> str:
    """docs/tamperings.md."""
    lines = [
        "# What `retune verify` names",
        "",
        "Written by `python -m tests.end_to_end.tamperings`; tests/end_to_end/test_tampering.py carries each of these out on a finished run, with the",
        f"time kept, and the size where bytes alone change, and looks for the kind, the path and the field. {len(TAMPERINGS)} tamperings; those of the cache need `--deep`.",
        "",
        "| tampered with | named as | of |",
        "|---|---|---|",
        *(
            f"| {one.what} | `{one.kind}` | `{one.path}`{f' `{one.field}`' if one.field else ''} |"
            for one in TAMPERINGS
        ),
        "",
        "## The kinds",
        "",
        "| kind | means |",
        "|---|---|",
        *(f"| `{kind}` | {means} |" for kind, means in KINDS.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_page())
