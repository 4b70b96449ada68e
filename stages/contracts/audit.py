"""data/audit: the verdict on a model and the record of what made it; data/gate.json: that verdict where promotion looks for it."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.core.files import sha256_tree

VERDICT = "verdict.json"
"""An `AuditVerdict`."""

PROVENANCE = "provenance.json"
"""{model, chain: {stage: record}}: for every stage its code, params, packages, inputs and outputs by sha256."""

MARK = "retune-judged"
"""What stands before the digest of what was judged, in the page and the model card: `<!-- retune-judged: SHA256 -->`."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class AuditCheck(BaseModel):
    """One check of the verdict."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    found: Any
    floor: Any
    passed: bool | None
    """null for a figure that no floor is asked of: it is not judged."""
    says: str


class GateVerdict(BaseModel):
    """data/gate.json: whether a model passed, and which figures that was said of."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    passed: bool
    reasons: list[str]
    """`name: what it says` of each check that says no."""
    judged: Annotated[dict[str, Sha256], Field(min_length=1)]
    """{path: sha256} of the records and of the files with figures. Tokens, weights and GGUF files are named by the records' hashes."""

    def digest(self) -> str:
        """One sha256 for all that was judged, as `stages.core.files.sha256_tree` makes it."""
        return sha256_tree(self.judged)


class AuditVerdict(GateVerdict):
    """data/audit/verdict.json: the same, with every check."""

    checks: Annotated[list[AuditCheck], Field(min_length=1)]


Answer = TypeVar("Answer", bound=GateVerdict)


def make_check(name: str, found: object, floor: object, *, passed: bool | None, says: str) -> dict[str, Any]:
    """One check of the verdict; `passed` None: a figure that no floor is asked of."""
    return {"name": name, "found": found, "floor": floor, "passed": passed, "says": says}


def read_answer(path: Path, kind: type[Answer]) -> Answer:
    """What stands in verdict.json or gate.json. Raises ValueError with what is wrong with the file, to be said behind its name."""
    try:
        answer = kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ValueError("is not there") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise ValueError(describe_problem(error)) from error
    if isinstance(answer, AuditVerdict):
        refused = [f"{check.name}: {check.says}" for check in answer.checks if check.passed is False]
        if refused != answer.reasons or answer.passed is bool(refused):
            raise ValueError("says another verdict than its own checks")
    elif answer.passed is bool(answer.reasons):
        raise ValueError("says another verdict than its own reasons")
    return answer


def describe_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a file, to be said behind its name; never a value out of it."""
    found = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in found["loc"] if isinstance(part, int) or part.isidentifier())
    if found["type"] == "json_invalid":
        return "is no JSON: cut off, or edited"
    if found["type"] == "extra_forbidden":
        return "has a field that this version of Retune does not know: another version wrote it, or it was edited"
    if found["type"] == "missing":
        return f"lacks the field `{where}`: another version of Retune wrote it, or it was edited"
    return f"is no verdict as this version of Retune writes it ({f'`{where}`' if where else 'its form'})"
