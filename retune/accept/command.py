"""`retune accept`: record an edit as harmless, so that nobody trains again for a comment.

DVC's key of a stage has the bytes of its code, and a docstring is bytes. `dvc commit -f` records the present bytes as those that made
the outputs; this verb does that only with a proof that they would have made the same ones (retune/accept/same_code.py). Of a package
DVC has one hash, so what it held when the stage ran is looked up by that hash first (retune/past_files.py).
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from retune.accept.judge import Verdict, judge
from retune.dvc_files import read_lock
from retune.past_files import keep_text
from retune.project import dvc_status, give_up, print_json, project_root, run_dvc
from stages.core.project_code import KEPT, keep_listing
from stages.core.value_differences import show_text


def accept(
    stages: Annotated[
        list[str] | None, typer.Argument(metavar="[STAGE]...", help="Stages of dvc.yaml. None: every changed one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Record edits as harmless: the stage does not run again for them.

    Only where that is proven: the changed code is the same without comments and docstrings, or differs only in what a new param,
    at its present value, switches off. Anything else is refused with the reason.
    """
    root = project_root()
    try:
        status = dvc_status(root, *(stages or []))
    except ValueError as error:
        give_up(str(error))
    results: dict[str, Verdict] = {}
    for stage in stages or list(status):
        results[stage] = judge(root, stage, status.get(stage, []))
        if stage in status and not results[stage].reasons:
            results[stage].reasons = record(root, stage, results[stage])
    if as_json:
        print_json(
            {
                stage: {"accepted": not result.reasons, "proven": result.proven, "reasons": result.reasons}
                for stage, result in results.items()
            }
        )
    else:
        for stage, result in results.items():
            print_result(stage, result)
        if not results:
            print("nothing has changed")
    if any(result.reasons for result in results.values()):
        raise typer.Exit(1)


def print_result(stage: str, result: Verdict) -> None:
    """A stage's verdict in words."""
    if result.reasons:
        print(f"{stage}: not accepted; `dvc repro` runs it again")
        for reason in result.reasons:
            print(show_text(f"  {reason}"))
    elif result.proven:
        print(f"{stage}: accepted")
        for fact in result.proven:
            print(show_text(f"  {fact}"))
    else:
        print(f"{stage}: nothing has changed")


def record(root: Path, stage: str, verdict: Verdict) -> list[str]:
    """Have DVC record the present bytes; the reasons if it did not, or recorded others than those that were compared."""
    lock = root / "dvc.lock"
    before, outs = lock.read_bytes(), read_lock(root)[stage].get("outs")
    # without relinking: it would write gigabytes of outputs once more, from the cache
    result = run_dvc(root, "--wait-for-lock", "commit", "--force", "--no-relink", stage)
    if result.returncode != 0:
        return [f"dvc commit: {result.stderr.strip().splitlines()[-1] if result.stderr.strip() else result.returncode}"]
    after = read_lock(root)[stage]
    digests = {item["path"]: item.get("md5") for item in after.get("deps", [])}
    sections: dict[str, Any] = {}
    for values in after.get("params", {}).values():
        sections |= values
    moved = [path for path, digest in verdict.digests().items() if digests.get(path) != digest]
    moved += [section for section, values in verdict.params.items() if repr(sections.get(section)) != repr(values)]
    moved += ["its outputs"] if after.get("outs") != outs else []
    left = [] if moved else dvc_status(root, stage).get(stage, [])
    if not moved and not left:
        for path, text in verdict.texts.items():
            keep_text(root, path, text)
        for files in verdict.listings.values():
            keep_listing(root / ".retune" / KEPT, files)
        return []
    lock.write_bytes(before)
    return [f"{', '.join(moved) or left} changed while it was compared; nothing was recorded"]
