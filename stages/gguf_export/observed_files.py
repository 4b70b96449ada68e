"""What was exported, by the files themselves: what stands against the section `gguf` in the execution record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.contracts.gguf import MODELFILE, ExportChecks
from stages.core.execution import guard_notes, note_choice, note_ran, note_unknown
from stages.llama_cpp.gguf_reader import open_gguf, read_metadata
from stages.llama_cpp.quantization_names import QUANTIZATIONS

SAMPLING = {"temperature": "temperature", "min_p": "min_p", "num_predict": "max_new_tokens"}
"""{parameter of a Modelfile: key of `gguf.sampling`}."""


@dataclass(frozen=True)
class HeaderFacts:
    """What the head of a file says."""

    name: str
    license: str | None
    quantization: str


@guard_notes
def read_header_facts(path: Path) -> HeaderFacts:
    """Read the head of a file that was looked into a moment ago: its reader is kept, so it costs nothing."""
    reader = open_gguf(path)
    kind = read_metadata(reader, "general.file_type")
    names = {one.file_type: name for name, one in QUANTIZATIONS.items()}
    return HeaderFacts(
        name=str(read_metadata(reader, "general.name")),
        license=read_metadata(reader, "general.license"),
        quantization=names.get(kind, f"file type {kind}"),
    )


@guard_notes
def note_files(files: Path, heads: Sequence[HeaderFacts | None], checks: ExportChecks, threads: int) -> None:
    """Note what was exported for the execution record.

    Args:
        files: the folder with them.
        heads: of the model's files, in the order they were written.
        checks: what was counted.
        threads: of the quantizer and the runtime.
    """
    known = [head for head in heads if head is not None]
    for key, values in (("name", {head.name for head in known}), ("license", {head.license for head in known})):
        note_ran({f"gguf.{key}": values.pop() if len(values) == 1 else sorted(map(str, values))})
    note_ran({"gguf.quantizations": [head.quantization for head in known]})
    note_lora(files, checks)
    weighted = checks["imatrix"]
    there = weighted is not None and (files / weighted["file"]).is_file()
    note_ran({"gguf.imatrix": "training_rows" if there else "none"})
    if weighted:
        note_ran({"gguf.imatrix_tokens": weighted["tokens"]}, "there are fewer training tokens")
    else:
        note_unknown("no importance matrix was made", "gguf.imatrix_tokens", "runtime.device")
    note_ran({"gguf.check_rows": len(checks["rows"])}, f"there are fewer rows ({checks['split']})")
    note_ran({"gguf.check_answers": checks["answers"]}, "there are fewer answers in these rows")
    note_ran(read_sampling((files / MODELFILE).read_text(encoding="utf-8")))
    note_choice({"runtime.workers": threads}, "one a core")


def note_lora(files: Path, checks: ExportChecks) -> None:
    """Note the adapter's file and the base's."""
    lora = checks["lora"]
    over = lora["over"]["file"] if lora else None
    over_head = read_header_facts(files / over) if over else None
    types = (
        {tensor.tensor_type.name.lower() for tensor in open_gguf(files / lora["file"]).tensors} if lora else {"none"}
    )
    why = checks["lora_left_out"] or ""
    note_ran({"gguf.lora": types.pop() if len(types) == 1 else sorted(types)}, why)
    note_ran({"gguf.lora_base": over_head.quantization if over_head else None}, why)


def read_sampling(modelfile: str) -> Mapping[str, object]:
    """{key of params.yaml: value} of the drawing of an answer, as a Modelfile has it."""
    found: dict[str, object] = {}
    for line in modelfile.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "PARAMETER" and words[1] in SAMPLING:  # noqa: PLR2004
            value = float(words[2])
            key = SAMPLING[words[1]]
            found[f"gguf.sampling.{key}"] = int(value) if key == "max_new_tokens" else value
    return found
