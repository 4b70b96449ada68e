"""Conversations in the shape of FineTome-100k, made of text that is on this machine, for measurements.

FineTome has 2.4 kB of text a conversation with a long tail, mostly one question and one answer, a system turn in every
tenth. The text here is prose and code out of the installed packages: real, but other bytes on another machine.

- White space at the edges of a turn is left out, and so is every file that spells a control token: what ours and the
  recipe's path do with those is known to differ (tests/oracle/test_recipe.py), and a bench compares what should be equal.
- A turn is put together of passages from many places, so that a million conversations of 100 MB of text do not repeat
  each other (near duplicates would be taken out and make the work less).
- A file is a function of the text, the seed and its number: shards are written one by one, in the memory of one batch.

run     python -m tests.bench.make_sharegpt OUT.parquet [--rows 20000]
        python -m tests.bench.make_sharegpt FOLDER --rows 1000000 --shards
"""

import argparse
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CORPUS_CHARACTERS = 100_000_000
LONGEST_TURN = 24_000
PASSAGE = 320
"""Characters of one passage."""
ROWS_PER_SHARD = 50_000
BATCH = 1_000

TURN = pa.struct([pa.field("from", pa.string()), pa.field("value", pa.string())])
SCHEMA = pa.schema([("conversations", pa.list_(TURN)), ("source", pa.string()), ("score", pa.float64())])


def corpus(limit: int = CORPUS_CHARACTERS) -> str:
    """Text of the installed packages, in the order of their paths, as much as there is up to `limit` characters."""
    root = Path(sysconfig.get_paths()["purelib"])
    parts, size = [], 0
    for path in sorted(path for ending in ("md", "rst", "txt", "py") for path in root.rglob(f"*.{ending}")):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if "<|" in text or "\0" in text:
            continue
        parts.append(text)
        size += len(text)
        if size >= limit:
            break
    return "\n".join(parts)


def turn_text(text: str, rng: random.Random, mean_log: float) -> str:
    """A turn of log-normal length, in passages; never empty, no white space at its edges."""
    wanted = min(int(rng.lognormvariate(mean_log, 0.8)) + 20, LONGEST_TURN)
    passages = []
    while wanted > 0:
        length = min(wanted, PASSAGE)
        at = int(rng.random() * (len(text) - length))
        passages.append(text[at : at + length])
        wanted -= length
    return "\n".join(passages).strip() or "empty"


def conversations(text: str, rows: int, seed: str) -> Iterator[list[dict[str, str]]]:
    """`rows` conversations as ShareGPT writes them."""
    rng = random.Random(seed)
    for _ in range(rows):
        turns = []
        if rng.random() < 0.10:
            turns.append({"from": "system", "value": turn_text(text, rng, 4.5)})
        for _ in range(rng.choices([1, 2, 3], [0.86, 0.09, 0.05])[0]):
            turns.append({"from": "human", "value": turn_text(text, rng, 5.8)})
            turns.append({"from": "gpt", "value": turn_text(text, rng, 6.95)})
        yield turns


def write_file(path: Path, text: str, rows: int, seed: str) -> None:
    """One Parquet file of `rows` conversations; the number of each in its file is its `source`, which no reader looks at."""
    rng = random.Random(seed + " scores")
    found = conversations(text, rows, seed)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, rows, BATCH):
            size = min(BATCH, rows - start)
            batch = [
                {"conversations": next(found), "source": f"{start + index}", "score": 3 + 2 * rng.random()}
                for index in range(size)
            ]
            writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))


def write_shards(folder: Path, text: str, rows: int, seed: int = 0) -> None:
    """Files of at most ROWS_PER_SHARD rows each, in order; the first ones are the same for any larger number of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, rows, ROWS_PER_SHARD)):
        size = min(ROWS_PER_SHARD, rows - start)
        write_file(folder / f"part-{number:05}.parquet", text, size, f"{seed} {number}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", action="store_true", help=f"a folder of files of {ROWS_PER_SHARD} rows")
    flags = parser.parse_args()
    if flags.shards:
        write_shards(flags.out, corpus(), flags.rows, flags.seed)
    else:
        write_file(flags.out, corpus(), flags.rows, f"{flags.seed} 0")


if __name__ == "__main__":
    main()
