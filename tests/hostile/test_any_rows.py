"""Any rows at all, as a JSON-lines file: each ends in one place, ids and splits do not move, and what is kept holds to the contract."""

import hashlib
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stages.contracts import messages, raw
from tests.hostile.made import good_rows
from tests.hostile.pipeline import MARKER, Outcome, Project, make_project

pytestmark = pytest.mark.slow

TEXT = (
    st.text(max_size=8)
    | st.sampled_from([f"{MARKER} a", f"{MARKER} b", "", " ", "\ud800", "\0"])
    | st.sampled_from(
        [
            "<think>",
            "</think>",
            "<think>t</think>",
            "<think>t</think>a",
            "a</think>b",
            '<tool_call>{"name": "f"}</tool_call>',
        ]
    )
)
ROLE = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", "narrator", "USER", "", None, 1])
NAME = st.text(max_size=8) | st.sampled_from(["type", "name", "function", "arguments", "tools", "text", "", "\ud800"])
"""Names of keys are told, texts never: no marker stands in them."""
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANY = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3), max_leaves=6
)
PART = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                "text",
                "image",
                None,
                "thinking",
                "reasoning",
                "redacted_thinking",
                "tool_use",
                "tool_result",
                "tool_call",
            ]
        )
    },
    optional={"text": TEXT, "value": ANY, "thinking": ANY, "input": ANY, "name": ANY, "content": ANY},
)
SWITCH = st.none() | st.booleans() | ANY
SPAN = st.fixed_dictionaries({"begin_offset": ANY, "end_offset": ANY, "train": SWITCH}) | ANY
BESIDE = {
    "weight": ANY,
    "loss": SWITCH,
    "train": SWITCH,
    "train_detail": st.lists(SPAN, max_size=2) | ANY,
    "tool_calls": ANY,
} | dict.fromkeys(("reasoning_content", "reasoning", "thinking", "tool_call_id", "name"), TEXT | ANY)
MESSAGE = (
    st.fixed_dictionaries({"role": ROLE, "content": TEXT})
    | st.fixed_dictionaries({"role": ROLE, "content": TEXT | st.lists(PART, max_size=2) | ANY}, optional=BESIDE)
    | ANY
)
TURNS = (
    st.integers(1, 2)
    .map(lambda pairs: ["user", "assistant"] * pairs)
    .flatmap(
        lambda roles: st.tuples(
            *(st.fixed_dictionaries({"role": st.just(role), "content": TEXT}, optional=BESIDE) for role in roles)
        ).map(list)
    )
)
ROW = (
    st.fixed_dictionaries(
        {"messages": TURNS | st.lists(MESSAGE, max_size=4) | ANY},
        optional=dict.fromkeys(
            ("tools", "system", "tools_json", "available_tools", "metadata", "chat_template_kwargs"), ANY
        ),
    )
    | ANY
)
ROWS = st.lists(ROW, max_size=12)
ALONE = {"heldout_fraction": 0.3, "max_chars": None, "near_duplicates": "off", "near_heldout": "keep"}
"""With near duplicates left alone, no row has a say in what becomes of another, but for exact duplicates."""


def run_rows(folder: Path, rows: list[Any]) -> tuple[Project, Outcome]:
    """The path over these rows, after good ones that say what the layout is."""
    shutil.rmtree(folder, ignore_errors=True)
    project = make_project(folder)
    content = b"".join(json.dumps(row).encode() + b"\n" for row in [*good_rows(), *rows])
    project.write("rows.jsonl", content)
    return project, project.run("rows.jsonl", "standardize", standardize=ALONE)


def kept(project: Project) -> list[dict[str, Any]]:
    """data/messages."""
    return list(pq.read_table(project.folder / "data/messages" / messages.MESSAGES).to_pylist())


def aside(project: Project) -> list[dict[str, Any]]:
    """The rows that standardize set aside."""
    return list(pq.read_table(project.folder / "data/messages" / messages.REJECTED).to_pylist())


def records(project: Project) -> dict[int, bytes]:
    """Row number -> the record in data/raw."""
    table = pq.read_table(project.folder / "data/raw" / raw.ROWS)
    return dict(zip(table["row"].to_pylist(), table["record"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run, one after the other."""
    return tmp_path_factory.mktemp("any") / "project"


SETTINGS = settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.generate],  # an example takes a third of a second: making a failing one smaller would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(rows=ROWS)
@SETTINGS
def test_any_rows_end_each_in_one_place_and_those_kept_hold_to_the_contract(folder: Path, rows: list[Any]) -> None:
    project, outcome = run_rows(folder, rows)  # which proves the accounting, to the row
    assert outcome.error is None
    found = kept(project)
    ids = [row["row_id"] for row in found]
    assert len(set(ids)) == len(ids)
    for row in aside(project):
        assert row["row_id"] not in ids or row["rule"] == "duplicate"
    for row in found:
        holds(row)


def holds(row: dict[str, Any]) -> None:
    """What every kept conversation must be, said in other words than the stage's."""
    turns = row["messages"]
    roles = [turn["role"] for turn in turns]
    assert set(roles) <= {"system", "user", "assistant", "tool"}
    assert "system" not in roles[1:]
    assert roles[-1] == "assistant"
    assert (roles[1:] if roles[0] == "system" else roles)[0] == "user"
    assert all(after != before or after in ("tool", "assistant") for before, after in pairwise(roles))
    for turn in turns:
        turn["content"].encode()
        assert "\0" not in turn["content"]
        assert turn["content"].strip() or turn["tool_calls"] or turn["role"] == "tool"
        assert turn["reasoning"] is None or (
            turn["role"] == "assistant" and turn["reasoning"].strip() == turn["reasoning"] != ""
        )
        assert turn["role"] != "assistant" or "</think>" not in turn["content"] + (turn["reasoning"] or "")
        assert turn["tool_calls"] is None or turn["role"] == "assistant"
    assert any(turn["train"] for turn in turns if turn["role"] == "assistant")
    assert row["row_id"] == expected_id(row)
    assert row["split"] == ("heldout" if int(row["row_id"][:16], 16) < 0.3 * 2**64 else "train")
    assert (row["file"], row["line"]) == ("rows.jsonl", row["row"] + 1)


def expected_id(row: dict[str, Any]) -> str:
    """The id by its definition."""
    parts = []
    for turn in row["messages"]:
        more = [f'"tool_calls":{turn["tool_calls"]}'] if turn["tool_calls"] else []
        more += [f'"reasoning":{json.dumps(turn["reasoning"], ensure_ascii=False)}'] if turn["reasoning"] else []
        more += [] if turn["train"] else ['"train":false']
        head = json.dumps([turn["role"], turn["content"]], ensure_ascii=False, separators=(",", ":"))
        parts.append(f"{head[:-1]},{{{','.join(more)}}}]" if more else head)
    beside = [f'"{name}":{row[name]}' for name in ("tools", "options") if row[name]]
    if beside:
        parts.append(f"{{{','.join(beside)}}}")
    return hashlib.sha256(f"[{','.join(parts)}]".encode()).hexdigest()[:32]


@given(rows=ROWS, more=ROWS, random=st.randoms(use_true_random=False))
@SETTINGS
def test_ids_and_splits_of_any_rows_stay_when_they_are_shuffled_and_others_come(
    folder: Path, rows: list[Any], more: list[Any], random: Any
) -> None:
    project, outcome = run_rows(folder, rows)
    assert outcome.error is None
    before = {row["row_id"]: (row["split"], row["messages"], row["tools"]) for row in kept(project)}
    ids_before = ids_of_records(project)
    mixed = [*rows, *more]
    random.shuffle(mixed)
    project, outcome = run_rows(folder, mixed)
    assert outcome.error is None
    after = {row["row_id"]: (row["split"], row["messages"], row["tools"]) for row in kept(project)}
    assert before.items() <= after.items()
    ids_after = ids_of_records(project)
    assert ids_before.items() <= ids_after.items()


def ids_of_records(project: Project) -> dict[bytes, str]:
    """Record -> row id, of the kept rows and of those set aside."""
    record = records(project)
    return {record[row["row"]]: row["row_id"] for row in [*kept(project), *aside(project)]}
