from typing import Any

from stages.conversations.observed_rules import note_rules
from stages.conversations.row_rules import FLAGS
from stages.core.asked_and_ran import Observation

FLAG = next(iter(FLAGS))

NOTHING: dict[str, Any] = {
    "rules": {},
    "train": 90,
    "heldout": 10,
    "near_duplicates": 0,
    "near_heldout": 0,
    "flags": {},
}


def ran(noted: dict[str, Observation]) -> dict[str, object]:
    return {key.removeprefix("standardize."): one.ran for key, one in noted.items() if one.known}


def test_rules_that_did_nothing_tell_nothing(noted: dict[str, Observation]) -> None:
    note_rules(NOTHING, evaluation_sets=True)
    assert ran(noted) == {}
    assert noted["standardize.heldout_fraction"].why.startswith("10 of 100 conversations")


def test_rules_that_did_something_are_told(noted: dict[str, Observation]) -> None:
    note_rules({**NOTHING, "heldout": 0, "near_duplicates": 3, "flags": {FLAG: 1}}, evaluation_sets=False)
    assert ran(noted) == {"heldout_fraction": 0.0, "near_duplicates": "flag", "flagged": "keep", "contamination": []}
    note_rules({**NOTHING, "near_heldout": 1, "rules": {"near_duplicate": 1, FLAG: 1}}, evaluation_sets=True)
    assert (noted["standardize.near_duplicates"].ran, noted["standardize.flagged"].ran) == ("drop", "drop")
    assert noted["standardize.near_heldout"].ran == "drop"
