import json
from collections.abc import Iterator
from contextlib import suppress

import orjson
import pytest

from stages.conversations.canonical import canonical_form, read_conversation
from stages.conversations.dialect_detection import detect_dialect
from stages.conversations.layouts_tree import Trees, tree_turns
from stages.conversations.row_rules import RULES, Rejected
from stages.core.errors import StageError
from tests.layouts import LAYOUTS, Layout, detect, print_table, read
from tests.project import ROOT

READ = [layout for layout in LAYOUTS if layout.name]
REFUSED = [layout for layout in LAYOUTS if not layout.name]


def name_of(layout: Layout) -> str:
    return layout.sets


@pytest.mark.parametrize("layout", READ, ids=name_of)
def test_public_layout_is_recognized_and_read(layout: Layout) -> None:
    dialect = detect(layout.row)
    assert dialect.name == layout.name
    assert read(layout.row, dialect) == (layout.messages, layout.tools)


@pytest.mark.parametrize("layout", REFUSED, ids=name_of)
def test_layout_that_cannot_be_learned_from_is_refused_with_the_reason(layout: Layout) -> None:
    assert isinstance(layout.messages, str)
    with pytest.raises(StageError, match=f"(?s)(it is|layout of it) .*{layout.messages}"):
        detect(layout.row)


@pytest.mark.parametrize("layout", READ, ids=name_of)
def test_hostile_row_of_a_layout_ends_in_a_rule(layout: Layout) -> None:
    dialect = detect(layout.row)
    found = read_conversation(
        orjson.dumps({**layout.row, **(layout.hostile or {})}),
        dialect,
        may_repeat_keys=True,
        columnar=False,
        turns="strict",
        max_messages=None,
        max_chars=None,
    )
    assert found.rule == layout.rule
    assert found.rule in RULES


def test_page_of_layouts_is_as_the_table_says() -> None:
    assert (ROOT / "docs/layouts.md").read_text(encoding="utf-8") == f"{print_table()}\n"


def reply(
    text: str, rank: int | None = None, *replies: dict[str, object], role: str = "assistant"
) -> dict[str, object]:
    return {"text": text, "role": role, "rank": rank, "replies": list(replies)}


def ask(text: str, *replies: dict[str, object]) -> dict[str, object]:
    return reply(text, None, *replies, role="prompter")


def test_path_through_a_tree_is_the_one_that_the_param_names() -> None:
    best = reply("best", 0, ask("more"))
    longest = reply("long", 1, ask("and?", reply("so", 1), reply("thus", 0), {**reply("gone", -1), "deleted": True}))
    row = orjson.dumps({"prompt": ask("q", reply("unranked"), longest, best)})

    def contents(trees: Trees) -> list[object]:
        dialect = detect_dialect([row], None, "it", 0, trees)
        assert dialect is not None
        return [message[1] for message in canonical_form(orjson.loads(row), dialect)[0]]

    assert contents("best_ranked") == ["q", "best"]
    assert contents("longest") == ["q", "long", "and?", "thus"]
    with pytest.raises(StageError, match=r"(?s)it is trees of replies.*standardize\.trees.*best_ranked"):
        contents("refuse")


def test_tree_that_is_deeper_than_any_conversation_is_set_aside() -> None:
    tree = reply("a")
    for _ in range(300):
        tree = reply("a", 0, ask("q", tree))
    dialect = detect({"prompt": ask("q", reply("a"))})
    for longest in (False, True):
        with pytest.raises(Rejected, match="layout"):
            tree_turns({"prompt": ask("q", tree)}, column="prompt", longest=longest)
    assert dialect.columns == {"prompt", "system", "system_prompt"}


STRANGE = (
    None,
    3,
    True,
    "",
    "x",
    "[{",
    [],
    {},
    [None],
    ["x"],
    [[]],
    {"x": 1},
    [{"x": 1}],
    [{"type": "tool_use"}],
    "\ud800",
)


def change_each(value: object, change: object) -> Iterator[object]:
    """The value with one thing in it changed, at every depth."""
    yield change
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: changed} for changed in change_each(inner, change))
            yield {name: kept for name, kept in value.items() if name != key}
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from ([*value[:place], changed, *value[place + 1 :]] for changed in change_each(inner, change))


@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_anything_in_the_place_of_anything_is_read_or_breaks_a_rule(layout: Layout) -> None:
    usual = detect(layout.row) if layout.name else None
    for strange in STRANGE:
        for row in change_each(layout.row, strange):
            dialects = [usual]
            with suppress(StageError):
                dialects.append(detect_dialect([json.dumps(row).encode()], None, "it"))
            for dialect in dialects:
                found = read_conversation(
                    json.dumps(row).encode(),
                    dialect,
                    may_repeat_keys=True,
                    columnar=True,
                    turns="strict",
                    max_messages=None,
                    max_chars=None,
                )
                assert found.rule is None or found.rule in RULES
                assert found.rule or found.messages


@pytest.mark.parametrize("sets", ["xLAM function calling", "SQuAD", "OASST, trees", "UltraChat"])
def test_layout_in_json_text_as_a_csv_writes_it_is_the_same(sets: str) -> None:
    layout = next(layout for layout in LAYOUTS if layout.sets == sets)
    row = {key: value if isinstance(value, str | int) else json.dumps(value) for key, value in layout.row.items()}
    dialect = detect(row)
    assert dialect.name == layout.name
    assert read(row, dialect) == (layout.messages, layout.tools)


def test_one_call_that_stands_alone_is_an_answer_as_a_list_of_one_is() -> None:
    layout = next(layout for layout in LAYOUTS if layout.sets == "xLAM function calling")
    call = {"name": "weather", "arguments": {"city": "Oslo"}}
    forms = [json.dumps(call), call, [call], json.dumps([call])]
    found = [read({**layout.row, "answers": form}, detect({**layout.row, "answers": form})) for form in forms]
    assert found == [found[0]] * len(forms)
    assert found[0][0][-1][2]["tool_calls"][0]["function"] == call


def test_multiple_choice_is_named_whatever_the_case_of_its_columns() -> None:
    for row in (
        {"question": "q", "choices": {"text": ["a"]}, "answerKey": "A"},
        {"question": "q", "options": ["a"], "answer": "B"},
    ):
        with pytest.raises(StageError, match="multiple-choice"):
            detect(row)
