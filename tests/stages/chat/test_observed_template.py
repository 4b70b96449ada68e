from typing import Any

from stages.chat.observed_template import note_lengths
from stages.core.asked_and_ran import Observation


def told(longest: int, cut: int = 0, rejected: dict[str, int] | None = None) -> dict[str, Any]:
    split = {"rows": 3, "length": {"max": longest}, "truncated": cut}
    return {
        "splits": {"train": split, "heldout": {"rows": 0, "length": {}, "truncated": 0}},
        "rejected": rejected or {},
    }


def test_longest_row_tells_of_max_length_only_where_it_reaches_it(noted: dict[str, Observation]) -> None:
    note_lengths(told(171), 512)
    assert not noted["template.max_length"].known
    assert "171 tokens" in noted["template.max_length"].why
    note_lengths(told(512, cut=2), 512)
    assert noted["template.max_length"].ran == 512
    assert not noted["template.too_long"].known
    note_lengths(told(600, rejected={"too_long": 1}), 512)
    assert (noted["template.max_length"].ran, noted["template.too_long"].ran) == (600, "reject")
