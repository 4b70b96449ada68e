from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.asked_and_ran import Observation, judge
from stages.fetching.hub import read_cached_origin
from stages.fetching.observed_sources import note_sources, tell_origin

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CACHED = Path(f"/home/x/.cache/huggingface/hub/datasets--owner--a--name/snapshots/{COMMIT}/data/train.parquet")


def test_origin_of_a_cached_file_is_told_by_where_it_lies() -> None:
    assert read_cached_origin(CACHED) == ("owner/a--name", COMMIT)
    assert read_cached_origin(Path("data/custom/x.jsonl")) is None


def test_source_is_named_as_params_name_it() -> None:
    demo = Path("data/demo/dialogues.jsonl")
    assert tell_origin({"dialogues.jsonl": demo}, demo) == {"source": "demo", "revision": None}
    assert tell_origin({"data/train.parquet": CACHED}, demo) == {"source": "owner/a--name", "revision": COMMIT}
    assert tell_origin({"x.jsonl": Path("data/custom/x.jsonl")}, demo)["source"] == "data/custom/x.jsonl"
    folder = {name: Path("data/custom") / name for name in ("shards/1.jsonl", "shards/2.jsonl")}
    assert tell_origin(folder, demo)["source"] == "data/custom/shards"


@dataclass
class OneSource:
    """A source that was read."""

    paths: dict[str, Path]
    mask: Any
    seen: int
    taken: int


def test_rows_that_were_read_and_taken_are_counted(noted: dict[str, Observation]) -> None:
    demo = Path("demo.jsonl")
    files = {"demo.jsonl": demo}
    read = [OneSource(files, None, 40, 40), OneSource(files, [1], 50, 7), OneSource(files, [1], 9, 9)]
    note_sources(read, demo, 50, [None, 7, None])
    assert noted["fetch_data.sources.0.max_rows"].ran is None
    assert noted["fetch_data.sources.1.max_rows"].ran == 7
    assert not noted["fetch_data.sources.1.weight"].known
    assert noted["fetch_data.limit"].ran == 50


def test_no_cap_is_all_rows_or_as_many_as_the_weights_ask_for(noted: dict[str, Observation]) -> None:
    files = {"demo.jsonl": Path("demo.jsonl")}
    read = [OneSource(files, [1], 81, 81), OneSource(files, [1], 90, 81), OneSource(files, [1], 81, 81)]
    caps = [None, None, 100]
    note_sources(read, Path("demo.jsonl"), None, caps)
    told = [judge(cap, noted[f"fetch_data.sources.{number}.max_rows"]) for number, cap in enumerate(caps)]
    assert [(key["state"], key["why"]) for key in told] == [
        ("equal", ""),
        ("chosen", "the weights ask for fewer"),
        ("different", "there are fewer rows"),
    ]
