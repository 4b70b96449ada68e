"""What the audit says of the rows: none vanishes, not too many are lost, enough are held out, and what that measures; pure functions."""

from collections.abc import Iterator, Mapping
from typing import Any

from stages.contracts.audit import make_check
from stages.contracts.messages import FATES

Summary = Mapping[str, Any]
Floors = Mapping[str, Any]
"""The section `audit` of params.yaml."""


def judge_rows(rows: Summary, tokens: Summary, floors: Floors) -> Iterator[dict[str, Any]]:
    """The checks of rows and labels.

    Args:
        rows: summary.json of data/messages.
        tokens: summary.json of data/tokens.
        floors: what is asked.
    """
    yield check_sums(rows, tokens)
    yield check_rejected(rows, tokens, floors["max_rejected_share"])
    for fate, what in (("repeated", "repeat others"), ("near_heldout", "nearly repeat a held-out one")):
        if rows[fate] or floors[f"max_{fate}_share"] is not None:
            yield check_fate(rows, fate, what, floors[f"max_{fate}_share"])
    held, least = tokens["splits"]["heldout"]["rows"], floors["min_heldout_rows"]
    says = f"{held} conversations are held out (at least {least}: audit.min_heldout_rows)"
    yield make_check("heldout_rows", held, least, passed=held >= least, says=says)
    if rows["seen"]["answers"]["heldout"]:
        yield check_seen(rows["seen"], floors["max_seen_answers"])
    yield check_labels(tokens["splits"]["train"], floors["min_labelled_share"])


def count_rejected(rows: Summary, tokens: Summary) -> int:
    """Rows that a rule has set aside, of standardize's or of template's."""
    return int(rows["rejected"] + sum(tokens["rejected"].values()))


def check_sums(rows: Summary, tokens: Summary) -> dict[str, Any]:
    """Every row of the source has one fate, and every kept one came to `template`."""
    raw, told = rows["raw"], {fate: rows[fate] for fate in FATES}
    lost = [source["source"] for source in rows["sources"] if source["raw"] != sum(source[fate] for fate in FATES)]
    whole = sum(told.values()) == raw == sum(source["raw"] for source in rows["sources"])
    kept, came = rows["train"] + rows["heldout"], tokens["rows_in"]
    says = f"{raw} rows = " + " + ".join(f"{count} {fate}" for fate, count in told.items())
    if lost:
        says += f"; the rows of {', '.join(lost)} do not add up"
    if kept != came:
        says += f"; {kept} were kept and {came} came to `template`"
    return make_check("rows_accounted", sum(told.values()), raw, passed=whole and not lost and kept == came, says=says)


def check_rejected(rows: Summary, tokens: Summary, most: float) -> dict[str, Any]:
    """Not too many rows break a rule, of whichever stage."""
    count, raw = count_rejected(rows, tokens), rows["raw"]
    share = count / raw if raw else 1.0
    says = (
        f"{count} of {raw} rows were rejected: {rows['rejected']} by standardize, {count - rows['rejected']} by template "
        f"({share:.1%}, at most {most:.1%}: audit.max_rejected_share)"
    )
    return make_check("rejected_share", share, most, passed=share <= most, says=says)


def check_fate(rows: Summary, fate: str, what: str, most: float | None) -> dict[str, Any]:
    """Rows that were set aside for what other rows are; judged where a floor is asked."""
    share = rows[fate] / rows["raw"] if rows["raw"] else 0.0
    asked = (
        f"at most {most:.1%}: audit.max_{fate}_share" if most is not None else f"audit.max_{fate}_share asks nothing"
    )
    says = f"{rows[fate]} of {rows['raw']} rows {what} ({share:.1%}; {asked})"
    return make_check(f"{fate}_share", share, most, passed=None if most is None else share <= most, says=says)


def check_seen(seen: Summary, most: float | None) -> dict[str, Any]:
    """What the held-out rows measure; judged where a floor is asked."""
    share = seen["answers"]["share"]
    asked = f" (at most {most:.1%} of the answers: audit.max_seen_answers)" if most is not None else ""
    return make_check(
        "seen_answers", share, most, passed=None if most is None else share <= most, says=seen["says"] + asked
    )


def check_labels(train: Summary, least: float) -> dict[str, Any]:
    """The mask trains on something."""
    share = train["labelled_tokens"] / train["tokens"] if train["tokens"] else 0.0
    says = (
        f"{train['labelled_tokens']:,} of the {train['tokens']:,} tokens of the training conversations carry a label "
        f"({share:.1%}, at least {least:.1%}: audit.min_labelled_share)"
    )
    return make_check("labelled_share", share, least, passed=share >= least, says=says)
