import orjson
import pytest

from stages.conversations.canonical import read_conversation
from stages.conversations.row_rules import RULES
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
