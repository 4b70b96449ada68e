import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages.audit import AuditParams, audit
from stages.contracts import adapter, messages, tokens
from stages.errors import Refusal, StageError
from stages.files import read_json, write_json
from stages.gate import GateParams, gate
from stages.tables import write_arrow, write_parquet

PARAMS = AuditParams.model_validate(
    {
        "max_rejected_share": 0.3,
        "min_heldout_rows": 1,
        "min_labelled_share": 0.1,
        "min_loss_gain": 0.5,
        "min_exact_match": 0.9,
        "max_exact_match_loss": 0.02,
        "gguf": {"q8_0": {"max_kl_divergence": 0.01, "min_top1_agreement": 0.97}},
    }
)


class World:
    """Everything that audit reads, right as it stands; a test breaks one thing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: dict[str, Any] = {
            "standardize": {
                "inputs": {},
                "outputs": {"messages": {"path": "data/messages", "sha256": "m", "files": {}}},
            },
            "template": {
                "inputs": {"messages": {"path": "data/messages", "sha256": "m"}},
                "outputs": {"tokens": {"path": "data/tokens", "sha256": "t", "files": {"train.arrow": "x"}}},
            },
            "gguf": {
                "inputs": {},
                "outputs": {"files": {"path": "data/gguf", "sha256": "g", "files": {"a.gguf": "y"}}},
            },
        }
        self.rows = {"raw": 6, "train": 3, "heldout": 1, "rejected": 1, "excluded": 1}
        self.second = dict.fromkeys(self.rows, 0)
        """Those of them that are the second source's."""
        self.split = {"a": "train", "b": "train", "c": "train", "h": "heldout"}
        self.train, self.heldout, self.refused, self.trained = ["a", "b"], ["h"], ["c"], ["a", "b"]
        self.labels = {"splits": {"train": {"tokens": 100, "labelled_tokens": 40}}}
        self.metrics: dict[str, Any] = {
            "base": {"loss": 2.0, "exact_match": 0.0},
            "tuned": {"loss": 0.5, "exact_match": 0.95},
        }
        self.merge = {"max_change_from_base": 9.0, "max_logit_difference": 0.01}
        quality = {"kl": 0.001, "top_1_agreement": 0.99, "exact_match": 0.95}
        self.ggufs: dict[str, Any] = {
            "files": {"m-q8_0.gguf": {"quantization": "q8_0", "quality": quality}},
            "lora": {"file": "m-lora-f16.gguf", "over": {"quantization": "q8_0"}, "quality": dict(quality)},
            "merged": {"exact_match": 0.95},
            "answers": 20,
        }

    def judge(self) -> dict[str, Any]:
        root = self.root
        for folder in ("records", "messages", "tokens"):
            (root / folder).mkdir()
        for stage, record in self.records.items():
            write_json(root / "records" / f"{stage}.json", record)
        first = {key: count - self.second[key] for key, count in self.rows.items()}
        sources = [{"source": "one", **first}, {"source": "two", **self.second}]
        write_json(root / "messages" / messages.SUMMARY, {**self.rows, "sources": sources})
        origin = {"row": 0, "source": 0, "file": "f", "line": 1}
        said = {
            **{name: [value] * len(self.split) for name, value in origin.items()},
            "row_id": list(self.split),
            "split": list(self.split.values()),
            "near_duplicate_of": [None] * len(self.split),
            "tools": [None] * len(self.split),
            "messages": [[{"role": "user", "content": "x", "tool_calls": None, "train": True}]] * len(self.split),
        }
        write_parquet(root / "messages" / messages.MESSAGES, pa.Table.from_pydict(said, schema=messages.SCHEMA))
        for name, ids in ((tokens.TRAIN, self.train), (tokens.HELDOUT, self.heldout)):
            columns = {"row_id": ids, "input_ids": [[1]] * len(ids), "labels": [[1]] * len(ids)}
            write_arrow(root / "tokens" / name, pa.Table.from_pydict(columns, schema=tokens.SCHEMA))
        refused = {
            **{name: [value] * len(self.refused) for name, value in origin.items()},
            "row_id": self.refused,
            "split": ["train"] * len(self.refused),
            "rule": ["too_long"] * len(self.refused),
        }
        write_parquet(root / "tokens" / tokens.REJECTED, pa.Table.from_pydict(refused, schema=tokens.REJECTED_SCHEMA))
        write_json(root / "tokens" / tokens.SUMMARY, self.labels)
        ledger = {
            "row_id": self.trained,
            "labelled_tokens": [1] * len(self.trained),
            "steps": [[1]] * len(self.trained),
        }
        write_parquet(root / "ledger", pa.Table.from_pydict(ledger, schema=adapter.LEDGER_SCHEMA))
        for name in ("metrics", "merge", "ggufs"):
            write_json(root / name, getattr(self, name))
        inputs = {
            name: root / name for name in ("records", "messages", "tokens", "ledger", "metrics", "merge", "ggufs")
        }
        audit(**inputs, audit=root / "audit", params=PARAMS)
        return dict(read_json(root / "audit" / "verdict.json"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_audit_right_world_passes(world: World) -> None:
    verdict = world.judge()
    assert verdict["reasons"] == []
    assert verdict["passed"] is True


BREAKS = {
    "chain": lambda world: world.records["template"]["inputs"]["messages"].update(sha256="other"),
    "rows_accounted": lambda world: world.rows.update(raw=7),
    "rejected_share": lambda world: world.rows.update(rejected=3, train=1),
    "heldout_rows": lambda world: world.rows.update(heldout=0, train=4),
    "tokens_accounted": lambda world: world.refused.clear(),
    "no_leak": lambda world: (world.train.append("h"), world.trained.append("h")),
    "ledger": lambda world: world.trained.append("z"),
    "labelled_share": lambda world: world.labels["splits"]["train"].update(labelled_tokens=9),
    "loss_gain": lambda world: world.metrics["tuned"].update(loss=1.6),
    "exact_match": lambda world: world.metrics["tuned"].update(exact_match=None),
    "merge": lambda world: world.merge.update(max_change_from_base=0.001),
    "m-q8_0.gguf: kl": lambda world: world.ggufs["files"]["m-q8_0.gguf"]["quality"].update(kl=0.02),
    "m-q8_0.gguf: top1": lambda world: world.ggufs["files"]["m-q8_0.gguf"]["quality"].update(top_1_agreement=0.9),
    "m-q8_0.gguf: exact_match": lambda world: world.ggufs["files"]["m-q8_0.gguf"]["quality"].update(exact_match=0.9),
    "m-lora-f16.gguf: kl": lambda world: world.ggufs["lora"]["quality"].update(kl=0.02),
}


def test_audit_rows_that_one_source_lost_and_another_won_are_named(world: World) -> None:
    world.second.update(raw=2, train=1)
    (reason,) = world.judge()["reasons"]
    assert (
        reason
        == "rows_accounted: 6 rows = 3 train + 1 heldout + 1 rejected + 1 excluded; the rows of one, two do not add up"
    )


@pytest.mark.parametrize("name", BREAKS)
def test_audit_one_thing_broken_is_the_one_reason(world: World, name: str) -> None:
    BREAKS[name](world)
    verdict = world.judge()
    assert verdict["passed"] is False
    assert [reason.rsplit(": ", 1)[0] for reason in verdict["reasons"] if reason.startswith(name)], verdict["reasons"]
    assert len(verdict["reasons"]) == 1, verdict["reasons"]


def test_audit_quantization_without_a_floor_is_not_judged(world: World) -> None:
    file = copy.deepcopy(world.ggufs["files"]["m-q8_0.gguf"])
    file["quantization"] = "q4_0"
    file["quality"]["kl"] = 9.0
    world.ggufs["files"]["m-q4_0.gguf"] = file
    verdict = world.judge()
    assert verdict["passed"] is True
    (said,) = [check["says"] for check in verdict["checks"] if check["name"] == "m-q4_0.gguf: no floor"]
    assert said.startswith("KL divergence 9, ")
    assert said.endswith("not judged, since audit.gguf has no floor for q4_0")


def test_audit_provenance_names_the_files_a_user_takes_away(world: World) -> None:
    world.judge()
    provenance = read_json(world.root / "audit" / "provenance.json")
    assert provenance["model"] == {"data/gguf/a.gguf": "y"}
    assert set(provenance["chain"]) == {"standardize", "template", "gguf"}


def test_audit_without_records_cannot_judge(world: World) -> None:
    world.records.clear()
    with pytest.raises(StageError, match="no record"):
        world.judge()


@pytest.mark.parametrize("on_refusal", ["stop", "warn"])
def test_gate_no_is_written_and_stops_only_if_asked(tmp_path: Path, on_refusal: Any) -> None:
    write_json(tmp_path / "audit" / "verdict.json", {"passed": False, "reasons": ["kl: too far"], "checks": []})
    arguments = {"audit": tmp_path / "audit", "report": tmp_path, "gate": tmp_path / "gate.json"}
    if on_refusal == "stop":
        with pytest.raises(Refusal, match="kl: too far"):
            gate(**arguments, params=GateParams(on_refusal=on_refusal))
    else:
        gate(**arguments, params=GateParams(on_refusal=on_refusal))
    assert read_json(tmp_path / "gate.json") == {"passed": False, "reasons": ["kl: too far"]}


def test_gate_yes_passes(tmp_path: Path) -> None:
    write_json(tmp_path / "audit" / "verdict.json", {"passed": True, "reasons": [], "checks": []})
    gate(tmp_path / "audit", tmp_path, tmp_path / "gate.json", GateParams(on_refusal="stop"))
    assert read_json(tmp_path / "gate.json")["passed"] is True
