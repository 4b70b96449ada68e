import copy
import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from stages.arrow.tables import write_parquet
from stages.audit import AuditParams, audit
from stages.contracts import adapter, gguf, merged, messages, tokens
from stages.core.errors import Refusal, StageError
from stages.core.files import read_json, sha256_files, sha256_tree, write_json
from stages.core.project_code import md5
from stages.gate import GateParams, gate
from stages.reporting.row_checks import judge_rows
from tests.adapter_files import write_training
from tests.arrow_files import write_arrow

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMS = AuditParams.model_validate(
    {
        "max_rejected_share": 0.3,
        "max_repeated_share": 0.25,
        "max_near_heldout_share": None,
        "min_heldout_rows": 1,
        "max_seen_answers": 0.5,
        "min_labelled_share": 0.1,
        "min_loss_gain": 0.5,
        "min_exact_match": 0.9,
        "max_exact_match_loss": 0.02,
        "gguf": {"q8_0": {"max_kl_divergence": 0.01, "min_top1_agreement": 0.97}},
    }
)


WRITERS = {
    "standardize": "messages",
    "template": "tokens",
    "train": "adapter",
    "evaluate": "metrics.json",
    "merge": "merged",
    "gguf": "ggufs",
}
"""{stage: what it wrote}."""


def make_record(stage: str, **inputs: Any) -> dict[str, Any]:
    return {"stage": stage, "code": {}, "environment": {}, "params": {}, "inputs": inputs, "outputs": {}}


class World:
    """Everything that audit reads, right as it stands; a test breaks one thing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: dict[str, Any] = {}
        self.break_records: Callable[[], object] = lambda: None
        self.break_bytes: Callable[[], object] = lambda: None
        self.break_adapter: Callable[[], object] = lambda: None
        self.rows = {
            "raw": 10,
            "train": 3,
            "heldout": 1,
            "rejected": 1,
            "repeated": 2,
            "near_heldout": 2,
            "excluded": 1,
        }
        self.seen = {"answers": {"heldout": 4, "seen": 1, "share": 0.25}, "says": "1 of 4 stand in training"}
        self.second = dict.fromkeys(self.rows, 0)
        """Those of them that are the second source's."""
        self.split = {"a": "train", "b": "train", "c": "train", "h": "heldout"}
        self.train, self.heldout, self.refused = ["a", "b"], ["h"], ["c"]
        self.trained: dict[str, list[int]] = {"a": [1, 2], "b": [1]}
        """{row: the steps that it was trained in}."""
        self.labels: dict[str, Any] = {
            "rows_in": 4,
            "splits": {"train": {"tokens": 100, "labelled_tokens": 40}, "heldout": {"rows": 1}},
            "rejected": {"too_long": 1},
        }
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
        for folder in ("records", "messages", "tokens", "adapter"):
            (root / folder).mkdir(exist_ok=True)
        first = {key: count - self.second[key] for key, count in self.rows.items()}
        sources = [{"source": "one", **first}, {"source": "two", **self.second}]
        write_json(root / "messages" / messages.SUMMARY, {**self.rows, "sources": sources, "seen": self.seen})
        origin = {"row": 0, "source": 0, "file": "f", "line": 1}
        said = {
            **{name: [value] * len(self.split) for name, value in origin.items()},
            "row_id": list(self.split),
            "split": list(self.split.values()),
            "near_duplicate_of": [None] * len(self.split),
            "tools": [None] * len(self.split),
            "options": [None] * len(self.split),
            "flags": [None] * len(self.split),
            "messages": [[{"role": "user", "content": "x", "tool_calls": None, "reasoning": None, "train": True}]]
            * len(self.split),
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
        write_training(root / "adapter", self.trained)
        self.break_adapter()
        write_json(root / "metrics.json", self.metrics)
        write_json(root / "merged" / merged.CHECKS, self.merge)
        write_json(root / "ggufs" / gguf.CHECKS, self.ggufs)
        (root / "ggufs" / "a.gguf").write_bytes(b"y")
        return self.record_and_judge()

    def record_and_judge(self) -> dict[str, Any]:
        """Record what lies there as outputs; break the bytes, if a test wants to; judge."""
        root = self.root
        for stage, name in WRITERS.items():
            path = root / name
            digests = sha256_files(path)
            record = self.records.setdefault(stage, make_record(stage))
            record["outputs"][name] = {"path": path.as_posix(), "sha256": sha256_tree(digests), "files": digests}
        tokens_read = {
            "path": (root / "messages").as_posix(),
            "sha256": self.records["standardize"]["outputs"]["messages"]["sha256"],
        }
        self.records["template"]["inputs"] = {"messages": tokens_read}
        self.break_records()
        for stage, record in self.records.items():
            write_json(root / "records" / f"{stage}.json", record)
        self.break_bytes()
        inputs = {name: root / name for name in ("records", "messages", "tokens", "adapter", "merged", "ggufs")}
        audit(**inputs, metrics=root / "metrics.json", audit=root / "audit", params=PARAMS)
        return self.verdict()

    def verdict(self) -> dict[str, Any]:
        return dict(read_json(self.root / "audit" / "verdict.json"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)  # the audit reads dvc.lock where it is called
    return World(tmp_path)


def test_audit_right_world_passes(world: World) -> None:
    verdict = world.judge()
    assert verdict["reasons"] == []
    assert verdict["passed"] is True


BREAKS = {
    "chain": lambda world: setattr(
        world, "break_records", lambda: world.records["template"]["inputs"]["messages"].update(sha256="other")
    ),
    "rows_accounted": lambda world: world.rows.update(raw=11),
    "rejected_share": lambda world: (
        world.rows.update(raw=9, near_heldout=1),
        world.labels.update(rejected={"too_long": 2}),
    ),
    "repeated_share": lambda world: world.rows.update(repeated=3, near_heldout=1),
    "heldout_rows": lambda world: world.labels["splits"]["heldout"].update(rows=0),
    "seen_answers": lambda world: world.seen["answers"].update(share=0.75),
    "tokens_accounted": lambda world: world.refused.clear(),
    "no_leak": lambda world: (world.train.append("h"), world.trained.update(h=[1, 2])),
    "ledger": lambda world: world.trained.update(z=[1]),
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
        == "rows_accounted: 10 rows = 3 train + 1 heldout + 1 rejected + 2 repeated + 2 near_heldout + 1 excluded; the rows of one, two do not add up"
    )


def test_audit_rows_that_never_came_to_template_are_missed(world: World) -> None:
    world.labels["rows_in"] = 3
    (reason,) = world.judge()["reasons"]
    assert reason.endswith("; 4 were kept and 3 came to `template`")


def test_audit_what_template_rejects_counts_and_repetitions_do_not(world: World) -> None:
    checks = {check["name"]: check for check in world.judge()["checks"]}
    assert (checks["rejected_share"]["found"], checks["repeated_share"]["found"]) == (0.2, 0.2)
    assert checks["rejected_share"]["says"].startswith(
        "2 of 10 rows were rejected: 1 by standardize, 1 by template (20.0%"
    )
    assert checks["near_heldout_share"]["passed"] is None
    assert checks["near_heldout_share"]["says"].endswith("(20.0%; audit.max_near_heldout_share asks nothing)")


def test_audit_seen_answers_are_said_where_no_floor_is_asked(world: World) -> None:
    floors = PARAMS.model_dump() | {"max_seen_answers": None}
    world.judge()
    rows, tokens_ = (
        read_json(world.root / "messages" / messages.SUMMARY),
        read_json(world.root / "tokens" / tokens.SUMMARY),
    )
    (seen,) = (check for check in judge_rows(rows, tokens_, floors) if check["name"] == "seen_answers")
    assert (seen["passed"], seen["says"]) == (None, "1 of 4 stand in training")


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
    (found,) = [check for check in verdict["checks"] if check["name"] == "m-q4_0.gguf: no floor"]
    assert found["passed"] is None
    assert found["says"].startswith("KL divergence 9, ")
    assert found["says"].endswith("not judged, since there is no floor audit.gguf.q4_0")


def test_audit_a_weak_file_is_refused_with_its_limit_its_param_and_what_to_do(world: World) -> None:
    world.ggufs["files"]["m-q8_0.gguf"]["quality"].update(exact_match=0.9)
    assert world.judge()["reasons"] == [
        (
            "m-q8_0.gguf: exact_match: 90.0% of 20 answers are right, 5.0% fewer than the merged model's 95.0% "
            "(at most 2.0% fewer: audit.max_exact_match_loss); take q8_0 out of gguf.quantizations, or change that floor"
        )
    ]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.unlink(), "records/redact.json, which gguf read, is not there"),
        (lambda file: file.write_text(file.read_text() + " "), "gguf read another {root}/records/redact.json than"),
    ],
)
def test_audit_record_that_the_export_read_must_be_the_one_that_lies_there(
    world: World, damage: Any, said: str
) -> None:
    """Whatever the stages are called: the records themselves say which ones there must be."""
    file = world.root / "records" / "redact.json"
    world.root.joinpath("records").mkdir()
    world.records["redact"] = make_record("redact")
    write_json(file, world.records["redact"])
    read = {"path": file.as_posix(), "sha256": sha256_tree(sha256_files(file))}
    world.records["gguf"] = make_record("gguf", redact=read)
    assert world.judge()["passed"] is True
    shutil.rmtree(world.root / "audit")
    world.break_bytes = lambda: damage(file)
    (reason,) = world.judge()["reasons"]
    assert reason.startswith("chain: ")
    assert said.format(root=world.root) in reason


@pytest.mark.parametrize(("kl", "top1", "passed"), [(0.01, 0.97, True), (0.0101, 0.97, False), (0.01, 0.9699, False)])
def test_audit_file_that_just_meets_its_floors_passes_and_the_verdict_names_them(
    world: World, kl: float, top1: float, passed: bool
) -> None:
    world.ggufs["files"]["m-q8_0.gguf"]["quality"].update(kl=kl, top_1_agreement=top1)
    verdict = world.judge()
    assert verdict["passed"] is passed
    floors = {check["name"]: check["floor"] for check in verdict["checks"]}
    assert (floors["m-q8_0.gguf: kl"], floors["m-q8_0.gguf: top1"]) == (0.01, 0.97)


def test_audit_provenance_names_the_files_a_user_takes_away(world: World) -> None:
    world.judge()
    provenance = read_json(world.root / "audit" / "provenance.json")
    assert provenance["model"] == {f"{world.root}/ggufs/a.gguf": hashlib.sha256(b"y").hexdigest()}
    assert set(provenance["chain"]) == set(WRITERS)


def flip(path: Path) -> None:
    """Change one byte."""
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: flip(root / "ggufs" / "a.gguf"), "ggufs/a.gguf is not what its record says"),
        (lambda root: flip(root / "adapter" / "weights"), "adapter/weights is not what its record says"),
        (lambda root: (root / "ggufs" / "a.gguf").unlink(), "ggufs/a.gguf is not there"),
        (lambda root: (root / "merged" / "more").write_text(""), "merged/more is in no record"),
        (
            lambda root: (root / "metrics.json").write_text(" " + (root / "metrics.json").read_text()),
            "metrics.json is not what its record says",
        ),
    ],
)
def test_audit_bytes_that_are_not_the_recorded_ones_are_refused_by_name(world: World, damage: Any, said: str) -> None:
    (world.root / "adapter").mkdir()
    (world.root / "adapter" / "weights").write_text("w")
    world.break_bytes = lambda: damage(world.root)
    with pytest.raises(Refusal, match=f"{world.root}/{said}"):
        world.judge()
    assert world.verdict()["passed"] is False
    assert world.verdict()["reasons"] == [f"bytes: {world.root}/{said}"]


def test_audit_output_without_a_record_is_refused(world: World) -> None:
    world.break_records = lambda: world.records.pop("merge")
    with pytest.raises(Refusal, match=r"no record says what .*/merged is"):
        world.judge()


def test_audit_without_records_cannot_judge(world: World) -> None:
    world.break_records = world.records.clear
    with pytest.raises(StageError, match="no record"):
        world.judge()


def test_verdict_names_the_hash_of_each_record_and_of_each_file_with_figures(world: World) -> None:
    judged = world.judge()["judged"]
    names = [f"records/{stage}.json" for stage in WRITERS]
    names += ["messages/summary.json", "tokens/summary.json", "metrics.json", "merged/checks.json", "ggufs/checks.json"]
    names += ["adapter/ledger.parquet", "adapter/steps.jsonl", "adapter/retune.json"]
    assert judged == {
        f"{world.root}/{name}": hashlib.sha256((world.root / name).read_bytes()).hexdigest() for name in names
    }


@pytest.mark.parametrize("name", [adapter.LEDGER, adapter.STEPS, adapter.TRAINING])
def test_audit_training_of_another_version_is_said_and_judged_by_nobody(world: World, name: str) -> None:
    """Its record is of these bytes, so no hash tells."""
    world.break_adapter = lambda: (world.root / "adapter" / name).write_text('{"newer": 1}')
    with pytest.raises(StageError, match=f"adapter/{name} .*; `dvc repro train` writes it"):
        world.judge()
    assert not (world.root / "audit").exists()


VERDICT = {
    "passed": False,
    "reasons": ["kl: too far"],
    "judged": {"data/records/train.json": "0" * 64},
    "checks": [{"name": "kl", "found": 2, "floor": 1, "passed": False, "says": "too far"}],
}


@pytest.mark.parametrize("on_refusal", ["stop", "warn"])
def test_gate_no_is_written_and_stops_only_if_asked(tmp_path: Path, on_refusal: Any) -> None:
    write_json(tmp_path / "audit" / "verdict.json", VERDICT)
    arguments = {"audit": tmp_path / "audit", "report": tmp_path, "gate": tmp_path / "gate.json"}
    if on_refusal == "stop":
        with pytest.raises(Refusal, match="kl: too far"):
            gate(**arguments, params=GateParams(on_refusal=on_refusal))
    else:
        gate(**arguments, params=GateParams(on_refusal=on_refusal))
    assert read_json(tmp_path / "gate.json") == {name: VERDICT[name] for name in ("passed", "reasons", "judged")}


def test_gate_yes_passes(tmp_path: Path) -> None:
    passed = {**VERDICT["checks"][0], "passed": True}
    write_json(tmp_path / "audit" / "verdict.json", VERDICT | {"passed": True, "reasons": [], "checks": [passed]})
    gate(tmp_path / "audit", tmp_path, tmp_path / "gate.json", GateParams(on_refusal="stop"))
    assert read_json(tmp_path / "gate.json")["passed"] is True


def test_gate_lets_no_verdict_pass_that_contradicts_its_checks(tmp_path: Path) -> None:
    write_json(tmp_path / "audit" / "verdict.json", VERDICT | {"passed": True, "reasons": []})
    with pytest.raises(StageError, match="says another verdict than its own checks: `dvc repro audit` judges again"):
        gate(tmp_path / "audit", tmp_path, tmp_path / "gate.json", GateParams(on_refusal="stop"))
    assert not (tmp_path / "gate.json").exists()


def lock_world(world: World, **params: Any) -> None:
    """Have dvc.lock name the records as they lie there, and say these params of `train`."""
    stages = {
        stage: {
            "cmd": f"python -m stages.{stage} "
            + " ".join(f"--{key} {one['path']}" for key, one in {**record["inputs"], **record["outputs"]}.items()),
            "params": {"params.yaml": {stage: params if stage == "train" else {}}},
            "outs": [
                {
                    "path": f"records/{stage}.json",
                    "md5": md5((world.root / f"records/{stage}.json").read_bytes()),
                }
            ],
        }
        for stage, record in world.records.items()
    }
    write_json(world.root / "dvc.lock", {"schema": "2.0", "stages": stages})  # JSON is YAML


def judge_locked(world: World, **params: Any) -> dict[str, Any]:
    """Judge a world whose training ran with a learning rate of 0.002, with a dvc.lock that says `params`."""
    world.records["train"] = {**make_record("train"), "params": {"learning_rate": 0.002}}
    world.break_bytes = lambda: lock_world(world, **params)
    return world.judge()


def test_audit_dvc_lock_that_says_what_the_records_say_passes(world: World) -> None:
    verdict = judge_locked(world, learning_rate=0.002)
    assert verdict["reasons"] == []
    (lock,) = [check for check in verdict["checks"] if check["name"] == "lock"]
    assert lock["passed"] is True


def test_audit_dvc_lock_that_says_other_params_says_no_and_names_the_field(world: World) -> None:
    with pytest.raises(Refusal, match=r"train\.learning_rate: the record says 0\.002, dvc\.lock says 0\.0001"):
        judge_locked(world, learning_rate=1e-4)
    verdict = world.verdict()
    assert verdict["passed"] is False
    assert verdict["reasons"] == ["lock: train.learning_rate: the record says 0.002, dvc.lock says 0.0001"]


def test_audit_without_a_dvc_lock_says_that_it_judged_none(world: World) -> None:
    (lock,) = [check for check in world.judge()["checks"] if check["name"] == "lock"]
    assert lock["passed"] is None
    assert lock["says"] == "there is no dvc.lock to hold the records against: not judged"


@pytest.mark.parametrize("text", ["", '{"stage": "train"', "[]", "{}"])
def test_audit_record_that_is_cut_off_is_said_with_what_to_do(world: World, text: str) -> None:
    world.break_bytes = lambda: (world.root / "records/train.json").write_text(text)
    with pytest.raises(StageError, match=r"records/train\.json .*`retune restore --force train` brings back"):
        world.judge()


def test_audit_record_that_dvc_lock_does_not_know_or_names_otherwise_is_told_with_what_to_do(world: World) -> None:
    def spoil() -> None:
        lock_world(world, learning_rate=0.002)
        write_json(
            world.root / "records/merge.json", {**make_record("merge"), **world.records["merge"], "code": {"x": "y"}}
        )
        write_json(world.root / "records/old.json", make_record("old"))

    world.records["train"] = {**make_record("train"), "params": {"learning_rate": 0.002}}
    world.break_bytes = spoil
    with pytest.raises(Refusal) as raised:
        world.judge()
    said = str(raised.value)
    assert "records/merge.json is not the record that dvc.lock names" in said
    assert "records/old.json: dvc.lock does not know the stage old, so its record proves nothing" in said
    assert "`retune restore --force merge` brings back the records that dvc.lock names" in said
    assert "(`rm records/old.json`)" in said
    assert (world.root / "dvc.lock").exists(), "nothing is false there"
