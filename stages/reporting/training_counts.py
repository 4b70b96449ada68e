"""What was trained, as the ledger counts it, and the one wording that terminal, verdict, page and model card have for it. Pure functions."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contracts.adapter import Step, TrainingCounts

TENTHS = 1000
"""Of a percent, in a whole."""


def count_trained(ledger: pa.Table, log: Sequence[Step], kept: int) -> TrainingCounts:
    """The counts of an adapter.

    Args:
        ledger: ledger.parquet of data/adapter.
        log: its step log.
        kept: the step whose adapter it is (`steps` of retune.json).
    """
    labelled = ledger["labelled_tokens"].to_numpy()
    times = pc.list_value_length(ledger["steps"]).to_numpy()
    steps = len(pc.unique(pc.list_flatten(ledger["steps"])))
    return TrainingCounts(
        conversations=ledger.num_rows,
        conversations_trained=int(np.count_nonzero(times)),
        labelled_tokens=int(labelled.sum()),
        labelled_tokens_reached=int(labelled[times > 0].sum()),
        labelled_tokens_trained=int((labelled * times).sum()),
        steps=steps,
        steps_skipped=kept - steps,
        steps_dropped=max(log[-1]["step"] - kept, 0) if log else 0,
    )


def describe_trained(counts: TrainingCounts) -> str:
    """The counts in words, to stand alone or behind a colon."""
    rows, tokens = counts["conversations_trained"], counts["labelled_tokens_reached"]
    skipped, dropped = counts["steps_skipped"], counts["steps_dropped"]
    more = f", {skipped:,} more {'was' if skipped == 1 else 'were'} skipped (overflow in float16)" if skipped else ""
    if dropped:
        more += f", {dropped:,} later {'one is' if dropped == 1 else 'ones are'} not in the adapter (train.keep: best)"
    return (
        f"{rows:,} of {counts['conversations']:,} training conversations were trained ({format_share(rows, counts['conversations'])}) "
        f"in {counts['steps']:,} {'step' if counts['steps'] == 1 else 'steps'}{more}; "
        f"{tokens:,} of {counts['labelled_tokens']:,} labelled tokens were reached "
        f"({format_share(tokens, counts['labelled_tokens'])}), with repetitions {counts['labelled_tokens_trained']:,} were trained"
    )


def format_share(part: int, whole: int) -> str:
    """A share as a percentage, cut and not rounded: 100.0% is all, and whatever is not nothing is not 0.0%."""
    tenths = part * TENTHS // whole if whole else 0
    return f"{tenths / 10:.1f}%" if tenths or not part else "under 0.1%"
