"""What the look for flags costs of `standardize`'s time: alone, over conversations that it has written, on one core.

run     python -m tests.bench.flags_scan data/messages/messages.parquet
"""

import argparse
import json
import time
from pathlib import Path

from stages.arrow.tables import read_parquet_batches
from stages.conversations.flags import find_flags
from stages.standardize import BATCH


def main() -> None:
    """The command: one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("messages", type=Path)
    path = parser.parse_args().messages
    seconds, rows, flagged = 0.0, 0, 0
    for batch in read_parquet_batches(path, ["messages"], BATCH):
        start = time.process_time()
        flagged += len(find_flags(batch["messages"]))
        seconds += time.process_time() - start
        rows += batch.num_rows
    print(json.dumps({"cpu_s": round(seconds, 2), "rows": rows, "flagged": flagged}))  # noqa: T201


if __name__ == "__main__":
    main()
