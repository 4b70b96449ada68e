"""The official chat templates of many families, and what `template` does with each: docs/templates.md holds the table.

run     python -m tests.oracle.templates [FOLDER]      prints the page; of the templates of a folder, where one is named

Each template goes through the stage itself with a small vocabulary, and each answer that was trained is asked for with transformers'
`apply_chat_template`: where the prompt is not that of training, the outcome is DISAGREES.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stages.chat.template_words import ENDS_TURN, PROMPTS, STYLES
from stages.contracts import tokens as contract
from stages.core.errors import StageError
from stages.core.files import read_json
from tests.oracle import llama3
from tests.oracle.prompts import Templated, ask_tokenizer, run_template

OUTCOMES = {
    "agrees": "in training an answer follows the generation prompt at once",
    "gap trained": "the template writes something between its generation prompt and an answer; the model learns to write it",
    "mended": "the template goes on from another text than it asks a model to go on from; the last answer of a row is trained behind the prompt",
    "prompt extended": "the template that is shipped writes in its generation prompt what stands before an answer",
    "refused": "the stage says why it does not take the template",
    "DISAGREES": "the prompt at inference is not that of training",
}

HEAD = f"""# Official chat templates

What `template` does with the {{count}} chat templates that llama.cpp's source holds (in the source release of {llama3.PACKAGE} {llama3.VERSION}), each
with a small vocabulary that has its control tokens, `template.prompt: auto` and `template.reasoning: train`. `python -m tests.oracle.templates`
prints this page; tests hold it to that, and the prompts of training to those of transformers, `retune chat`, the GGUF file and llama.cpp's own server.
"""


class Line(NamedTuple):
    """What became of one template."""

    name: str
    outcome: str
    why: str
    thoughts: str
    """Whether it writes thoughts, and what its generation prompt says of them."""


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content, **more}


FIRST = [said("user", "where is it?"), said("assistant", "Up.")]
SECOND = [said("user", "and that?"), said("assistant", "Down.")]
THOUGHT = [{**FIRST[1], "reasoning": "Look up."}, {**SECOND[1], "reasoning": "Look\n\ndown."}]
TALKS = [
    FIRST,
    FIRST + SECOND,
    [said("system", "Be brief."), *FIRST, *SECOND],
    [FIRST[0], THOUGHT[0]],
    [FIRST[0], THOUGHT[0], SECOND[0], THOUGHT[1]],
    [FIRST[0], THOUGHT[0], *SECOND],
]


def try_template(path: Path, folder: Path) -> Templated | StageError:
    """The tokens of TALKS, written below a folder, or why the stage refuses the template."""
    try:
        return run_template(folder, path.read_text(encoding="utf-8"), TALKS, missing_control_tokens="add")
    except StageError as error:
        return error


def describe(name: str, made: Templated | StageError) -> Line:
    """One line of the table."""
    if isinstance(made, StageError):
        return Line(name, "refused", str(made).split("; choose another")[0], "")
    summary = read_json(made.tokens / contract.SUMMARY)
    prompt, form = summary["prompt"], summary["chat_template"]
    outcome = {"agrees": "agrees", "extend_prompt": "prompt extended"}.get(prompt["choice"]) or (
        "gap trained" if prompt["gap"] else "mended"
    )
    if any(ids != one.prompt for ids, one in zip(ask_tokenizer(made), made.asked, strict=True)):
        outcome = "DISAGREES"
    style = STYLES[form["reasoning"]].partition(":")[0]
    return Line(
        name,
        outcome,
        prompt["reason"],
        f"{style}; {PROMPTS[form['thinks']]}{ENDS_TURN if form['stop_closes_thought'] else ''}",
    )


def write_page(lines: Sequence[Line]) -> str:
    """docs/templates.md."""
    counts = Counter(line.outcome for line in lines)
    meanings = [f"- **{name}** ({counts[name]}): {meaning}." for name, meaning in OUTCOMES.items()]
    rows = [Line("template", "outcome", "why", "thoughts"), Line(*["---"] * 4), *lines]
    # neither a bar nor a tag of a cell is one of the page
    table = [f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('<', '&lt;') for cell in row)} |" for row in rows]
    return "\n".join([HEAD.format(count=len(lines)), *meanings, "", *table, ""])


def main() -> None:
    """The page."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else llama3.folder() / llama3.TEMPLATES
    with tempfile.TemporaryDirectory() as work:
        paths = sorted(source.glob("*.jinja"))
        lines = [describe(path.stem, try_template(path, Path(work) / path.stem)) for path in paths]
    print(write_page(lines), end="")  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
