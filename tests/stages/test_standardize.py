import hashlib
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retune.use.presets import read_preset
from stages.arrow.tables import write_parquet
from stages.contracts import raw as raw_contract
from stages.contracts.messages import EXCLUDED_SCHEMA, FATES, REJECTED_SCHEMA, SCHEMA
from stages.conversations.canonical import canonical_json
from stages.conversations.roles import ALIASES, CALL
from stages.conversations.row_rules import FLAGS, RULES
from stages.conversations.schema_check import check_messages
from stages.core.errors import StageError
from stages.core.files import write_json
from stages.core.params import Runtime, section_params
from stages.dedup.minhash import Sketches, sketch_texts
from stages.standardize import StandardizeParams, standardize
from tests.project import ROOT
from tests.stages.dataset_files.support.data_files import fetch
from tests.stages.dataset_files.support.data_files import params as source_params

SHARED = ROOT.parent / "shared" / "data"
HEADER = "row_id_or_hash,reason,requested_by,date\n"
RUNTIME = section_params(Runtime, "runtime", read_preset(ROOT, "demo")).model_copy(update={"workers": 1})
PARAMS = {
    "heldout_fraction": 0.2,
    "turns": "strict",
    "trees": "best_ranked",
    "max_messages": None,
    "max_chars": None,
    "near_duplicates": "off",
    "near_heldout": "keep",
    "near_threshold": 0.8,
    "contamination": [],
    "languages": None,
    "group_by": None,
    "flagged": "keep",
}


def params(**changed: object) -> StandardizeParams:
    return StandardizeParams.model_validate(PARAMS | changed)


def write_raw(folder: Path, *sources: Sequence[bytes], columns: object = None, file: str = "rows.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    records = [record for source in sources for record in source]
    arrays = [
        pa.array(range(len(records)), pa.int64()),
        pa.array([index for index, source in enumerate(sources) for _ in source], pa.int32()),
        pa.array([file] * len(records)),
        pa.array([line for source in sources for line in range(1, len(source) + 1)], pa.int64()),
        pa.array(records, pa.binary()),
    ]
    write_parquet(folder / raw_contract.ROWS, pa.table(arrays, schema=raw_contract.SCHEMA))
    named = [{"source": f"source {index}", "columns": columns} for index in range(len(sources))]
    write_json(folder / raw_contract.SOURCE, {"sources": named})
    return folder


def chat(*turns: tuple[object, object]) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}).encode()


def good(number: int) -> bytes:
    return chat(("user", f"question {number}"), ("assistant", f"answer {number}"))


class Result:
    """The stage's outputs as Python values."""

    def __init__(self, folder: Path) -> None:
        tables = {name: pq.read_table(folder / f"{name}.parquet") for name in ("messages", "rejected", "excluded")}
        assert tables["messages"].schema.equals(SCHEMA)
        assert tables["rejected"].schema.equals(REJECTED_SCHEMA)
        assert tables["excluded"].schema.equals(EXCLUDED_SCHEMA)
        self.kept, self.rejected, self.excluded = (
            tables[name].to_pylist() for name in ("messages", "rejected", "excluded")
        )
        self.summary = json.loads((folder / "summary.json").read_text())
        rows = sorted(row["row"] for row in self.kept + self.rejected + self.excluded)
        assert rows == list(range(self.summary["raw"])), "every row ends in exactly one place"
        for counts in (self.summary, *self.summary["sources"]):
            assert counts["raw"] == sum(counts[key] for key in FATES)
        for key in ("raw", *FATES):
            assert self.summary[key] == sum(source[key] for source in self.summary["sources"])
        assert not list(folder.glob(".*")), "nothing is left over"

    def rules(self) -> dict[int, str]:
        return {row["row"]: row["rule"] for row in self.rejected}

    def turns(self) -> list[list[tuple[str, str]]]:
        return [[(message["role"], message["content"]) for message in row["messages"]] for row in self.kept]


def run(
    tmp_path: Path,
    *sources: Sequence[bytes],
    exclusions: str = "",
    name: str = "messages",
    columns: object = None,
    file: str = "rows.jsonl",
    runtime: Runtime = RUNTIME,
    **changed: object,
) -> Result:
    raw = write_raw(tmp_path / "raw", *sources, columns=columns, file=file)
    (tmp_path / "exclusions.csv").write_text(HEADER + exclusions)
    standardize(raw, tmp_path / "exclusions.csv", tmp_path / "custom", tmp_path / name, params(**changed), runtime)
    return Result(tmp_path / name)


def run_again(tmp_path: Path) -> None:
    standardize(
        tmp_path / "raw", tmp_path / "exclusions.csv", tmp_path / "custom", tmp_path / "messages", params(), RUNTIME
    )


def rule_of(tmp_path: Path, record: bytes, **changed: object) -> str | None:
    others = [good(number) for number in range(20)]
    return run(tmp_path, [*others, record], **changed).rules().get(20)


def message(role: str, content: object, **beside: object) -> dict[str, object]:
    return {"role": role, "content": content, **beside}


def row(*messages: dict[str, object], **beside: object) -> bytes:
    return json.dumps({"messages": messages, **beside}).encode()


ASKED, ANSWERED = message("user", "q"), message("assistant", "a")
CALLED = {"function": {"name": "f", "arguments": "{}"}}
TOOLS = [{"name": "f"}]


def calling(value: object, **beside: object) -> bytes:
    return row(ASKED, message("assistant", "", tool_calls=value), **beside)


HOSTILE = [
    (b"{broken", "invalid_json"),
    (b"", "invalid_json"),
    (b"[" * 100_000, "invalid_json"),
    (b'{"messages": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "invalid_json"),
    (b'{"messages": "\xff"}', "invalid_unicode"),
    (b"[1]", "not_an_object"),
    (b"null", "not_an_object"),
    (b"NaN", "not_an_object"),
    (row(ASKED, ANSWERED)[:-1] + b", " + row(ASKED, message("assistant", "b"))[1:], "duplicate_key"),
    (b'{"messages": [{"role": "user", "content": "q", "content": "r"}, {"role": "assistant", "content": "a"}]}', "duplicate_key"),
    (b'{"messages": [{"role": "system" , "role" :"user", "content": "q"}, {"role": "assistant", "content": "a"}]}', "duplicate_key"),
    (row(ASKED, ANSWERED, images=["cat.png"]), "media"),
    (row(message("user", [{"type": "image", "url": "x"}, {"type": "text", "text": "q"}]), ANSWERED), "media"),
    (row(message("user", [{"type": "image_url", "image_url": {}}]), ANSWERED), "media"),
    (b'{"text": "hello"}', "layout"),
    (b'{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}', "layout"),
    (b'{"messages": [["user", "q"]]}', "layout"),
    (b'{"messages": []}', "no_messages"),
    (b'{"messages": null}', "no_messages"),
    (chat(("wizard", "q"), ("assistant", "a")), "unknown_role"),
    (chat((None, "q"), ("assistant", "a")), "unknown_role"),
    (chat((1, "q"), ("assistant", "a")), "unknown_role"),
    (chat(("", "q"), ("assistant", "a")), "unknown_role"),
    (chat((["user"], "q"), ("assistant", "a")), "unknown_role"),
    *[(row(ASKED, ANSWERED, tools=value), "tools_unreadable") for value in ("no json", 3, [3], {"a": 1}, [{"name": ""}], "[NaN]")],
    (row(ASKED, ANSWERED, tools='[{"name": "f", "name": "g"}]'), "tools_unreadable"),
    *[(row(ASKED, ANSWERED, chat_template_kwargs=value), "options_unreadable") for value in ([1], 3, True, "think", "[1]", '{"a": 1, "a": 2}')],
    (b'{"tools": [{"name": "f", "x": ' + b"[" * 500 + b"]" * 500 + b"}], " + row(ASKED, ANSWERED)[1:], "tools_unreadable"),
    *[(calling(value), "tool_call_unreadable") for value in ([1], "no json", [{}], [{"function": {"name": "f", "arguments": "[1]"}}], [{"name": 3}])],
    (calling([{"function": {"name": "f", "arguments": '{"a": 1, "a": 2}'}}]), "tool_call_unreadable"),
    (calling([{"function": {"name": "f", "arguments": {"a": float("nan")}}}]), "tool_call_unreadable"),
    (calling([{**CALLED, "id": 5}]), "tool_call_unreadable"),
    (row(ASKED, message("assistant", "", tool_calls=[CALLED], function_call=CALLED["function"])), "tool_call_unreadable"),
    (row(message("user", "q", tool_calls=[CALLED]), ANSWERED), "tool_call_unreadable"),
    (chat(("user", "q"), ("function_call", "<call>")), "tool_call_unreadable"),
    (chat(("user", "q"), ("function_call", "[]")), "tool_call_unreadable"),
    *[(row(ASKED, message("assistant", "a", weight=value)), "weight_not_0_or_1") for value in (0.5, 2, -1, "1", [1], float("nan"))],
    (row(ASKED, message("assistant", "a", weight=1, train=False)), "weight_not_0_or_1"),
    *[(row(ASKED, message("assistant", "a", loss=value)), "weight_not_0_or_1") for value in (0.5, "0", [True])],
    (row(ASKED, message("assistant", "a", loss=False, train_detail=[{"begin_offset": 0, "end_offset": 0, "train": True}])), "weight_not_0_or_1"),
    *[
        (row(ASKED, message("assistant", "answer", train_detail=value)), "answer_trained_in_part")
        for value in (
            *(3, "all", [None], [{}], [{"begin_offset": 0, "end_offset": 4, "train": True}], [{"begin_offset": 1, "end_offset": 5, "train": False}]),
            [{"begin_offset": 0, "end_offset": 2, "train": True}, {"begin_offset": 3, "end_offset": 5, "train": False}],
            [{"begin_offset": 0, "end_offset": 1, "train": True}, {"begin_offset": 3, "end_offset": 5, "train": True}],
            *([{"begin_offset": "0", "end_offset": 5, "train": True}], [{"begin_offset": 0, "end_offset": 5, "train": 1}]),
        )
    ],
    *[(row(message("user", "q", **{key: True}), ANSWERED), "another_role_trained") for key in ("train", "loss")],
    (row(message("user", "q", train_detail=[{"begin_offset": 0, "end_offset": 0, "train": True}]), ANSWERED), "another_role_trained"),
    (calling([CALLED]), "tool_not_shown"),
    (chat(("user", "q"), ("assistant", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')), "tool_not_shown"),
    (chat(("user", "q"), ("assistant", None)), "null_content"),
    (b'{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}', "null_content"),
    (chat(("user", 5), ("assistant", "a")), "content_not_text"),
    *[(b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ' + value + b"}]}", "content_not_text") for value in (b"1e400", b"9" * 400)],
    (chat(("user", "q"), ("assistant", float("nan"))), "content_not_text"),
    (chat(("user", "q"), ("assistant", {"text": "a"})), "content_not_text"),
    (chat(("user", "q"), ("assistant", [])), "content_not_text"),
    (chat(("user", [{"type": "thinking", "thinking": "t"}]), ("assistant", "a")), "content_not_text"),
    *[(chat(("user", "q"), ("assistant", value)), "reasoning_alone") for value in ("<think>t</think>", "<think>\nt\n</think>\n\n", [{"type": "thinking", "thinking": "t"}])],
    *[(row(ASKED, message("assistant", value, reasoning_content="t")), "reasoning_alone") for value in (None, "", "  ")],
    *[(row(ASKED, message("assistant", "a", **{key: value})), "reasoning_not_text") for key in ("reasoning_content", "reasoning", "thinking") for value in (3, True, {"a": 1}, ["t"], float("nan"))],
    *[
        (chat(("user", "q"), ("assistant", [part, {"type": "text", "text": "a"}])), "reasoning_not_text")
        for part in ({"type": "thinking"}, {"type": "reasoning", "text": 5}, {"type": "redacted_thinking", "data": "x"}, {"type": "thinking", "thinking": [{"type": "image"}]})
    ],
    *[
        (chat(("user", "q"), ("assistant", value)), "reasoning_unclosed")
        for value in (
            *("t\n</think>\n\na", "<think>t a", "<think>t<think>u</think>a", "<think>t</think>a</think>b", " <thinking>t a"),
            *("<|begin_of_thought|>t a", "t<|end_of_thought|>a", "<think>t</think><|begin_of_solution|>a"),
            *("<thinking>t</think>u</thinking>a", "<think>t</think><|begin_of_solution|>a<|end_of_solution|>b"),
        )
    ],
    (row(ASKED, message("assistant", "a", reasoning_content="t</think>u")), "reasoning_unclosed"),
    (chat(("user", "q"), ("assistant", "a <think>t</think> b")), "reasoning_not_first"),
    (chat(("user", "q"), ("assistant", "<think>t</think>a<think>u</think>b")), "reasoning_not_first"),
    (chat(("user", "q"), ("assistant", [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "t"}])), "reasoning_not_first"),
    (row(ASKED, message("assistant", "<think>t</think>a", reasoning_content="u")), "reasoning_differs"),
    (row(ASKED, message("assistant", "a", reasoning="t", thinking="u")), "reasoning_differs"),
    (chat(("user", [{"type": "text", "text": 5}]), ("assistant", "a")), "content_not_text"),
    (chat(("user", "q"), ("assistant", [{"type": "tool_use", "name": "f", "input": {}}, {"type": "text", "text": "a"}])), "call_not_last"),
    (chat(("user", "q\0"), ("assistant", "a")), "nul_character"),
    (chat(("user", "q\\\0"), ("assistant", "a")), "nul_character"),
    (calling([{"name": "f", "arguments": {"a": "\0"}}]), "nul_character"),
    (chat(("user", "q"), ("assistant", "")), "empty_content"),
    (chat(("user", " \n\t"), ("assistant", "a")), "empty_content"),
    (calling([]), "empty_content"),
    (chat(("user", "q"), ("assistant", "\ud800")), "invalid_unicode"),
    (calling([{"name": "\ud800", "arguments": {}}]), "invalid_unicode"),
    (row(ASKED, ANSWERED, tools=[{"name": "\ud800"}]), "invalid_unicode"),
    (chat(("user", "q"), ("system", "s"), ("assistant", "a")), "system_not_first"),
    (chat(("system", "s"), ("system", "s"), ("user", "q"), ("assistant", "a")), "system_not_first"),
    (chat(("assistant", "a"), ("user", "q"), ("assistant", "a")), "starts_with_answer"),
    (chat(("system", "s"), ("assistant", "a")), "starts_with_answer"),
    (chat(("tool", "t"), ("assistant", "a")), "starts_with_answer"),
    (chat(("user", "q"), ("user", "q"), ("assistant", "a")), "roles_not_alternating"),
    (chat(("user", "q"), ("assistant", "a"), ("assistant", "a")), "roles_not_alternating"),
    (chat(("user", "q"), ("tool", "t"), ("assistant", "a")), "roles_not_alternating"),
    (row(ASKED, message("assistant", "", tool_calls=[CALLED]), ANSWERED), "roles_not_alternating"),
    (row(ASKED, message("assistant", "", tool_calls=[CALLED]), ASKED, ANSWERED), "roles_not_alternating"),
    (chat(("user", "q"), ("assistant", "a"), ("user", "q")), "ends_without_answer"),
    (chat(("user", "q"), ("assistant", "a"), ("tool", "t")), "ends_without_answer"),
    (chat(("system", "s")), "ends_without_answer"),
    (row(ASKED, message("assistant", "a", weight=0.0)), "nothing_to_train"),
    (row(ASKED, message("assistant", "", tool_calls=[CALLED], train=False)), "nothing_to_train"),
    (good(3), "duplicate"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "rule"), HOSTILE, ids=[f"{number}-{rule}" for number, (_, rule) in enumerate(HOSTILE)]
)
def test_hostile_row_is_rejected_with_its_rule(tmp_path: Path, record: bytes, rule: str) -> None:
    assert rule_of(tmp_path, record) == rule


def test_every_rule_has_a_hostile_row() -> None:
    assert {rule for _, rule in HOSTILE} | {
        *("too_many_messages", "too_large", "other_language", "contaminated", "near_heldout", "near_duplicate"),
        "transcript_unreadable",  # of a layout of its own: tests/layouts.py
    } == RULES.keys() - FLAGS.keys()


def test_limits_reject_what_is_over_them_and_nothing_at_them(tmp_path: Path) -> None:
    record = chat(("user", "12345"), ("assistant", "123"), ("user", "1"), ("assistant", "1"))
    assert rule_of(tmp_path / "a", record, max_messages=3) == "too_many_messages"
    assert rule_of(tmp_path / "b", record, max_messages=4) is None
    assert rule_of(tmp_path / "c", chat(("user", "x" * 50), ("assistant", "y" * 51)), max_chars=100) == "too_large"
    assert rule_of(tmp_path / "d", chat(("user", "x" * 50), ("assistant", "y" * 50)), max_chars=100) is None


@pytest.mark.parametrize(
    "record",
    [
        chat(
            ("system", "s"), ("user", "q"), ("assistant", "call"), ("tool", "one"), ("tool", "two"), ("assistant", "a")
        ),
        chat(("USER", "q"), ("Assistant", "a")),
        chat(("user", " kept \n"), ("assistant", "\u2028 as it is \ufffe")),
        chat(("user", [{"type": "text", "text": "a"}, {"type": "text", "value": "b"}]), ("assistant", "a")),
        b'{"score": NaN, "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
        b'{"note": "\\ud800", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
        chat(("user", "x" * 10_000_000), ("assistant", "a")),
        chat(("user", "\\u0000 as text"), ("assistant", "a")),
        row(ASKED, ANSWERED, images=[], image=None, video=""),
        row(message("user", "<image> as text"), ANSWERED),
        row(
            message("user", "q", weight=0, name="Ann", id=7),
            message("assistant", "a", weight=1.0, train=True, thoughts=[1]),
        ),
        row(ASKED, message("assistant", "a", tool_calls=None, function_call=None, weight=None)),
        row(ASKED, ANSWERED, tools=None, functions="[]"),
        b'{"note": {"a": 1, "a": 2}, ' + row(ASKED, ANSWERED)[1:],
        b'{"note": ' + b"[" * 1_000 + b"]" * 1_000 + b", " + row(ASKED, ANSWERED)[1:],
        b'{"a\\\\":1, "b" :2, "c":": d", ' + row(message("user", 'so "it":'), ANSWERED)[1:],
        row(ASKED, message("assistant", "a", weight=0), ASKED, ANSWERED),
        calling([CALLED], tools=TOOLS),
        row(ASKED, message("assistant", None, function_call={"name": "f", "arguments": ""}), functions=TOOLS),
        chat(("user", "q </think> <think>"), ("assistant", "a <think> b <thinking></thinking>")),
        row(message("user", "q", thinking=5, train=False, loss=0, weight=0.5), ANSWERED),
        row(ASKED, ANSWERED, chat_template_kwargs=""),
        chat(("user", "q"), ("assistant", 5)),
        chat(("user", "q"), ("assistant", False)),
    ],
    ids=range(24),
)
def test_unusual_row_is_kept(tmp_path: Path, record: bytes) -> None:
    assert rule_of(tmp_path, record) is None


def test_every_alias_becomes_its_role(tmp_path: Path) -> None:
    call = '{"name": "f", "arguments": {}}'
    for role, aliases in ALIASES.items():
        for alias in (*aliases, *[alias.upper().replace("_", "-") for alias in aliases]):
            turns = {
                "system": [(alias, "s"), ("user", "q"), ("assistant", "a")],
                "user": [(alias, "q"), ("assistant", "a")],
                "assistant": [("user", "q"), (alias, "a")],
                "tool": [("user", "q"), ("assistant", "c"), (alias, "t"), ("assistant", "a")],
                CALL: [("system", "you may call f"), ("user", "q"), (alias, call)],
            }[role]
            (found,) = run(tmp_path, [chat(*turns)], name=f"{role}-{alias}", heldout_fraction=0).turns()
            expected = "assistant" if role == CALL else role
            assert [given for given, _ in found] == [expected if given == alias else given for given, _ in turns]


def test_message_of_weight_0_is_context_and_has_an_id_of_its_own(tmp_path: Path) -> None:
    turns = [ASKED, message("assistant", "a", weight=0), message("user", "r"), message("assistant", "b")]
    weighted, plain = run(
        tmp_path, [row(*turns), row(*[message(turn["role"], turn["content"]) for turn in turns])], heldout_fraction=0
    ).kept  # type: ignore[arg-type]
    assert [turn["train"] for turn in weighted["messages"]] == [True, False, True, True]
    assert all(turn["train"] for turn in plain["messages"])
    canonical = b'[["user","q"],["assistant","a",{"train":false}],["user","r"],["assistant","b"]]'
    assert weighted["row_id"] == hashlib.sha256(canonical).hexdigest()[:32]
    assert plain["row_id"] == hashlib.sha256(canonical.replace(b',{"train":false}', b"")).hexdigest()[:32]


def test_tool_calls_of_every_dialect_are_one_form(tmp_path: Path) -> None:
    arguments = {"city": "Rome", "a": 1.5}
    text = json.dumps(arguments)
    end = [message("tool", "sun"), ANSWERED]
    tools = [{"name": "weather", "description": "d", "parameters": {}}]
    wrapped = [{"type": "function", "function": tools[0]}]
    records = [
        row(ASKED, message("assistant", None, tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": text}}]), *end, tools=wrapped),
        row(ASKED, message("assistant", "", tool_calls=[{"name": "weather", "arguments": arguments}]), *end, tools=json.dumps(tools)),
        row(ASKED, message("assistant", "", tool_calls=json.dumps([{"function": {"name": "weather", "arguments": text}}])), *end, tools=[json.dumps(tools[0])]),
        row(ASKED, message("assistant", "", function_call={"name": "weather", "arguments": text}), *end, functions=tools),
        row(ASKED, message("function_call", json.dumps({"name": "weather", "arguments": arguments})), *end, tools=tools[0]),
        row(ASKED, message("tool_call", json.dumps([{"name": "weather", "parameters": text}])), *end, tools=wrapped),
        row(ASKED, message("assistant", [{"type": "tool_call", "value": json.dumps({"name": "weather", "arguments": arguments})}]), *end, tools=json.dumps(wrapped)),
    ]  # fmt: skip
    result = run(tmp_path, records, heldout_fraction=0)
    assert result.rules() == dict.fromkeys(range(1, 7), "duplicate"), "the same conversation in seven dialects"
    (kept,) = result.kept
    called = '[{"type":"function","function":{"name":"weather","arguments":{"city":"Rome","a":1.5}}}]'
    assert kept["messages"][1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": called,
        "reasoning": None,
        "train": True,
    }
    assert [turn["tool_calls"] for turn in kept["messages"]] == [None, called, None, None]
    listed = '[{"type":"function","function":{"name":"weather","description":"d","parameters":{}}}]'
    assert kept["tools"] == listed
    canonical = f'[["user","q"],["assistant","",{{"tool_calls":{called}}}],["tool","sun"],["assistant","a"],{{"tools":{listed}}}]'
    assert kept["row_id"] == hashlib.sha256(canonical.encode()).hexdigest()[:32]


def test_parallel_calls_are_one_turn_and_keep_their_ids(tmp_path: Path) -> None:
    one, two = ({"name": "f", "arguments": {"n": number}} for number in (1, 2))
    calls = [{"id": "c1", "type": "function", "function": one}, {"id": "c2", "type": "function", "function": two}]
    results = [message("tool", "1", tool_call_id="c1"), message("tool", {"found": 2}, tool_call_id="c2"), ANSWERED]
    by_messages = [message("tool_call", json.dumps(one)), message("tool_call", json.dumps(two))]
    beside, apart = run(
        tmp_path,
        [row(ASKED, message("assistant", "let me see", tool_calls=calls), *results), row(ASKED, message("gpt", "hm"), *by_messages, *results)],
        heldout_fraction=0,
    ).kept  # fmt: skip
    assert [turn["role"] for turn in apart["messages"]] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [turn["content"] for turn in beside["messages"]] == ["q", "let me see", "1", '{"found":2}', "a"]
    assert apart["messages"][1]["content"] == "hm"
    assert [call.get("id") for call in json.loads(beside["messages"][1]["tool_calls"])] == ["c1", "c2"]
    assert [call["function"] for call in json.loads(apart["messages"][1]["tool_calls"])] == [one, two]


def test_a_huge_number_in_a_call_is_not_rounded(tmp_path: Path) -> None:
    assert rule_of(tmp_path, calling([{"name": "f", "arguments": f'{{"id": {"9" * 30}}}'}])) == "tool_call_unreadable"


def test_sources_have_layouts_of_their_own_and_are_counted_apart(tmp_path: Path) -> None:
    alpaca = [json.dumps({"instruction": f"ask {number}", "output": "a"}).encode() for number in range(3)]
    result = run(tmp_path, [good(1), good(2), b"{"], alpaca, [good(1), good(9)], heldout_fraction=0)
    assert [(kept["source"], kept["line"], kept["file"]) for kept in result.kept] == [
        *((0, 1, "rows.jsonl"), (0, 2, "rows.jsonl")),
        *((1, 1, "rows.jsonl"), (1, 2, "rows.jsonl"), (1, 3, "rows.jsonl")),
        (2, 2, "rows.jsonl"),
    ]
    assert [
        (source["layout"], source["raw"], source["train"], source["rejected"], source["repeated"])
        for source in result.summary["sources"]
    ] == [
        ("messages: role/content", 3, 2, 1, 0),
        ("instruction/input/output", 3, 3, 0, 0),
        ("messages: role/content", 2, 1, 0, 1),
    ]
    assert result.summary["dialects"] == {"messages: role/content": 3, "instruction/input/output": 3}
    by_row = {rejected["row"]: rejected for rejected in result.rejected}
    assert (by_row[2]["source"], by_row[2]["line"], by_row[2]["of"]) == (0, 3, None)
    assert (by_row[6]["source"], by_row[6]["line"], by_row[6]["of"]) == (2, 1, result.kept[0]["row_id"])


def test_rows_that_repeat_others_are_no_rejected_ones(tmp_path: Path) -> None:
    result = run(tmp_path, [*map(good, range(360)), *map(good, range(40)), b"{"], heldout_fraction=0)
    assert (result.summary["rejected"], result.summary["repeated"]) == (1, 40)
    assert result.summary["rules"] == {"invalid_json": 1, "duplicate": 40}
    assert {row["of"] for row in result.rejected if row["rule"] == "duplicate"} == {
        row["row_id"] for row in result.kept[:40]
    }


FLAGGED = [
    (chat(("user", "what is it?"), ("assistant", "N/A")), ["placeholder_answer"]),
    (chat(("user", "what is it?"), ("assistant", "What is it")), ["answer_repeats_question"]),
    (chat(("user", "q"), ("assistant", "<p>a</p>, ann@mail.example.org")), ["html_left_in", "email_address"]),
    (chat(("user", "call +49 30 1234567"), ("assistant", "b")), ["phone_number"]),
    (chat(("user", "q"), ("assistant", f"AKIA{'IOSFODNN7'}EXAMPLE")), ["secret_key"]),
]


def test_flagged_rows_are_kept_and_told_with_places_and_never_their_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retune")
    result = run(tmp_path, [*map(good, range(3)), *(record for record, _ in FLAGGED)] * 2)
    assert [row["flags"] for row in result.kept] == [None] * 3 + [flags for _, flags in FLAGGED]
    place = {"row_id": result.kept[5]["row_id"], "source": "source 0", "file": "rows.jsonl", "line": 6}
    assert result.summary["flags"] == {
        flag: {"rows": 1, "places": [place | {"row_id": row["row_id"], "line": row["line"]}]}
        for row in result.kept
        for flag in row["flags"] or ()
    }
    assert result.summary["flags"].keys() == FLAGS.keys() - {"same_answer"}
    assert "flagged rows: 1 placeholder_answer, 1 answer_repeats_question, 1 html_left_in" in caplog.text
    for text in (caplog.text, json.dumps(result.summary)):
        assert not any(secret in text for secret in ("ann@", "1234567", "AKIA", "N/A"))


def test_flagged_rows_are_dropped_where_that_is_asked_each_by_its_first_flag(tmp_path: Path) -> None:
    many = [chat(("user", f"is it {number}?"), ("assistant", "Yes.")) for number in range(4)]
    result = run(tmp_path, [*many, *(record for record, _ in FLAGGED)], flagged="drop", heldout_fraction=0)
    assert result.rules() == {4 + place: flags[0] for place, (_, flags) in enumerate(FLAGGED)}
    assert (result.summary["rejected"], result.summary["train"]) == (5, 4)
    assert {flag: told["rows"] for flag, told in result.summary["flags"].items()} == {
        **{flags[0]: 1 for _, flags in FLAGGED},
        "same_answer": 4,
    }
    assert [place["line"] for place in result.summary["flags"]["same_answer"]["places"]] == [1, 2, 3]
    assert [row["flags"] for row in result.kept] == [None] * 4


def facts() -> list[bytes]:
    """100 facts in three wordings each."""
    rows = [
        {"fact": number, "question": wording.format(f"Land{number}x"), "answer": f"It is Town{number}x."}
        for wording in (
            "What is the capital of {}?",
            "Where does the government of {} sit?",
            "Name the first city of {}.",
        )
        for number in range(100)
    ]
    random.Random(0).shuffle(rows)
    return [json.dumps(row).encode() for row in rows]


@pytest.mark.parametrize("group_by", ["answer", "fact"])
def test_rows_of_one_group_are_all_trained_or_all_held_out(tmp_path: Path, group_by: str) -> None:
    wanted = {"columns": {"prompt": "question", "answer": "answer", "system": None}, "near_heldout": "keep"}
    alone = run(tmp_path, facts(), **wanted)
    seen = alone.summary["seen"]
    assert seen["answers"]["share"] > 0.9
    assert "held-out is" in seen["says"]
    result = run(tmp_path, facts(), name="grouped", group_by=group_by, **wanted)
    answers: dict[str, set[str]] = {}
    for row in result.kept:
        answers.setdefault(row["messages"][-1]["content"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in answers.values())
    assert 30 <= result.summary["heldout"] <= 100
    assert result.summary["seen"]["answers"]["seen"] == 0
    assert result.summary["seen"]["question_words"]["share"] < 0.5
    assert sorted(row["row_id"] for row in result.kept) == sorted(row["row_id"] for row in alone.kept)
    # of the column that rows are grouped by nobody says that it is ignored
    assert ("fact" in result.summary["ignored"]["columns"]) == (group_by != "fact")


def test_column_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no row of source 0 has the column `topic`"):
        run(tmp_path, [good(1)], group_by="topic")


WORDS = [f"w{number}" for number in range(4_000)]


def like(number: int, changed: int) -> bytes:
    """One of several families of long answers; of each some words are changed."""
    said = random.Random(number).choices(WORDS, k=200)
    said[:changed] = [f"other{place}" for place in range(changed)]
    return chat(("user", f"question {number}"), ("assistant", " ".join(said)))


def test_near_duplicates_are_flagged_or_dropped_and_the_first_stays(tmp_path: Path) -> None:
    records = [like(1, 0), like(2, 0), like(1, 2), like(3, 0), like(1, 100), like(2, 1)]
    for workers, name in ((1, "one"), (2, "two")):
        flagged = run(
            tmp_path,
            records,
            name=name,
            near_duplicates="flag",
            heldout_fraction=0,
            runtime=RUNTIME.model_copy(update={"workers": workers}),
        )
        ids = {kept["row"]: kept["row_id"] for kept in flagged.kept}
        assert {kept["row"]: kept["near_duplicate_of"] for kept in flagged.kept if kept["near_duplicate_of"]} == {
            2: ids[0],
            5: ids[1],
        }
        assert flagged.summary["near_duplicates"] == 2
    dropped = run(tmp_path, records, name="drop", near_duplicates="drop", heldout_fraction=0)
    assert dropped.rules() == {2: "near_duplicate", 5: "near_duplicate"}
    assert [rejected["of"] for rejected in dropped.rejected] == [ids[0], ids[1]]
    assert run(tmp_path, records, name="off", heldout_fraction=0).summary["near_duplicates"] == 0


def test_training_row_near_a_heldout_one_goes_and_nothing_else_moves(tmp_path: Path) -> None:
    records = [like(number, changed) for number in range(40) for changed in (0, 1)]
    kept = {row["row"]: row for row in run(tmp_path, records, name="keep").kept}
    result = run(tmp_path, records, name="drop", near_heldout="drop")
    pairs = [(number, number + 1) for number in range(0, 80, 2)]
    crossing = [pair for pair in pairs if {kept[row]["split"] for row in pair} == {"train", "heldout"}]
    assert 0 < len(crossing) < 40
    expected = {
        row: kept[other]["row_id"]
        for pair in crossing
        for row, other in (pair, pair[::-1])
        if kept[row]["split"] == "train"
    }
    assert {rejected["row"]: rejected["of"] for rejected in result.rejected} == expected
    assert set(result.rules().values()) == {"near_heldout"}
    assert {row["row"]: row["split"] for row in result.kept} == {
        row: kept[row]["split"] for row in kept if row not in expected
    }


@pytest.mark.slow
def test_training_rows_are_sampled_and_all_near_ones_go_as_if_all_were_sketched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,000 families, each of two long rows, some have a row that is held out; `near_duplicates: drop` sketches all rows."""
    records = [like(number, changed) for number in range(2_000) for changed in (0, number % 7)]
    records += [good(number) for number in range(200)]
    wanted = {"heldout_fraction": 0.02, "near_heldout": "drop"}
    result = run(tmp_path, records, name="sampled", **wanted)
    whole = run(tmp_path, records, name="whole", near_duplicates="drop", **wanted)
    of = {row["row"]: row["of"] for row in result.rejected if row["rule"] == "near_heldout"}
    assert len(of) > 40
    assert of == {row["row"]: row["of"] for row in whole.rejected if row["rule"] == "near_heldout"}
    monkeypatch.setattr("stages.standardize.BATCH", 137)
    two = RUNTIME.model_copy(update={"workers": 2})
    run(tmp_path, records, name="two", runtime=two, **wanted)
    for name in ("messages.parquet", "rejected.parquet", "summary.json"):
        assert (tmp_path / "sampled" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_few_rows_are_sketched_where_few_are_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [like(number, 0) for number in range(1_000)]
    sketched: list[int] = []
    for place in ("stages.dedup.prefilter", "stages.dedup.minhash"):
        monkeypatch.setattr(f"{place}.sketch_texts", counted(sketched))
    for near_duplicates, least, most in (("off", 1, 100), ("flag", 1_000, 1_000)):
        sketched.clear()
        run(
            tmp_path,
            records,
            name=near_duplicates,
            near_duplicates=near_duplicates,
            near_heldout="drop",
            heldout_fraction=0.02,
        )
        assert least <= sum(sketched) <= most


def counted(sketched: list[int]) -> Callable[[Sequence[str]], Sketches]:
    """`sketch_texts`, which notes how many it makes."""

    def noting(texts: Sequence[str]) -> Sketches:
        sketched.append(len(texts))
        return sketch_texts(texts)

    return noting


def test_row_with_a_text_of_an_evaluation_set_is_set_aside(tmp_path: Path) -> None:
    question = " ".join(random.Random(5).choices(WORDS, k=30))
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom/exam.jsonl").write_text(json.dumps({"question": question}) + "\n")
    records = [good(1), chat(("user", f"Solve this: {question} Now!"), ("assistant", "a")), like(1, 0)]
    result = run(tmp_path, records, contamination=["exam.jsonl"], heldout_fraction=0)
    assert result.rules() == {1: "contaminated"}
    assert result.summary["contaminated"] == {"exam.jsonl": 1}
    with pytest.raises(StageError, match=r"missing\.jsonl"):
        run(tmp_path, records, contamination=["missing.jsonl"], name="again")


def test_row_in_another_language_is_set_aside(tmp_path: Path) -> None:
    english = chat(
        ("user", "What is the capital of France, and how many people live there?"),
        ("assistant", "Paris. It has about two million inhabitants."),
    )
    german = chat(
        ("user", "Was ist die Hauptstadt von Frankreich, und wie viele Menschen leben dort?"),
        ("assistant", "Paris. Die Stadt hat etwa zwei Millionen Einwohner."),
    )
    assert run(tmp_path, [english, german], languages=["en"], heldout_fraction=0).rules() == {1: "other_language"}
    assert not run(tmp_path, [english, german], languages=["en", "de"], heldout_fraction=0, name="both").rejected
    with pytest.raises(ValueError, match="'xx' is no ISO 639-1 code"):
        params(languages=["en", "xx"])


def test_row_id_is_the_hash_of_the_canonical_json(tmp_path: Path) -> None:
    result = run(tmp_path, [chat(("human", 'q "ü"\n'), ("gpt", "a\x01/")), b"{broken"], heldout_fraction=0)
    canonical = json.dumps(
        [["user", 'q "ü"\n'], ["assistant", "a\x01/"]], separators=(",", ":"), ensure_ascii=False
    ).encode()
    assert result.kept[0]["row_id"] == hashlib.sha256(canonical).hexdigest()[:32]
    assert result.rejected[0]["row_id"] == hashlib.sha256(b"{broken").hexdigest()[:32]


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), min_size=1))
def test_canonical_json_equals_the_standard_library(turns: list[tuple[str, str]]) -> None:
    assert canonical_json(turns) == json.dumps(turns, separators=(",", ":"), ensure_ascii=False).encode()


def test_order_and_company_change_no_id_and_no_split(tmp_path: Path) -> None:
    records = [good(number) for number in range(500)]
    before = {row["row_id"]: row["split"] for row in run(tmp_path, records, name="one").kept}
    shuffled = [*records, *[good(number) for number in range(500, 900)]]
    random.Random(1).shuffle(shuffled)
    after = {row["row_id"]: row["split"] for row in run(tmp_path, shuffled, name="two").kept}
    assert before.items() <= after.items()
    assert len(after) == 900
    assert 130 < sum(split == "heldout" for split in after.values()) < 230


def test_larger_heldout_fraction_keeps_what_a_smaller_one_held_out(tmp_path: Path) -> None:
    records = [good(number) for number in range(200)]
    few, many = (
        {
            row["row_id"]
            for row in run(tmp_path, records, name=str(share), heldout_fraction=share).kept
            if row["split"] == "heldout"
        }
        for share in (0.1, 0.3)
    )
    assert few < many


def test_duplicates_keep_the_first_across_batches(tmp_path: Path) -> None:
    records = [good(number) for number in range(4_100)]
    records[4_050] = b" " + good(7)
    result = run(tmp_path, records)
    assert result.rules() == {4_050: "duplicate"}
    assert result.rejected[0]["row_id"] == next(row["row_id"] for row in result.kept if row["row"] == 7)


def test_exclusion_removes_every_copy_by_row_id_or_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [*[good(number) for number in range(30)], good(3), b"{broken"]
    ids = {row["row"]: row["row_id"] for row in run(tmp_path, records, name="before").kept}
    content = hashlib.sha256(b"answer 5").hexdigest()
    broken = hashlib.sha256(b"{broken").hexdigest()[:32]
    listed = f"{ids[3]},asked,somebody,2026-01-01\n\n{content.upper()},asked too,somebody,2026-01-01\n{broken},gone,s,2026-01-01\n"
    absent = f"{'0' * 32},r,s,2026-01-01\n{'1' * 64},r,s,2026-01-01\n"
    result = run(tmp_path, records, exclusions=listed + absent)
    assert result.summary["exclusions_unmatched"] == 2
    assert "no row has the id or text of line 6, 7;" in caplog.text
    assert [(row["row"], row["reason"]) for row in result.excluded] == [
        (3, "asked"),
        (5, "asked too"),
        (30, "asked"),
        (31, "gone"),
    ]
    assert not result.rejected
    assert {row["row"]: row["row_id"] for row in result.kept}.items() <= ids.items()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "row_id,reason\n",
        HEADER + "secret,r,w,2026-01-01\n",
        HEADER + "a" * 32 + ",,w,2026-01-01\n",
        HEADER + "a" * 32 + ",r,w\n",
        HEADER + "g" * 32 + ",r,w,2026-01-01\n",
        HEADER + "a" * 32 + ",r,w,1.2.2026\n",
        HEADER + "a" * 32 + ",r,w,2026-13-01\n",
        HEADER + "a" * 32 + ",r,w,20260101\n",
        HEADER + '"secret',
        HEADER.replace(",", "|"),
    ],
)
def test_exclusion_list_that_cannot_be_understood_stops_the_run(tmp_path: Path, text: str) -> None:
    write_raw(tmp_path / "raw", [good(1)])
    (tmp_path / "exclusions.csv").write_text(text)
    with pytest.raises(StageError, match=r"exclusions\.csv") as caught:
        run_again(tmp_path)
    assert "secret" not in str(caught.value)


def test_empty_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="empty"):
        run(tmp_path, [])


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "jsonl"])
def test_rows_of_a_csv_that_are_not_utf_8_say_how_to_save_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    caplog.set_level(logging.INFO, "retune")
    run(tmp_path, [*map(good, range(20)), chat(("user", "\udce9"), ("assistant", "a"))], file=f"mine.{ending}")
    said = f"; mine.{ending} looks like Windows-1252 (Excel's older CSV): save it as CSV UTF-8)"
    assert "1 invalid_unicode: bytes that are not UTF-8" in caplog.text
    assert (said in caplog.text) == (ending != "jsonl")
    run(tmp_path, [*map(good, range(20)), b"{broken"], file=f"mine.{ending}", name="again")
    assert caplog.text.count("Windows-1252") == (ending != "jsonl")


@pytest.mark.parametrize(("count", "said"), [(3, ""), (4, ""), (5, "2 by 2 other rules: data/messages/summary.json")])
def test_log_names_the_rules_but_not_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, said: str
) -> None:
    caplog.set_level(logging.INFO, "retune")
    bad = {
        "invalid_json": b"{",
        "not_an_object": b"[]",
        "no_messages": b'{"messages": []}',
        "empty_content": chat(("user", ""), ("assistant", "a")),
        "nul_character": chat(("user", "\0"), ("assistant", "a")),
    }
    run(tmp_path, [*map(good, range(20)), *list(bad.values())[:count]])
    named = [rule for rule in bad if f"1 {rule}: " in caplog.text]
    assert named == list(bad)[: 3 if said else count]
    assert ("other rules" in caplog.text) == bool(said)
    assert said in caplog.text


def test_all_bad_dataset_is_an_error_with_counts_by_rule(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"3 invalid_json.*1 not_an_object"):
        run(tmp_path, [b"secret", b"{", b"}", b"[1]"])
    for name in ("messages", "rejected", "excluded"):
        assert (tmp_path / f"messages/{name}.parquet").exists(), "what became of the rows can be looked up"


def test_layout_is_found_behind_a_thousand_broken_rows(tmp_path: Path) -> None:
    assert len(run(tmp_path, [b"{"] * 2_500 + [good(1)], heldout_fraction=0).kept) == 1


def test_mapped_columns_are_used_and_a_wrong_name_is_named(tmp_path: Path) -> None:
    record = json.dumps({"ask": "q", "say": "a", "rules": "s"}).encode()
    columns = {"prompt": "ask", "answer": "say", "system": "rules"}
    assert run(tmp_path, [record], columns=columns, heldout_fraction=0).turns() == [
        [("system", "s"), ("user", "q"), ("assistant", "a")]
    ]
    with pytest.raises(StageError, match=r"source 0 has no column 'asks'.*'ask', 'say', 'rules'"):
        run(tmp_path, [record], columns=columns | {"prompt": "asks"}, name="wrong")
    turns = json.dumps({"turns": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}).encode()
    assert len(run(tmp_path, [turns], columns={"messages": "turns"}, heldout_fraction=0, name="chat").kept) == 1


def test_named_columns_read_what_looking_would_refuse(tmp_path: Path) -> None:
    record = json.dumps({"prompt": "q", "chosen": "a", "rejected": "b", "image": "x"}).encode()
    columns = {"prompt": "prompt", "answer": "chosen", "system": None}
    assert run(tmp_path, [record], columns=columns, heldout_fraction=0).turns() == [[("user", "q"), ("assistant", "a")]]


def test_no_text_of_the_data_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        said = [chat(("user", "secret"), ("assistant", f"secret {number}")) for number in range(9)]
        run(tmp_path, [*said, b"secret"])
    assert "10 rows" in caplog.text
    assert "secret" not in caplog.text


def test_contract_names_row_and_check_and_no_text(tmp_path: Path) -> None:
    run(tmp_path, [good(1), good(2)], heldout_fraction=0)
    batch = pq.read_table(tmp_path / "messages/messages.parquet").to_batches()[0]
    check_messages(batch)

    def turn(
        role: str | None, content: str | None, calls: str | None = None, *, train: bool | None = True
    ) -> dict[str, object]:
        return {"role": role, "content": content, "tool_calls": calls, "train": train}

    right = [turn("user", "secret"), turn("assistant", "secret")]
    broken = {
        "roles_known": [[turn("wizard", "secret"), *right], [turn(None, "secret"), *right]],
        "ends_with_answer": [right[:1]],
        "has_messages": [[]],
        "contents_not_empty": [
            [turn("user", ""), right[1]],
            [turn("user", None), right[1]],
            [right[0], turn("assistant", None, "[]")],
        ],
        "calls_are_the_assistants": [[turn("user", "secret", "[]"), right[1]]],
        "train_said": [
            [turn("user", "secret", train=False), right[1]],
            [right[0], turn("assistant", "secret", train=None)],
        ],
        "system_only_first": [[right[0], turn("system", "secret"), right[1]]],
        "something_to_train": [[right[0], turn("assistant", "secret", train=False)]],
    }
    for check, conversations in broken.items():
        for messages in conversations:
            column = pa.array([right, messages], SCHEMA.field("messages").type)
            with pytest.raises(RuntimeError, match=f"{check} at {batch['row_id'][1]}") as caught:
                check_messages(
                    batch.set_column(len(SCHEMA) - 1, SCHEMA.field("messages").with_type(column.type), column)
                )
            assert "secret" not in str(caught.value)
            assert "wizard" not in str(caught.value)
    others = {"split_known": ("split", "nowhere"), "row_id_is_hex": ("row_id", "x"), "line_from_1": ("line", 0)}
    for check, (name, value) in others.items():
        with pytest.raises(RuntimeError, match=check):
            check_messages(pa.RecordBatch.from_pylist([batch.slice(0, 1).to_pylist()[0] | {name: value}], SCHEMA))


WITHOUT_PANDAS = """
import sys
import pyarrow.parquet as pq
from stages.workers.without_pandas import leave_pandas_out
leave_pandas_out()
from stages.conversations.schema_check import check_messages
(batch,) = pq.read_table(sys.argv[1]).to_batches()
check_messages(batch)
print("pandas" in sys.modules)
check_messages(batch.set_column(1, "row", batch["row"].cast("int32")))
"""


def test_contract_is_checked_without_pandas(tmp_path: Path) -> None:
    run(tmp_path, [good(1), good(2)], heldout_fraction=0)
    command = [sys.executable, "-c", WITHOUT_PANDAS, str(tmp_path / "messages/messages.parquet")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False"]
    assert "conversations that break the contract of data/messages: dtype" in done.stderr


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["user", "assistant", "gpt", "system", "messages"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "weight", "tool_calls", "tools", "function", "name", "arguments"]
            )
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary() | values.map(lambda value: json.dumps(value).encode()), max_size=20))
def test_any_rows_end_somewhere_and_crash_nothing(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes]
) -> None:
    run(tmp_path_factory.mktemp("any"), [good(1), *records], heldout_fraction=0)


@pytest.mark.slow
def test_same_rows_give_same_bytes_anywhere(tmp_path: Path) -> None:
    records = [record for number in range(2_200) for record in (good(number % 2_100), b"{" + str(number % 9).encode())]
    flagged = chat(("user", "your address?"), ("assistant", "ann@mail.example.org"))
    write_raw(tmp_path / "raw", [*records, flagged, like(1, 0), like(1, 1)])
    (tmp_path / "exclusions.csv").write_text(HEADER + hashlib.sha256(b"answer 5").hexdigest() + ",r,w,2026-01-01\n")
    script = (
        "import sys; from pathlib import Path; from tests.stages.test_standardize import *; from stages import standardize as s\n"
        "p = Path(sys.argv[1]); s.BATCH = int(sys.argv[3]); r = RUNTIME.model_copy(update={'workers': int(sys.argv[4])})\n"
        "wanted = params(near_duplicates='flag', near_heldout='drop')\n"
        "s.standardize(p / 'raw', p / 'exclusions.csv', p / 'custom', p / sys.argv[2], wanted, r)\n"
    )
    for out, zone, seed, batch, workers in (("one", "UTC", "1", "2000", "1"), ("two", "Asia/Tokyo", "2", "137", "3")):
        environment = os.environ | {
            "TZ": zone,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(ROOT),
            "POLARS_MAX_THREADS": seed,
        }
        command = [sys.executable, "-c", script, str(tmp_path), out, batch, workers]
        subprocess.run(command, env=environment, check=True)
    for name in ("messages.parquet", "rejected.parquet", "excluded.parquet", "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    counts = json.loads((tmp_path / "one/summary.json").read_text())
    assert counts["near_duplicates"] + counts["rules"].get("near_heldout", 0) == 1, (
        "the last row repeats the one before it"
    )
    assert counts["flags"]["email_address"]["rows"] == 1
    assert counts["seen"]["answers"]["heldout"] > 0


def test_stage_loads_no_heavy_library_before_its_work() -> None:
    heavy = {"torch", "datasets", "transformers", "polars", "pandera", "pandas", "rensa", "py3langid", "rich"}
    script = f"import sys, stages.standardize; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).strip() == "[]"


REAL = {
    "axolotl_conversation.json": (1, 1, {}),
    "fastchat_dummy_conversation.json": (500, None, {"duplicate"}),
    "llamafactory_alpaca_en_demo.json": (999, None, {"duplicate", "empty_content"}),
    "llamafactory_glaive_toolcall_en_demo.json": (300, 265, {"duplicate"}),
    "llamafactory_identity.json": (91, 91, {}),
    "llamafactory_v1_sft_demo.jsonl": (500, None, {"duplicate", "empty_content"}),
    "ms-swift/alpaca.csv": (3, 3, {}),
    "ms-swift/alpaca.jsonl": (3, 3, {}),
    "ms-swift/chatml.jsonl": (3, 3, {}),
    "ms-swift/conversations.jsonl": (3, 3, {}),
    "ms-swift/swift_multi.jsonl": (3, 3, {}),
    "ms-swift/swift_single.csv": (3, 3, {}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_file_of_another_project_is_read(tmp_path: Path, name: str) -> None:
    if not (SHARED / name).exists():
        pytest.skip("the shared sample files are not here")
    short = Path(name).name
    fetch(tmp_path, {short: (SHARED / name).read_bytes()}, source_params(f"data/custom/{short}"))
    (tmp_path / "exclusions.csv").write_text(HEADER)
    folders = [tmp_path / part for part in ("raw0", "exclusions.csv", "custom", "messages")]
    standardize(*folders, params(heldout_fraction=0), RUNTIME)
    result = Result(tmp_path / "messages")
    rows, kept, rules = REAL[name]
    assert result.summary["raw"] == rows
    assert set(result.summary["rules"]) <= set(rules), result.summary
    assert len(result.kept) == kept if kept is not None else len(result.kept) > 0.95 * rows, result.summary
    if "glaive" in name:
        assert sum(bool(turn["tool_calls"]) for row in result.kept for turn in row["messages"]) > 100
        assert all(row["tools"] is None or json.loads(row["tools"])[0]["function"]["name"] for row in result.kept)


def test_all_shared_files_are_tried() -> None:
    if not SHARED.exists():
        pytest.skip("the shared sample files are not here")
    files = {path.relative_to(SHARED).as_posix() for path in SHARED.rglob("*") if path.is_file()}
    assert files - {"README.md"} == REAL.keys()


def test_place_of_a_row_is_a_record_where_its_file_has_no_lines(tmp_path: Path) -> None:
    for file, place in (("rows.jsonl.gz", "rows.jsonl.gz:1 "), ("rows.json", "rows.json, record 1 ")):
        with pytest.raises(StageError, match=place):
            run(tmp_path, [b"{"], file=file, name=file)
