"""Judge the model: what the stages measured against the floors, what they recorded against each other; and say what made it.

Reads  data/records (what every stage read, wrote and was made of), data/messages, data/tokens, data/adapter (ledger and step log),
       data/evaluation/metrics.json, data/merged and data/gguf (their checks). All bytes of these are hashed and compared with the records;
       and dvc.lock, which must note each run down as its record does.
Writes data/audit: verdict.json (one verdict, every check with its reason, the hashes of what was judged), provenance.json (the chain from
       source to file).

It measures nothing and stops nothing: a changed floor runs this stage, `report` and `gate`, and no other.
It fails only if it cannot judge: of bytes that are not those of the records, what was measured says nothing; nor does a verdict on a model
that dvc.lock takes for another one. They are named, and the verdict says no.

    python -m stages.audit --records data/records --messages data/messages ... --audit data/audit
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from stages.arrow.tables import read_parquet
from stages.contracts import adapter as adapter_files
from stages.contracts import gguf as gguf_files
from stages.contracts import merged as merged_files
from stages.contracts import messages as message_files
from stages.contracts import tokens as token_files
from stages.contracts.audit import PROVENANCE, VERDICT, AuditVerdict, make_check
from stages.core.asked_and_ran import list_keys
from stages.core.errors import Refusal, StageError
from stages.core.files import read_json, write_json
from stages.core.params import Params
from stages.core.runner import Input, Output, run
from stages.dvc_lock.records import read_records
from stages.reporting.ledger_checks import judge_ledger, judge_tokens
from stages.reporting.lock_check import check_lock
from stages.reporting.observed_params import note_floors
from stages.reporting.provenance import check_bytes, check_chain, hash_judged, model_files
from stages.reporting.row_checks import judge_rows

log = logging.getLogger("retune")

Share = Annotated[float, Field(ge=0, le=1)]


class GgufFloor(Params):
    """What a GGUF file of one quantization must reach against the merged model."""

    max_kl_divergence: Annotated[float, Field(gt=0)]
    """Mean KL divergence of the file's next-token distribution from the merged model's, in nats a token, at most."""
    min_top1_agreement: Share
    """Share of tokens at which both put the same token first, at least."""


class AuditParams(Params):
    """The floors below which a model does not pass. A floor of null is not asked."""

    max_rejected_share: Share
    """Share of the source's rows that rules may reject. Those of standardize and of template together; with more the data counts as broken."""
    max_repeated_share: Share | None
    """Share of the source's rows that may repeat others; null: not asked. Duplicates, and near duplicates where they are dropped: they cost nothing but
    their number."""
    max_near_heldout_share: Share | None
    """Share of rows that may nearly repeat a held-out one; null: not asked. They are not trained; with many the data is one of few texts."""
    min_heldout_rows: Annotated[int, Field(ge=0)]
    """Held-out conversations that an evaluation needs to mean something."""
    max_seen_answers: Share | None
    """Share of held-out answers that may stand in training, too; null: not asked. Where all do, held-out figures measure memory
    (`standardize.group_by`); of labels, such as yes and no, all do."""
    min_labelled_share: Share
    """Share of the training tokens that carry a label, at least. Next to 0 means that the mask trains on nothing."""
    min_loss_gain: float | None
    """By how much the held-out loss must fall, in nats a token; null: not asked. From base to tuned."""
    min_exact_match: Share | None
    """Share of held-out answers that tuned must give to the letter; null: not asked. null is for answers that cannot be checked."""
    max_exact_match_loss: Share | None
    """By how much a GGUF file's exact match may be lower; null: not asked. Than the merged model's on the rows it is checked on."""
    gguf: dict[str, GgufFloor]
    """Floors of the GGUF files, by quantization. {quantization: floor}. A quantization without a floor is measured and not judged, and the
    verdict says so; its exact match is."""


def audit(
    records: Input,
    messages: Input,
    tokens: Input,
    adapter: Input,
    metrics: Input,
    merged: Input,
    ggufs: Input,
    audit: Output,
    params: AuditParams,
) -> None:
    """Hold the stages' records and measures against each other and against the floors; write the verdict and the provenance."""
    chain = read_records(records)
    if not chain:
        raise StageError(f"{records} holds no record, so nothing can be judged; `dvc repro` makes them")
    found = check_bytes(chain, [messages, tokens, adapter, metrics, merged, ggufs])
    lock = check_lock(Path.cwd(), records)
    checks = [*check_chain(chain, records), found, lock.check]
    if found["passed"]:
        checks += judge_rows(
            read_json(messages / message_files.SUMMARY), read_json(tokens / token_files.SUMMARY), params.model_dump()
        )
        checks += judge_training(messages, tokens, adapter)
        checks += judge_quality(read_json(metrics), params)
        checks += judge_merge(read_json(merged / merged_files.CHECKS))
        checks += judge_ggufs(read_json(ggufs / gguf_files.CHECKS), params)
    figures = [
        *(messages / message_files.SUMMARY, tokens / token_files.SUMMARY, metrics),
        *(adapter / name for name in (adapter_files.LEDGER, adapter_files.STEPS, adapter_files.TRAINING)),
        *(merged / merged_files.CHECKS, ggufs / gguf_files.CHECKS),
    ]
    verdict = {
        "passed": all(check["passed"] is not False for check in checks),
        "reasons": [f"{check['name']}: {check['says']}" for check in checks if check["passed"] is False],
        "judged": hash_judged(records, figures),
        "checks": checks,
    }
    audit.mkdir()
    write_json(audit / VERDICT, AuditVerdict.model_validate(verdict).model_dump())
    note_floors(checks, dict(list_keys("audit", params.model_dump())))
    write_json(audit / PROVENANCE, {"model": model_files(chain, [adapter, merged, ggufs]), "chain": chain})
    refused = []
    if not found["passed"]:
        refused.append(f"{found['says']}. `dvc repro` puts the recorded bytes back, or makes them again")
    if lock.check["passed"] is False:
        refused.append(f"{lock.check['says']}. {lock.forget_false_entries(Path.cwd())}")
    if refused:
        raise Refusal(". ".join(refused))
    log.info("%s; %s", found["says"], lock.check["says"])


def judge_training(messages: Path, tokens: Path, adapter: Path) -> Iterator[dict[str, Any]]:
    """The checks of tokens and training. Raises StageError if what training wrote cannot be read."""
    try:
        ledger, log_lines, training = adapter_files.read_trained(adapter)
    except ValueError as error:
        raise StageError(f"{error}; `dvc repro train` writes it") from error
    train = token_files.read_tokens(tokens / token_files.TRAIN)
    yield from judge_tokens(
        read_parquet(messages / message_files.MESSAGES, ["row_id", "split"]),
        train,
        token_files.read_tokens(tokens / token_files.HELDOUT),
        read_parquet(tokens / token_files.REJECTED, ["row_id"]),
        ledger,
    )
    yield judge_ledger(ledger, log_lines, training, train)


def judge_quality(metrics: Mapping[str, Any], params: AuditParams) -> Iterator[dict[str, Any]]:
    """The tuned model is better than its base by what the floors ask."""
    base, tuned = metrics["base"], metrics["tuned"]
    if params.min_loss_gain is not None:
        gain = None if tuned["loss"] is None else base["loss"] - tuned["loss"]
        says = (
            "there is no held-out loss"
            if gain is None
            else f"the held-out loss fell by {gain:.3f} (at least {params.min_loss_gain}: audit.min_loss_gain)"
        )
        yield make_check(
            "loss_gain", gain, params.min_loss_gain, passed=gain is not None and gain >= params.min_loss_gain, says=says
        )
    if params.min_exact_match is not None:
        match = tuned["exact_match"]
        says = (
            "no answer was checked"
            if match is None
            else f"{match:.1%} of the held-out answers are right (at least {params.min_exact_match:.1%}: audit.min_exact_match)"
        )
        yield make_check(
            "exact_match",
            match,
            params.min_exact_match,
            passed=match is not None and match >= params.min_exact_match,
            says=says,
        )


def judge_merge(checks: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The merged model carries the fine-tuning: `merge` has failed already where it differs from base + adapter."""
    change, difference = checks["max_change_from_base"], checks["max_logit_difference"]
    says = f"the merged logits are {difference:.2g} from base + adapter at most, and {change:.2g} from the base"
    yield make_check("merge", change, difference, passed=change > difference, says=says)


def judge_ggufs(checks: Mapping[str, Any], params: AuditParams) -> Iterator[dict[str, Any]]:
    """Every file answers like the merged model, as far as its quantization's floors ask; the adapter's, by those of the base it lies over."""
    files = [
        (name, file["quantization"], file["quality"], f"take {file['quantization']} out of gguf.quantizations")
        for name, file in sorted(checks["files"].items())
    ]
    if checks["lora"] is not None:
        lora = checks["lora"]
        files.append((lora["file"], lora["over"]["quantization"], lora["quality"], "take another gguf.lora_base"))
    for name, quantization, quality, mend in files:
        floor, param = params.gguf.get(quantization), f"audit.gguf.{quantization}"
        kl, same = quality["kl"], quality["top_1_agreement"]
        if floor is None:
            says = f"KL divergence {kl:.2g}, the same token first at {same:.1%}: not judged, since there is no floor {param}"
            yield make_check(f"{name}: no floor", kl, None, passed=None, says=says)
        else:
            most, least = floor.max_kl_divergence, floor.min_top1_agreement
            says = f"KL divergence from the merged model {kl:.2g} nats a token (at most {most:.2g}: {param}.max_kl_divergence)"
            yield add_remedy(make_check(f"{name}: kl", kl, most, passed=kl <= most, says=says), mend)
            says = (
                f"the same token first at {same:.1%} of the tokens (at least {least:.1%}: {param}.min_top1_agreement)"
            )
            yield add_remedy(make_check(f"{name}: top1", same, least, passed=same >= least, says=says), mend)
        if params.max_exact_match_loss is not None and quality["exact_match"] is not None:
            right, limit = quality["exact_match"], params.max_exact_match_loss
            lost = checks["merged"]["exact_match"] - right
            says = (
                f"{right:.1%} of {checks['answers']} answers are right, {abs(lost):.1%} {'fewer' if lost > 0 else 'more'} than the merged "
                f"model's {checks['merged']['exact_match']:.1%} (at most {limit:.1%} fewer: audit.max_exact_match_loss)"
            )
            yield add_remedy(make_check(f"{name}: exact_match", right, limit, passed=lost <= limit, says=says), mend)


def add_remedy(found: dict[str, Any], mend: str) -> dict[str, Any]:
    """A check of one file; where it says no, with what to do about it: one weak file refuses the whole model."""
    return found if found["passed"] else {**found, "says": f"{found['says']}; {mend}, or change that floor"}


def uses(_params: AuditParams, _inputs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Of the large folders what is looked into; `check_bytes` hashes the rest, once."""
    return {
        "tokens": [*token_files.SPLITS.values(), token_files.REJECTED, token_files.SUMMARY],
        "adapter": [adapter_files.LEDGER, adapter_files.STEPS, adapter_files.TRAINING],
        "merged": [merged_files.CHECKS],
        "ggufs": [gguf_files.CHECKS],
    }


if __name__ == "__main__":
    run(audit, uses)
