"""What a stage found when it began, and what of it is another at its end: of that, DVC would certify what was never read.

DVC reads params.yaml, the inputs and the code when the command has ended. So a stage that ran for a night ends well only if they are
then what they were: its own sections of params.yaml as values (a comment and other sections may change; `runtime` is in no key), the bytes
of its inputs, of the code that it imported, of what lies beside that code (templates, pages) and of its pins. An edit after this
comparison and before DVC's reading is found by stages/dvc_lock.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stages.core.errors import StageError
from stages.core.files import sha256_file
from stages.core.inputs import Read, Uses, changed_inputs
from stages.core.params import read_params
from stages.core.project_code import imported_code
from stages.core.value_differences import compare_values, show_value


@dataclass(frozen=True)
class ReadSections:
    """Sections of a params file as they were when the stage began."""

    path: Path
    values: Mapping[str, Any]
    """{section: plain values}."""

    def find_changes(self) -> list[str]:
        """Every field that is another now, in words; or why the file says nothing of it any more."""
        try:
            now = read_params(self.path)
        except (StageError, OSError) as error:
            return [f"{self.path} cannot be read any more: {error}"]
        found = []
        for section, values in self.values.items():
            if section not in now:
                found.append(f"{self.path}: the section `{section}`, which was there when it began, is gone")
                continue
            found += [
                f"{field.name}: {show_value(field.first)} when it began, {show_value(field.second)} now"
                for field in compare_values(section, values, now[section])
            ]
        return found


def without_runtime(path: Path, values: Mapping[str, Any]) -> ReadSections:
    """All sections that were read but `runtime`, which bears no identity."""
    return ReadSections(path, {section: found for section, found in values.items() if section != "runtime"})


@dataclass(frozen=True)
class Start:
    """What a stage found when it began."""

    stage: str
    sections: Sequence[ReadSections]
    inputs: Mapping[str, Read]
    uses: Uses | None
    params: object
    """The stage's params, by which `uses` says what of the inputs is read."""
    code: Mapping[str, str]
    """{path: sha256} of all files of stages/, whether it imports them or not."""
    pins: Path | None
    """The file with its pins, which lies among the code."""

    def refuse_changes(self, *, resumes: bool) -> None:
        """Raise StageError if something of it is another now.

        Args:
            resumes: whether the stage keeps checkpoints, which serve when what was changed is put back.
        """
        params = [line for read in self.sections for line in read.find_changes()]
        changed = [*map(str, changed_inputs(self.inputs, self.uses, self.params)), *self.find_changed_code()]
        if not params and not changed:
            return
        said = []
        if params:
            said.append(
                f"{', '.join(str(read.path) for read in self.sections)} was edited while {self.stage} was at work, so what it made is not of "
                "what stands there now:\n  " + "\n  ".join(params)
            )
        if changed:
            said.append(f"{', '.join(changed)} was changed while {self.stage} was reading it")
        put_back = " and goes on from its last checkpoint, if it has written one" if resumes else ""
        said.append(
            "Its outputs were thrown away, for DVC would note them down as made of what is there now. "
            f"Run it again for what is there now; or put back what was there, and `dvc repro` makes that{put_back}."
        )
        raise StageError("\n".join(said))

    def find_changed_code(self) -> list[str]:
        """The files of stages/ that this process has imported, or that lie beside these, whose bytes are others than at the start."""
        used = {*imported_code(), *find_beside(self.code), *([self.pins.as_posix()] if self.pins else [])}
        return sorted(path for path in used if digest_now(path) != self.code.get(path))


def find_beside(code: Mapping[str, str]) -> Iterator[str]:
    """Of the files of stages/ those that are no modules and lie in, or below, a package of which a module was imported."""
    packages = {PurePosixPath(path).parent for path in imported_code()}
    packages -= {PurePosixPath("stages"), PurePosixPath("stages/environment")}  # whose files are for one stage each
    for path in code:
        if not path.endswith(".py") and packages & set(PurePosixPath(path).parents):
            yield path


def digest_now(path: str) -> str | None:
    """The sha256 of a file; None where there is none to be read."""
    try:
        return sha256_file(Path(path))
    except OSError:
        return None
