"""Judge the model: what the stages measured against the floors, what they recorded against each other; and say what made it.

Reads  data/records (what every stage read, wrote and was made of), data/messages, data/tokens, the training ledger,
       data/evaluation/metrics.json, the checks of the merge and of the GGUF files.
Writes data/audit: verdict.json (one verdict, every check with its reason), provenance.json (the chain from source to file).

It measures nothing and stops nothing: a changed floor runs this stage, `report` and `gate`, and no other.
It fails only if it cannot judge.

    python -m stages.audit --records data/records --messages data/messages ... --audit data/audit
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from stages.contracts import messages as message_files
from stages.contracts import tokens as token_files
from stages.contracts.audit import PROVENANCE, VERDICT
from stages.entry import Input, Output, run
from stages.errors import StageError
from stages.files import read_json, write_json
from stages.params import Params
from stages.tables import read_arrow, read_parquet

Share = Annotated[float, Field(ge=0, le=1)]


class GgufFloor(Params):
    """What a GGUF file of one quantization must reach against the merged model."""

    max_kl_divergence: Annotated[float, Field(gt=0)]
    """Mean KL divergence of the file's next-token distribution from the merged model's, in nats a token, at most."""
    min_top1_agreement: Share
    """Share of tokens at which both put the same token first, at least."""


class AuditParams(Params):
    """The floors. A model that misses one does not pass; a floor of null is not asked."""

    max_rejected_share: Share
    """Share of the source's rows that may be set aside before the data counts as broken."""
    min_heldout_rows: Annotated[int, Field(ge=0)]
    """Held-out conversations that an evaluation needs to mean something."""
    min_labelled_share: Share
    """Share of the training tokens that carry a label: next to 0 means that the mask trains on nothing."""
    min_loss_gain: float | None
    """By how much the held-out loss must fall from base to tuned, in nats a token. null: not asked."""
    min_exact_match: Share | None
    """Held-out answers that the tuned model must give to the letter. null: not asked (answers that cannot be checked)."""
    max_exact_match_loss: Share | None
    """By how much a GGUF file's exact match may fall below the merged model's on the rows it is checked on. null: not asked."""
    gguf: dict[str, GgufFloor]
    """{quantization: floor}. A quantization without a floor is measured and not judged, and the verdict says so; its exact match is."""


def audit(
    records: Input,
    messages: Input,
    tokens: Input,
    ledger: Input,
    metrics: Input,
    merge: Input,
    ggufs: Input,
    audit: Output,
    params: AuditParams,
) -> None:
    """Hold the stages' records and measures against each other and against the floors; write the verdict and the provenance."""
    chain = {file.stem: read_json(file) for file in sorted(records.glob("*.json"))}
    if not chain:
        raise StageError(f"{records} holds no record, so nothing can be judged; `dvc repro` makes them")
    checks = [
        *chain_checks(chain),
        *row_checks(read_json(messages / message_files.SUMMARY), params),
        *token_checks(
            read_parquet(messages / message_files.MESSAGES, ["row_id", "split"]),
            tokens,
            read_parquet(ledger, ["row_id"]),
        ),
        *label_checks(read_json(tokens / token_files.SUMMARY), params),
        *quality_checks(read_json(metrics), params),
        *merge_checks(read_json(merge)),
        *gguf_checks(read_json(ggufs), params),
    ]
    audit.mkdir()
    write_json(
        audit / VERDICT,
        {
            "passed": all(check["passed"] for check in checks),
            "reasons": [f"{check['name']}: {check['says']}" for check in checks if not check["passed"]],
            "checks": checks,
        },
    )
    write_json(audit / PROVENANCE, {"model": model_files(chain), "chain": chain})


def check(name: str, found: object, floor: object, *, passed: bool, says: str) -> dict[str, Any]:
    """One check of the verdict."""
    return {"name": name, "found": found, "floor": floor, "passed": passed, "says": says}


def chain_checks(chain: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every stage must have read the very bytes that the stage before it wrote."""
    written: dict[str, tuple[str, Any]] = {}
    for stage, record in chain.items():
        for output in record["outputs"].values():
            written[output["path"]] = (stage, output["sha256"])
    broken = [
        f"{stage} read another {source['path']} than {written[source['path']][0]} wrote"
        for stage, record in chain.items()
        for source in record["inputs"].values()
        if source["path"] in written and written[source["path"]][1] != source["sha256"]
    ]
    says = "; ".join(broken) or "every stage read the bytes that the stage before it wrote"
    yield check("chain", len(broken), 0, passed=not broken, says=says)


def row_checks(summary: Mapping[str, Any], params: AuditParams) -> Iterator[dict[str, Any]]:
    """No row vanishes, not too many are set aside, enough are held out."""
    raw = summary["raw"]
    told = {key: summary[key] for key in ("train", "heldout", "rejected", "excluded")}
    lost = [source["source"] for source in summary["sources"] if source["raw"] != sum(source[key] for key in told)]
    whole = sum(told.values()) == raw == sum(source["raw"] for source in summary["sources"])
    says = f"{raw} rows = " + " + ".join(f"{count} {key}" for key, count in told.items())
    if lost:
        says += f"; the rows of {', '.join(lost)} do not add up"
    yield check("rows_accounted", sum(told.values()), raw, passed=whole and not lost, says=says)
    share = summary["rejected"] / raw if raw else 1.0
    says = f"{summary['rejected']} of {raw} rows were set aside ({share:.1%}, at most {params.max_rejected_share:.1%})"
    yield check(
        "rejected_share", share, params.max_rejected_share, passed=share <= params.max_rejected_share, says=says
    )
    held = summary["heldout"]
    says = f"{held} conversations are held out (at least {params.min_heldout_rows})"
    yield check("heldout_rows", held, params.min_heldout_rows, passed=held >= params.min_heldout_rows, says=says)


def token_checks(rows: pa.Table, tokens: Path, ledger: pa.Table) -> Iterator[dict[str, Any]]:
    """The tokens are those rows and no others; what was trained is train rows alone, and nothing held out."""
    split = dict(zip(rows["row_id"].to_pylist(), rows["split"].to_pylist(), strict=True))
    train = set(read_arrow(tokens / token_files.TRAIN)["row_id"].to_pylist())
    heldout = set(read_arrow(tokens / token_files.HELDOUT)["row_id"].to_pylist())
    rejected = set(read_parquet(tokens / token_files.REJECTED, ["row_id"])["row_id"].to_pylist())
    lost = split.keys() - train - heldout - rejected
    extra = (train | heldout | rejected) - split.keys()
    says = f"{len(split)} conversations = {len(train)} train + {len(heldout)} held out + {len(rejected)} that the template rejects"
    if lost or extra:
        says += f"; {len(lost)} are lost and {len(extra)} come from nowhere"
    yield check("tokens_accounted", len(lost) + len(extra), 0, passed=not lost and not extra, says=says)
    trained = set(ledger["row_id"].to_pylist())
    leaked = (trained & heldout) | (train & heldout) | {row for row in train if split.get(row) != "train"}
    yield check(
        "no_leak", len(leaked), 0, passed=not leaked, says=f"{len(leaked)} held-out conversations were trained on"
    )
    foreign = trained - train
    says = f"{len(trained)} conversations were trained, {len(foreign)} of them not from the training rows"
    yield check("ledger", len(foreign), 0, passed=not foreign and bool(trained), says=says)


def label_checks(summary: Mapping[str, Any], params: AuditParams) -> Iterator[dict[str, Any]]:
    """The mask trains on something."""
    train = summary["splits"]["train"]
    share = train["labelled_tokens"] / train["tokens"] if train["tokens"] else 0.0
    says = f"{train['labelled_tokens']} of {train['tokens']} training tokens carry a label ({share:.1%}, at least {params.min_labelled_share:.1%})"
    yield check(
        "labelled_share", share, params.min_labelled_share, passed=share >= params.min_labelled_share, says=says
    )


def quality_checks(metrics: Mapping[str, Any], params: AuditParams) -> Iterator[dict[str, Any]]:
    """The tuned model is better than its base by what the floors ask."""
    base, tuned = metrics["base"], metrics["tuned"]
    if params.min_loss_gain is not None:
        gain = None if tuned["loss"] is None else base["loss"] - tuned["loss"]
        says = (
            "there is no held-out loss"
            if gain is None
            else f"the held-out loss fell by {gain:.3f} (at least {params.min_loss_gain})"
        )
        yield check(
            "loss_gain", gain, params.min_loss_gain, passed=gain is not None and gain >= params.min_loss_gain, says=says
        )
    if params.min_exact_match is not None:
        match = tuned["exact_match"]
        says = (
            "no answer was checked"
            if match is None
            else f"{match:.1%} of the held-out answers are right (at least {params.min_exact_match:.1%})"
        )
        yield check(
            "exact_match",
            match,
            params.min_exact_match,
            passed=match is not None and match >= params.min_exact_match,
            says=says,
        )


def merge_checks(checks: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The merged model carries the fine-tuning: `merge` has failed already where it differs from base + adapter."""
    change, difference = checks["max_change_from_base"], checks["max_logit_difference"]
    says = f"the merged logits are {difference:.2g} from base + adapter at most, and {change:.2g} from the base"
    yield check("merge", change, difference, passed=change > difference, says=says)


def gguf_checks(checks: Mapping[str, Any], params: AuditParams) -> Iterator[dict[str, Any]]:
    """Every file answers like the merged model, as far as its quantization's floors ask; the adapter's, by those of the base it lies over."""
    files = [(name, file["quantization"], file["quality"]) for name, file in sorted(checks["files"].items())]
    if checks["lora"] is not None:
        lora = checks["lora"]
        files.append((lora["file"], lora["over"]["quantization"], lora["quality"]))
    for name, quantization, quality in files:
        floor = params.gguf.get(quantization)
        if floor is None:
            says = (
                f"KL divergence {quality['kl']:.2g}, the same token first at {quality['top_1_agreement']:.1%}: "
                f"not judged, since audit.gguf has no floor for {quantization}"
            )
            yield check(f"{name}: no floor", quality["kl"], None, passed=True, says=says)
        else:
            kl, least = quality["kl"], floor.max_kl_divergence
            says = f"KL divergence from the merged model {kl:.2g} nats a token (at most {least:.2g})"
            yield check(f"{name}: kl", kl, least, passed=kl <= least, says=says)
            same, most = quality["top_1_agreement"], floor.min_top1_agreement
            says = f"the same token first at {same:.1%} of the tokens (at least {most:.1%})"
            yield check(f"{name}: top1", same, most, passed=same >= most, says=says)
        if params.max_exact_match_loss is not None and quality["exact_match"] is not None:
            lost = checks["merged"]["exact_match"] - quality["exact_match"]
            says = f"{quality['exact_match']:.1%} of {checks['answers']} answers are right, {lost:.1%} fewer than the merged model's"
            passed = lost <= params.max_exact_match_loss
            yield check(
                f"{name}: exact_match", quality["exact_match"], params.max_exact_match_loss, passed=passed, says=says
            )


def model_files(chain: Mapping[str, Any]) -> dict[str, str]:
    """{file: sha256} of what a user takes away: adapter, merged model, GGUF files."""
    found: dict[str, str] = {}
    for stage in ("train", "merge", "gguf"):
        for output in chain.get(stage, {}).get("outputs", {}).values():
            found |= {
                f"{output['path']}/{name}": digest
                for name, digest in output["files"].items()
                if name.endswith((".safetensors", ".gguf"))
            }
    return found


if __name__ == "__main__":
    run(audit)
