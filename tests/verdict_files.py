"""A verdict as audit, report and gate leave it, on what lies in data/."""

from pathlib import Path
from typing import Any

from stages.contracts.audit import MARK, AuditVerdict, make_check
from stages.core.files import sha256_tree, write_json, write_text
from stages.reporting.provenance import hash_judged

FIGURES = (
    "messages/summary.json",
    "tokens/summary.json",
    "adapter/ledger.parquet",
    "adapter/steps.jsonl",
    "adapter/retune.json",
    "evaluation/metrics.json",
    "merged/checks.json",
    "gguf/checks.json",
)


def write_verdict(root: Path, *, passed: bool = True, head: str = "") -> dict[str, Any]:
    """Judge what lies below `root`/data: verdict.json, gate.json, the page and the model card (`head` first)."""
    here = [Path("data") / name for name in FIGURES if (root / "data" / name).is_file()]
    hashed = hash_judged(root / "data/records", [root / path for path in here])
    judged = {Path(path).relative_to(root).as_posix(): digest for path, digest in hashed.items()}
    said = "the held-out loss fell by 0.1"
    checks = [make_check("loss_gain", 0.1, 0.5, passed=passed, says=said)]
    answer = {"passed": passed, "reasons": [] if passed else [f"loss_gain: {said}"], "judged": judged}
    verdict: dict[str, Any] = AuditVerdict.model_validate({**answer, "checks": checks}).model_dump()
    write_json(root / "data/audit/verdict.json", verdict)
    write_json(root / "data/gate.json", answer)
    for page in ("index.html", "README.md"):
        write_text(root / "data/report" / page, f"{head}<!-- {MARK}: {sha256_tree(judged)} -->\n")
    return verdict
