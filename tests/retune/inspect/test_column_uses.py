import pytest

from retune.inspect.column_uses import find_column_uses
from stages.conversations.canonical import canonical_form
from tests.layouts import LAYOUTS, detect


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (
            "Hermes function calling",
            {"id": "ignored", "conversations": "the conversation", "tools": "tools that the system message lists already", "category": "ignored"},
        ),
        (
            "APIGen-MT",
            {"conversations": "the conversation", "tools": "the tools that the assistant may call", "system": "the system message"},
        ),
        ("numbers as answers", {"question": "the question", "answer": "the answer"}),
    ],
)  # fmt: skip
def test_uses_of_the_columns_of_public_layouts(sets: str, expected: dict[str, str]) -> None:
    row = next(layout.row for layout in LAYOUTS if layout.sets == sets)
    dialect = detect(row)
    assert find_column_uses([row], lambda row: canonical_form(row, dialect)) == expected
