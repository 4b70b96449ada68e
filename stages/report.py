"""Show what came of it: one self-contained HTML page, and the model card.

Reads  data/audit, the summaries of data/messages and data/tokens, a few rows of the latter, data/adapter (ledger and step log),
       data/evaluation, the checks of the merge and of the GGUF files.
Writes data/report: index.html (no script, no font, no address: it opens anywhere), README.md (a hub model card); both name the digest of
       what was judged;
       data/evaluation/export.json: the counts of the training, the figures of the merge and of the files, for `dvc metrics diff`.

    python -m stages.report --audit data/audit --messages data/messages ... --report data/report
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jinja2
from pydantic import Field

from stages.arrow.tables import read_parquet
from stages.chat import row_rules as template_rules
from stages.contracts import adapter as adapter_files
from stages.contracts import messages as message_files
from stages.contracts import tokens as token_files
from stages.contracts.audit import MARK, PROVENANCE, VERDICT, AuditVerdict, read_answer
from stages.contracts.gguf import ExportChecks as GgufChecks
from stages.contracts.merged import MergeChecks
from stages.conversations import row_rules as standardize_rules
from stages.conversations.row_rules import PRIVATE
from stages.core.errors import StageError
from stages.core.files import read_json, write_json, write_text
from stages.core.params import Params
from stages.core.runner import Input, Output, run
from stages.reporting.numbers import NOTHING, format_percent, format_small
from stages.reporting.observed_params import note_page
from stages.reporting.shown_rows import find_private_rows, leave_out, read_conversations
from stages.reporting.token_view import visible
from stages.reporting.training_counts import count_trained, describe_trained, format_share

PAGES = Path(__file__).parent / "reporting" / "pages"
WIDTH, HEIGHT = 640, 200
"""Of the loss curve, in CSS pixels."""
CONVERSATIONS = 4
"""Training conversations shown, at most: they are long, and `retune preview` shows as many as one likes."""


class ReportParams(Params):
    """What the page and the model card say."""

    title: str
    """Name of the model, as people will call it."""
    examples: Annotated[int, Field(ge=0)]
    """Examples shown, with the dataset's text; 0: none. Held-out answers side by side, and (a few at most) training conversations: 0 for
    data that must not leave this machine."""


class MergeLoss(NamedTuple):
    """The held-out loss of a model that the check of the merge has run."""

    name: str
    loss: float
    """Nats a labelled token."""
    more: float | None
    """Than that of what was trained; null where that was not measured."""
    trained: bool
    """Whether this is what was trained."""
    exported: bool
    """Whether this is what was written."""


def report(
    audit: Input,
    messages: Input,
    tokens: Input,
    adapter: Input,
    metrics: Input,
    answers: Input,
    merge: Input,
    ggufs: Input,
    report: Output,
    figures: Output,
    params: ReportParams,
) -> None:
    """Gather what the stages wrote, render both pages, and put the figures that are worth a comparison into one file.

    Raises StageError for a verdict or a training whose files cannot be read.
    """
    try:
        verdict = read_answer(audit / VERDICT, AuditVerdict)
    except ValueError as error:
        raise StageError(f"{audit / VERDICT} {error}: `dvc repro audit` judges again") from error
    try:
        ledger, log, training = adapter_files.read_trained(adapter)
    except ValueError as error:
        raise StageError(f"{error}; `dvc repro train` writes it") from error
    trained = count_trained(ledger, log, training["steps"])
    private = find_private_rows(read_parquet(messages / message_files.MESSAGES, ["row_id", "flags"]), PRIVATE)
    provenance, checks = read_json(audit / PROVENANCE), read_json(ggufs)
    facts = {
        "params": params,
        "verdict": verdict,
        "mark": f"{MARK}: {verdict.digest()}",
        "judged": sum(check.passed is not None for check in verdict.checks),
        "floors": {check.name: check.floor for check in verdict.checks},
        "provenance": provenance,
        "rows": read_json(messages / message_files.SUMMARY),
        "tokens": read_json(tokens / token_files.SUMMARY),
        "meanings": {"standardize": standardize_rules.RULES, "template": template_rules.RULES},
        "changes": standardize_rules.CHANGES,
        "handed_on": standardize_rules.NOTES[standardize_rules.HANDED_ON],
        "trained": trained,
        "share": format_share,
        "trained_in_words": describe_trained(trained),
        "curves": draw_curves(log),
        "metrics": read_json(metrics),
        "answers": leave_out(read_parquet(answers), private).slice(0, params.examples).to_pylist(),
        "conversations": read_conversations(tokens, ledger, min(params.examples, CONVERSATIONS), private),
        "merges": describe_merges(read_json(merge)),
        "ggufs": {
            **checks,
            "files": sort_files(checks["files"], provenance["chain"]["gguf"]["params"]["quantizations"]),
        },
    }
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES),
        autoescape=jinja2.select_autoescape(["html.jinja"], default=False),  # the model card is Markdown
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "beside": format_beside,
        "number": format_number,
        "percent": format_percent,
        "signed": format_signed,
        "size": format_size,
        "small": format_small,
        "visible": visible,
    }
    report.mkdir()
    for page in ("index.html", "README.md"):
        write_text(report / page, pages.get_template(f"{page}.jinja").render(facts))
    note_page((report / "README.md").read_text(encoding="utf-8"), len(facts["answers"]))
    write_json(figures, {"training": trained, **gather_figures(read_json(merge), checks)})


def sort_files(files: Mapping[str, Any], quantizations: Sequence[str]) -> dict[str, Any]:
    """The files as the params list them: the first is the one that is meant where only one is."""
    return dict(sorted(files.items(), key=lambda file: quantizations.index(file[1]["quantization"])))


def gather_figures(merge: MergeChecks, ggufs: GgufChecks) -> dict[str, Any]:
    """What one compares exports by: {merge: {losses, max_logit_difference}, merged: {...}, gguf: {QUANTIZATION: {bytes, kl ...}}}; the adapter
    alone by its type and the base's that it was laid over.
    """
    files = {file["quantization"]: {"bytes": file["bytes"], **file["quality"]} for file in ggufs["files"].values()}
    lora = ggufs["lora"]
    if lora:
        name = f"lora_{lora['type']}_over_{lora['over']['quantization']}"
        files[name] = {"bytes": lora["bytes"], **lora["quality"]}
    losses = {name: loss for name, loss in merge["losses"].items() if isinstance(loss, float)}
    return {
        "merge": {"losses": losses, "max_logit_difference": merge["max_logit_difference"]},
        "merged": ggufs["merged"],
        "gguf": files,
    }


def describe_merges(checks: MergeChecks) -> dict[str, Any]:
    """What checks.json of data/merged says, for a table: {models: [MergeLoss], exported: the one that was written, other: the merge that was not
    or null, and into, rows, positions, base as there}. A model without a loss is left out.
    """
    found = {
        "adapter_4bit": ("adapter on the NF4 base", checks["load_in_4bit"]),
        "adapter_base16": ("adapter beside the 16-bit base", not checks["load_in_4bit"]),
        "merged_base16": ("merged into the 16-bit base", False),
        "merged_dequantized_nf4": ("merged into the dequantized NF4 base", False),
    }
    losses = {key: loss for key, loss in checks["losses"].items() if isinstance(loss, float)}
    before = next((losses[key] for key, (_, trained) in found.items() if trained and key in losses), None)
    written = f"merged_{checks['into']}"
    models = {
        key: MergeLoss(name, losses[key], None if before is None else losses[key] - before, trained, key == written)
        for key, (name, trained) in found.items()
        if key in losses
    }
    return {
        **{key: checks[key] for key in ("into", "rows", "positions")},
        "base": losses["base"],
        "models": list(models.values()),
        "exported": models[written],
        "other": next((one for key, one in models.items() if key.startswith("merged_") and key != written), None),
    }


def draw_curves(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The loss curves as SVG points: {train, heldout: "x,y x,y ...", low, high, last_step}; y grows downwards."""
    train = [(step["step"], step["loss"]) for step in log]
    heldout = [(step["step"], step["eval_loss"]) for step in log if step.get("eval_loss") is not None]
    losses = [loss for _, loss in train + heldout]
    if not losses:
        return {"train": "", "heldout": "", "low": 0.0, "high": 0.0, "last_step": 0}
    low, high, last = min(0.0, *losses), max(losses), train[-1][0]
    spread = (high - low) or 1.0

    def points(series: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{step / last * WIDTH:.1f},{(high - loss) / spread * HEIGHT:.1f}" for step, loss in series)

    return {"train": points(train), "heldout": points(heldout), "low": low, "high": high, "last_step": last}


def format_number(value: float | None, digits: int = 3) -> str:
    """A measure for a person; a dash where there was nothing to measure."""
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def format_signed(value: float | None) -> str:
    """A difference, with its sign, to two significant digits."""
    return NOTHING if value is None else f"{value:+.2g}"


def format_beside(value: float) -> str:
    """A difference in words, to stand before what it is a difference from."""
    return f"{abs(value):.2g} {'above' if value > 0 else 'below'}" if value else "equal to"


def format_size(count: int) -> str:
    """Bytes as people read them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:  # noqa: PLR2004 - the step of the units
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def uses(_params: ReportParams, _inputs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Of the adapter what tells of the training."""
    return {"adapter": [adapter_files.LEDGER, adapter_files.STEPS, adapter_files.TRAINING]}


if __name__ == "__main__":
    run(report, uses)
