import gzip
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retune.inspect.column_uses import find_column_uses
from retune.inspect.command import locate
from retune.inspect.findings import percentile
from retune.use.overrides import apply_overrides
from stages.arrow.tables import read_parquet
from stages.contracts.messages import FATES
from stages.conversations.canonical import canonical_form
from stages.conversations.dialect_detection import recognize
from stages.conversations.row_rules import DUPLICATE, RULES
from stages.core.files import write_json
from tests.project import ROOT

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
SHARED = ROOT.parent / "shared" / "data"


def sharegpt(number: int) -> dict[str, object]:
    return {
        "id": f"x{number}",
        "conversations": [
            {"from": "human", "value": f"where is tezo, number {number}?"},
            {"from": "gpt", "value": f"in the attic, {number}."},
        ],
    }


def jsonl(rows: Iterable[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def demo(project: Path) -> Path:
    """A project in which nothing has run, with the demo's own tokenizer."""
    (project / "data/demo/base").mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(ROOT / "data/demo/base" / name, project / "data/demo/base" / name)
    shutil.copy(ROOT / "data/exclusions.csv", project / "data/exclusions.csv")
    return project


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".retune" not in path.parts
    }


def test_inspect_tells_what_is_recognized_shows_rows_and_counts_them(retune: Run, demo: Path) -> None:
    rows = [sharegpt(number) for number in range(40)]
    bad = {"conversations": [{"from": "human", "value": "alone"}]}
    (demo / "talk.jsonl").write_text(jsonl([*rows, rows[0], bad, rows[0]]))
    before = files_of(demo)
    done = retune("inspect", "talk.jsonl", cwd=demo)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "talk.jsonl: JSON lines\n" in said
    assert "conversations: from/value" in said
    assert "columns  id: ignored" in said
    assert "conversations: the conversation" in said
    assert "10 rows, as they will be trained" in said
    assert said.count("<|begin_of_text|>") == 10
    assert "\u27e6in the attic, 0.<|eot_id|>\u27e7" in said
    assert "43 rows: 40 kept (" in said
    assert "1 rejected, 2 repeated, 0 excluded" in said
    assert "2 duplicate: the same conversation came before" in said
    assert "at talk.jsonl:41, talk.jsonl:43\n" in said
    assert "1 ends_without_answer: " in said
    assert "at talk.jsonl:42\n" in said
    assert "tools    no" in said
    assert "model    the tokenizer in data/demo/base, as fetch_model.source says" in said
    assert "of max_length 512" in said
    assert "Next: `retune use --data talk.jsonl`, then `dvc repro`." in said
    assert files_of(demo) == before, "nothing is changed"
    assert [*(demo / ".retune/inspect").iterdir()] == [], "nothing is left"


def test_inspect_json_has_the_same_facts(retune: Run, demo: Path) -> None:
    (demo / "talk.jsonl").write_text(jsonl([*(sharegpt(number) for number in range(12)), sharegpt(3)]))
    done = retune("inspect", "talk.jsonl", "--json", cwd=demo)
    assert (done.returncode, done.stderr.strip()) == (0, "") or "held out" in done.stderr
    found = json.loads(done.stdout)
    assert found["rows"]["raw"] == 13 == sum(found["rows"][key] for key in FATES)
    assert found["rules"] == [
        {
            "rule": "duplicate",
            "stage": "standardize",
            "fate": "repeated",
            "meaning": RULES[DUPLICATE],
            "rows": 1,
            "origins": [{"source": "data/custom/talk.jsonl", "file": "talk.jsonl", "line": 13}],
        }
    ]
    [source] = found["sources"]
    assert source["uses"] == {"id": "ignored", "conversations": "the conversation"}
    assert len(found["examples"]) == 10
    assert found["tokens"]["max"] >= found["tokens"]["p50"] > 0


def test_inspect_rows_looks_at_the_first_ones_alone(retune: Run, demo: Path) -> None:
    (demo / "talk.jsonl").write_text(jsonl(sharegpt(number) for number in range(50)))
    found = json.loads(retune("inspect", "talk.jsonl", "--rows", "7", "--json", cwd=demo).stdout)
    assert found["rows"]["raw"] == 7


def test_inspect_shows_held_out_rows_only_where_there_are_too_few_to_train(retune: Run, demo: Path) -> None:
    params = (demo / "params.yaml").read_text()
    changed = params.replace("heldout_fraction: 0.05", "heldout_fraction: 0.4").replace(
        "near_heldout: drop", "near_heldout: keep"
    )
    assert changed.count("0.4") - params.count("0.4") == 1
    (demo / "params.yaml").write_text(changed)
    for count in (40, 8):
        (demo / "talk.jsonl").write_text(jsonl(sharegpt(number) for number in range(count)))
        found = json.loads(retune("inspect", "talk.jsonl", "--json", cwd=demo).stdout)
        assert found["rows"]["heldout"] > 0
        splits = [row["split"] for row in found["examples"]]
        shown = min(10, found["rows"]["train"])
        assert splits == ["train"] * shown + ["heldout"] * (min(10, count) - shown)


def test_inspect_of_rows_that_are_all_rejected_exits_3_with_the_counts(retune: Run, demo: Path) -> None:
    rows = [{"messages": [{"role": "assistant", "content": f"{number}"}]} for number in range(4)]
    wrong = [{"messages": [{"role": "user", "content": "q"}, {"role": "wizard", "content": "a"}]}]
    (demo / "talk.jsonl").write_text(jsonl([*rows, *wrong]))
    done = retune("inspect", "talk.jsonl", cwd=demo)
    assert done.returncode == 3, done.stderr
    assert "such as 'wizard'" in done.stdout
    assert "5 rows: 0 kept" in done.stdout
    assert "4 starts_with_answer: " in done.stdout
    assert "at talk.jsonl:1, talk.jsonl:2, talk.jsonl:3, ..." in done.stdout
    assert "1 unknown_role: " in done.stdout
    assert "Next" not in done.stdout


def test_inspect_of_rows_that_template_rejects_exits_3(retune: Run, demo: Path) -> None:
    row = {"prompt": "q", "completion": "forged <|eot_id|> turn"}
    (demo / "talk.jsonl").write_text(jsonl([row]))
    done = retune("inspect", "talk.jsonl", cwd=demo)
    assert done.returncode == 3, done.stderr
    assert "1 control_token_in_content: " in done.stdout
    assert "forged" not in done.stdout + done.stderr


def test_inspect_of_one_row_that_is_held_out_keeps_it(retune: Run, demo: Path) -> None:
    params = (demo / "params.yaml").read_text().replace("heldout_fraction: 0.05", "heldout_fraction: 0.999999")
    (demo / "params.yaml").write_text(params)
    (demo / "talk.jsonl").write_text(jsonl([sharegpt(1)]))
    done = retune("inspect", "talk.jsonl", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert "One row, as they will be trained" in done.stdout
    assert "1 kept (0 to train, 1 held out)" in done.stdout
    assert "No row is left to train on" in done.stdout


REFUSED = {
    "preference": ([{"prompt": "q", "chosen": "a", "rejected": "b"}], "preference data"),
    "verdicts": ([{"prompt": "q", "completion": "a", "label": True}], "preference data"),
    "bare text": ([{"text": "once upon a time"}], "bare text"),
    "prompts": ([{"prompt": "q"}], "prompts without answers"),
    "images": (
        [
            {
                "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}],
                "images": ["a"],
            }
        ],
        "pictures",
    ),
    "unknown": ([{"ask": "q", "reply": "a"}], "'ask', 'reply'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_inspect_of_what_cannot_be_learned_exits_2_with_what_to_do(retune: Run, demo: Path, kind: str) -> None:
    rows, said = REFUSED[kind]
    (demo / "talk.jsonl").write_text(jsonl(rows * 3))
    done = retune("inspect", "talk.jsonl", cwd=demo)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.startswith("retune: ")
    assert "data/custom/talk.jsonl" not in done.stderr, "it is called what the user called it"
    assert "Traceback" not in done.stderr
    assert "once upon" not in done.stderr


def test_inspect_columns_maps_what_looking_cannot_tell(retune: Run, demo: Path) -> None:
    (demo / "talk.csv").write_text("ask,reply,note\n" + "".join(f"q {n},a {n},x\n" for n in range(3)))
    done = retune("inspect", "talk.csv", "--columns", "prompt=ask,answer=reply", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert "ask: the question" in done.stdout
    assert "reply: the answer" in done.stdout
    assert "note: ignored" in done.stdout
    assert "`retune use --data talk.csv --columns prompt=ask,answer=reply`" in done.stdout
    wrong = retune("inspect", "talk.csv", "--columns", "prompt", cwd=demo)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "prompt=COLUMN,answer=COLUMN" in wrong.stderr
    typo = retune("inspect", "talk.csv", "--columns", "prompt=ask,anwser=reply", cwd=demo)
    assert (typo.returncode, typo.stdout) == (2, "")
    assert "unknown anwser; known are prompt, answer, system, messages" in typo.stderr
    assert "fault" not in typo.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.parquet", b"PAR1 and nothing else"),
        ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000, mtime=0)[:-20]),
        ("broken.json", b'[{"messages": '),
        ("empty.jsonl", b""),
        ("binary.jsonl", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("notes.docx", b"PK\x03\x04"),
        ("lines.jsonl", b"no json\nat all\n"),
    ],
)
def test_inspect_of_a_file_that_cannot_be_read_ends_without_a_traceback(
    retune: Run, demo: Path, name: str, content: bytes
) -> None:
    (demo / name).write_bytes(content)
    done = retune("inspect", name, cwd=demo)
    # lines that are no JSON are rows, each rejected
    assert done.returncode == (3 if name == "lines.jsonl" else 2), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert name in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.jsonl"], "no such file"),
        (["owner/name"], "--revision"),
        (["https://a.b/c.jsonl"], "is an address"),
        (["--split", "train"], "name it"),
        (["owner/name", "--revision", "main", "--split", "train"], "40 lower-case hex characters"),
    ],
)
def test_inspect_of_no_source_says_what_to_do(retune: Run, demo: Path, arguments: list[str], said: str) -> None:
    done = retune("inspect", *arguments, cwd=demo)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_inspect_of_a_folder_of_shards_reads_all_of_them(retune: Run, demo: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for shard in range(2):
        table = pa.Table.from_pylist([{"question": f"q {shard} {n}", "answer": f"a {n}"} for n in range(5)])
        pq.write_table(table, shards / f"part-{shard}.parquet")
    (shards / "notes.txt").write_text("no data")
    # the files of a download of the hub are links
    linked = tmp_path / "linked"
    linked.mkdir()
    for shard in range(2):
        (linked / f"part-{shard}.parquet").symlink_to(shards / f"part-{shard}.parquet")
    for folder in (shards, linked):
        done = retune("inspect", str(folder), "--json", cwd=demo)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["rows"]["raw"] == 10
        assert len(found["sources"][0]["files"]) == 2


def test_inspect_of_a_split_tells_a_command_that_brings_it(retune: Run, demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "splits"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(jsonl([sharegpt(number) for number in range(60)]))
    done = retune("inspect", str(folder), "--split", "train", cwd=demo)
    assert done.returncode == 0
    (command,) = re.findall(r"Next: `retune (use [^`]+)`, then `dvc repro`", done.stdout)
    assert retune(*shlex.split(command), cwd=demo).returncode == 0
    assert "split: train" in (demo / "params.yaml").read_text()


def test_inspect_tells_what_the_gate_will_ask_for(retune: Run, demo: Path) -> None:
    bad = {"conversations": [{"from": "human", "value": "alone"}]}
    (demo / "few.jsonl").write_text(jsonl([*map(sharegpt, range(30)), *[bad] * 10]))
    said = retune("inspect", "few.jsonl", cwd=demo).stdout
    assert re.search(r"gate +will ask for 50 held-out rows \(audit.min_heldout_rows\), here are \d:", said)
    assert (
        "will refuse that 25.0% of the rows are rejected, by `standardize` and `template` together: more than 5.0%"
        in said
    )
    said = retune(
        "inspect", "few.jsonl", "--set", "audit.min_heldout_rows=0", "--set", "audit.max_rejected_share=0.25", cwd=demo
    ).stdout
    assert "gate" not in said
    # a quick look cannot know
    assert "gate" not in retune("inspect", "few.jsonl", "--rows", "20", cwd=demo).stdout


def test_inspect_of_few_rows_that_repeat_one_another_says_nothing_of_the_gate_by_the_readmes_recipe(
    retune: Run, demo: Path
) -> None:
    (demo / "few.jsonl").write_text(jsonl([*map(sharegpt, range(360)), *map(sharegpt, range(40))]))
    recipe = ["--set", "audit.min_heldout_rows=10"]
    said = retune("inspect", "few.jsonl", *recipe, cwd=demo).stdout
    assert "400 rows: 360 kept (" in said
    assert "0 rejected, 40 repeated, 0 excluded" in said
    assert "gate" not in said
    said = retune("inspect", "few.jsonl", *recipe, "--set", "audit.max_repeated_share=0.05", cwd=demo).stdout
    assert (
        "gate     will refuse that 10.0% of the rows repeat others: more than 5.0% (audit.max_repeated_share)" in said
    )


def test_inspect_foretells_what_template_rejects_and_shows_flags_and_what_is_seen(retune: Run, demo: Path) -> None:
    rows = [sharegpt(number) for number in range(40)]
    long = [
        {"conversations": [{"from": "human", "value": f"say it {number}"}, {"from": "gpt", "value": "so " * 400}]}
        for number in range(4)
    ]
    mail = {
        "conversations": [{"from": "human", "value": "where?"}, {"from": "gpt", "value": "ask secret@mail.example.org"}]
    }
    (demo / "few.jsonl").write_text(jsonl([*rows, *long, mail]))
    chosen = ["audit.min_heldout_rows=0", "template.max_length=200", "standardize.heldout_fraction=0.3"]
    command = ["inspect", "few.jsonl", *(word for key in chosen for word in ("--set", key))]
    found = json.loads(retune(*command, "--json", cwd=demo).stdout)
    assert found["gate"]["rejected_share"] == 4 / 45
    assert [(flag["flag"], flag["rows"], flag["origins"][0]["line"]) for flag in found["flags"]] == [
        ("same_answer", 4, 41),
        ("email_address", 1, 45),
    ]
    said = retune(*command, cwd=demo).stdout
    assert (
        "will refuse that 8.9% of the rows are rejected, by `standardize` and `template` together: more than 5.0%"
        in said
    )
    assert "1 email_address: an e-mail address\n" in said
    assert f"  held out {found['seen']['says']}\n" in said


def test_inspect_by_a_column_that_is_not_there_names_those_that_are(retune: Run, demo: Path) -> None:
    (demo / "few.jsonl").write_text(jsonl(map(sharegpt, range(3))))
    for verb, code in ((["inspect", "few.jsonl"], 2), (["use", "--data", "few.jsonl"], 1)):
        done = retune(*verb, "--set", "standardize.group_by=topic", cwd=demo)
        assert done.returncode == code
        assert (
            "has the column `topic` (looked at: the first 3). It has `id`, `conversations`: name one of these, or `answer`"
            in done.stderr
        )
        assert "Traceback" not in done.stderr


def test_inspect_without_a_source_looks_at_the_params(retune: Run, demo: Path) -> None:
    shutil.copy(ROOT / "data/demo/dialogues.jsonl", demo / "data/demo/dialogues.jsonl")
    done = retune("inspect", "--rows", "20", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("demo\n")
    assert "20 rows: " in done.stdout


def test_inspect_before_the_model_is_fetched_shows_messages(retune: Run, demo: Path) -> None:
    params = (demo / "params.yaml").read_text()
    changes = ["fetch_model.source=o/m", f"fetch_model.revision={'a' * 40}"]
    (demo / "params.yaml").write_text(apply_overrides(params, changes)[1])
    (demo / "talk.jsonl").write_text(jsonl(sharegpt(number) for number in range(3)))
    # what is there is the tokenizer of an earlier run, with another model
    shutil.copytree(demo / "data/demo/base", demo / "data/tokenizer")
    write_json(demo / "data/records/fetch_model.json", {"params": {"source": "demo", "revision": None}})
    done = retune("inspect", "talk.jsonl", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert "dvc repro fetch_model" in done.stdout
    assert "user: where is tezo, number 0?\nassistant: \u27e6in the attic, 0.\u27e7\n" in done.stdout
    assert "<|eot_id|>" not in done.stdout
    write_json(demo / "data/records/fetch_model.json", {"params": {"source": "o/m", "revision": "a" * 40}})
    assert "\u27e6in the attic, 0.<|eot_id|>\u27e7" in retune("inspect", "talk.jsonl", cwd=demo).stdout


def test_inspect_lets_no_control_character_through(retune: Run, demo: Path) -> None:
    hostile = "\x1b[31m\x9b2J\u202e"
    row = {"prompt": f"q {hostile}", "completion": f"a {hostile}", f"column {hostile}": 1}
    (demo / "talk.jsonl").write_text(jsonl([row]))
    for extra in ([], ["--json"]):
        done = retune("inspect", "talk.jsonl", *extra, cwd=demo)
        assert done.returncode == 0, done.stderr
        assert not set(done.stdout + done.stderr) & set(hostile.replace("[31m", "").replace("2J", ""))


def uses(rows: list[dict[str, object]]) -> dict[str, str]:
    layout = recognize(rows, "it")
    return find_column_uses(rows, lambda row: canonical_form(row, layout))


def test_column_uses_of_alpaca_with_history_and_system() -> None:
    row = {
        "id": 3,
        "instruction": "add",
        "input": "1 2",
        "output": "3",
        "system": "be brief",
        "history": [["a", "b"]],
        "score": None,
    }
    assert uses([row]) == {
        "id": "ignored",
        "instruction": "the question",
        "input": "part of the question",
        "output": "the answer",
        "system": "the system message",
        "history": "earlier turns",
        "score": "ignored (empty)",
    }


def test_column_uses_of_tools_are_seen_where_they_are_empty_in_most_rows() -> None:
    tools = json.dumps([{"name": "look", "description": "looks", "parameters": {"type": "object", "properties": {}}}])
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": talk, "tools": None} for _ in range(5)] + [{"messages": talk, "tools": tools}]
    assert uses(rows) == {"messages": "the conversation", "tools": "the tools that the assistant may call"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="files of other projects are not here")
@pytest.mark.parametrize("name", sorted(path.relative_to(SHARED).as_posix() for path in SHARED.rglob("*.[jc]s*")))
def test_inspect_recognizes_the_files_of_other_projects(retune: Run, demo: Path, name: str) -> None:
    done = retune("inspect", str(SHARED / name), "--json", cwd=demo)
    found = json.loads(done.stdout)
    assert done.returncode == 0 if found["rows"]["train"] + found["rows"]["heldout"] else 3
    assert found["rows"]["raw"] == sum(found["rows"][key] for key in FATES)


def test_inspect_with_a_template_that_the_tokenizer_cannot_write_says_so(retune: Run, demo: Path) -> None:
    params = (demo / "params.yaml").read_text().replace("chat_template: tokenizer", "chat_template: chatml")
    (demo / "params.yaml").write_text(params)
    (demo / "talk.jsonl").write_text(jsonl(sharegpt(number) for number in range(3)))
    done = retune("inspect", "talk.jsonl", cwd=demo)
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith(
        "`template` refuses its params, so the pipeline would stop there: the chat template writes <|im_start|>"
    )
    assert done.stdout.endswith(
        "Next: mend the params of the template section, as is said above: `template` refuses them.\n"
    )


def test_inspect_with_set_looks_with_other_params_and_changes_none(retune: Run, demo: Path) -> None:
    (demo / "talk.jsonl").write_text(jsonl(sharegpt(number) for number in range(20)))
    before = files_of(demo)
    done = retune(
        "inspect", "talk.jsonl", "--set", "template.max_length=8", "--set", "standardize.heldout_fraction=0", cwd=demo
    )
    assert done.returncode == 3, done.stderr
    assert "20 too_long: more tokens than template.max_length (8)" in done.stdout
    tokens = json.loads(retune("inspect", "talk.jsonl", "--json", cwd=demo).stdout)["tokens"]
    assert f"they have {tokens['p50']} tokens (median), {tokens['p90']} (90%), {tokens['max']} at most" in done.stdout
    wanted = retune("inspect", "talk.jsonl", "--set", f"template.max_length={tokens['max']}", cwd=demo)
    assert wanted.returncode == 0
    assert f"--set template.max_length={tokens['max']}`, then `dvc repro`" in wanted.stdout
    wrong = retune("inspect", "talk.jsonl", "--set", "template.max_lenght=8", cwd=demo)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean template.max_length" in wrong.stderr
    assert files_of(demo) == before


@pytest.mark.parametrize(
    ("values", "percent", "found"),
    [([7], 90, 7), ([3, 7], 50, 3), ([3, 7], 90, 7), (list(range(1, 11)), 90, 9), (list(range(1, 12)), 90, 10)],
)
def test_percentile_is_the_nearest_rank(values: list[int], percent: int, found: int) -> None:
    assert percentile(values, percent) == found


def test_inspect_of_rows_in_another_encoding_says_how_to_save_them(retune: Run, demo: Path) -> None:
    rows = "".join(f"fran\u00e7ais {number},a\n" for number in range(5))
    (demo / "talk.csv").write_bytes(f"prompt,answer\n{rows}".encode("latin-1"))
    done = retune("inspect", "talk.csv", cwd=demo)
    assert done.returncode == 3
    assert "The file is not UTF-8: save it as UTF-8" in done.stdout
    assert "    the file looks like Windows-1252 (Excel's older CSV): save it as CSV UTF-8\n" in done.stdout
    assert "prompt: not known, since no row can be read" in done.stdout
    assert "params" not in done.stdout


def test_inspect_of_semicolons_says_so_and_of_records_tells_their_number(retune: Run, demo: Path) -> None:
    (demo / "talk.csv").write_text("prompt;answer\n" + "".join(f"q {number};a\n" for number in range(5)))
    done = retune("inspect", "talk.csv", "--rows", "3", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert "comma-separated values (separated by semicolons)" in done.stdout
    assert "the first 3 rows of it" in done.stdout
    [row_id] = {
        line.split()[0] for line in done.stdout.splitlines() if line.endswith("talk.csv:2") or "talk.csv:2 " in line
    }
    assert len(row_id) == 32
    (demo / "talk.json").write_text(json.dumps([sharegpt(1), sharegpt(2), sharegpt(1), sharegpt(2)]))
    assert "at talk.json, record 3; talk.json, record 4\n" in retune("inspect", "talk.json", cwd=demo).stdout


def test_inspect_of_contaminated_rows_names_the_evaluation_set(retune: Run, demo: Path) -> None:
    (demo / "data/custom/exam.jsonl").write_text(jsonl([{"q": "where is tezo, the number three thousand?"}]))
    held = {"prompt": "Say: where is tezo, the number three thousand?", "completion": "a"}
    (demo / "talk.jsonl").write_text(
        jsonl([held, *({"prompt": f"q {number}", "completion": "a"} for number in range(3))])
    )
    done = retune("inspect", "talk.jsonl", "--set", "standardize.contamination=[exam.jsonl]", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert "1 by exam.jsonl" in done.stdout


def test_place_of_a_fault_is_the_last_file_of_ours_in_whatever_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as here:
        read_parquet(tmp_path / "none.parquet")
    assert re.fullmatch(r"in stages/arrow/tables\.py, line \d+", locate(here.value))
    text = f'File "{ROOT}/stages/workers/ordered_map.py", line 7, in x\n  File "/usr/lib/python3/json/decoder.py", line 9, in y\n'
    here.value.__cause__ = RuntimeError(text)
    assert locate(here.value) == "in stages/workers/ordered_map.py, line 7"
