import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import markupsafe
import pyarrow as pa
import pytest

from stages.arrow.tables import write_parquet
from stages.chat import row_rules as template_rules
from stages.contracts.evaluation import ANSWERS_SCHEMA
from stages.contracts.tokens import count_labelled, read_tokens
from stages.conversations import row_rules as standardize_rules
from stages.core.files import write_json
from stages.report import (
    HEIGHT,
    WIDTH,
    ReportParams,
    describe_merges,
    draw_curves,
    format_beside,
    format_number,
    format_percent,
    format_signed,
    format_size,
    format_small,
    report,
)
from stages.reporting.shown_rows import SHOWN_TOKENS
from tests.adapter_files import write_training
from tests.token_files import ids_and_labels, write_token_files


def test_curves_train_and_heldout_share_one_scale() -> None:
    log = [{"step": 5, "loss": 4.0, "eval_loss": None}, {"step": 10, "loss": 2.0, "eval_loss": 1.0}]
    drawn = draw_curves(log)
    assert drawn["train"] == f"{WIDTH / 2:.1f},0.0 {WIDTH:.1f},{HEIGHT / 2:.1f}"
    assert drawn["heldout"] == f"{WIDTH:.1f},{HEIGHT * 0.75:.1f}"
    assert drawn["last_step"] == 10


def test_curves_of_nothing_are_empty() -> None:
    assert draw_curves([])["train"] == ""


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 kB"), (2041664, "2.0 MB"), (6 * 10**9, "6.00 GB")]
)
def test_size_is_said_in_the_unit_that_fits(count: int, said: str) -> None:
    assert format_size(count) == said


def test_nothing_measured_is_a_dash_and_never_zero() -> None:
    assert {format_number(None), format_percent(None), format_small(None), format_signed(None)} == {"\N{EN DASH}"}
    assert (format_number(0.0, 1), format_percent(0.0), format_number(12345), format_small(0.0000143)) == (
        "0.0",
        "0.0%",
        "12,345",
        "1.4e-05",
    )


def test_difference_is_said_in_words() -> None:
    assert (format_beside(0.00123), format_beside(-0.5), format_beside(0.0)) == (
        "0.0012 above",
        "0.5 below",
        "equal to",
    )


# --- the pages -----------------------------------------------------------------------------------------------------

HOSTILE = "</span><script>alert(1)</script> <img src=x onerror=alert(1)> & \x1b[31m \u202e"


QUALITY = {
    "kl": 0.0037,
    "kl_error": 0.0002,
    "top_1_agreement": 0.99,
    "perplexity": 2.4,
    "exact_match": 0.95,
    "answers_equal": 4,
}
FILE = {"quantization": "q8_0", "bytes": 4_000_000, "imatrix": False, "fallbacks": {}, "quality": QUALITY}
GGUFS: dict[str, Any] = {
    "rows": ["a"],
    "split": "heldout",
    "merged": {"perplexity": 2.0, "exact_match": 0.96},
    "merged_dtype": "float32",
    "files": {"m-q8_0.gguf": FILE},
    "imatrix": None,
    "lora": None,
    "lora_left_out": None,
    "origin": {"license": "llama3.2"},
}
MERGE: dict[str, Any] = {
    "into": "base16",
    "max_logit_difference": 0.01,
    "load_in_4bit": True,
    "rows": 16,
    "positions": 640,
    "losses": {
        "base": 2.5,
        "adapter_base16": 1.002,
        "adapter_4bit": 1.0,
        "merged_base16": 1.003,
        "merged_dequantized_nf4": 0.9995,
    },
}


VERDICT: dict[str, Any] = {
    "passed": True,
    "reasons": [],
    "judged": {"data/records/train.json": "d" * 64},
    "checks": [
        {"name": "loss_gain", "found": 1.0, "floor": 0.5, "passed": True, "says": "the held-out loss fell by 1.000"}
    ],
}


def facts() -> dict[str, Any]:
    """What the other stages wrote, as little of it as the pages need: {file: JSON}."""
    measures = {"loss": 1.0, "perplexity": 2.7, "token_accuracy": 0.5, "exact_match": None}
    chain = {
        "fetch_model": {"params": {"source": "o/model", "revision": "a" * 40}, "inputs": {}, "outputs": {}},
        "fetch_data": {
            "params": {
                "sources": [
                    {"source": "o/one", "revision": "b" * 40},
                    {"source": "data/custom/own.jsonl", "revision": None},
                    {"source": "o/two", "revision": "c" * 40},
                ]
            },
            "inputs": {},
            "outputs": {},
        },
        "standardize": {"params": {"flagged": "keep"}, "inputs": {}, "outputs": {}},
        "gguf": {"params": {"quantizations": ["q8_0", "q4_k_m"]}, "inputs": {}, "outputs": {}},
    }
    return {
        "audit/verdict.json": VERDICT,
        "audit/provenance.json": {"chain": chain},
        "data/messages/summary.json": {
            "raw": 5,
            "rules": {"duplicate": 1},
            "excluded": 1,
            "heldout": 1,
            "flags": {},
            "ignored": {"columns": {}, "message_keys": {}, "more": 0},
            "handed_on": {},
            **dict.fromkeys(("nulls_removed", "numbers_as_text", "tools_not_shown", "merged", "greetings"), 0),
            "seen": {"says": "1 of 1 held-out answers also stand in training"},
        },
        "data/tokens/summary.json": {
            "splits": {"train": {"rows": 2, "labelled_tokens": 9}, "heldout": {"rows": 1}},
            "rejected": {},
            "chat_template": {"says": {"system": "written", "end of turn": "'<|eot|>' is <b>trained</b>"}},
        },
        "metrics.json": {"rows": 1, "answers": 1, "base": measures, "tuned": measures},
        "merge.json": MERGE,
        "ggufs.json": GGUFS,
    }


def made(
    root: Path,
    rows: list[tuple[str, str]],
    examples: int,
    flagged: dict[str, list[str]] | None = None,
    adapter: Callable[[Path, Path], object] | None = None,
    **changed: Any,
) -> tuple[str, str]:
    """The report's page and the model card of a run on (question, answer) rows; `changed` files by their stem.

    `flagged`: flags of rows by their question; `adapter`: writes the files of the training, from data/tokens (None: one step of all rows).
    """
    write_token_files(root / "data", rows, [("held", "out")], flagged or {})
    for name, value in (facts() | {f"{stem}.json": value for stem, value in changed.items()}).items():
        write_json(root / name, value)
    if adapter is None:
        table = read_tokens(root / "data/tokens/train.arrow")
        labelled = dict(zip(table["row_id"].to_pylist(), count_labelled(table).to_pylist(), strict=True))
        write_training(root / "adapter", {name: [1] for name in labelled}, labelled)
    else:
        adapter(root / "data/tokens", root / "adapter")
    answer = {"row_id": "ab" * 16, "turn": 0, "reference": HOSTILE, "base_answer": "b", "tuned_answer": "t"}
    answer |= {"reference_thoughts": HOSTILE, "base_thoughts": None, "tuned_thoughts": "so it is"}
    answer |= {"prompt_tokens": 3, "base_match": None, "tuned_match": None}
    write_parquet(root / "answers.parquet", pa.Table.from_pylist([answer] * 9, schema=ANSWERS_SCHEMA))
    report(
        audit=root / "audit",
        messages=root / "data/messages",
        tokens=root / "data/tokens",
        adapter=root / "adapter",
        metrics=root / "metrics.json",
        answers=root / "answers.parquet",
        merge=root / "merge.json",
        ggufs=root / "ggufs.json",
        report=root / "report",
        figures=root / "export.json",
        params=ReportParams(title="A model", examples=examples),
    )
    return (root / "report/index.html").read_text(), (root / "report/README.md").read_text()


class Talks(HTMLParser):
    """The conversations of a page: [(classes, text) of each run], by conversation; and every tag that is there."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.talks: list[list[tuple[str, str]]] = []
        self.tags: set[str] = set()
        self.inside: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if ("class", "talk") in attrs:
            self.talks.append([])
        self.inside = dict(attrs).get("class") or "" if tag == "span" and self.talks else None

    def handle_endtag(self, _: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside is not None:
            self.talks[-1].append((self.inside, data))


def test_report_says_what_the_template_does(tmp_path: Path) -> None:
    page, _ = made(tmp_path, [("where?", "there")], examples=0)
    assert "<td>system</td><td>written</td>" in page
    assert "&#39;&lt;|eot|&gt;&#39; is &lt;b&gt;trained&lt;/b&gt;" in page


def test_report_shows_thoughts_above_the_answer_they_led_to(tmp_path: Path) -> None:
    page, _ = made(tmp_path, [("where?", "there")], examples=2)
    assert page.count('<div class="soft">so it is</div>t</td>') == 2
    assert "only the answer is compared" in page


def test_report_shows_conversations_with_what_is_trained_apart(tmp_path: Path) -> None:
    page, _ = made(tmp_path, [("where is tezo?", "in the attic."), ("and now?", "gone.\n")], examples=12)
    assert Talks(page).talks[0] == [
        ("control", "<|begin_of_text|>"),
        ("control", "<|start_header_id|>"),
        ("", "user"),
        ("control", "<|end_header_id|>"),
        ("", "\n\nwhere is tezo?"),
        ("control", "<|eot_id|>"),
        ("control", "<|start_header_id|>"),
        ("", "assistant"),
        ("control", "<|end_header_id|>"),
        ("", "\n\n"),
        ("trained", "in the attic."),
        ("trained control", "<|eot_id|>"),
    ]
    assert len(Talks(page).talks) == 2


def test_report_escapes_hostile_text_of_a_dataset(tmp_path: Path) -> None:
    page, _ = made(tmp_path, [(HOSTILE, HOSTILE)], examples=1)
    seen = Talks(page)
    assert not seen.tags & {"script", "img"}
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert ("trained", HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")) in seen.talks[0]


@pytest.mark.parametrize(("examples", "talks"), [(0, 0), (1, 1), (12, 4)])
def test_report_shows_as_many_conversations_as_its_param_allows_and_few(
    tmp_path: Path, examples: int, talks: int
) -> None:
    page, _ = made(tmp_path, [(f"question {number}", f"secret {number}") for number in range(9)], examples)
    assert len(Talks(page).talks) == talks
    assert page.count("secret") == talks
    assert ("alert(1)" in page) == bool(examples)


def test_report_cuts_a_long_conversation_and_says_by_how_much(tmp_path: Path) -> None:
    page, _ = made(tmp_path, [("hello", "a b c d e f g h " * 200)], examples=1)
    seen = Talks(page).talks[0]
    length = len(ids_and_labels("hello", "a b c d e f g h " * 200)[0])
    assert seen[-1][1].strip() == f"\N{HORIZONTAL ELLIPSIS} {length - SHOWN_TOKENS:,} more tokens"


def test_report_says_what_each_rule_means_in_the_words_of_its_stage(tmp_path: Path) -> None:
    rule = template_rules.NOTHING_TO_TRAIN
    assert rule == standardize_rules.NOTHING_TO_TRAIN
    rows, tokens = facts()["data/messages/summary.json"], facts()["data/tokens/summary.json"]
    changed = {
        "data/messages/summary": rows | {"rules": {rule: 1}},
        "data/tokens/summary": tokens | {"rejected": {rule: 2}},
    }
    page, _ = made(tmp_path, [("a", "b")], examples=0, **changed)
    assert f'{rule}</code><div class="soft">{standardize_rules.RULES[rule]}</div></td><td class="n">1<' in page
    assert f'{rule}</code><div class="soft">{template_rules.RULES[rule]}</div></td><td class="n">2<' in page


def test_report_shows_flags_with_places_and_no_text_of_rows_with_personal_data(tmp_path: Path) -> None:
    place = {"row_id": "cd" * 16, "source": "s", "file": "a.jsonl", "line": 7}
    flags = {"email_address": {"rows": 2, "places": [place]}}
    rows = facts()["data/messages/summary.json"] | {"flags": flags}
    talks = [(f"question {number}", f"secret {number}") for number in range(3)]
    page, card = made(
        tmp_path,
        talks,
        12,
        flagged={"question 1": ["html_left_in", "email_address"]},
        **{"data/messages/summary": rows},
    )
    assert rows_of(page, "Flagged rows")[1] == [
        f"email_address  {standardize_rules.FLAGS['email_address']}",
        "2",
        "cdcdcdcd: a.jsonl, 7",
    ]
    assert len(Talks(page).talks) == 2
    assert "secret 1" not in page
    for text in (page, card):
        assert "What is held out: 1 of 1 held-out answers also stand in training." in text


def test_report_says_what_reading_left_out_and_changed_and_nothing_where_nothing_was(tmp_path: Path) -> None:
    rows = facts()["data/messages/summary.json"]
    page, _ = made(tmp_path / "nothing", [("a", "b")], examples=0)
    assert "What reading the rows" not in page
    told = {
        "ignored": {"columns": {"<id>": 1200}, "message_keys": {"messages[].score": 2}, "more": 3},
        "nulls_removed": 4,
    }
    page, _ = made(tmp_path / "some", [("a", "b")], examples=0, **{"data/messages/summary": rows | told})
    assert rows_of(page, "What reading the rows")[1:] == [
        ["&lt;id&gt;  is ignored: nothing reads it", "1,200"],
        ["messages[].score  is ignored: nothing reads it", "2"],
        ["3 more keys are ignored", ""],
        [str(markupsafe.escape(standardize_rules.CHANGES["nulls_removed"])), "4"],
    ]


def test_report_model_card_names_every_source(tmp_path: Path) -> None:
    _, card = made(tmp_path, [("a", "b")], examples=0)
    assert "datasets:\n- o/one\n- o/two\n" in card
    assert (
        f"on `o/one` at `{'b' * 40}`, `data/custom/own.jsonl` and `o/two` at `{'c' * 40}`: 1 of 1 training conversations were trained"
        in card
    )


# --- the merge and the files ----------------------------------------------------------------------------------------


def rows_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, row by row, without tags."""
    table = page[page.index(heading) :].partition("</table>")[0]
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in table.split("<tr>")[1:]]
    return [[re.sub(r"<[^>]+>", " ", cell).strip() for cell in row] for row in cells]


def test_report_gives_the_losses_of_both_merges_and_says_which_was_exported(tmp_path: Path) -> None:
    page, card = made(tmp_path, [("a", "b")], examples=0)
    assert rows_of(page, "Merged: what was trained")[1:] == [
        ["base, 16 bit", "2.5000", "", ""],
        ["adapter on the NF4 base", "1.0000", "", "what was trained"],
        ["adapter beside the 16-bit base", "1.0020", "+0.002", ""],
        ["merged into the 16-bit base", "1.0030", "+0.003", "exported"],
        ["merged into the dequantized NF4 base", "0.9995", "-0.0005", ""],
    ]
    assert "its loss is 0.003 above that of what was trained, and that of the other merge 0.0005 below it." in page
    assert "merged into the 16-bit base: held-out loss 1.0030, 0.003 above that" in card


def test_merges_of_an_adapter_that_was_trained_in_16_bit_is_held_against_that() -> None:
    losses = {**MERGE["losses"], "adapter_4bit": None, "merged_dequantized_nf4": None}
    found = describe_merges({**MERGE, "load_in_4bit": False, "losses": losses})  # type: ignore[typeddict-item]
    assert [(model.name, model.trained, model.exported) for model in found["models"]] == [
        ("adapter beside the 16-bit base", True, False),
        ("merged into the 16-bit base", False, True),
    ]
    assert (found["exported"].more, found["other"]) == (pytest.approx(0.001), None)


def test_report_of_a_model_that_was_checked_whole_claims_no_difference_from_what_was_trained(tmp_path: Path) -> None:
    losses = {**MERGE["losses"], "adapter_4bit": None, "merged_dequantized_nf4": None}
    page, _ = made(tmp_path, [("a", "b")], examples=0, merge={**MERGE, "losses": losses})
    assert [row[2:] for row in rows_of(page, "Merged: what was trained")[2:]] == [
        ["\N{EN DASH}", ""],
        ["\N{EN DASH}", "exported"],
    ]
    assert "that of what was trained" not in page


def test_report_shows_every_file_against_the_merged_model(tmp_path: Path) -> None:
    other = {**FILE, "quantization": "q4_k_m", "imatrix": True, "fallbacks": {"a": "Q4_K -> Q5_0", "b": "Q4_K -> Q5_0"}}
    lora = {
        "file": "m-lora-f16.gguf",
        "type": "f16",
        "bytes": 1_000_000,
        "over": {"quantization": "bf16"},
        "quality": QUALITY,
    }
    ggufs = {**GGUFS, "files": {"m-q8_0.gguf": FILE, "m-q4_k_m.gguf": other}, "imatrix": {"rows": 256}, "lora": lora}
    metrics = facts()["metrics.json"]
    metrics["tuned"] = metrics["tuned"] | {"exact_match": 0.9}
    page, card = made(tmp_path, [("a", "b")], examples=0, ggufs=ggufs, metrics=metrics)
    found = rows_of(page, "Files, each measured")
    assert found[1] == ["merged model, in float32", "", "", "", "", "2.000", "", "96.0%"]
    assert [row[1:] for row in found[2:]] == [
        ["4.0 MB", "0.0037 ± 0.0004", "\N{EN DASH}", "99.0%", "2.400", "1.2000", "95.0%"],
        ["4.0 MB", "0.0037 ± 0.0004", "\N{EN DASH}", "99.0%", "2.400", "1.2000", "95.0%"],
        ["1.0 MB", "0.0037 ± 0.0004", "\N{EN DASH}", "99.0%", "2.400", "1.2000", "95.0%"],
    ]
    assert [row[0].split()[0] for row in found[2:4]] == ["m-q8_0.gguf", "m-q4_k_m.gguf"], "as the params list them"
    said = " ".join(row[0] for row in found)
    assert "with the importance matrix of 256 training rows" in said
    assert "had a part in 1 of 2 files" in page
    assert "of 256 training rows had a part in 1 of 2 files" in card
    assert "2 tensors in another type, for the length of their rows: Q4_K -&gt; Q5_0" in said
    assert "the adapter alone, over the base in bf16" in said
    assert "| m-lora-f16.gguf over the base in bf16 | 1.0 MB | 0.0037 | 99.0% | 1.2000 |" in card


def test_files_show_no_exact_match_where_evaluate_was_not_to_judge_it(tmp_path: Path) -> None:
    page, _ = made(tmp_path, [("a", "b")], examples=0, ggufs={**GGUFS, "files": {"m-q8_0.gguf": FILE}})
    heads, *rows = rows_of(page, "Files, each measured")
    assert "exact match" not in heads
    assert {len(row) for row in rows} == {len(heads)} == {7}


def test_report_says_why_there_is_no_file_of_the_adapter(tmp_path: Path) -> None:
    page, _ = made(tmp_path, [("a", "b")], examples=0, ggufs={**GGUFS, "lora_left_out": "it trains rows"})
    assert "The adapter alone is no file here: it trains rows" in page


def test_report_marks_and_counts_what_is_not_judged_apart(tmp_path: Path) -> None:
    check = {"name": "m-q8_0.gguf: kl", "found": 0.0037, "floor": 0.01, "says": "near"}
    checks = [{**check, "passed": True}, {**check, "name": "m-q2_k.gguf: no floor", "floor": None, "passed": None}]
    root = tmp_path / "passed"
    page, _ = made(root, [("a", "b")], 0, **{"audit/verdict": VERDICT | {"checks": checks}})
    assert "Passed: all 1 checks" in page
    assert (
        "1 more figure is shown without a yes or no: the section <code>audit</code> of params.yaml sets no limit for it."
        in page
    )
    assert [row[0] for row in rows_of(page, "The verdict, check by check")] == ["\N{CHECK MARK}", "\N{EN DASH}"]
    assert rows_of(page, "Files, each measured")[2][3] == "0.01", "a file's KL has its floor beside it"


def test_report_figures_are_by_quantization_without_what_no_one_compares(tmp_path: Path) -> None:
    lora = {"file": "m-lora-f16.gguf", "type": "f16", "bytes": 10, "over": {"quantization": "bf16"}, "quality": QUALITY}
    made(tmp_path, [("a", "b")], 0, ggufs={**GGUFS, "lora": lora})
    found = json.loads((tmp_path / "export.json").read_text())
    assert found["gguf"]["q8_0"] == {"bytes": 4_000_000, **QUALITY}
    assert list(found["gguf"]) == ["lora_f16_over_bf16", "q8_0"]
    assert found["merge"]["losses"] == MERGE["losses"]
    assert found["merged"] == GGUFS["merged"]
