import hashlib
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.contracts import raw as raw_contract
from stages.contracts.messages import EXCLUDED_SCHEMA, REJECTED_SCHEMA, SCHEMA
from stages.contracts.messages_check import check_messages
from stages.conversation import canonical_json
from stages.errors import StageError
from stages.fetch_data import FetchDataParams, fetch_data
from stages.rules import ALIASES, RULES
from stages.standardize import ChatColumns, PromptColumns, StandardizeParams, messages_batch, standardize
from stages.tables import write_parquet

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
HEADER = "row_id_or_hash,reason,requested_by,date\n"


def params(**changed: object) -> StandardizeParams:
    return StandardizeParams(
        **({"columns": None, "heldout_fraction": 0.2, "max_messages": None, "max_chars": None} | changed)
    )


def write_raw(folder: Path, records: Sequence[bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = [pa.array(range(len(records)), pa.int64()), pa.array(list(records), pa.binary())]
    write_parquet(folder / raw_contract.ROWS, pa.table(columns, schema=raw_contract.SCHEMA))
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
        assert self.summary["raw"] == sum(self.summary[key] for key in ("train", "heldout", "rejected", "excluded"))

    def rules(self) -> dict[int, str]:
        return {row["row"]: row["rule"] for row in self.rejected}

    def turns(self) -> list[list[tuple[str, str]]]:
        return [[(message["role"], message["content"]) for message in row["messages"]] for row in self.kept]


def run(
    tmp_path: Path, records: Sequence[bytes], *, exclusions: str = "", name: str = "messages", **changed: object
) -> Result:
    raw = write_raw(tmp_path / "raw", records)
    (tmp_path / "exclusions.csv").write_text(HEADER + exclusions)
    standardize(raw, tmp_path / "exclusions.csv", tmp_path / name, params(**changed))
    return Result(tmp_path / name)


def rule_of(tmp_path: Path, record: bytes, **changed: object) -> str | None:
    others = [good(number) for number in range(20)]
    return run(tmp_path, [*others, record], **changed).rules().get(20)


HOSTILE = [
    (b"{broken", "invalid_json"),
    (b"", "invalid_json"),
    (b"[" * 100_000, "invalid_json"),
    (b'{"messages": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "invalid_json"),
    (b'{"messages": "\xff"}', "invalid_unicode"),
    (b"[1]", "not_an_object"),
    (b"null", "not_an_object"),
    (b'{"text": "hello"}', "layout"),
    (b'{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}', "layout"),
    (b'{"messages": [["user", "q"]]}', "layout"),
    (b'{"messages": []}', "no_messages"),
    (b'{"messages": null}', "no_messages"),
    (chat(("wizard", "q"), ("assistant", "a")), "unknown_role"),
    (chat((None, "q"), ("assistant", "a")), "unknown_role"),
    (chat((1, "q"), ("assistant", "a")), "unknown_role"),
    (chat(("", "q"), ("assistant", "a")), "unknown_role"),
    (chat(("user", "q"), ("assistant", None)), "null_content"),
    (b'{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}', "null_content"),
    (chat(("user", "q"), ("assistant", 5)), "content_not_text"),
    (chat(("user", "q"), ("assistant", float("nan"))), "content_not_text"),
    (chat(("user", "q"), ("assistant", {"text": "a"})), "content_not_text"),
    (chat(("user", "q"), ("assistant", [])), "content_not_text"),
    (chat(("user", [{"type": "image", "url": "x"}]), ("assistant", "a")), "content_not_text"),
    (chat(("user", "q\0"), ("assistant", "a")), "nul_character"),
    (chat(("user", "q"), ("assistant", "")), "empty_content"),
    (chat(("user", " \n\t"), ("assistant", "a")), "empty_content"),
    (chat(("user", "q"), ("assistant", "\ud800")), "invalid_unicode"),
    (b'{"messages": [{"role": "assistant", "content": "a", "tool_calls": [1]}]}', "tool_calls"),
    (
        b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.0}]}',
        "weight_zero_answer",
    ),
    (chat(("user", "q"), ("system", "s"), ("assistant", "a")), "system_not_first"),
    (chat(("system", "s"), ("system", "s"), ("user", "q"), ("assistant", "a")), "system_not_first"),
    (chat(("assistant", "a"), ("user", "q"), ("assistant", "a")), "starts_with_answer"),
    (chat(("system", "s"), ("assistant", "a")), "starts_with_answer"),
    (chat(("tool", "t"), ("assistant", "a")), "starts_with_answer"),
    (chat(("user", "q"), ("user", "q"), ("assistant", "a")), "roles_not_alternating"),
    (chat(("user", "q"), ("assistant", "a"), ("assistant", "a")), "roles_not_alternating"),
    (chat(("user", "q"), ("tool", "t"), ("assistant", "a")), "roles_not_alternating"),
    (chat(("user", "q"), ("assistant", "a"), ("user", "q")), "ends_without_answer"),
    (chat(("user", "q"), ("assistant", "a"), ("tool", "t")), "ends_without_answer"),
    (chat(("system", "s")), "ends_without_answer"),
    (good(3), "duplicate"),
]


@pytest.mark.parametrize(
    ("record", "rule"), HOSTILE, ids=[f"{number}-{rule}" for number, (_, rule) in enumerate(HOSTILE)]
)
def test_hostile_row_is_rejected_with_its_rule(tmp_path: Path, record: bytes, rule: str) -> None:
    assert rule_of(tmp_path, record) == rule


def test_every_rule_has_a_hostile_row() -> None:
    assert {rule for _, rule in HOSTILE} | {"too_many_messages", "too_large"} == RULES.keys()


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
    ],
)
def test_unusual_row_is_kept(tmp_path: Path, record: bytes) -> None:
    assert rule_of(tmp_path, record) is None


def test_every_alias_becomes_its_role(tmp_path: Path) -> None:
    for role, aliases in ALIASES.items():
        for alias in aliases:
            turns = {
                "system": [(alias, "s"), ("user", "q"), ("assistant", "a")],
                "user": [(alias, "q"), ("assistant", "a")],
                "assistant": [("user", "q"), (alias, "a")],
                "tool": [("user", "q"), ("assistant", "c"), (alias, "t"), ("assistant", "a")],
            }[role]
            (found,) = run(tmp_path, [chat(*turns)], name=f"{role}-{alias}", heldout_fraction=0).turns()
            assert [given for given, _ in found] == [role if given == alias else given for given, _ in turns]


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


def test_exclusion_removes_every_copy_by_row_id_or_content(tmp_path: Path) -> None:
    records = [*[good(number) for number in range(30)], good(3), b"{broken"]
    ids = {row["row"]: row["row_id"] for row in run(tmp_path, records, name="before").kept}
    content = hashlib.sha256(b"answer 5").hexdigest()
    broken = hashlib.sha256(b"{broken").hexdigest()[:32]
    listed = (
        f"{ids[3]},asked,somebody,2026-01-01\n\n{content.upper()},asked too,somebody,2026-01-01\n{broken},gone,s,d\n"
    )
    result = run(tmp_path, records, exclusions=listed)
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
        HEADER + "secret,r,w,d\n",
        HEADER + "a" * 32 + ",,w,d\n",
        HEADER + "a" * 32 + ",r,w\n",
        HEADER + "g" * 32 + ",r,w,d\n",
        HEADER + '"secret',
        HEADER.replace(",", ";"),
    ],
)
def test_exclusion_list_that_cannot_be_understood_stops_the_run(tmp_path: Path, text: str) -> None:
    write_raw(tmp_path / "raw", [good(1)])
    (tmp_path / "exclusions.csv").write_text(text)
    with pytest.raises(StageError, match=r"exclusions\.csv") as caught:
        standardize(tmp_path / "raw", tmp_path / "exclusions.csv", tmp_path / "messages", params())
    assert "secret" not in str(caught.value)


def test_empty_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="empty"):
        run(tmp_path, [])


def test_all_bad_dataset_is_an_error_with_counts_by_rule(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"3 invalid_json.*1 not_an_object"):
        run(tmp_path, [b"secret", b"{", b"}", b"[1]"])
    with pytest.raises(StageError, match="2 ends_without_answer"):
        run(tmp_path, [chat(("user", "q")), chat(("user", "r"))], name="again")


def test_layout_is_found_behind_a_thousand_broken_rows(tmp_path: Path) -> None:
    assert len(run(tmp_path, [b"{"] * 2_500 + [good(1)], heldout_fraction=0).kept) == 1


def test_mapped_columns_are_used_and_a_wrong_name_is_named(tmp_path: Path) -> None:
    record = json.dumps({"ask": "q", "say": "a", "rules": "s"}).encode()
    columns = PromptColumns(prompt="ask", answer="say", system="rules")
    assert run(tmp_path, [record], columns=columns, heldout_fraction=0).turns() == [
        [("system", "s"), ("user", "q"), ("assistant", "a")]
    ]
    with pytest.raises(StageError, match="'ask', 'say', 'rules'"):
        run(tmp_path, [record], columns=PromptColumns(prompt="asks", answer="say", system=None), name="wrong")
    turns = json.dumps({"turns": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}).encode()
    assert len(run(tmp_path, [turns], columns=ChatColumns(messages="turns"), heldout_fraction=0, name="chat").kept) == 1


def test_params_accept_each_form_of_columns() -> None:
    for columns in (None, {"prompt": "a", "answer": "b", "system": None}, {"messages": "m"}):
        params(columns=columns)
    with pytest.raises(ValueError, match="columns"):
        params(columns={"prompt": "a"})


def test_no_text_of_the_data_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        run(
            tmp_path, [chat(("user", "secret"), ("assistant", f"secret {number}")) for number in range(9)] + [b"secret"]
        )
    assert "10 rows" in caplog.text
    assert "secret" not in caplog.text


def test_contract_names_row_and_check_and_no_text() -> None:
    batch = messages_batch(
        [("0" * 32, 0, "train", [("user", "secret"), ("wizard", "secret")]), ("1" * 32, 1, "nowhere", [])]
    )
    with pytest.raises(RuntimeError) as caught:
        check_messages(batch)
    message = str(caught.value)
    for expected in (
        "roles_known at " + "0" * 32,
        "ends_with_answer",
        "has_messages at " + "1" * 32,
        "split_known at " + "1" * 32,
    ):
        assert expected in message
    assert "secret" not in message
    assert "wizard" not in message


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
            st.sampled_from(["messages", "role", "content", "from", "value", "system", "history"]) | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary() | values.map(lambda value: json.dumps(value).encode()), max_size=20))
def test_any_rows_end_somewhere_and_crash_nothing(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes]
) -> None:
    run(tmp_path_factory.mktemp("any"), [good(1), *records], heldout_fraction=0)


def test_same_rows_give_same_bytes_anywhere(tmp_path: Path) -> None:
    write_raw(
        tmp_path / "raw",
        [record for number in range(3_000) for record in (good(number), b"{" + str(number % 9).encode())],
    )
    (tmp_path / "exclusions.csv").write_text(HEADER)
    script = (
        "import sys; from pathlib import Path; from stages import standardize as s; p = Path(sys.argv[1]); s.BATCH = int(sys.argv[3]);"
        "s.standardize(p / 'raw', p / 'exclusions.csv', p / sys.argv[2],"
        " s.StandardizeParams(columns=None, heldout_fraction=0.1, max_messages=None, max_chars=None));"
        "assert not {'torch', 'datasets', 'transformers'} & sys.modules.keys()"
    )
    for out, zone, seed, batch in (("one", "UTC", "1", "2000"), ("two", "Asia/Tokyo", "2", "137")):
        environment = os.environ | {
            "TZ": zone,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(ROOT),
            "POLARS_MAX_THREADS": seed,
        }
        subprocess.run([sys.executable, "-c", script, str(tmp_path), out, batch], env=environment, check=True)
    for name in ("messages.parquet", "rejected.parquet", "excluded.parquet", "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


REAL = {
    "axolotl_conversation.json": (1, 1, {}),
    "fastchat_dummy_conversation.json": (500, None, {"duplicate"}),
    "llamafactory_alpaca_en_demo.json": (999, None, {"duplicate", "empty_content"}),
    "llamafactory_glaive_toolcall_en_demo.json": (300, 262, {"duplicate"}),
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
    custom = tmp_path / "custom"
    custom.mkdir()
    path = custom / Path(name).name
    path.write_bytes((SHARED / name).read_bytes())
    source = FetchDataParams(source=f"data/custom/{path.name}", revision=None, config=None, split=None, limit=None)
    fetch_data(tmp_path / "demo.jsonl", custom, tmp_path / "raw", source)
    (tmp_path / "exclusions.csv").write_text(HEADER)
    standardize(tmp_path / "raw", tmp_path / "exclusions.csv", tmp_path / "messages", params(heldout_fraction=0))
    result = Result(tmp_path / "messages")
    rows, kept, rules = REAL[name]
    assert result.summary["raw"] == rows
    assert set(result.summary["rules"]) <= set(rules), result.summary
    assert len(result.kept) == kept if kept is not None else len(result.kept) > 0.95 * rows, result.summary
