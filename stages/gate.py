"""Let the pipeline pass or stop it: the only stage that fails for quality, and the last, so that the report explaining it is there.

Reads  data/audit (the verdict), data/report (so that it was made).
Writes data/gate.json: whether the model passed and why not, and the hashes of what was judged; what promotion looks at. It is written in
       both cases.

    python -m stages.gate --audit data/audit --report data/report --gate data/gate.json
"""

from pathlib import Path
from typing import Literal

from stages.contracts.audit import VERDICT, AuditVerdict, GateVerdict, read_answer
from stages.core.errors import Refusal, StageError
from stages.core.execution import note_ran, note_unknown
from stages.core.files import write_json
from stages.core.params import Params
from stages.core.runner import Input, Output, run
from stages.reporting.lock_check import check_asked

JUDGING = ("audit", "report")
"""The stages before it that write no record, so that the audit holds nothing of theirs against dvc.lock."""


class GateParams(Params):
    """What the gate does with a verdict that says no."""

    on_refusal: Literal["stop", "warn"]
    """What follows where the verdict says no. stop: the pipeline fails. warn: it ends well, and gate.json still says that the model did not
    pass."""


def gate(audit: Input, report: Input, gate: Output, params: GateParams) -> None:
    """Write the verdict where promotion looks for it; refuse where it says no. Raises StageError for a verdict that cannot be read, or that dvc.lock notes
    down as one by other floors.
    """
    judged = check_asked(Path.cwd(), JUDGING)
    if judged.differences:
        raise StageError(f"{judged.check['says']}. {judged.forget_false_entries(Path.cwd())}")
    try:
        verdict = read_answer(audit / VERDICT, AuditVerdict)
    except ValueError as error:
        raise StageError(f"{audit / VERDICT} {error}: `dvc repro audit` judges again") from error
    answer = GateVerdict(passed=verdict.passed, reasons=verdict.reasons, judged=verdict.judged)
    write_json(gate, answer.model_dump())
    if verdict.passed:
        note_unknown("the verdict passed, so nothing followed", "gate.on_refusal")
    elif params.on_refusal == "warn":
        note_ran({"gate.on_refusal": "warn"})
    else:
        note_ran({"gate.on_refusal": "stop"})
        reasons = "\n  ".join(verdict.reasons)
        raise Refusal(
            f"the model did not pass:\n  {reasons}\nThe report shows it: {report}/index.html. The floors are the params of `audit`."
        )


if __name__ == "__main__":
    run(gate)
