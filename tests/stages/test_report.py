import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages.files import write_json
from stages.report import HEIGHT, SHOWN_TOKENS, WIDTH, ReportParams, curves, number, percent, report, size, small
from stages.tables import write_parquet
from tests.token_files import ids_and_labels, write_token_files


def test_curves_train_and_heldout_share_one_scale() -> None:
    log = [{"step": 5, "loss": 4.0, "eval_loss": None}, {"step": 10, "loss": 2.0, "eval_loss": 1.0}]
    drawn = curves(log)
    assert drawn["train"] == f"{WIDTH / 2:.1f},0.0 {WIDTH:.1f},{HEIGHT / 2:.1f}"
    assert drawn["heldout"] == f"{WIDTH:.1f},{HEIGHT * 0.75:.1f}"
    assert drawn["last_step"] == 10


def test_curves_of_nothing_are_empty() -> None:
    assert curves([])["train"] == ""


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2141664, "2.0 MiB"), (6 * 2**30, "6.00 GiB")]
)
def test_size_is_said_in_the_unit_that_fits(count: int, said: str) -> None:
    assert size(count) == said


def test_nothing_measured_is_a_dash_and_never_zero() -> None:
    assert {number(None), percent(None), small(None)} == {"\N{EN DASH}"}
    assert (number(0.0, 1), percent(0.0), number(12345), small(0.0000143)) == ("0.0", "0.0%", "12,345", "1.4e-05")


# --- the pages -----------------------------------------------------------------------------------------------------

HOSTILE = "</span><script>alert(1)</script> <img src=x onerror=alert(1)> & \x1b[31m \u202e"


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
    }
    return {
        "audit/verdict.json": {"passed": True, "checks": [], "reasons": []},
        "audit/provenance.json": {"chain": chain},
        "data/messages/summary.json": {"raw": 5, "rules": {"duplicate": 1}, "excluded": 1},
        "data/tokens/summary.json": {
            "splits": {"train": {"rows": 2, "labelled_tokens": 9}, "heldout": {"rows": 1}},
            "rejected": {},
        },
        "metrics.json": {"rows": 1, "answers": 1, "base": measures, "tuned": measures},
        "ggufs.json": {"rows": [], "split": "heldout", "files": {}},
    }


def made(root: Path, rows: list[tuple[str, str]], examples: int) -> tuple[str, str]:
    """The report's page and the model card of a run on (question, answer) rows."""
    write_token_files(root / "data", rows, [("held", "out")])
    for name, value in facts().items():
        write_json(root / name, value)
    (root / "steps.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0, "eval_loss": None}) + "\n")
    answer = {"row_id": "ab" * 16, "turn": 0, "reference": HOSTILE, "base_answer": "b", "tuned_answer": "t"}
    write_parquet(
        root / "answers.parquet", pa.Table.from_pylist([{**answer, "base_match": None, "tuned_match": None}] * 9)
    )
    report(
        audit=root / "audit",
        messages=root / "data/messages",
        tokens=root / "data/tokens",
        steps=root / "steps.jsonl",
        metrics=root / "metrics.json",
        answers=root / "answers.parquet",
        ggufs=root / "ggufs.json",
        report=root / "report",
        params=ReportParams(title="A model", examples=examples, license=None),
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


def test_report_model_card_names_every_source(tmp_path: Path) -> None:
    _, card = made(tmp_path, [("a", "b")], examples=0)
    assert "datasets:\n- o/one\n- o/two\n" in card
    assert f"on `o/one` at `{'b' * 40}`, `data/custom/own.jsonl` and `o/two` at `{'c' * 40}`: 2 conv" in card
