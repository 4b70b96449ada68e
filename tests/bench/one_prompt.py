r"""One prompt from training to the server, measured: each combination of template, turns and reasoning is trained, and all that answers is asked the same.

    python -m tests.bench.one_prompt FOLDER [--only qwen3] [--steps 600] [--questions 40]

The demo's base learns its village with the official templates of Qwen3 and of gpt-oss (tests/oracle/llama3.py has them), in one turn or in
three, with thoughts before the answers or without. The stages run as dvc.yaml says; then the same held-out questions go to

    training    the ids before the labels in data/tokens, which `evaluate`, `merge` and `gguf` begin from
    tokenizer   apply_chat_template of data/tokens' tokenizer, as transformers has it, and the merged model's answers
    chat        `retune chat --adapter`, greedy
    file        `retune chat` with the q8_0 file, greedy
    serve       `retune serve`: llama.cpp's own rendering and tokenization of the template in the file

and the table says how many prompts differ from training's (0 is right) and how many answers from those of `evaluate`. Minutes on two cores.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from retune.use.presets import read_preset
from stages.chat.reasoning import hand_over
from tests.oracle import llama3
from tests.oracle.prompts import as_published, read_style
from tests.project import ROOT, STAGES

TEMPLATES = {"qwen3": "Qwen-Qwen3-0.6B.jinja", "gpt-oss": "openai-gpt-oss-120b.jinja"}
TURNS = {"single-turn": 1, "multi-turn": 3}
REASONING = ("plain", "reasoning")
FIRST = ("check", "fetch_model")
"""What all combinations share."""
THEN = ("fetch_data", "standardize", "template", "train", "evaluate", "merge", "gguf")
ROWS = 760
CONTEXT = 1024

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Combination:
    """One line of the table."""

    template: str
    turns: str
    reasoning: str

    @property
    def name(self) -> str:
        """As it is called on the command line, and its folder."""
        return f"{self.template}_{self.turns}_{self.reasoning}"


COMBINATIONS = [Combination(*parts) for parts in product(TEMPLATES, TURNS, REASONING)]


@dataclass(frozen=True)
class Question:
    """One held-out answer that was asked for: the dialogue before it, training's ids of that, and what `evaluate` got."""

    messages: Messages
    prompt: list[int]
    reference: str
    said: str


@dataclass
class Outcome:
    """What was found of one combination."""

    name: str
    trained: str
    """What the template stage says of the prompt."""
    exact: float | None
    questions: int
    prompts: dict[str, int]
    """By who asks, how many prompts are not training's."""
    answers: dict[str, int]
    """By who answers, how many answers are not `evaluate`'s."""
    right: dict[str, int]
    """By who answers, how many are the reference."""


# --- the data and the stages ----------------------------------------------------------------------------------------


def write_talks(path: Path, turns: int, *, reasoning: bool) -> None:
    """Dialogues of the demo's world; with thoughts: the short answer, which the base knows, before the whole one."""
    sys.path.insert(0, str(ROOT / "data/demo"))
    import world

    rng = random.Random(26)
    lines: dict[str, None] = {}
    while len(lines) < ROWS:
        group = world.people(rng, rng.randint(2, 4))
        asked = world.ask_many(rng, group, turns, world.KNOWN_KINDS)
        facts = world.tell_all(rng, group)
        messages: Messages = []
        for number, question in enumerate(asked):
            messages.append(
                {"role": "user", "content": " ".join([*facts, question.text] if not number else [question.text])}
            )
            thoughts = {"reasoning_content": question.short} if reasoning else {}
            messages.append({"role": "assistant", "content": question.full, **thoughts})
        lines[json.dumps({"messages": messages})] = None
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def choose_params(combination: Combination, steps: int, questions: int) -> dict[str, Any]:
    """The demo's params, with the template, the data and as little export as shows it."""
    values = read_preset(ROOT, "demo")
    values["fetch_data"]["sources"][0]["source"] = "data/custom/talks.jsonl"
    values["standardize"] |= {"heldout_fraction": 0.08, "near_heldout": "keep"}
    values["template"] |= {
        "chat_template": TEMPLATES[combination.template],
        "missing_control_tokens": "add",
        "max_length": CONTEXT,
    }
    # the base has never seen "<", "/" or "|": without room the adapter does not learn to write a tag
    values["train"] |= {"steps": steps, "learning_rate": 3e-3, "eval_steps": None, "logging_steps": 100}
    values["train"]["lora"] |= {"r": 64, "alpha": 64}
    values["evaluate"] |= {"rows": questions, "answer_rows": questions, "max_new_tokens": 64}
    values["merge"] |= {"check_rows": 2}
    values["gguf"] |= {
        "quantizations": ["q8_0"],
        "check_rows": 2,
        "check_answers": 2,
        "lora": "none",
        "lora_base": None,
    }
    values["runtime"] |= {"device": "cpu", "workers": 1, "save_steps": None, "log_level": "warning"}
    return values


def make_project(root: Path, combination: Combination, templates: Path, steps: int, questions: int) -> None:
    """A folder that the stages can run in."""
    (root / "data/custom").mkdir(parents=True)
    for name in ("custom_base", "custom_adapter"):
        (root / "data" / name).mkdir()
    (root / "data/demo").symlink_to(ROOT / "data/demo")
    shutil.copy(ROOT / "data/exclusions.csv", root / "data/exclusions.csv")
    shutil.copytree(ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", root)
    name = TEMPLATES[combination.template]
    shutil.copy(templates / name, root / "data/custom" / name)
    write_talks(
        root / "data/custom/talks.jsonl", TURNS[combination.turns], reasoning=combination.reasoning == "reasoning"
    )
    YAML().dump(choose_params(combination, steps, questions), root / "params.yaml")


def run_stages(root: Path, stages: Sequence[str]) -> None:
    """Carry out stages by the commands of dvc.yaml. Raises RuntimeError with what a stage said."""
    for stage in stages:
        for out in [*STAGES[stage]["outs"], *STAGES[stage].get("metrics", [])]:
            (root / (out if isinstance(out, str) else next(iter(out)))).parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *STAGES[stage]["cmd"].split()[1:]]
        ended = subprocess.run(
            command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise RuntimeError(f"{root.name}: {stage} failed\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}")


# --- the same questions to all --------------------------------------------------------------------------------------


def read_questions(root: Path, count: int) -> list[Question]:
    """The first held-out answers that `evaluate` asked for, with the messages before each."""
    from stages.arrow.tables import read_parquet
    from stages.contracts import evaluation, messages, tokens

    said = read_parquet(root / "data/evaluation" / evaluation.ANSWERS).to_pylist()[:count]
    rows = {row["row_id"]: row for row in tokens.read_tokens(root / "data/tokens" / tokens.HELDOUT).to_pylist()}
    talks = {row["row_id"]: row for row in read_parquet(root / "data/messages" / messages.MESSAGES).to_pylist()}
    found = []
    for answer in said:
        row, talk = rows[answer["row_id"]], talks[answer["row_id"]]["messages"]
        start, _ = tokens.answers(row["input_ids"], row["labels"])[answer["turn"]]
        places = [at for at, message in enumerate(talk) if message["role"] == "assistant"]
        # the labelled spans are the last ones of the dialogue, where not all of its answers are trained
        at = places[answer["turn"] - len(tokens.answers(row["input_ids"], row["labels"]))]
        before = [
            {key: message[key] for key in ("role", "content", "reasoning") if message[key] is not None}
            for message in talk[:at]
        ]
        found.append(Question(before, row["input_ids"][:start], answer["reference"], answer["tuned_answer"]))
    return found


def ask_speaker(speaker: Any, questions: Sequence[Question]) -> tuple[list[list[int]], list[str]]:
    """(prompts, greedy answers) of a loaded model as `retune chat` talks to it."""
    import numpy as np

    from retune.chat.dialogue import Sampling, answer, prompt_ids

    sampling, draw = Sampling(0.0, 0.0, 64), np.random.default_rng(0)
    prompts = [prompt_ids(speaker, question.messages) for question in questions]
    said = [answer(speaker, ids, sampling, draw, lambda _: None, lambda: False).text for ids in prompts]
    return prompts, said


def ask_tokenizer(root: Path, questions: Sequence[Question]) -> tuple[list[list[int]], list[str]]:
    """(prompts, greedy answers) of data/merged as people use it: its tokenizer's apply_chat_template, transformers' generate."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stages.core.files import read_json
    from stages.evaluation.answer_text import read_answer

    folder = root / "data/merged"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    summary = read_json(root / "data/tokens/summary.json")
    prompts, said, style = [], [], read_style(root / "data/tokens")
    for question in questions:
        asked = hand_over(question.messages, style)
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        given = model.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False)[0, len(ids) :].tolist()
        prompts.append(ids)
        said.append(
            read_answer(tokenizer.backend_tokenizer, given, summary["end_of_turn"]["ids"], summary["answer"]).text
        )
    return prompts, said


def compare(root: Path, count: int) -> Outcome:
    """Ask all of them the same questions."""
    from retune.chat.gguf_model import open_gguf
    from retune.chat.torch_model import open_base
    from stages.core.files import read_json
    from tests.oracle.served_prompts import open_server

    questions = read_questions(root, count)
    os.chdir(root)
    (file,) = (root / "data/gguf").glob("*-q8_0.gguf")
    prompts: dict[str, list[list[int]]] = {}
    said: dict[str, list[str]] = {}
    prompts["tokenizer"], said["merged"] = ask_tokenizer(root, questions)
    speaker = open_base(root, with_adapter=True, context=CONTEXT, max_tokens=64)
    prompts["chat"], said["chat"] = ask_speaker(speaker, questions)
    with open_gguf(file, CONTEXT, 1) as opened:
        prompts["file"], said["file"] = ask_speaker(opened, questions)
    style = read_style(root / "data/tokens")
    with open_server(file, CONTEXT) as ask:
        prompts["serve"] = [ask(as_published(one.messages, style))["ids"] for one in questions]
    summary = read_json(root / "data/tokens/summary.json")
    return Outcome(
        root.name,
        describe_prompt(summary),
        read_json(root / "data/evaluation/metrics.json")["tuned"]["exact_match"],
        len(questions),
        {
            who: sum(ids != question.prompt for ids, question in zip(made, questions, strict=True))
            for who, made in prompts.items()
        },
        {
            who: sum(text.strip() != question.said for text, question in zip(texts, questions, strict=True))
            for who, texts in said.items()
        },
        {
            who: sum(text.strip() == question.reference for text, question in zip(texts, questions, strict=True))
            for who, texts in said.items()
        },
    )


def describe_prompt(summary: dict[str, Any]) -> str:
    """What was done about a gap between prompt and answer."""
    return str(summary.get("prompt", {}).get("choice", "-"))


def write_table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a markdown table."""
    asks, answers = list(outcomes[0].prompts), list(outcomes[0].answers)
    heads = [
        "combination",
        "prompt",
        "exact",
        "questions",
        *(f"prompts {who}" for who in asks),
        *(f"answers {who}" for who in answers),
    ]
    lines = [heads, ["---"] * len(heads)]
    for one in outcomes:
        exact = "-" if one.exact is None else f"{one.exact:.1%}"
        figures = [one.prompts[who] for who in asks] + [
            f"{one.answers[who]} ({one.right[who]} right)" for who in answers
        ]
        lines.append([one.name.replace("_", ", "), one.trained, exact, str(one.questions), *map(str, figures)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure(folder: Path, combinations: Sequence[Combination], steps: int, questions: int) -> Iterator[Outcome]:
    """Make, train and ask each combination; the base is fetched once."""
    templates = llama3.folder() / llama3.TEMPLATES
    shared: Path | None = None
    for combination in combinations:
        root = folder.absolute() / combination.name
        make_project(root, combination, templates, steps, questions)
        if shared is None:
            run_stages(root, FIRST)
        else:
            for name in ("base", "tokenizer", "records"):
                shutil.copytree(shared / "data" / name, root / "data" / name)
            shutil.copy(shared / "data/checked.json", root / "data")
        run_stages(root, THEN)
        yield compare_apart(root, questions)
        shared = shared or root


def compare_apart(root: Path, questions: int) -> Outcome:
    """`compare` in a process of its own: a served file stays loaded as long as its process."""
    code = "import sys, json, dataclasses; from pathlib import Path; from tests.bench.one_prompt import compare; "
    code += (
        "print('OUTCOME ' + json.dumps(dataclasses.asdict(compare(Path(sys.argv[1]), int(sys.argv[2])))), flush=True); "
    )
    code += "import os; os._exit(0)"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(root), str(questions)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in ended.stdout.splitlines() if line.startswith("OUTCOME ")]
    if not lines:
        raise RuntimeError(f"{root.name}: nothing was compared\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}")
    return Outcome(**json.loads(lines[-1].removeprefix("OUTCOME ")))


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the projects are made; it must not hold them yet")
    parser.add_argument("--only", default="", help="combinations whose name holds this")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--questions", type=int, default=40)
    given = parser.parse_args()
    chosen = [one for one in COMBINATIONS if given.only in one.name]
    if not chosen:
        parser.error(f"no combination holds {given.only}: {', '.join(one.name for one in COMBINATIONS)}")
    outcomes = []
    for outcome in measure(given.folder, chosen, given.steps, given.questions):
        outcomes.append(outcome)
        print(write_table([outcome]).splitlines()[-1], flush=True)  # noqa: T201 - the table is what it is for
    print(write_table(outcomes))  # noqa: T201


if __name__ == "__main__":
    main()
