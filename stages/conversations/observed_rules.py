"""Which rules have done something: what the counts of data/messages tell against the section `standardize` in the execution record."""

from collections.abc import Mapping
from typing import Any

from stages.conversations.row_rules import FLAGS, NEAR_DUPLICATE, NEAR_HELDOUT
from stages.core.execution import guard_notes, note_ran, note_unknown


@guard_notes
def note_rules(summary: Mapping[str, Any], *, evaluation_sets: bool) -> None:
    """Note what the counts tell for the execution record.

    Args:
        summary: data/messages' summary.json.
        evaluation_sets: whether texts of evaluation sets were looked for.
    """
    rules, kept, held = summary["rules"], summary["train"] + summary["heldout"], summary["heldout"]
    if held:
        share = f"{held} of {kept} conversations were held out, by hash: near the share that was asked for, and no proof of it"
        note_unknown(share, "standardize.heldout_fraction")
    else:
        note_ran({"standardize.heldout_fraction": 0.0}, "too few rows: none was held out")
    near = "drop" if rules.get(NEAR_DUPLICATE) else "flag" if summary["near_duplicates"] else None
    flagged = "drop" if any(flag in rules for flag in FLAGS) else "keep" if summary["flags"] else None
    found = {
        "standardize.near_duplicates": near,
        "standardize.near_heldout": "drop" if summary[NEAR_HELDOUT] else None,
        "standardize.flagged": flagged,
    }
    for key, ran in found.items():
        if ran is None:
            note_unknown("no row was such a one", key)
        else:
            note_ran({key: ran})
    if not evaluation_sets:
        note_ran({"standardize.contamination": []})
